//! Where this host's resolver finds names below `.vm`: a setting of systemd-resolved for our link, which goes with it, or a file
//! for NetworkManager's dnsmasq, which does not and is noted.

use super::{Root, bridge};
use crate::checkpoint;
use crate::external::ExternalError;
use crate::failure::{Attempt, Failure, Result};
use crate::manager::Manager;
use crate::resolved::Resolved;
use model::Change;
use std::path::{Path, PathBuf};
use wire::FaultKind;
use wire::privilege::address::BRIDGE;
use wire::privilege::facts::Done;

const HOST: &str = "/";

pub fn ensure(root: &mut Root, port: Option<u16>) -> Result<Done> {
    match (port, Resolved::find(Path::new(HOST))) {
        (Some(0), _) => Err(Failure::new(FaultKind::Invalid, "names cannot be answered on port 0")),
        (Some(port), Some(resolved)) => {
            bridge::require(root)?;
            tell(&resolved, port).attempt(|| "cannot tell systemd-resolved where names below `.vm` are")?;
            Ok(Done { change: Change::Changed })
        }
        (Some(port), None) => {
            bridge::require(root)?;
            ensure_file(root, port).map(|change| Done { change })
        }
        (None, resolved) => {
            let change = remove_file(root)?;
            if let Some(resolved) = resolved.filter(|_| bridge::find(root).is_ok_and(|link| link.is_some())) {
                resolved.tell(&["revert", BRIDGE]).attempt(|| "cannot take back what systemd-resolved was told")?;
            }
            Ok(Done { change })
        }
    }
}

/// The link is no way to the world's names: only what is below `.vm` is asked there. Nor does the host ask the guests
/// themselves, any of whom could answer.
fn tell(resolved: &Resolved, port: u16) -> std::result::Result<(), ExternalError> {
    resolved.tell(&["dns", BRIDGE, &format!("127.0.0.1:{port}")])?;
    resolved.tell(&["domain", BRIDGE, "~vm"])?;
    resolved.tell(&["default-route", BRIDGE, "false"])?;
    resolved.tell(&["llmnr", BRIDGE, "false"])?;
    resolved.tell(&["mdns", BRIDGE, "false"])
}

fn ensure_file(root: &mut Root, port: u16) -> Result<Change> {
    let manager = Manager::below(Path::new(HOST));
    if !manager.asks_dnsmasq() {
        let sentence = "neither systemd-resolved nor NetworkManager's dnsmasq looks names up for this host";
        return Err(Failure::new(FaultKind::HostUnfit, sentence));
    }
    root.ledger.note(|notes| notes.names = true)?;
    checkpoint::reached("the file of names is noted");
    let change = manager.ensure(port).attempt(|| "cannot tell NetworkManager where names below `.vm` are")?;
    checkpoint::reached("the file of names is there");
    Ok(change)
}

/// Also one that no ledger tells of any more: it lies in /etc and outlives them all.
pub fn remove_file(root: &mut Root) -> Result<Change> {
    let removed = Manager::below(Path::new(HOST)).remove();
    let change = removed.attempt(|| "cannot take back what NetworkManager was told")?;
    root.ledger.note(|notes| notes.names = false)?;
    Ok(change)
}

/// The file, where there is one of ours.
pub fn file() -> Option<PathBuf> {
    Manager::below(Path::new(HOST)).drop_in()
}
