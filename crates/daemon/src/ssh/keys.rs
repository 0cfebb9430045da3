//! Key files: the client's key, one host key per sandbox, and the known_hosts file that pins them.
//!
//! ```text
//!  <state>/ssh/id_ed25519, id_ed25519.pub   0600, 0644; made once, put into guests that run a sshd of their own
//!  <state>/ssh/host/<id>                    0600; made with the sandbox, removed with it
//!  <state>/ssh/direct/<id>                  written by ssh: the key of a server of the guest's own; removed with the sandbox
//!  <state>/ssh/known_hosts                  0644; written anew, by rename, from all sandboxes that there are
//! ```
//! A private key that others can read is refused, not mended: nobody knows who has read it.

use super::HostKey;
use model::{SandboxId, SandboxName};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The domain of sandboxes.
const DOMAIN: &str = "vm";
/// Folders of one file per sandbox.
const PER_SANDBOX: &[&str] = &["host", "direct"];
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the key {} can be read by others (mode {mode:04o})", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} holds no ssh key", path.display())]
    NoKey { path: PathBuf, source: russh::keys::ssh_key::Error },
}

/// The folder of keys.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// Makes the folder, 0700.
    pub fn open(folder: PathBuf) -> Result<Self, KeyError> {
        for name in PER_SANDBOX {
            let path = folder.join(name);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| KeyError::Write { path, source })?;
        }
        Ok(Keys { folder })
    }

    pub fn client_key_path(&self) -> PathBuf {
        self.folder.join("id_ed25519")
    }

    pub fn known_hosts_path(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    /// The client's key, made on first use; answers its line for `authorized_keys`.
    pub fn ensure_client_key(&self) -> Result<String, KeyError> {
        let path = self.client_key_path();
        let line = public_line(&ensure(&path, "banger")?);
        let public = path.with_extension("pub");
        if std::fs::read_to_string(&public).ok().as_deref() != Some(&line) {
            replace(&public, line.as_bytes(), PUBLIC)?;
        }
        Ok(line)
    }

    /// The sandbox's host key, made on first use.
    pub fn ensure_host_key(&self, id: &SandboxId) -> Result<HostKey, KeyError> {
        ensure(&self.host_key_path(id), id.as_str()).map(HostKey)
    }

    /// Files of sandboxes that are gone.
    fn remove_others(&self, sandboxes: &[(SandboxId, SandboxName)]) -> Result<(), KeyError> {
        PER_SANDBOX.iter().try_for_each(|name| remove_others(self.folder.join(name), sandboxes))
    }

    /// Pins the host keys of exactly these sandboxes; the keys of others are removed.
    pub fn write_known_hosts(&self, sandboxes: &[(SandboxId, SandboxName)]) -> Result<(), KeyError> {
        let mut text = String::from("# Written by bangerd from the sandboxes that there are; changes are lost.\n");
        let mut lines = Vec::new();
        for (id, name) in sandboxes {
            let key = public_line(&self.ensure_host_key(id)?.0);
            lines.push(format!("{name}.{DOMAIN} {key}"));
        }
        lines.sort();
        text.extend(lines);
        let path = self.known_hosts_path();
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            replace(&path, text.as_bytes(), PUBLIC)?;
        }
        // Also where nothing had to be written: a daemon that died between the key and this page left a key of nobody.
        self.remove_others(sandboxes)
    }

    fn host_key_path(&self, id: &SandboxId) -> PathBuf {
        self.folder.join("host").join(id.as_str())
    }
}

fn remove_others(folder: PathBuf, sandboxes: &[(SandboxId, SandboxName)]) -> Result<(), KeyError> {
    let entries = std::fs::read_dir(&folder).map_err(|source| KeyError::Read { path: folder, source })?;
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok());
        let path = entry.path();
        match id {
            Some(id) if !sandboxes.iter().any(|(kept, _)| *kept == id) => match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(KeyError::Write { path, source });
                }
                _ => {}
            },
            _ => {}
        }
    }
    Ok(())
}

fn ensure(path: &Path, comment: &str) -> Result<PrivateKey, KeyError> {
    match read(path)? {
        Some(key) => Ok(key),
        None => make(path, comment),
    }
}

fn read(path: &Path) -> Result<Option<PrivateKey>, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    let key = PrivateKey::from_openssh(text);
    key.map(Some).map_err(|source| KeyError::NoKey { path: path.to_owned(), source })
}

/// Of two that make the same key at once, the first one's stays: `link` refuses where `rename` would replace.
fn make(path: &Path, comment: &str) -> Result<PrivateKey, KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let mut seed = [0; 32];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed)).map_err(failed)?;
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, comment).map_err(|source| KeyError::NoKey { path: path.to_owned(), source })?;
    let text = key.to_openssh(LineEnding::LF);
    let text = text.map_err(|source| KeyError::NoKey { path: path.to_owned(), source })?;
    let partial = write_partial(path, text.as_bytes(), PRIVATE).map_err(failed)?;
    let linked = std::fs::hard_link(&partial, path);
    let removed = std::fs::remove_file(&partial);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => ensure(path, comment),
        linked => linked.and(removed).map(|()| key).map_err(failed),
    }
}

fn public_line(key: &PrivateKey) -> String {
    format!("{}\n", key.public_key().to_openssh().expect("an ed25519 key has a text form"))
}

fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), KeyError> {
    let written = write_partial(path, text, mode).and_then(|partial| std::fs::rename(partial, path));
    written.map_err(|source| KeyError::Write { path: path.to_owned(), source })
}

/// Synced, so that a crash leaves the old file or the new one.
fn write_partial(path: &Path, text: &[u8], mode: u32) -> io::Result<PathBuf> {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}-{count}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
    file.write_all(text)?;
    file.sync_all()?;
    Ok(partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (tempfile::TempDir, Keys) {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let keys = Keys::open(folder.path().join("ssh")).expect("the folder opens");
        (folder, keys)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        let (_folder, keys) = keys();
        let first = keys.ensure_client_key().expect("a key");
        assert!(first.starts_with("ssh-ed25519 ") && first.ends_with("banger\n"), "{first}");
        assert_eq!(keys.ensure_client_key().expect("a key"), first);
        assert_eq!(mode(&keys.client_key_path()), 0o600);
        assert_eq!(std::fs::read_to_string(keys.client_key_path().with_extension("pub")).expect("public"), first);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_folder, keys) = keys();
        keys.ensure_client_key().expect("a key");
        std::fs::set_permissions(keys.client_key_path(), std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(keys.ensure_client_key(), Err(KeyError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn known_hosts_names_the_sandboxes_that_there_are() {
        let (_folder, keys) = keys();
        let web = (SandboxId::from_bits(1), "web".parse::<SandboxName>().expect("a name"));
        let db = (SandboxId::from_bits(2), "db".parse::<SandboxName>().expect("a name"));
        std::fs::write(keys.folder.join("direct").join(db.0.as_str()), "its own").expect("as ssh does");
        keys.write_known_hosts(&[web.clone(), db]).expect("written");
        let text = std::fs::read_to_string(keys.known_hosts_path()).expect("read");
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 2);
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("db.vm ssh-ed25519 ")), "{text}");
        keys.write_known_hosts(std::slice::from_ref(&web)).expect("written");
        let after = std::fs::read_to_string(keys.known_hosts_path()).expect("read");
        assert!(after.contains("web.vm") && !after.contains("db.vm"), "{after}");
        assert_eq!(std::fs::read_dir(keys.folder.join("host")).expect("a folder").count(), 1);
        keys.ensure_host_key(&SandboxId::from_bits(3)).expect("a key");
        keys.write_known_hosts(std::slice::from_ref(&web)).expect("nothing to write");
        assert_eq!(std::fs::read_dir(keys.folder.join("host")).expect("a folder").count(), 1, "nobody's key is gone");
        assert_eq!(std::fs::read_dir(keys.folder.join("direct")).expect("a folder").count(), 0);
    }
}
