//! One `bangerd` per state folder and socket: two locks that die with their holder, and the socket that only the holder
//! may remove.
//!
//! A socket file without a listener is what a killed daemon leaves behind. Whoever holds the lock beside it knows that
//! nobody serves it and may replace it; nobody else touches it.

use model::paths::MAX_SOCKET_PATH_BYTES;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("bangerd runs already{}: it holds {path}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRuns { path: PathBuf, pid: Option<u32> },
    #[error("cannot lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot listen on {path}: it has {bytes} bytes, and a socket path holds {MAX_SOCKET_PATH_BYTES}")]
    TooLong { path: PathBuf, bytes: usize },
    #[error("cannot listen on {path}: its folder is open to other users")]
    OpenFolder { path: PathBuf },
    #[error("cannot listen on {path}: there is something that is no socket")]
    NoSocket { path: PathBuf },
    #[error("cannot listen on {path}")]
    Listen { path: PathBuf, source: io::Error },
}

/// Held as long as this process serves; a lock ends with it, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    pub fn take(path: &Path) -> Result<Lock, InstanceError> {
        let failed = |source| InstanceError::Lock { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(InstanceError::AlreadyRuns { path: path.to_owned(), pid: holder(&mut file) });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(Lock { _file: file })
    }
}

/// The pid that the holder wrote; for people only, nothing is decided by it.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The control socket and its lock; both go when it is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
    _lock: Lock,
}

impl Socket {
    pub fn bind(path: &Path) -> Result<Socket, InstanceError> {
        let failed = |source| InstanceError::Listen { path: path.to_owned(), source };
        let bytes = path.as_os_str().len();
        if bytes > MAX_SOCKET_PATH_BYTES {
            return Err(InstanceError::TooLong { path: path.to_owned(), bytes });
        }
        private_folder(path)?;
        let lock = Lock::take(&path.with_extension("lock"))?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Socket { path: path.to_owned(), listener: Some(listener), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, once.
    pub fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes a missing folder private; one that others may write to is refused, since they could replace the socket.
fn private_folder(socket: &Path) -> Result<(), InstanceError> {
    let failed = |source| InstanceError::Listen { path: socket.to_owned(), source };
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let metadata = std::fs::metadata(folder).map_err(failed)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !ours || metadata.mode() & 0o022 != 0 {
        return Err(InstanceError::OpenFolder { path: socket.to_owned() });
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), InstanceError> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(InstanceError::Listen { path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => Err(InstanceError::NoSocket { path: path.to_owned() }),
        Ok(_) => std::fs::remove_file(path).map_err(|source| InstanceError::Listen { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_hears_who_is_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _first = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err();
        let expected = format!("bangerd runs already (pid {}): it holds {}", std::process::id(), path.display());
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_lock_ends_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        drop(Lock::take(&path).unwrap());
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bangerd.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file");
        let served = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path), Err(InstanceError::AlreadyRuns { .. })));
        assert!(path.exists(), "the second must not remove the socket of the first");
        drop(served);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bangerd.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(InstanceError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Socket::bind(&folder.path().join("s")), Err(InstanceError::OpenFolder { .. })));
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let path = Path::new("/tmp").join("x".repeat(110));
        assert!(matches!(Socket::bind(&path), Err(InstanceError::TooLong { .. })));
    }
}
