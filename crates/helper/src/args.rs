//! The command line of `bangerd-root`: five flags, read by hand, since an argument parser is more code than this
//! whole program should trust.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "\
bangerd-root: does for bangerd the few things that need root

usage: bangerd-root --owner UID [--socket PATH] [--ledger FOLDER] [--idle-exit SECONDS] [--ready-fd NUMBER]

  --owner UID           the user whose bangerd may ask
  --socket PATH         where to listen; not needed when systemd passes the socket [/run/banger-root/socket]
  --ledger FOLDER       where to note what was made [/run/banger-root]
  --idle-exit SECONDS   end after so long without a connection; systemd starts it again
  --ready-fd NUMBER     write `ready` to this descriptor once the socket answers, and close it
  --version             print the version";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    pub owner: u32,
    pub socket: PathBuf,
    pub ledger: PathBuf,
    pub idle_exit: Option<Duration>,
    pub ready_fd: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    #[error("`{given}` is no flag of bangerd-root")]
    Unknown { given: String },
    #[error("`{flag}` wants a value")]
    NoValue { flag: String },
    #[error("`{given}` is no value for `{flag}`")]
    Invalid { flag: String, given: String },
    #[error("`--owner UID` is missing")]
    NoOwner,
}

impl Arguments {
    pub fn parse(given: impl IntoIterator<Item = OsString>) -> Result<Arguments, ArgumentError> {
        let mut owner = None;
        let mut parsed = Arguments {
            owner: 0,
            socket: "/run/banger-root/socket".into(),
            ledger: "/run/banger-root".into(),
            idle_exit: None,
            ready_fd: None,
        };
        let mut given = given.into_iter();
        while let Some(flag) = given.next() {
            let flag = flag.to_string_lossy().into_owned();
            let mut value = || given.next().ok_or(ArgumentError::NoValue { flag: flag.clone() });
            match flag.as_str() {
                "--owner" => owner = Some(number(&flag, value()?)?),
                "--socket" => parsed.socket = value()?.into(),
                "--ledger" => parsed.ledger = value()?.into(),
                "--idle-exit" => parsed.idle_exit = Some(Duration::from_secs(number(&flag, value()?)?)),
                "--ready-fd" => parsed.ready_fd = Some(number(&flag, value()?)?),
                _ => return Err(ArgumentError::Unknown { given: flag }),
            }
        }
        parsed.owner = owner.ok_or(ArgumentError::NoOwner)?;
        Ok(parsed)
    }
}

fn number<N: std::str::FromStr>(flag: &str, given: OsString) -> Result<N, ArgumentError> {
    let given = given.to_string_lossy().into_owned();
    given.parse().map_err(|_| ArgumentError::Invalid { flag: flag.to_owned(), given })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn an_owner_is_all_it_needs() {
        let parsed = parse("--owner 1000 --idle-exit 60 --socket /s").unwrap();
        assert_eq!((parsed.owner, parsed.idle_exit), (1000, Some(Duration::from_secs(60))));
        assert_eq!(parsed.socket, PathBuf::from("/s"));
    }

    #[test]
    fn a_wrong_line_says_what_is_wrong() {
        for (line, wanted) in [
            ("", "`--owner UID` is missing"),
            ("--owner", "`--owner` wants a value"),
            ("--owner me", "`me` is no value for `--owner`"),
            ("--owner 1 --force", "`--force` is no flag of bangerd-root"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), wanted, "{line}");
        }
    }
}
