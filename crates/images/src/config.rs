//! The configuration of an OCI image: what it runs, as whom, and which layers it is made of. Docker writes the same
//! with a few nulls.

use crate::text;
use model::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// 4 MiB, as for manifests; labels and history make a config grow.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;

/// What is kept and shown of an image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or empty for root.
    pub user: String,
    pub working_dir: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `SIGQUIT`; empty for SIGTERM.
    pub stop_signal: String,
    pub healthcheck: Option<Healthcheck>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["CMD", "curl", …]` or `["CMD-SHELL", "…"]`.
    pub test: Vec<String>,
    pub interval_ns: u64,
    pub timeout_ns: u64,
    pub start_period_ns: u64,
    pub retries: u32,
}

/// A configuration as an image brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDocument {
    pub config: ImageConfig,
    pub os: String,
    pub architecture: String,
    /// Digests of the decompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the image's config is no valid JSON of its kind")]
    Json(#[source] serde_json::Error),
    #[error("the image's config is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    #[error("the image's config holds a NUL in {field}")]
    Nul { field: &'static str },
    #[error("the image is made for {os}/{architecture}, which cannot run here")]
    Platform { os: String, architecture: String },
    #[error("the manifest lists {layers} layers and the config {diff_ids}")]
    Layers { layers: usize, diff_ids: usize },
}

/// Reads a config.
pub fn parse(bytes: &[u8]) -> Result<ImageDocument, ConfigError> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge);
    }
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
    let config = raw.config.unwrap_or_default().convert();
    check_nul(&config)?;
    Ok(ImageDocument { config, os: raw.os, architecture: raw.architecture, diff_ids: raw.rootfs.diff_ids })
}

impl ImageDocument {
    /// Fails unless the image runs on this platform and has as many layers as its manifest says.
    pub fn check(&self, architecture: &str, layers: usize) -> Result<(), ConfigError> {
        if (self.os.as_str(), self.architecture.as_str()) != ("linux", architecture) {
            let (os, architecture) = (text::show(self.os.as_bytes()), text::show(self.architecture.as_bytes()));
            return Err(ConfigError::Platform { os, architecture });
        }
        if self.diff_ids.len() != layers {
            return Err(ConfigError::Layers { layers, diff_ids: self.diff_ids.len() });
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct RawDocument {
    os: String,
    architecture: String,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// A field may be absent or null; both mean the empty value.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    stop_signal: String,
    healthcheck: Option<RawHealthcheck>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    #[serde(deserialize_with = "or_default")]
    test: Vec<String>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    retries: u32,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl RawConfig {
    fn convert(self) -> ImageConfig {
        let healthcheck = self.healthcheck.filter(|check| !check.test.is_empty()).map(|check| Healthcheck {
            test: check.test,
            interval_ns: check.interval,
            timeout_ns: check.timeout,
            start_period_ns: check.start_period,
            retries: check.retries,
        });
        ImageConfig {
            entrypoint: self.entrypoint,
            cmd: self.cmd,
            env: self.env,
            user: self.user,
            working_dir: self.working_dir,
            exposed_ports: self.exposed_ports.into_keys().collect(),
            volumes: self.volumes.into_keys().collect(),
            labels: self.labels,
            stop_signal: self.stop_signal,
            healthcheck,
        }
    }
}

/// What becomes an argument, a variable or a path cannot hold a NUL.
fn check_nul(config: &ImageConfig) -> Result<(), ConfigError> {
    let lists =
        [("entrypoint", &config.entrypoint), ("cmd", &config.cmd), ("env", &config.env), ("volumes", &config.volumes)];
    let words = [("user", &config.user), ("workdir", &config.working_dir), ("stop signal", &config.stop_signal)];
    let all = lists.into_iter().flat_map(|(field, list)| list.iter().map(move |word| (field, word))).chain(words);
    match all.into_iter().find(|(_, word)| word.contains('\0')) {
        Some((field, _)) => Err(ConfigError::Nul { field }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = r#"{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","history":[{}],
        "config":{"User":"nginx","ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin"],"Entrypoint":["/entry"],
        "Cmd":["nginx","-g"],"Volumes":null,"WorkingDir":"/srv","Labels":{"a":"b"},"OnBuild":null,
        "StopSignal":"SIGQUIT","Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":3}},
        "rootfs":{"type":"layers","diff_ids":["sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]}}"#;

    #[test]
    fn everything_that_an_image_says_about_running_is_kept() {
        let document = parse(DOCKER.as_bytes()).expect("it is good");
        document.check("amd64", 1).expect("it fits");
        let config = document.config;
        assert_eq!(
            (&config.entrypoint[..], &config.cmd[..]),
            (&["/entry".to_owned()][..], &["nginx".into(), "-g".into()][..])
        );
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("nginx", "/srv"));
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.labels["a"], "b");
        let check = config.healthcheck.expect("there is one");
        assert_eq!((check.interval_ns, check.retries, check.timeout_ns), (5_000_000_000, 3, 0));
    }

    #[test]
    fn an_image_without_config_runs_nothing() {
        let bare = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;
        assert_eq!(parse(bare.as_bytes()).expect("it is good").config, ImageConfig::default());
        let null = bare.replace(r#""rootfs""#, r#""config":null,"rootfs""#);
        assert_eq!(parse(null.as_bytes()).expect("it is good").config, ImageConfig::default());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let document = parse(DOCKER.as_bytes()).expect("it is good");
        assert!(matches!(document.check("arm64", 1), Err(ConfigError::Platform { .. })));
        assert!(matches!(document.check("amd64", 2), Err(ConfigError::Layers { .. })));
        let nul = DOCKER.replace("PATH=", "PA\\u0000TH=");
        assert!(matches!(parse(nul.as_bytes()), Err(ConfigError::Nul { field: "env" })));
        assert!(parse(b"{}").is_err());
        assert!(matches!(parse(&vec![b' '; MAX_CONFIG_BYTES + 1]), Err(ConfigError::TooLarge)));
    }
}
