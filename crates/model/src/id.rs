//! Identifiers that the machine chooses. A sandbox's id is 64 random bits: 16 hexadecimal digits, short enough to
//! stand in a socket path (107 bytes, unix(7)), long enough never to meet its twin. Randomness comes from outside:
//! the engine's clock seam, so that a test can repeat itself.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {kind}: {wanted} are wanted")]
pub struct IdError {
    pub kind: &'static str,
    pub given: String,
    pub wanted: &'static str,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn from_bits(bits: u64) -> Self {
                $name(format!("{bits:016x}"))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn bits(&self) -> u64 {
                u64::from_str_radix(&self.0, 16).expect("an id is 16 hexadecimal digits")
            }

            /// The form for tables: 8 digits, unique among any number of sandboxes a person keeps.
            pub fn short(&self) -> &str {
                &self.0[..8]
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(given: &str) -> Result<Self, IdError> {
                let valid = given.len() == 16 && given.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !valid {
                    let given = given.chars().take(80).collect();
                    return Err(IdError { kind: $kind, given, wanted: "16 lower-case hexadecimal digits" });
                }
                Ok($name(given.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(given: String) -> Result<Self, IdError> {
                given.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id_type!(
    /// Names a sandbox for its whole life, on disk and across privilege.
    SandboxId,
    "sandbox id"
);
id_type!(
    /// Names one operation: in the journal, in every log line, in every error.
    OperationId,
    "operation id"
);

/// A SHA-256 digest in the notation of OCI: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in bytes {
            text.push_str(&format!("{byte:02x}"));
        }
        Digest(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits without the algorithm: a safe file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(given: &str) -> Result<Self, IdError> {
        let digits = given.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            let given = given.chars().take(80).collect();
            return Err(IdError { kind: "digest", given, wanted: "`sha256:` and 64 lower-case hexadecimal digits" });
        }
        Ok(Digest(given.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(given: String) -> Result<Self, IdError> {
        given.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = SandboxId::from_bits(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string().parse::<SandboxId>(), Ok(id.clone()));
        assert_eq!(id.bits(), 0x0123_4567_89ab_cdef);
        assert_eq!(id.short(), "01234567");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in ["", "xyz", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "../../../etc/pas"] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_digest_is_sha256_and_nothing_else() {
        let digest = Digest::from_sha256([0xab; 32]);
        assert_eq!(digest.as_str().parse::<Digest>(), Ok(digest.clone()));
        assert_eq!(digest.hex().len(), 64);
        for bad in
            ["", "sha256:", "md5:abcd", &format!("sha256:{}", "G".repeat(64)), &format!("sha512:{}", "a".repeat(64))]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
