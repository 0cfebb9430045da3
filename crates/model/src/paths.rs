//! Where a client finds the daemon: one rule, kept here so that `banger` and `bangerd` can never disagree.
//!
//! ```text
//!  $BANGER_SOCKET                                  as it is
//!  else $XDG_RUNTIME_DIR/banger/bangerd.sock       a person's login session
//!  else /run/banger/bangerd.sock                   root
//!  else /tmp/banger-runtime-<uid>/bangerd.sock     everybody else
//! ```
//! Pure: the environment comes in as values, nothing is looked up or made. Whoever makes the folder makes it 0700 and
//! refuses one that somebody else owns; the one in `/tmp` has a name that anybody can guess.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// 107 bytes: `sun_path` holds 108 with its final NUL (unix(7)); a longer path cannot be bound.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;
/// The name of the control socket in its runtime folder.
pub const CONTROL_SOCKET: &str = "bangerd.sock";

/// What the rule reads: the values of the variables of the same name, and who asks.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub banger_socket: Option<OsString>,
    pub xdg_runtime_dir: Option<OsString>,
    pub uid: u32,
}

impl Environment {
    /// Takes the two variables from `lookup`, which is `std::env::var_os` outside of tests.
    pub fn read(uid: u32, lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        Environment { banger_socket: lookup("BANGER_SOCKET"), xdg_runtime_dir: lookup("XDG_RUNTIME_DIR"), uid }
    }

    /// The folder for sockets, locks and other things that end with the session.
    pub fn runtime_folder(&self) -> PathBuf {
        // The XDG base directory specification: a relative path is invalid and shall be ignored.
        let session = self.xdg_runtime_dir.as_deref().map(Path::new).filter(|path| path.is_absolute());
        match session {
            Some(session) => session.join("banger"),
            None if self.uid == 0 => PathBuf::from("/run/banger"),
            None => PathBuf::from(format!("/tmp/banger-runtime-{}", self.uid)),
        }
    }

    /// The socket of the control API.
    pub fn control_socket(&self) -> PathBuf {
        match self.banger_socket.as_deref().filter(|path| !path.is_empty()) {
            Some(chosen) => PathBuf::from(chosen),
            None => self.runtime_folder().join(CONTROL_SOCKET),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(socket: Option<&str>, session: Option<&str>, uid: u32, expected: &str) {
        let lookup = |name: &str| match name {
            "BANGER_SOCKET" => socket.map(OsString::from),
            _ => session.map(OsString::from),
        };
        assert_eq!(Environment::read(uid, lookup).control_socket(), Path::new(expected));
    }

    #[test]
    fn the_socket_is_found_by_one_rule() {
        check(Some("/a/b.sock"), Some("/run/user/7"), 7, "/a/b.sock");
        check(None, Some("/run/user/7"), 7, "/run/user/7/banger/bangerd.sock");
        check(None, Some("/run/user/0"), 0, "/run/user/0/banger/bangerd.sock");
        check(None, None, 0, "/run/banger/bangerd.sock");
        check(None, None, 7, "/tmp/banger-runtime-7/bangerd.sock");
    }

    #[test]
    fn empty_and_relative_values_are_no_answer() {
        check(Some(""), Some(""), 7, "/tmp/banger-runtime-7/bangerd.sock");
        check(None, Some("run/user/7"), 7, "/tmp/banger-runtime-7/bangerd.sock");
    }

    #[test]
    fn the_default_socket_can_be_bound() {
        let longest = Environment { uid: u32::MAX, ..Environment::default() };
        assert!(longest.control_socket().as_os_str().len() <= MAX_SOCKET_PATH_BYTES);
    }
}
