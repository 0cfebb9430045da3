//! `.banger.toml` at the top of a repository: what it asks for itself. It is a stranger's wish. It is read from a small
//! regular file, every value becomes a validated type, nothing in it names a path of the host, ports are bound to loopback
//! alone, and nothing of it counts before the person has agreed to this very text ([`Consents`]).

use super::inspect::Source;
use super::list::Entry;
use super::ship::read_small;
use super::{Result, WorkspaceError};
use model::image_ref::ImageRef;
use model::port::PortForward;
use model::{ByteSize, Vcpus};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub const FILE: &str = ".banger.toml";
/// More than anyone writes by hand.
const MAX_LIST: usize = 64;
const MAX_TEXT_BYTES: usize = 4096;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// Over the folder and the text: agreement to one says nothing about another.
    pub digest: String,
    pub image: Option<String>,
    pub vcpus: Option<Vcpus>,
    pub memory: Option<ByteSize>,
    pub disk: Option<ByteSize>,
    pub ports: Vec<PortForward>,
    pub env: BTreeMap<String, String>,
    pub setup: Vec<String>,
    pub bootstrap: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    image: Option<String>,
    cpus: Option<u8>,
    memory: Option<String>,
    disk: Option<String>,
    ports: Vec<String>,
    env: BTreeMap<String, String>,
    setup: Vec<String>,
    bootstrap: Option<bool>,
}

/// None where there is no such file among what travels.
pub fn read(source: &Source, entries: &[Entry]) -> Result<Option<RepositoryConfig>> {
    if !entries.iter().any(|entry| entry.path == Path::new(FILE)) {
        return Ok(None);
    }
    let path = source.path();
    let refused = |reason: String| WorkspaceError::Config { path: path.join(FILE), reason };
    let text = read_small(path, Path::new(FILE))?;
    let text = text.ok_or_else(|| refused("it is no small text file".into()))?;
    let mut config = parse(&text).map_err(refused)?;
    config.digest = digest(path, &text);
    Ok(Some(config))
}

fn parse(text: &str) -> std::result::Result<RepositoryConfig, String> {
    let written: Written = toml_edit::de::from_str(text).map_err(|error| error.message().to_owned())?;
    let texts = written.setup.iter().chain(written.env.values()).chain(&written.ports).chain(&written.image);
    if written.ports.len().max(written.env.len()).max(written.setup.len()) > MAX_LIST {
        return Err(format!("it asks for more than {MAX_LIST} of something"));
    }
    if texts.into_iter().any(|text| text.len() > MAX_TEXT_BYTES || text.chars().any(|c| c.is_control() && c != '\n')) {
        return Err("a text in it is too long or holds control characters".into());
    }
    if let Some(name) = written.env.keys().find(|name| !is_variable(name)) {
        return Err(format!("`{}` is no name for a variable", name.escape_debug()));
    }
    let ports = written.ports.iter().map(|port| port_on_loopback(port));
    Ok(RepositoryConfig {
        digest: String::new(),
        image: written.image.map(|image| image.parse::<ImageRef>().map(|_| image)).transpose().map_err(said)?,
        vcpus: written.cpus.map(Vcpus::try_from).transpose().map_err(said)?,
        memory: written.memory.map(|size| size.parse::<ByteSize>()).transpose().map_err(said)?,
        disk: written.disk.map(|size| size.parse::<ByteSize>()).transpose().map_err(said)?,
        ports: ports.collect::<std::result::Result<_, _>>()?,
        env: written.env,
        setup: written.setup,
        bootstrap: written.bootstrap,
    })
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Whoever writes a repository does not open this host to its network.
fn port_on_loopback(text: &str) -> std::result::Result<PortForward, String> {
    let port: PortForward = text.parse().map_err(said)?;
    match port.host_address.is_loopback() {
        true => Ok(port),
        false => Err(format!("it asks for port `{text}` beyond this host's loopback")),
    }
}

fn is_variable(name: &str) -> bool {
    name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn digest(path: &Path, text: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut hash = Sha256::new();
    hash.update(path.as_os_str().as_bytes());
    hash.update([0]);
    hash.update(text.as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the person agreed to: an empty file per digest.
pub struct Consents(pub PathBuf);

impl Consents {
    pub fn has(&self, digest: &str) -> bool {
        self.file(digest).is_some_and(|file| file.exists())
    }

    /// False where this is no digest.
    pub fn give(&self, digest: &str) -> io::Result<bool> {
        let Some(file) = self.file(digest) else { return Ok(false) };
        std::fs::create_dir_all(&self.0)?;
        std::fs::File::create(file)?.sync_all()?;
        Ok(true)
    }

    fn file(&self, digest: &str) -> Option<PathBuf> {
        let valid = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        valid.then(|| self.0.join(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_repository_may_ask_for_is_read() {
        let config = parse(
            "image = 'debian-bookworm'\ncpus = 2\nmemory = '2G'\nports = ['8080:80']\nsetup = ['make deps']\nbootstrap = false\n[env]\nMODE = 'test'\n",
        )
        .unwrap();
        assert_eq!(config.image.as_deref(), Some("debian-bookworm"));
        assert_eq!(config.memory, Some(ByteSize::from_gib(2)));
        assert_eq!(config.setup, ["make deps"]);
        assert_eq!(config.bootstrap, Some(false));
        assert_eq!(config.env["MODE"], "test");
        assert_eq!(parse("").unwrap(), RepositoryConfig::default());
    }

    #[test]
    fn what_it_may_not_ask_for_is_refused() {
        let many = format!("setup = [{}]", "'x',".repeat(100));
        for text in [
            "ports = ['0.0.0.0:80:80']",
            "file_sync = ['/etc/passwd']",
            "cpus = 99",
            "memory = 'lots'",
            "[env]\n'A=B' = 'x'",
            "setup = [\"a\\u001b[2J\"]",
            "setup = 'x'",
            "][",
            &many,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn agreement_is_to_one_folder_and_one_text() {
        let folder = tempfile::tempdir().unwrap();
        let consents = Consents(folder.path().join("consents"));
        let (one, other) = (digest(Path::new("/a"), "x"), digest(Path::new("/b"), "x"));
        assert!(!consents.has(&one));
        assert!(consents.give(&one).unwrap());
        assert!(consents.has(&one) && !consents.has(&other));
        assert!(!consents.give("../../etc/x").unwrap());
        assert!(!consents.has(""));
    }
}
