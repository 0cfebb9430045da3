//! `/workspace`: code of the host as a folder here. Owns how it is put in place and what is known of it afterwards.
//!
//! ```text
//!  archive ─► .NAME.banger-incoming-ID ─► (whole?) ─► first time: renamed to NAME
//!                                                └► again: merged into NAME, path by path
//!                                    then the ledger .NAME.banger: every shipped path as it lay there
//! ```
//! Nothing in the folder changes before the whole archive is there and nothing of the guest's would be lost. A merge
//! keeps folders and equal files as they are, so that shells inside and build tools do not notice; it is not atomic, and a
//! guest that dies in the middle of one is mended by shipping again.

mod ledger;
mod merge;
mod unpack;

use crate::files;
use crate::http::{self, Answer, Request, io_fault};
use ledger::Ledger;
use lz4_flex::frame::FrameDecoder;
use merge::Shipment;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use wire::guest::{LZ4, Placed, REMOVED_LIST, WorkspaceState};
use wire::{Fault, FaultKind};

/// A workspace's folder and what lies beside it.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    incoming: PathBuf,
    ledger: PathBuf,
}

/// What comes between a folder's name and a shipment's id.
const INCOMING: &str = ".banger-incoming-";

impl Place {
    /// What earlier shipments left that broke off. One that has not noticed yet loses its folder and ends.
    fn clear_incoming(&self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.folder.parent(), self.folder.file_name()) else { return Ok(()) };
        let begin = [b".", name.as_bytes(), INCOMING.as_bytes()].concat();
        let listed = match fs::read_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        for entry in listed {
            let entry = entry?;
            if entry.file_name().as_bytes().starts_with(&begin) {
                clear(&entry.path())?;
            }
        }
        Ok(())
    }

    fn of(request: &Request) -> Result<Place, Fault> {
        let folder = files::absolute(http::required(request, "path")?)?;
        let name = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let (Some(name), Some(parent)) = (name, folder.parent()) else {
            return Err(Fault::new(FaultKind::Invalid, format!("{} has no name", folder.display())));
        };
        let id = http::optional(request, "id").unwrap_or_default();
        if id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Fault::new(FaultKind::Invalid, "a shipment's id is at most 32 letters and digits"));
        }
        Ok(Place {
            incoming: parent.join(format!(".{name}{INCOMING}{id}")),
            ledger: parent.join(format!(".{name}.banger")),
            folder,
        })
    }
}

/// What may be replaced.
#[derive(Debug, Clone)]
struct Leave {
    over: bool,
    discard: bool,
    /// The guest has just booted with the shipment that is changed: what the changes leave alone is not looked at.
    fresh: bool,
    /// The shipment's own name, and that of the one which it changes.
    id: String,
    base: Option<String>,
}

/// `PUT`: the body becomes the folder.
pub async fn put(request: Request) -> Answer {
    let place = Place::of(&request)?;
    let says = |name| http::optional(&request, name).as_deref() == Some("true");
    let leave = Leave {
        over: says("over"),
        discard: says("discard"),
        fresh: says("fresh"),
        id: http::optional(&request, "id").unwrap_or_default(),
        base: http::optional(&request, "base"),
    };
    if let Some(base) = &leave.base {
        place.check_base(base)?;
    }
    let is_packed = match http::optional(&request, "encoding").as_deref() {
        None => false,
        Some(LZ4) => true,
        Some(other) => return Err(Fault::new(FaultKind::Invalid, format!("the agent does not know {other}"))),
    };
    let arriving = place.clone();
    let attempt = format!("unpack into {}", place.folder.display());
    let begun = files::receive(request, move |body| {
        arriving.clear_incoming()?;
        match is_packed {
            true => unpack::unpack(&arriving.incoming, FrameDecoder::new(body)),
            false => unpack::unpack(&arriving.incoming, body),
        }
    });
    let unpacked = begun.await.map_err(files::unpack_fault(attempt));
    let outcome = tokio::task::spawn_blocking(move || {
        let outcome = unpacked.and_then(|came| place.settle(leave, came));
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
    /// The unpacked archive, which holds what `came`, takes its place.
    fn settle(&self, leave: Leave, mut came: Ledger) -> Result<Placed, Fault> {
        let failed = |error| io_fault(format!("put the workspace in place at {}", self.folder.display()))(error);
        let free = self.is_free().map_err(failed)?;
        if free && leave.base.is_some() {
            return Err(self.another());
        }
        if free {
            fs::rename(&self.incoming, &self.folder).map_err(failed)?;
            came.id = leave.id;
            came.write(&self.ledger).map_err(failed)?;
            return Ok(Placed { written: came.len(), ..Placed::default() });
        }
        if !leave.over {
            let message =
                format!("{} is there already and holds something that was not shipped", self.folder.display());
            return Err(Fault::new(FaultKind::Conflict, message).with_hint("choose another folder with `--guest-path`"));
        }
        let shipment = self.shipment(&leave, &mut came).map_err(failed)?;
        if leave.fresh
            && let Shipment::Changes { removed } = &shipment
        {
            return self.settle_fresh(&leave, &shipment, removed, &came);
        }
        let before = Ledger::read(&self.ledger).map_err(failed)?;
        if !leave.discard {
            let state = before.as_ref().map_or(Ok(WorkspaceState::default()), |ledger| ledger.compare(&self.folder));
            self.check(state.map_err(failed)?, before.as_ref(), &came)?;
        }
        let merged = merge::merge(&self.incoming, &self.folder, before.unwrap_or_default(), &shipment, &came);
        let merge::Merged { placed, mut shipped } = merged.map_err(failed)?;
        shipped.id = leave.id;
        shipped.write(&self.ledger).map_err(failed)?;
        Ok(placed)
    }

    /// As much work as there are changes, however large the workspace is.
    fn settle_fresh(
        &self,
        leave: &Leave,
        shipment: &Shipment,
        removed: &[PathBuf],
        came: &Ledger,
    ) -> Result<Placed, Fault> {
        let failed = |error| io_fault(format!("put the workspace in place at {}", self.folder.display()))(error);
        let paths = came.paths().chain(removed.iter().map(PathBuf::as_path));
        let known = Ledger::look(&self.ledger, &paths.map(|path| path.as_os_str().as_bytes()).collect());
        let known = known.map_err(failed)?.filter(|known| leave.base.as_deref() == Some(known.id.as_str()));
        let known = known.ok_or_else(|| self.another())?;
        if !leave.discard {
            let state = known.compare_own(&self.folder).map_err(failed)?;
            self.check(state, Some(&known), came)?;
        }
        let merged = merge::merge(&self.incoming, &self.folder, known, shipment, came).map_err(failed)?;
        let mut changes = merged.shipped;
        changes.id.clone_from(&leave.id);
        changes.append(&self.ledger, removed).map_err(failed)?;
        Ok(merged.placed)
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

    /// Changes are of use only to whoever has what they change.
    fn check_base(&self, base: &str) -> Result<(), Fault> {
        let ledger = Ledger::look(&self.ledger, &HashSet::new()).map_err(io_fault("look at the workspace"))?;
        match ledger.is_some_and(|ledger| !base.is_empty() && ledger.id == base) {
            true => Ok(()),
            false => Err(self.another()),
        }
    }

    fn another(&self) -> Fault {
        Fault::new(FaultKind::NotFound, format!("another shipment than the last one lies at {}", self.folder.display()))
    }

    /// The list of what went is no file of the workspace.
    fn shipment(&self, leave: &Leave, came: &mut Ledger) -> io::Result<Shipment> {
        if leave.base.is_none() {
            return Ok(Shipment::Whole);
        }
        let list = self.incoming.join(REMOVED_LIST);
        let bytes = fs::read(&list)?;
        fs::remove_file(&list)?;
        came.remove(Path::new(REMOVED_LIST));
        let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        Ok(Shipment::Changes { removed: paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect() })
    }

    /// Refuses what would lose the guest's work.
    fn check(&self, state: WorkspaceState, before: Option<&Ledger>, came: &Ledger) -> Result<(), Fault> {
        let failed = |error| io_fault("look at the workspace")(error);
        let (own, examples) = match before {
            Some(ledger) => merge::collisions(&self.incoming, &self.folder, ledger, came).map_err(failed)?,
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
