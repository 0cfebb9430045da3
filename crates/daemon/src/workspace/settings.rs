//! The settings of a repository that travel: how a status reads, who commits, where `origin` is; nothing that names a
//! program or a secret. A first shipment brings them all, a later one those that changed on the host since: what the guest
//! set for itself stays.

use super::Result;
use super::git::Git;
use super::inspect::Repository;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// By name, as git lists them: in small letters.
pub type Settings = BTreeMap<String, String>;

/// What a setting is now; none where the host has it no more.
pub type Change = (String, Option<String>);

const KEPT: &[&str] = &[
    "core.autocrlf",
    "core.eol",
    "core.filemode",
    "core.symlinks",
    "core.safecrlf",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "index.sparse",
    "status.showuntrackedfiles",
    "user.name",
    "user.email",
    ORIGIN,
];
const ORIGIN: &str = "remote.origin.url";

/// As the host has them, the person's own included.
pub fn read(git: &Git) -> Result<Settings> {
    let mut settings = Settings::new();
    for line in git.ask(["config", "--list", "-z"])?.split(|byte| *byte == 0) {
        let line = String::from_utf8_lossy(line);
        // A name alone says yes (git-config(1)).
        let (name, value) = line.split_once('\n').unwrap_or((&line, "true"));
        if KEPT.contains(&name) {
            settings.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(url) = settings.get_mut(ORIGIN) {
        *url = without_password(url);
        let fetch = "+refs/heads/*:refs/remotes/origin/*".to_owned();
        settings.insert("remote.origin.fetch".to_owned(), fetch);
    }
    Ok(settings)
}

/// What has to be done to `before` so that it says what `now` does.
pub fn changes(before: &Settings, now: &Settings) -> Vec<Change> {
    let new = now.iter().filter(|(name, value)| before.get(*name) != Some(value));
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    new.map(|(name, value)| (name.clone(), Some(value.clone()))).chain(gone.map(|name| (name.clone(), None))).collect()
}

/// Into the staged repository: everything.
pub fn configure(repository: &Repository, git: &Git) -> Result<()> {
    // Inode, device and fractions of a second are the guest's own: without these git would read every file again, and would
    // take what a filter of the host made (LFS) for an edit.
    let own = [("core.checkStat", "minimal"), ("core.trustCtime", "false")];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    let all: Vec<Change> = own.chain(changes(&Settings::new(), &repository.settings)).collect();
    apply(git, &git.folder().join(".git/config"), &all)
}

/// Into a configuration, which may be a guest's: read as a file and nothing else, so that nothing in it means anything to us.
pub fn apply(git: &Git, file: &Path, changes: &[Change]) -> Result<()> {
    let git = git.clone().with_environment("GIT_DIR", "/dev/null");
    let words = |rest: &[&str]| -> Vec<OsString> {
        let head = ["config", "--no-includes", "--file"].into_iter().map(OsString::from);
        head.chain([file.into()]).chain(rest.iter().map(OsString::from)).collect()
    };
    for (name, value) in changes {
        match value {
            Some(value) => drop(git.ask(words(&["--replace-all", "--", name, value]))?),
            None if git.line(words(&["--get-all", "--", name]))?.is_some() => {
                git.ask(words(&["--unset-all", "--", name]))?;
            }
            None => {}
        }
    }
    Ok(())
}

/// `https://user:secret@host/x` becomes `https://user@host/x`: a guest has no business with the host's secrets.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let Some((user, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    let user = user.split(':').next().unwrap_or_default();
    let path = path.map(|path| format!("/{path}")).unwrap_or_default();
    format!("{scheme}://{user}@{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_stays_on_the_host() {
        for (url, shipped) in [
            ("https://me:secret@example.org/a/b", "https://me@example.org/a/b"),
            ("https://example.org/a@b", "https://example.org/a@b"),
            ("git@example.org:a/b.git", "git@example.org:a/b.git"),
            ("ssh://git@example.org/a", "ssh://git@example.org/a"),
            ("/srv/a", "/srv/a"),
        ] {
            assert_eq!(without_password(url), shipped);
        }
    }

    #[test]
    fn only_what_changed_is_a_change() {
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let before = settings(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let now = settings(&[("a", "1"), ("b", "2"), ("d", "1")]);
        let wanted = [("b", Some("2")), ("d", Some("1")), ("c", None)];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(changes(&before, &now), wanted);
    }
}
