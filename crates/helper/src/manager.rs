//! NetworkManager's own dnsmasq (`dns=dnsmasq` in NetworkManager.conf(5)), which reads one more file of ours: names of one
//! domain are asked of one server. The file is known again by its content, since it lies in /etc and outlives a ledger in /run.

use crate::external::{self, ExternalError};
use model::Change;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where it keeps its state while it runs.
const RUNS: &str = "run/NetworkManager";
const DROP_IN: &str = "etc/NetworkManager/dnsmasq.d/banger.conf";
/// In the order in which it reads them: a later word wins.
const MAIN: &str = "etc/NetworkManager/NetworkManager.conf";
const BEFORE: &[&str] = &["usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d"];
const AFTER: &str = "etc/NetworkManager/conf.d";
const TITLE: &str = "# Written by bangerd-root while bangerd answers for names below .vm; it goes when that ends.";
const MAX_CONFIG_BYTES: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    #[error("`{}` is there, and banger did not write it", path.display())]
    Foreign { path: PathBuf },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`nmcli` is not installed")]
    NoProgram,
    #[error("NetworkManager does not read its dnsmasq's files again")]
    Reload(#[source] ExternalError),
}

/// The files and programs of a host, below `root`.
pub struct Manager {
    root: PathBuf,
}

impl Manager {
    pub fn below(root: &Path) -> Manager {
        Manager { root: root.to_owned() }
    }

    /// Whether programs of this host ask it, and it a dnsmasq of its own.
    pub fn asks_dnsmasq(&self) -> bool {
        self.root.join(RUNS).is_dir() && self.configured().as_deref() == Some("dnsmasq")
    }

    /// The file, where it is there and ours.
    pub fn drop_in(&self) -> Option<PathBuf> {
        let path = self.root.join(DROP_IN);
        read(&path).is_some_and(|text| is_ours(&text)).then_some(path)
    }

    /// Has names below `.vm` asked of that port of 127.0.0.1.
    pub fn ensure(&self, port: u16) -> Result<Change, ManagerError> {
        let (path, text) = (self.root.join(DROP_IN), render(port));
        match read(&path) {
            Some(old) if old == text => return Ok(Change::Unchanged),
            Some(old) if !is_ours(&old) => return Err(ManagerError::Foreign { path }),
            _ => {}
        }
        write(&path, &text).map_err(|source| ManagerError::Write { path: path.clone(), source })?;
        self.reload().inspect_err(|_| {
            // Nobody reads it now; some later restart would.
            let _ = fs::remove_file(&path);
        })?;
        Ok(Change::Changed)
    }

    /// Not any more. Somebody else's file stays.
    pub fn remove(&self) -> Result<Change, ManagerError> {
        let Some(path) = self.drop_in() else { return Ok(Change::Unchanged) };
        fs::remove_file(&path).map_err(|source| ManagerError::Write { path, source })?;
        if self.asks_dnsmasq() {
            self.reload()?;
        }
        Ok(Change::Changed)
    }

    /// A new dnsmasq, which reads the files anew (nmcli(1)).
    fn reload(&self) -> Result<(), ManagerError> {
        let program = external::find(&self.root, "nmcli").ok_or(ManagerError::NoProgram)?;
        external::run(&program, &["general", "reload", "dns-full"]).map_err(ManagerError::Reload)
    }

    /// The value of `dns` in the section `main`.
    fn configured(&self) -> Option<String> {
        let before = BEFORE.iter().flat_map(|folder| self.snippets(folder));
        let files = before.chain([self.root.join(MAIN)]).chain(self.snippets(AFTER));
        files.filter_map(|path| dns_of(&read(&path)?)).next_back()
    }

    fn snippets(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
        files.sort();
        files
    }
}

fn render(port: u16) -> String {
    format!("{TITLE}\nserver=/vm/127.0.0.1#{port}\n")
}

fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(TITLE)
}

fn dns_of(text: &str) -> Option<String> {
    let mut section = "";
    let mut found = None;
    for line in text.lines().map(str::trim) {
        match line.split_once('=') {
            _ if line.starts_with('[') => section = line,
            Some((key, value)) if section == "[main]" && key.trim() == "dns" => found = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    found
}

fn read(path: &Path) -> Option<String> {
    let long = fs::metadata(path).ok()?.len() > MAX_CONFIG_BYTES;
    if long { None } else { fs::read_to_string(path).ok() }
}

/// By rename: dnsmasq reads a whole file or none. It passes over names that begin with a dot (dnsmasq(8)).
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let partial = folder.join(".banger.conf.partial");
    let mut file = File::create(&partial)?;
    // Our umask is for our own files; this one others read.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's root folder with NetworkManager in it; its `nmcli` writes down what it was told.
    struct Fake {
        root: tempfile::TempDir,
        manager: Manager,
    }

    impl Fake {
        fn with(config: &str) -> Fake {
            let root = tempfile::tempdir().unwrap();
            for folder in [RUNS, "etc/NetworkManager/dnsmasq.d", AFTER, BEFORE[0], "usr/bin"] {
                fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            let manager = Manager::below(root.path());
            let fake = Fake { root, manager };
            fake.write(MAIN, config);
            fake.nmcli("exit 0");
            fake
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.root.path().join(path), text).unwrap();
        }

        fn nmcli(&self, ends: &str) {
            let path = self.root.path().join("usr/bin/nmcli");
            let told = self.root.path().join("told");
            fs::write(&path, format!("#!/bin/sh\necho \"$@\" >> {}\n{ends}\n", told.display())).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }

        fn told(&self) -> usize {
            let told = fs::read_to_string(self.root.path().join("told")).unwrap_or_default();
            assert!(told.lines().all(|line| line == "general reload dns-full"), "{told}");
            told.lines().count()
        }

        fn file(&self) -> Option<String> {
            fs::read_to_string(self.root.path().join(DROP_IN)).ok()
        }
    }

    const DNSMASQ: &str = "[main]\nplugins=keyfile\ndns=dnsmasq\n[other]\ndns=none\n";

    #[test]
    fn its_dnsmasq_asks_us_until_it_is_told_otherwise() {
        let fake = Fake::with(DNSMASQ);
        assert!(fake.manager.asks_dnsmasq());
        assert_eq!(fake.manager.ensure(42069).unwrap(), Change::Changed);
        assert!(fake.file().is_some_and(|text| text.ends_with("\nserver=/vm/127.0.0.1#42069\n")));
        let mode = fs::metadata(fake.root.path().join(DROP_IN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "its dnsmasq may run as somebody else");
        assert_eq!((fake.manager.ensure(42069).unwrap(), fake.told()), (Change::Unchanged, 1));
        assert_eq!((fake.manager.ensure(5353).unwrap(), fake.told()), (Change::Changed, 2));
        assert_eq!(fake.manager.drop_in(), Some(fake.root.path().join(DROP_IN)));
        assert_eq!((fake.manager.remove().unwrap(), fake.told()), (Change::Changed, 3));
        assert_eq!((fake.manager.remove().unwrap(), fake.told()), (Change::Unchanged, 3));
        let left = fs::read_dir(fake.root.path().join("etc/NetworkManager/dnsmasq.d")).unwrap().count();
        assert_eq!(left, 0, "nothing of ours stays");
    }

    #[test]
    fn a_file_of_somebody_else_stays_as_it_is() {
        let fake = Fake::with(DNSMASQ);
        fake.write(DROP_IN, "server=/vm/10.0.0.1\n");
        assert!(matches!(fake.manager.ensure(42069), Err(ManagerError::Foreign { .. })));
        assert_eq!(fake.manager.remove().unwrap(), Change::Unchanged);
        assert_eq!((fake.file().as_deref(), fake.told()), (Some("server=/vm/10.0.0.1\n"), 0));
    }

    #[test]
    fn a_manager_that_does_not_read_it_leaves_no_file() {
        let fake = Fake::with(DNSMASQ);
        fake.nmcli("echo it is asleep >&2; exit 8");
        let error = fake.manager.ensure(42069).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.ends_with("refused: it is asleep"), "{cause}");
        assert_eq!(fake.file(), None);
    }

    #[test]
    fn the_last_word_of_its_files_counts() {
        let fake = Fake::with("[main]\n# dns=dnsmasq\n");
        assert!(!fake.manager.asks_dnsmasq());
        fake.write("usr/lib/NetworkManager/conf.d/10-vendor.conf", DNSMASQ);
        assert!(fake.manager.asks_dnsmasq());
        fake.write("etc/NetworkManager/conf.d/90-mine.conf", "[main]\ndns = default\n");
        assert!(!fake.manager.asks_dnsmasq());
        fake.write("etc/NetworkManager/conf.d/95-again.conf", "[main]\ndns = dnsmasq\n");
        assert!(fake.manager.asks_dnsmasq());
        fs::remove_dir(fake.root.path().join(RUNS)).unwrap();
        assert!(!fake.manager.asks_dnsmasq(), "it does not run");
    }
}
