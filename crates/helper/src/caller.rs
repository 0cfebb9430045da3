//! Who may speak: root and the one owner, by the credentials that the kernel keeps of each connection (unix(7)).

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io;
use std::os::unix::net::UnixStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
}

impl Caller {
    pub fn of(stream: &UnixStream) -> io::Result<Caller> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        Ok(Caller { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }

    pub fn may_speak(self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_owner_may_speak() {
        for (uid, allowed) in [(0, true), (1000, true), (1001, false), (u32::MAX, false)] {
            assert_eq!(Caller { uid, gid: 0, pid: 1 }.may_speak(1000), allowed, "{uid}");
        }
    }
}
