//! The journal: every operation with its steps, written before each step and after it. It is what `history` prints
//! and what a restarted daemon reads to learn which operations were cut short.

use super::Store;
use super::sandboxes::json;
use crate::error::Result;
use crate::host::clock::Timestamp;
use crate::plan::{Plan, Verb};
use model::{OperationId, SandboxId, SandboxName};
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, Error, Row, params};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub id: OperationId,
    pub verb: Verb,
    pub sandbox: SandboxId,
    pub name: SandboxName,
    pub began_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub steps: Vec<StepRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Running,
    Done,
    Failed,
    /// It failed, and nothing of it is left.
    Undone,
    Cancelled,
    /// The daemon died in the middle; `reconcile` took over.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    pub name: String,
    pub state: StepState,
    #[serde(default)]
    pub duration_us: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Planned,
    Begun,
    Done,
    Failed,
    Undone,
}

impl Outcome {
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Undone => "undone",
            Outcome::Cancelled => "cancelled",
            Outcome::Interrupted => "interrupted",
        }
    }
}

impl StepState {
    pub const fn word(self) -> &'static str {
        match self {
            StepState::Planned => "planned",
            StepState::Begun => "begun",
            StepState::Done => "done",
            StepState::Failed => "failed",
            StepState::Undone => "undone",
        }
    }
}

impl Operation {
    pub(crate) fn begin(id: OperationId, plan: &Plan, now: Timestamp) -> Self {
        let planned = |step: &crate::plan::Step| StepRecord {
            name: step.to_string(),
            state: StepState::Planned,
            duration_us: None,
        };
        Operation {
            id,
            verb: plan.verb,
            sandbox: plan.id.clone(),
            name: plan.name.clone(),
            began_at: now,
            ended_at: None,
            outcome: Outcome::Running,
            error: None,
            steps: plan.steps.iter().map(planned).collect(),
        }
    }
}

impl Store {
    pub(crate) fn begin(&self, operation: &Operation) -> Result<()> {
        self.write("cannot write the journal", |transaction| insert_operation(transaction, operation))
    }

    pub(crate) fn note(&self, operation: &Operation) -> Result<()> {
        self.write("cannot write the journal", |transaction| {
            let mut statement = transaction.prepare_cached(
                "UPDATE operations SET ended_at = ?2, outcome = ?3, error = ?4, steps = ?5 WHERE id = ?1",
            )?;
            statement.execute(params![
                operation.id.as_str(),
                operation.ended_at.map(|at| at as i64),
                operation.outcome.word(),
                operation.error,
                json(&operation.steps)?,
            ])?;
            Ok(())
        })
    }

    /// The latest first. `of` is a sandbox's name, its id or a prefix of it; sandboxes that are gone have a history too.
    pub fn operations(&self, of: Option<&str>, limit: u32) -> Result<Vec<Operation>> {
        self.read("cannot read the journal", |connection| {
            select(
                connection,
                "WHERE ?1 IS NULL OR sandbox_name = ?1 OR (length(?1) >= 4 AND substr(sandbox_id, 1, length(?1)) = ?1)
                 ORDER BY began_at DESC, rowid DESC LIMIT ?2",
                params![of, limit],
            )
        })
    }

    /// Operations that began and did not end.
    pub(crate) fn open_operations(&self) -> Result<Vec<Operation>> {
        self.read("cannot read the journal", |connection| {
            select(connection, "WHERE ended_at IS NULL ORDER BY began_at, rowid", [])
        })
    }

    /// Was there ever an operation on this sandbox?
    pub(crate) fn knows(&self, id: &SandboxId) -> Result<bool> {
        self.read("cannot read the journal", |connection| {
            connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM operations WHERE sandbox_id = ?1)")?
                .query_row([id.as_str()], |row| row.get(0))
        })
    }

    /// Keeps the latest operations and those under way.
    pub(crate) fn prune(&self, keep: u32) -> Result<()> {
        self.write("cannot prune the journal", |transaction| {
            transaction.execute(
                "DELETE FROM operations WHERE ended_at IS NOT NULL AND began_at < coalesce(
                     (SELECT began_at FROM operations ORDER BY began_at DESC LIMIT 1 OFFSET ?1), 0)",
                [keep],
            )?;
            Ok(())
        })
    }
}

pub(super) fn insert_operation(connection: &Connection, operation: &Operation) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO operations (id, verb, sandbox_id, sandbox_name, began_at, ended_at, outcome, error, steps)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    statement.execute(params![
        operation.id.as_str(),
        operation.verb.word(),
        operation.sandbox.as_str(),
        operation.name.as_str(),
        operation.began_at as i64,
        operation.ended_at.map(|at| at as i64),
        operation.outcome.word(),
        operation.error,
        json(&operation.steps)?,
    ])?;
    Ok(())
}

fn select(connection: &Connection, rest: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<Operation>> {
    let columns = "id, verb, sandbox_id, sandbox_name, began_at, ended_at, outcome, error, steps";
    let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM operations {rest}"))?;
    let rows = statement.query_map(values, read_operation)?;
    rows.collect()
}

fn read_operation(row: &Row) -> rusqlite::Result<Operation> {
    let steps: String = row.get(8)?;
    let at = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(|at| at as Timestamp));
    Ok(Operation {
        id: parse(row, 0)?,
        verb: word(row, 1)?,
        sandbox: parse(row, 2)?,
        name: parse(row, 3)?,
        began_at: at(4)?.unwrap_or_default(),
        ended_at: at(5)?,
        outcome: word(row, 6)?,
        error: row.get(7)?,
        steps: serde_json::from_str(&steps).map_err(|e| Error::FromSqlConversionFailure(8, Type::Text, Box::new(e)))?,
    })
}

fn parse<T: std::str::FromStr>(row: &Row, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|e| Error::FromSqlConversionFailure(column, Type::Text, Box::new(FromSqlError::other(e))))
}

fn word<T: serde::de::DeserializeOwned>(row: &Row, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(serde_json::Value::String(text))
        .map_err(|e| Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}
