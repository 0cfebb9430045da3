//! `/workspace`: code of the host as a folder here. Owns how it is put in place and what is known of it afterwards.
//!
//! ```text
//!  archive ─► .NAME.banger-incoming ─► (whole?) ─► first time: renamed to NAME
//!                                                └► again: merged into NAME, path by path
//!                                    then the ledger .NAME.banger: every shipped path as it lay there
//! ```
//! Nothing in the folder changes before the whole archive is there and nothing of the guest's would be lost. A merge
//! keeps folders and equal files as they are, so that shells inside and build tools do not notice; it is not atomic, and a
//! guest that dies in the middle of one is mended by shipping again.

mod ledger;
mod merge;

use crate::files;
use crate::http::{self, Answer, Request, io_fault};
use ledger::Ledger;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wire::guest::{Placed, WorkspaceState};
use wire::{Fault, FaultKind};

/// A workspace's folder and what lies beside it.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    incoming: PathBuf,
    ledger: PathBuf,
}

impl Place {
    fn of(request: &Request) -> Result<Place, Fault> {
        let folder = files::absolute(http::required(request, "path")?)?;
        let name = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let (Some(name), Some(parent)) = (name, folder.parent()) else {
            return Err(Fault::new(FaultKind::Invalid, format!("{} has no name", folder.display())));
        };
        Ok(Place {
            incoming: parent.join(format!(".{name}.banger-incoming")),
            ledger: parent.join(format!(".{name}.banger")),
            folder,
        })
    }
}

/// What may be replaced.
#[derive(Debug, Clone, Copy)]
struct Leave {
    over: bool,
    discard: bool,
}

/// `PUT`: the body becomes the folder.
pub async fn put(request: Request) -> Answer {
    let place = Place::of(&request)?;
    let says = |name| http::optional(&request, name).as_deref() == Some("true");
    let leave = Leave { over: says("over"), discard: says("discard") };
    let incoming = place.incoming.clone();
    let attempt = format!("unpack into {}", place.folder.display());
    let begun = files::receive(request, move |body| {
        clear(&incoming)?;
        files::unpack_below(&incoming, body)
    });
    let unpacked = begun.await.map_err(files::unpack_fault(attempt));
    let outcome = tokio::task::spawn_blocking(move || {
        let outcome = unpacked.and_then(|()| place.settle(leave));
        // What is left there is of no use to anybody, and the next try clears it away first.
        let _ = clear(&place.incoming);
        outcome
    });
    http::json(&outcome.await.map_err(|error| io_fault("put the workspace in place")(io::Error::other(error)))??)
}

/// `GET`: what the guest did to it.
pub async fn state(request: &Request) -> Answer {
    let place = Place::of(request)?;
    let look = tokio::task::spawn_blocking(move || place.state().map_err(io_fault("look at the workspace")));
    http::json(&look.await.map_err(|error| io_fault("look at the workspace")(io::Error::other(error)))??)
}

impl Place {
    /// The unpacked archive takes its place.
    fn settle(&self, leave: Leave) -> Result<Placed, Fault> {
        let failed = |error| io_fault(format!("put the workspace in place at {}", self.folder.display()))(error);
        let placed = if self.is_free().map_err(failed)? {
            fs::rename(&self.incoming, &self.folder).map_err(failed)?;
            None
        } else {
            if !leave.over {
                let message =
                    format!("{} is there already and holds something that was not shipped", self.folder.display());
                return Err(
                    Fault::new(FaultKind::Conflict, message).with_hint("choose another folder with `--guest-path`")
                );
            }
            let before = Ledger::read(&self.ledger).map_err(failed)?;
            self.check(before.as_ref(), leave)?;
            Some(merge::merge(&self.incoming, &self.folder, &before.unwrap_or_default()).map_err(failed)?)
        };
        let ledger = Ledger::of(&self.folder, placed.as_ref().map(|merged| &merged.shipped)).map_err(failed)?;
        ledger.write(&self.ledger).map_err(failed)?;
        Ok(placed.map_or(Placed { written: ledger.len(), ..Placed::default() }, |merged| merged.placed))
    }

    /// Missing, or a folder with nothing in it.
    fn is_free(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.folder) {
            Ok(facts) if facts.is_dir() => Ok(fs::read_dir(&self.folder)?.next().is_none()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Refuses what would lose the guest's work.
    fn check(&self, before: Option<&Ledger>, leave: Leave) -> Result<(), Fault> {
        if leave.discard {
            return Ok(());
        }
        let failed = |error| io_fault("look at the workspace")(error);
        let state =
            before.map_or(Ok(WorkspaceState::default()), |ledger| ledger.compare(&self.folder)).map_err(failed)?;
        let (own, examples) = match before {
            Some(ledger) => merge::collisions(&self.incoming, &self.folder, ledger).map_err(failed)?,
            None => (0, Vec::new()),
        };
        if state.is_untouched() && own == 0 {
            return Ok(());
        }
        let examples = if state.examples.is_empty() { examples } else { state.examples.clone() };
        Err(Fault::new(FaultKind::Conflict, format!("the guest has work of its own in {}", self.folder.display()))
            .with_cause(describe(&state, own, &examples)))
    }

    fn state(&self) -> io::Result<WorkspaceState> {
        match Ledger::read(&self.ledger)? {
            Some(ledger) => ledger.compare(&self.folder),
            None => Ok(WorkspaceState::default()),
        }
    }
}

fn describe(state: &WorkspaceState, own: u64, examples: &[String]) -> String {
    if !state.known {
        return "the agent does not know what was shipped there".to_owned();
    }
    let counts = [
        (state.changed, "changed"),
        (state.removed, "removed"),
        (own, "added where the host has one, too"),
        (state.history, "of git's references moved"),
    ];
    let counts: Vec<_> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let shown = if examples.is_empty() { String::new() } else { format!(" ({})", examples.join(", ")) };
    format!("{}{shown}", counts.join(", "))
}

/// Removes whatever lies there, following nothing.
fn clear(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
