//! Where this host's programs are. Debian keeps those of e2fsprogs where an ordinary user's PATH does not lead.

use rustix::fs::{Access, access};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOTS_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// On the PATH, else where root's PATH would lead.
pub fn find(program: &str) -> Option<PathBuf> {
    find_in(&std::env::var_os("PATH").unwrap_or_default(), program)
}

/// One that is nowhere is not found when it is started, as with any other command.
pub fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

fn find_in(path: &OsStr, program: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(path).chain(ROOTS_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| runs(file))
}

fn runs(file: &Path) -> bool {
    file.is_absolute() && file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_roots_path_leads_to_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().as_os_str();
        assert_eq!(find_in(path, "e2fsck").map(|found| found.file_name().unwrap().to_owned()), Some("e2fsck".into()));
        std::fs::copy("/bin/true", folder.path().join("e2fsck")).unwrap();
        assert_eq!(find_in(path, "e2fsck"), Some(folder.path().join("e2fsck")), "the PATH comes first");
        std::fs::write(folder.path().join("debugfs"), "no program").unwrap();
        assert_ne!(find_in(path, "debugfs"), Some(folder.path().join("debugfs")));
    }

    #[test]
    fn an_empty_or_relative_path_finds_nothing_in_the_working_folder() {
        assert_eq!(find_in(OsStr::new(".::"), "Cargo.toml"), None);
        assert_eq!(find_in(OsStr::new(""), "no-such-program"), None);
    }
}
