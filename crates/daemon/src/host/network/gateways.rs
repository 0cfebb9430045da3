//! The policies of sandboxes in user mode, as `banger-gateway` reads them: a file beside a sandbox's disks, written
//! before its VMM starts, and a word to the gateway when it has changed.

use crate::layout::Layout;
use engine::host::{HostError, HostErrorKind, Result};
use model::egress::Egress;
use model::{Change, SandboxId};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wire::gateway::{Answer, Ask, MAX_MESSAGE_BYTES, Policy};
use wire::privilege::facts::RefusedEntry;

/// A gateway answers at once; one that is stopped must not stop us.
const PATIENCE: Duration = Duration::from_secs(3);

pub struct Gateways {
    layout: Layout,
    /// Who answers for `.vm`, once somebody does.
    names: Mutex<Option<SocketAddr>>,
}

impl Gateways {
    pub fn new(layout: Layout) -> Gateways {
        Gateways { layout, names: Mutex::default() }
    }

    pub fn name_server_is(&self, address: SocketAddr) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Writes the policy, and makes a gateway that runs take it up.
    pub fn ensure(&self, id: &SandboxId, egress: &Egress) -> Result<Change> {
        let attempt = || format!("cannot write the network policy of {id}");
        let networks = super::book::networks(egress);
        let allow_networks =
            networks.map_err(|error| HostError::new(HostErrorKind::Invalid, attempt()).with_source(error))?;
        let names = *self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = Policy { outbound: egress.outbound, allow_networks, names };
        let path = self.layout.gateway_policy(id);
        let text = serde_json::to_vec_pretty(&policy).expect("a policy is plain data");
        if fs::read(&path).is_ok_and(|old| old == text) {
            return Ok(Change::Unchanged);
        }
        write(&path, &text).map_err(|error| HostError::new(HostErrorKind::Broken, attempt()).with_source(error))?;
        if self.is_live(id) {
            self.ask(id, Ask::Reload)?;
        }
        Ok(Change::Changed)
    }

    pub fn forget(&self, id: &SandboxId) {
        let _ = fs::remove_file(self.layout.gateway_policy(id));
    }

    /// Whether this sandbox runs behind a gateway now.
    pub fn is_live(&self, id: &SandboxId) -> bool {
        UnixStream::connect(self.layout.gateway_control(id)).is_ok()
    }

    pub fn refused(&self, id: &SandboxId) -> Result<Vec<RefusedEntry>> {
        match self.ask(id, Ask::Refused)? {
            Answer::Refused(entries) => Ok(entries),
            Answer::Done | Answer::Failed(_) => Ok(Vec::new()),
        }
    }

    fn ask(&self, id: &SandboxId, ask: Ask) -> Result<Answer> {
        let fail = |kind| HostError::new(kind, format!("cannot speak with the gateway of {id}"));
        match converse(&self.layout.gateway_control(id), ask) {
            Ok(Answer::Failed(why)) => Err(fail(HostErrorKind::Broken).with_source(why)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(fail(HostErrorKind::Broken).with_source(error)),
        }
    }
}

fn converse(socket: &Path, ask: Ask) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&ask)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut said = String::new();
    BufReader::new(stream.take(MAX_MESSAGE_BYTES * 16)).read_line(&mut said)?;
    Ok(serde_json::from_str(&said)?)
}

/// Whole or not at all: the gateway may read it at any time.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}
