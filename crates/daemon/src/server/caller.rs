//! Who may use the control API: the owner of the daemon, and root. The kernel says who calls (SO_PEERCRED, unix(7));
//! the socket's mode keeps everybody else out already, this holds when somebody changed it.

use rustix::process::Uid;
use tokio::net::UnixStream;

#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    #[error("cannot tell who calls")]
    Unknown(#[from] std::io::Error),
    #[error("user {uid} is neither this daemon's owner nor root")]
    Foreign { uid: u32 },
}

pub fn check(stream: &UnixStream) -> Result<(), CallerError> {
    let uid = stream.peer_cred()?.uid();
    match may_call(uid, rustix::process::geteuid()) {
        true => Ok(()),
        false => Err(CallerError::Foreign { uid }),
    }
}

fn may_call(caller: u32, owner: Uid) -> bool {
    caller == 0 || caller == owner.as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_and_root_may_call() {
        for (caller, owner, expected) in [(1000, 1000, true), (0, 1000, true), (1001, 1000, false), (1000, 0, false)] {
            assert_eq!(may_call(caller, Uid::from_raw(owner)), expected, "{caller} calls {owner}");
        }
    }
}
