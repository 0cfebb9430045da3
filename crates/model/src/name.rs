//! Names that people choose. A sandbox's name becomes a host name (`web.vm`), so it is one DNS label (RFC 1123);
//! image and kernel names become file names, so they can never climb out of a folder.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// 63 bytes: the longest label DNS can carry (RFC 1035, 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
/// 128 bytes keeps `<name>.tar.zst.partial` below the 255 bytes of a file name on every file system.
pub const MAX_ARTIFACT_BYTES: usize = 128;
/// 32 bytes: the limit of useradd(8).
pub const MAX_USER_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {kind} name: {reason}")]
pub struct NameError {
    pub kind: &'static str,
    pub given: String,
    pub reason: String,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(given: &str) -> Result<Self, NameError> {
                match $check(given) {
                    Ok(()) => Ok($name(given.to_owned())),
                    Err(reason) => Err(NameError { kind: $kind, given: shorten(given), reason }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(given: String) -> Result<Self, NameError> {
                given.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// The name of a sandbox, also its host name: `web` answers to `web.vm`.
    SandboxName,
    "sandbox",
    check_label
);
name_type!(
    /// The name under which an image is kept here: `debian-bookworm`.
    ImageName,
    "image",
    check_artifact
);
name_type!(
    /// The name under which a kernel is kept here: `debian-cloud`.
    KernelName,
    "kernel",
    check_artifact
);
name_type!(
    /// A login inside a guest, by name or by number (`1000`).
    UserName,
    "user",
    check_user
);

fn check_label(given: &str) -> Result<(), String> {
    check_length(given, MAX_LABEL_BYTES)?;
    if let Some(c) = given.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(format!("{c:?} is not allowed; use lower-case letters, digits and `-`"));
    }
    if !given.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("it must start with a letter, so that it is never mistaken for an id".into());
    }
    if given.ends_with('-') {
        return Err("it must not end with `-`".into());
    }
    Ok(())
}

fn check_artifact(given: &str) -> Result<(), String> {
    check_length(given, MAX_ARTIFACT_BYTES)?;
    if let Some(c) = given.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_')) {
        return Err(format!("{c:?} is not allowed; use letters, digits, `.`, `-` and `_`"));
    }
    if !given.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("it must start with a letter or a digit".into());
    }
    Ok(())
}

fn check_user(given: &str) -> Result<(), String> {
    check_length(given, MAX_USER_BYTES)?;
    if let Some(c) = given.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_')) {
        return Err(format!("{c:?} is not allowed; use letters, digits, `.`, `-` and `_`"));
    }
    if given.starts_with('-') {
        return Err("it must not start with `-`".into());
    }
    Ok(())
}

fn check_length(given: &str, limit: usize) -> Result<(), String> {
    if given.is_empty() {
        return Err("it is empty".into());
    }
    if given.len() > limit {
        return Err(format!("it has {} bytes, {limit} are allowed", given.len()));
    }
    Ok(())
}

/// An error message repeats what was given, but never a whole novel.
fn shorten(given: &str) -> String {
    let mut shown: String = given.chars().take(80).collect();
    if shown.len() < given.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_sandbox(given: &str, valid: bool) {
        assert_eq!(given.parse::<SandboxName>().is_ok(), valid, "{given:?}");
    }

    #[test]
    fn a_sandbox_name_is_one_dns_label() {
        for good in ["a", "web", "web-1", "a2", &"a".repeat(63)] {
            check_sandbox(good, true);
        }
        for bad in ["", "Web", "1web", "-a", "a-", "a.b", "a_b", "a/b", "..", "ä", "a\n", &"a".repeat(64)] {
            check_sandbox(bad, false);
        }
    }

    #[test]
    fn an_artifact_name_never_leaves_its_folder() {
        for bad in ["", ".", "..", "../x", "a/b", "-rf", ".hidden", "a b", "a\0"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        assert!("debian-bookworm_12.1".parse::<ImageName>().is_ok());
    }

    #[test]
    fn an_error_says_what_was_given_and_why() {
        let error = "Web".parse::<SandboxName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`Web` is no sandbox name: 'W' is not allowed; use lower-case letters, digits and `-`"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_what_it_accepts(given in any::<String>()) {
            if let Ok(name) = given.parse::<SandboxName>() {
                prop_assert_eq!(name.as_str(), &given);
            }
            let _ = given.parse::<ImageName>();
        }
    }
}
