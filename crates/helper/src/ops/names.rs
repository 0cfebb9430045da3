//! Where this host's resolver finds names below `.vm`: a setting of systemd-resolved for our link, which goes with it.

use super::{Root, bridge};
use crate::failure::{Failure, Result};
use crate::resolved;
use model::Change;
use wire::FaultKind;
use wire::privilege::address::BRIDGE;
use wire::privilege::facts::Done;

pub fn ensure(root: &mut Root, port: Option<u16>) -> Result<Done> {
    if port == Some(0) {
        return Err(Failure::new(FaultKind::Invalid, "names cannot be answered on port 0"));
    }
    bridge::require(root)?;
    let told = match port {
        // The link is no way to the world's names: only what is below `.vm` is asked there.
        Some(port) => [
            resolved::tell(&["dns", BRIDGE, &format!("127.0.0.1:{port}")]),
            resolved::tell(&["domain", BRIDGE, "~vm"]),
            resolved::tell(&["default-route", BRIDGE, "false"]),
            // Nor does the host ask the guests themselves, any of whom could answer.
            resolved::tell(&["llmnr", BRIDGE, "false"]),
            resolved::tell(&["mdns", BRIDGE, "false"]),
        ]
        .into_iter()
        .collect(),
        None => resolved::tell(&["revert", BRIDGE]),
    };
    told.map_err(|error: resolved::ResolvedError| {
        Failure::new(FaultKind::HostUnfit, "cannot tell systemd-resolved where names below `.vm` are")
            .with_source(error)
    })?;
    Ok(Done { change: Change::Changed })
}
