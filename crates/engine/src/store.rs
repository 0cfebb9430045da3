//! The records and the journal on disk: one SQLite file, `banger.db`, in the state folder.
//!
//! WAL, so that readers never wait; forward migrations, each in a transaction. A commit survives the daemon's death
//! at any instant; what comes and goes for good (a sandbox) survives the host's as well. A database that is corrupt
//! or from a newer version is refused and never written to. [`journal`] holds operations, [`sandboxes`] records.

pub mod journal;
mod sandboxes;

use crate::error::{Error, Kind, Result};
use crate::lock;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations as Steps, SchemaVersion};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const FILE_NAME: &str = "banger.db";
/// Another process may hold the lock for a checkpoint; longer than this means that it hangs.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MIGRATIONS: &[M<'static>] = &[M::up(include_str!("store/migrations/1.sql"))];
const STEPS: Steps<'static> = Steps::from_slice(MIGRATIONS);

/// One connection, shared; every use is a short transaction.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

/// What `bangerd --check-migrations` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrations {
    Compatible,
    /// So many migrations will run at the next start.
    Pending(usize),
    /// A newer banger has written it.
    TooNew,
}

/// Looks without touching; a store that does not exist yet has everything pending.
pub fn check(folder: &Path) -> Result<Migrations> {
    match open_read_only(folder) {
        Ok(connection) => version_of(&connection),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
            Ok(Migrations::Pending(MIGRATIONS.len()))
        }
        Err(error) => Err(explain("cannot read the store", error)),
    }
}

/// Reads all of a store that nobody uses: how many sandboxes a whole one knows. Touches nothing.
pub fn verify(folder: &Path) -> Result<usize> {
    let store = Store::open_read_only(folder)?;
    let told: String = store.read("cannot check the store", |connection| {
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    })?;
    match told.as_str() {
        "ok" => Ok(store.sandboxes()?.len()),
        told => Err(Error::new(Kind::HostUnfit, "the store is damaged").with_source(told.to_owned())),
    }
}

fn open_read_only(folder: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder.join(FILE_NAME), flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn version_of(connection: &Connection) -> Result<Migrations> {
    let read = |error: rusqlite_migration::Error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => explain("cannot read the store's version", err),
        other => Error::new(Kind::Internal, "cannot read the store's version").with_source(other),
    };
    match STEPS.current_version(connection).map_err(read)? {
        SchemaVersion::NoneSet => Ok(Migrations::Pending(MIGRATIONS.len())),
        SchemaVersion::Inside(version) if version.get() < MIGRATIONS.len() => {
            Ok(Migrations::Pending(MIGRATIONS.len() - version.get()))
        }
        SchemaVersion::Inside(_) => Ok(Migrations::Compatible),
        SchemaVersion::Outside(_) => Ok(Migrations::TooNew),
    }
}

impl Store {
    /// Opens or makes the store in a folder that exists, and brings it up to date.
    pub fn open(folder: &Path) -> Result<Store> {
        let fail = |error| explain("cannot open the store", error);
        let mut connection = Connection::open(folder.join(FILE_NAME)).map_err(fail)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
        if version_of(&connection)? == Migrations::TooNew {
            return Err(Error::new(Kind::Refused, "cannot open the store: a newer banger has written it")
                .with_hint("run the newer version, or restore a backup made by this one"));
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        migrate(&mut connection)?;
        Store::over(connection)
    }

    /// For readers beside a daemon: never writes, never migrates.
    pub fn open_read_only(folder: &Path) -> Result<Store> {
        let connection = open_read_only(folder).map_err(|error| explain("cannot read the store", error))?;
        match version_of(&connection)? {
            Migrations::Compatible => Ok(Store { connection: Arc::new(Mutex::new(connection)) }),
            Migrations::Pending(_) => {
                Err(Error::new(Kind::Refused, "cannot read the store: it is of an older version")
                    .with_hint("start the daemon once, it brings the store up to date"))
            }
            Migrations::TooNew => {
                Err(Error::new(Kind::Refused, "cannot read the store: a newer banger has written it")
                    .with_hint("run the newer version"))
            }
        }
    }

    /// The whole store as it is at one moment, in a new file of its own; writers go on meanwhile.
    pub(crate) fn copy_to(&self, file: &Path) -> Result<()> {
        let name = file.to_str().ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cannot copy the store to {}: its name is not UTF-8", file.display()))
        })?;
        self.read("cannot copy the store", |connection| connection.execute("VACUUM INTO ?1", [name]).map(drop))
    }

    /// For tests and for worlds that end with the process; clones share it.
    pub fn in_memory() -> Result<Store> {
        let mut connection =
            Connection::open_in_memory().map_err(|error| explain("cannot open a store in memory", error))?;
        migrate(&mut connection)?;
        Store::over(connection)
    }

    /// For tests: from now on every write meets a full disk, or no longer does.
    #[doc(hidden)]
    pub fn set_full(&self, full: bool) {
        // 1 is below any size, so SQLite keeps the pages there are and grants no more.
        let limit = if full { 1 } else { i64::from(u32::MAX) - 1 };
        let connection = lock(&self.connection);
        let _limit: rusqlite::Result<i64> =
            connection.query_row(&format!("PRAGMA max_page_count = {limit}"), [], |row| row.get(0));
    }

    fn over(connection: Connection) -> Result<Store> {
        let fail = |error| explain("cannot open the store", error);
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Store { connection: Arc::new(Mutex::new(connection)) })
    }

    fn read<T>(&self, attempt: &str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&lock(&self.connection)).map_err(|error| explain(attempt, error))
    }

    fn write<T>(&self, attempt: &str, work: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = lock(&self.connection);
        in_transaction(&mut connection, work).map_err(|error| explain(attempt, error))
    }

    /// Like `write`, and on the disk when it returns: no power cut takes it back.
    fn write_durably<T>(&self, attempt: &str, work: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = lock(&self.connection);
        let durably = |connection: &mut Connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let result = in_transaction(connection, work);
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            result
        };
        durably(&mut connection).map_err(|error| explain(attempt, error))
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    STEPS.to_latest(connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => explain("cannot bring the store up to date", err),
        other => Error::new(Kind::Internal, "cannot bring the store up to date").with_source(other),
    })
}

/// A full disk and a corrupt file are the host's trouble, and there is something to do about them.
fn explain(attempt: &str, error: rusqlite::Error) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (Kind::HostUnfit, Some("free some space on the disk of the state folder")),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            (Kind::HostUnfit, Some("nothing was written; restore it with `banger system restore`"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (Kind::HostUnfit, Some("check owner and mode of the state folder"))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Kind::Conflict, Some("another daemon or a backup holds the store"))
        }
        _ => (Kind::Internal, None),
    };
    let error = Error::new(kind, attempt).with_source(error);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
