//! The owner's configuration file, `~/.config/banger/config.toml`: read once at start, every key known by [`keys`].
//!
//! An absent file is an empty one. An unknown key is an error that names its line and the key that was probably
//! meant; `docs/reference/config.md` is generated from the same table. What the file leaves open is filled in from the
//! host by [`defaults`].

pub mod defaults;
pub mod file_sync;
pub mod keys;
mod values;

use crate::host::network::choice::Wanted;
use model::image_ref::ImageRef;
use model::{ByteSize, KernelName, RestartPolicy, Vcpus};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::privilege::address::Range;

/// 256 KiB: a configuration is written by hand; anything longer is the wrong file.
const MAX_FILE_BYTES: u64 = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is over {limit} bytes long")]
    TooLong { path: PathBuf, limit: u64 },
    #[error("{path}:{line}: {message}")]
    Invalid { path: PathBuf, line: usize, message: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    pub log_level: Option<String>,
    pub state: Option<PathBuf>,
    pub firecracker_bin: Option<PathBuf>,
    pub qemu_bin: Option<PathBuf>,
    pub vsock_device_bin: Option<PathBuf>,
    #[serde(deserialize_with = "values::parsed")]
    pub default_image: Option<ImageRef>,
    #[serde(deserialize_with = "values::parsed")]
    pub default_kernel: Option<KernelName>,
    #[serde(deserialize_with = "values::duration")]
    pub ready_timeout: Option<Duration>,
    #[serde(deserialize_with = "values::duration")]
    pub stop_grace: Option<Duration>,
    #[serde(deserialize_with = "values::duration")]
    pub auto_stop_stale_after: Option<Duration>,
    #[serde(deserialize_with = "values::parsed")]
    pub restart: Option<RestartPolicy>,
    pub dns_port: Option<u16>,
    #[serde(deserialize_with = "values::parsed")]
    pub network: Option<Wanted>,
    #[serde(deserialize_with = "values::parsed")]
    pub network_range: Option<Range>,
    #[serde(deserialize_with = "values::parsed")]
    pub blob_cache_size: Option<ByteSize>,
    pub vm_defaults: VmDefaults,
    pub caps: Caps,
    pub file_sync: Vec<file_sync::FileSync>,
    pub limits: Limits,
}

/// What each VMM's group of processes may take of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Limits {
    #[serde(deserialize_with = "values::weight")]
    pub cpu_weight: Option<u32>,
    #[serde(deserialize_with = "values::weight")]
    pub io_weight: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VmDefaults {
    #[serde(deserialize_with = "values::parsed")]
    pub vcpu: Option<Vcpus>,
    #[serde(deserialize_with = "values::parsed")]
    pub memory: Option<ByteSize>,
    #[serde(deserialize_with = "values::parsed")]
    pub disk_size: Option<ByteSize>,
    #[serde(deserialize_with = "values::parsed")]
    pub root_size: Option<ByteSize>,
}

/// What all sandboxes together may take; no cap where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Caps {
    pub vms: Option<u32>,
    #[serde(deserialize_with = "values::parsed")]
    pub memory: Option<ByteSize>,
    #[serde(deserialize_with = "values::parsed")]
    pub disk: Option<ByteSize>,
}

impl Config {
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(error) => return Err(read(error)),
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
                return Err(ConfigError::TooLong { path: path.to_owned(), limit: MAX_FILE_BYTES });
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Config::parse(&text).map_err(|problem| ConfigError::Invalid {
            path: path.to_owned(),
            line: problem.line(&text),
            message: problem.message,
        })
    }

    fn parse(text: &str) -> Result<Config, Problem> {
        let document = toml_edit::Document::parse(text).map_err(|error| Problem {
            at: error.span().map(|span| span.start),
            message: error.message().to_owned(),
        })?;
        keys::refuse_unknown(document.as_table())?;
        toml_edit::de::from_str(text)
            .map_err(|error| Problem { at: error.span().map(|span| span.start), message: error.message().to_owned() })
    }
}

/// What is wrong, and at which byte of the file.
#[derive(Debug)]
struct Problem {
    at: Option<usize>,
    message: String,
}

impl Problem {
    fn line(&self, text: &str) -> usize {
        let before = self.at.and_then(|at| text.get(..at)).unwrap_or_default();
        before.matches('\n').count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, line: usize, expected: &str) {
        let problem = Config::parse(text).expect_err(text);
        assert_eq!((problem.line(text), problem.message.as_str()), (line, expected), "{text:?}");
    }

    #[test]
    fn an_empty_file_leaves_everything_to_the_host() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_read() {
        let config = Config::parse(&keys::example()).unwrap();
        assert_eq!(config.vm_defaults.memory, Some(ByteSize::from_gib(2)));
        assert_eq!(config.vm_defaults.vcpu, Some(Vcpus::try_from(2).unwrap()));
        assert_eq!(config.caps.vms, Some(20));
        assert_eq!(config.ready_timeout, Some(Duration::from_secs(90)));
        assert_eq!(config.restart, Some(RestartPolicy::OnFailure));
        assert_eq!(config.file_sync.len(), 1);
        assert!(config.state.is_some() && config.firecracker_bin.is_some() && config.auto_stop_stale_after.is_some());
    }

    #[test]
    fn the_default_image_is_a_name_or_a_reference() {
        let image = |text: &str| Config::parse(text).map(|config| config.default_image.map(|image| image.to_string()));
        let of = |given: &str| image(&format!("default_image = \"{given}\""));
        assert_eq!(of("mine").unwrap().as_deref(), Some("mine"));
        assert_eq!(of("alpine:3.20").unwrap().as_deref(), Some("docker.io/library/alpine:3.20"));
        assert_eq!(of("r.example:5000/a/b").unwrap().as_deref(), Some("r.example:5000/a/b"));
        assert!(of("a b").is_err());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
        check_refused(
            "log_level = \"info\"\nlog_levle = \"x\"\n",
            2,
            "unknown key `log_levle`; did you mean `log_level`?",
        );
        check_refused(
            "[vm_defaults]\nmemori = \"1G\"",
            2,
            "unknown key `vm_defaults.memori`; did you mean `vm_defaults.memory`?",
        );
        check_refused("[nonsense]\na = 1", 1, "unknown key `nonsense`; docs/reference/config.md lists every key");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_its_line() {
        check_refused("\n[vm_defaults]\nvcpu = 99", 3, "`99` is no number of CPUs: 1 to 32 are possible");
        check_refused("stop_grace = \"soon\"", 1, "`soon` is no duration: write it like `30s`, `5m`, `2h` or `1d`");
        check_refused("[limits]\ncpu_weight = 0", 2, "`0` is no weight: 1 to 10000 are possible, 100 is usual");
        check_refused(
            "\n[[file_sync]]\nhost = \"~/.x\"\nmod = \"0600\"\n",
            4,
            "unknown key `file_sync.mod`; did you mean `file_sync.mode`?",
        );
        check_refused("[file_sync]\nhost = \"~/.x\"\n", 1, "`file_sync` is a list: write `[[file_sync]]`");
        check_refused("vm_defaults = 1", 1, "`vm_defaults` is a section: write `[vm_defaults]`");
    }
}
