//! What a sandbox shall be. A spec is whole: every default has been filled in (by the daemon, which knows the host)
//! before the engine sees it, so that the same spec boots the same machine tomorrow.

use crate::egress::Egress;
use crate::name::{ImageName, KernelName, SandboxName};
use crate::port::PortForward;
use crate::service::ServiceChoice;
use crate::size::ByteSize;
use crate::work_template::WorkTemplate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub name: SandboxName,
    pub image: ImageName,
    pub kernel: KernelName,
    pub vmm: VmmChoice,
    pub vcpus: Vcpus,
    pub memory: ByteSize,
    /// The work disk, mounted on `/root`; survives a reset and an image upgrade.
    pub disk_size: ByteSize,
    /// The overlay's upper layer: what the guest may write outside `/root`.
    pub root_size: ByteSize,
    pub init: InitMode,
    #[serde(default)]
    pub egress: Egress,
    #[serde(default)]
    pub ports: Vec<PortForward>,
    /// Publish what the guest listens on, as it appears, and withdraw it when it is gone.
    #[serde(default)]
    pub auto_forward: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Stop after this long without use; none means never.
    #[serde(default)]
    pub stop_when_idle_s: Option<u64>,
    /// Remove the sandbox when the session or command that made it ends.
    #[serde(default)]
    pub ephemeral: bool,
    /// What of the image's own command is replaced; absent: nothing.
    #[serde(default)]
    pub service: ServiceChoice,
    /// What the work disk begins as, where that is still there when the disk is made; else as the image's seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_template: Option<WorkTemplate>,
}

/// Bounds that hold on every host and every backend; a host's own limits are checked at admission.
pub const MIN_MEMORY: ByteSize = ByteSize::from_mib(48);
pub const MAX_MEMORY: ByteSize = ByteSize::from_gib(1024);
pub const MIN_DISK: ByteSize = ByteSize::from_mib(64);
pub const MAX_DISK: ByteSize = ByteSize::from_gib(16 * 1024);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{what} of {given} is too small: at least {limit} are needed")]
    TooSmall { what: &'static str, given: ByteSize, limit: ByteSize },
    #[error("{what} of {given} is too large: at most {limit} are allowed")]
    TooLarge { what: &'static str, given: ByteSize, limit: ByteSize },
    #[error("label `{key}` is not 1 to 63 letters, digits, `.`, `_`, `-` and `/`, or its value is over 256 bytes")]
    Label { key: String },
}

impl SandboxSpec {
    /// What the field types cannot say by themselves.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_size("memory", self.memory, MIN_MEMORY, MAX_MEMORY)?;
        check_size("disk size", self.disk_size, MIN_DISK, MAX_DISK)?;
        check_size("root size", self.root_size, MIN_DISK, MAX_DISK)?;
        self.labels.iter().try_for_each(|(key, value)| check_label(key, value))
    }
}

fn check_size(what: &'static str, given: ByteSize, least: ByteSize, most: ByteSize) -> Result<(), SpecError> {
    match given {
        _ if given < least => Err(SpecError::TooSmall { what, given, limit: least }),
        _ if given > most => Err(SpecError::TooLarge { what, given, limit: most }),
        _ => Ok(()),
    }
}

fn check_label(key: &str, value: &str) -> Result<(), SpecError> {
    let valid = (1..=63).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        && value.len() <= 256;
    if valid { Ok(()) } else { Err(SpecError::Label { key: key.chars().take(80).collect() }) }
}

/// 1 to 32: Firecracker's own limit, and more than a shared host should lend to one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Vcpus(u8);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no number of CPUs: 1 to 32 are possible")]
pub struct VcpusError {
    pub given: String,
}

impl Vcpus {
    pub const ONE: Vcpus = Vcpus(1);

    pub fn count(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Vcpus {
    type Error = VcpusError;
    fn try_from(given: u8) -> Result<Self, VcpusError> {
        if (1..=32).contains(&given) { Ok(Vcpus(given)) } else { Err(VcpusError { given: given.to_string() }) }
    }
}

impl From<Vcpus> for u8 {
    fn from(vcpus: Vcpus) -> u8 {
        vcpus.0
    }
}

impl FromStr for Vcpus {
    type Err = VcpusError;
    fn from_str(given: &str) -> Result<Self, VcpusError> {
        let refused = || VcpusError { given: given.chars().take(40).collect() };
        given.parse::<u8>().map_err(|_| refused())?.try_into().map_err(|_| refused())
    }
}

impl fmt::Display for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An enum that people type: one word per case, in both directions.
macro_rules! word_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $($(#[$case_doc:meta])* $case:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$case_doc])* #[serde(rename = $word)] $case),+
        }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$case),+];

            pub const fn word(self) -> &'static str {
                match self {
                    $($name::$case => $word),+
                }
            }
        }

        impl FromStr for $name {
            type Err = WordError;
            fn from_str(given: &str) -> Result<Self, WordError> {
                match given {
                    $($word => Ok($name::$case),)+
                    _ => Err(WordError {
                        given: given.chars().take(40).collect(),
                        what: $what,
                        words: [$($word),+].join("`, `"),
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}: it is one of `{words}`")]
pub struct WordError {
    pub given: String,
    pub what: &'static str,
    pub words: String,
}

word_type!(
    /// Which program runs the machine, as the person asked for it.
    VmmChoice,
    "VMM",
    Auto = "auto",
    Firecracker = "firecracker",
    Qemu = "qemu",
);
word_type!(
    /// Which program runs the machine, as it was decided.
    Backend,
    "VMM backend",
    Firecracker = "firecracker",
    Qemu = "qemu",
    /// No machine at all: the engine's own small world.
    Sim = "sim",
);
word_type!(
    /// Who is PID 1 in the guest.
    InitMode,
    "init mode",
    /// The image's systemd where it has one, else our agent.
    Auto = "auto",
    Agent = "agent",
    Systemd = "systemd",
);
word_type!(
    /// What happens when a running sandbox's VMM ends without being asked to, or the host comes back.
    RestartPolicy,
    "restart policy",
    No = "no",
    OnFailure = "on-failure",
    Always = "always",
);

// `word_type!` makes enums without a default; this one has a word that means nothing.
#[allow(clippy::derivable_impls)]
impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_one_to_thirty_two() {
        for (given, valid) in [("0", false), ("1", true), ("32", true), ("33", false), ("x", false), ("-1", false)] {
            assert_eq!(given.parse::<Vcpus>().is_ok(), valid, "{given}");
        }
    }

    #[test]
    fn every_word_reads_back() {
        for mode in InitMode::ALL {
            assert_eq!(mode.word().parse::<InitMode>().as_ref(), Ok(mode));
        }
        let error = "bios".parse::<InitMode>().unwrap_err();
        assert_eq!(error.to_string(), "`bios` is no init mode: it is one of `auto`, `agent`, `systemd`");
    }
}
