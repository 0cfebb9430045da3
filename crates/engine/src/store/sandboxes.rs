//! Records, one row each.

use super::Store;
use super::journal::{Operation, insert_operation};
use crate::error::Result;
use crate::sandbox::Sandbox;
use model::SandboxId;
use rusqlite::types::Type;
use rusqlite::{Error, Transaction, params};

impl Store {
    pub(crate) fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        self.read("cannot read the sandboxes' records", |connection| {
            let mut statement = connection.prepare_cached("SELECT record FROM sandboxes")?;
            let rows = statement.query_map([], |row| {
                let record: String = row.get(0)?;
                serde_json::from_str(&record).map_err(|e| Error::FromSqlConversionFailure(0, Type::Text, Box::new(e)))
            })?;
            rows.collect()
        })
    }

    /// A new record and the operation that makes it, or neither.
    pub(crate) fn reserve(&self, sandbox: &Sandbox, operation: &Operation) -> Result<()> {
        self.write_durably("cannot record a new sandbox", |transaction| {
            let mut statement =
                transaction.prepare_cached("INSERT INTO sandboxes (id, name, record) VALUES (?1, ?2, ?3)")?;
            statement.execute(params![sandbox.id.as_str(), sandbox.name().as_str(), json(sandbox)?])?;
            insert_operation(transaction, operation)
        })
    }

    pub(crate) fn save(&self, sandbox: &Sandbox) -> Result<()> {
        self.write("cannot record a sandbox", |transaction| save_in(transaction, sandbox))
    }

    pub(crate) fn forget(&self, id: &SandboxId) -> Result<()> {
        self.write_durably("cannot forget a sandbox", |transaction| {
            transaction.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?.execute([id.as_str()])?;
            Ok(())
        })
    }
}

fn save_in(transaction: &Transaction, sandbox: &Sandbox) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached("UPDATE sandboxes SET name = ?2, record = ?3 WHERE id = ?1")?;
    statement.execute(params![sandbox.id.as_str(), sandbox.name().as_str(), json(sandbox)?])?;
    Ok(())
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}
