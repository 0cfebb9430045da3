//! A folder that nothing leaves: every name is resolved below it by the kernel (openat2(2), RESOLVE_BENEATH), so that neither
//! `..` nor a link, whoever makes it when, leads out. What must be the root of everything resolves as in a chroot.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, mkdirat, openat, openat2, statat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub struct Below {
    folder: OwnedFd,
    resolve: ResolveFlags,
    /// The folder that was asked for last: entries come folder by folder.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Below {
    pub fn open(folder: &Path) -> io::Result<Below> {
        let is_root = folder.canonicalize()? == Path::new("/");
        let stay = if is_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
        let folder = openat(CWD, folder, FOLDER, Mode::empty())?;
        Ok(Below { folder, resolve: stay | ResolveFlags::NO_MAGICLINKS, last: None })
    }

    /// The folder of this name, made with what is missing on the way.
    pub fn ensure_folder(&mut self, name: &Path) -> io::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != name) {
            let found = match self.open_folder(name) {
                Err(Errno::NOENT) => self.make_folders(name)?,
                found => found.map_err(|error| refusal(name, error))?,
            };
            self.last = Some((name.to_owned(), found));
        }
        Ok(self.last.as_ref().expect("it was just put there").1.as_fd())
    }

    /// The folder in which a name lies, and its last part.
    pub fn ensure_parent<'a>(&mut self, name: &'a Path) -> io::Result<(BorrowedFd<'_>, &'a OsStr)> {
        let last = name.file_name().ok_or_else(|| outside(name))?;
        Ok((self.ensure_folder(name.parent().unwrap_or(Path::new("")))?, last))
    }

    fn open_folder(&self, name: &Path) -> rustix::io::Result<OwnedFd> {
        let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
        openat2(&self.folder, name, FOLDER, Mode::empty(), self.resolve)
    }

    fn make_folders(&self, name: &Path) -> io::Result<OwnedFd> {
        let mut made = PathBuf::new();
        let mut parent = self.open_folder(&made)?;
        for part in name.components() {
            made.push(part);
            parent = match self.open_folder(&made) {
                Err(Errno::NOENT) => {
                    // A link that leads nowhere is in the way, too: making a folder does not follow it.
                    mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                    self.open_folder(&made).map_err(|error| refusal(name, error))?
                }
                found => found.map_err(|error| refusal(name, error))?,
            };
        }
        Ok(parent)
    }
}

/// The name without its dots; one that would leave is refused before anything is opened.
pub fn inside(name: &Path) -> io::Result<PathBuf> {
    let mut inside = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => inside.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside(name)),
        }
    }
    Ok(inside)
}

pub fn outside(name: &Path) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("the entry {} would leave the folder", name.display()))
}

fn refusal(name: &Path, error: Errno) -> io::Error {
    match error {
        Errno::XDEV | Errno::LOOP => outside(name),
        Errno::NOTDIR => {
            io::Error::new(ErrorKind::NotADirectory, format!("something on the way to {} is no folder", name.display()))
        }
        error => error.into(),
    }
}

/// What lies there, a link being a link.
pub fn kind_of(folder: BorrowedFd, name: &OsStr) -> io::Result<Option<FileType>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(facts) => Ok(Some(FileType::from_raw_mode(facts.st_mode as RawMode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name beside the destination that nobody else has.
pub fn partial_name() -> io::Result<OsString> {
    let mut random = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
    Ok(OsString::from(format!(".banger-{:016x}.partial", u64::from_ne_bytes(random))))
}
