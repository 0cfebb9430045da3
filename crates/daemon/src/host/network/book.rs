//! Which sandbox has which address and what its link was allowed: on disk, since a policy is applied as a whole and a
//! restarted `bangerd` must not forget the guests that run.
//!
//! An address is kept over stop and start and even beyond its sandbox, until the range is full and somebody needs it.

use model::SandboxId;
use model::egress::Egress;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use wire::privilege::address::{AddressError, Network, Range};
use wire::privilege::policy::GuestPolicy;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    version: u32,
    guests: BTreeMap<SandboxId, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub ipv4: Ipv4Addr,
    /// Present while it has a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    page: Page,
}

impl Book {
    pub fn open(path: &Path) -> io::Result<Book> {
        let page = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Page { version: VERSION, guests: BTreeMap::new() },
            Err(error) => return Err(error),
        };
        if page.version != VERSION {
            return Err(io::Error::other(format!("it is of version {}, and {VERSION} is known here", page.version)));
        }
        Ok(Book { path: path.to_owned(), page })
    }

    /// The address of a sandbox, chosen once; chosen again only when the range is another.
    pub fn address(&mut self, id: &SandboxId, range: Range) -> Result<Ipv4Addr, AddressError> {
        if let Some(entry) = self.page.guests.get(id).filter(|entry| range.holds(entry.ipv4)) {
            return Ok(entry.ipv4);
        }
        let ipv4 = range.allocate(id, &self.taken()).or_else(|_| {
            self.page.guests.retain(|_, entry| entry.egress.is_some());
            range.allocate(id, &self.taken())
        })?;
        self.page.guests.insert(id.clone(), Entry { ipv4, egress: None });
        Ok(ipv4)
    }

    /// Notes that a sandbox has a link with these rights, or none.
    pub fn set_link(&mut self, id: &SandboxId, egress: Option<Egress>) {
        if let Some(entry) = self.page.guests.get_mut(id) {
            entry.egress = egress;
        }
    }

    pub fn unlink_all(&mut self) {
        self.page.guests.values_mut().for_each(|entry| entry.egress = None);
    }

    pub fn is_linked(&self, id: &SandboxId) -> bool {
        self.page.guests.get(id).is_some_and(|entry| entry.egress.is_some())
    }

    pub fn linked(&self) -> impl Iterator<Item = &SandboxId> {
        self.page.guests.iter().filter(|(_, entry)| entry.egress.is_some()).map(|(id, _)| id)
    }

    /// The rights of all that have a link and an address in this range.
    pub fn policies(&self, range: Range) -> Result<Vec<GuestPolicy>, AddressError> {
        let linked = self.page.guests.iter().filter(|(_, entry)| range.holds(entry.ipv4));
        linked.filter_map(|(id, entry)| entry.egress.as_ref().map(|egress| policy(id, entry.ipv4, egress))).collect()
    }

    pub fn save(&self) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(&serde_json::to_vec_pretty(&self.page).expect("the book is plain data"))?;
        file.sync_all()?;
        fs::rename(&partial, &self.path)
    }

    fn taken(&self) -> BTreeSet<Ipv4Addr> {
        self.page.guests.values().map(|entry| entry.ipv4).collect()
    }
}

fn policy(id: &SandboxId, ipv4: Ipv4Addr, egress: &Egress) -> Result<GuestPolicy, AddressError> {
    Ok(GuestPolicy {
        id: id.clone(),
        ipv4,
        outbound: egress.outbound,
        allow_networks: networks(egress)?,
        allow_guests: egress.allow_vms.clone(),
    })
}

pub fn networks(egress: &Egress) -> Result<Vec<Network>, AddressError> {
    egress.allow_networks.iter().map(|text| text.parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bits: u64) -> SandboxId {
        SandboxId::from_bits(bits)
    }

    #[test]
    fn an_address_is_kept_over_stop_start_and_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses.json");
        let range: Range = "10.9.0.0/29".parse().unwrap();
        let mut book = Book::open(&path).unwrap();
        let first = book.address(&id(1), range).unwrap();
        book.set_link(&id(1), Some(Egress::default()));
        book.set_link(&id(1), None);
        book.save().unwrap();
        let mut book = Book::open(&path).unwrap();
        assert_eq!(book.address(&id(1), range).unwrap(), first);
        assert!(book.policies(range).unwrap().is_empty());
        let other: Range = "10.8.0.0/29".parse().unwrap();
        assert!(other.holds(book.address(&id(1), other).unwrap()), "another range, another address");
    }

    #[test]
    fn a_full_range_takes_back_what_nobody_uses() {
        let folder = tempfile::tempdir().unwrap();
        let range: Range = "10.9.0.0/29".parse().unwrap();
        let mut book = Book::open(&folder.path().join("addresses.json")).unwrap();
        for bits in 0..5 {
            book.address(&id(bits), range).unwrap();
            book.set_link(&id(bits), (bits != 3).then(Egress::default));
        }
        assert!(book.address(&id(7), range).is_ok());
        book.set_link(&id(7), Some(Egress::default()));
        assert!(book.address(&id(8), range).is_err());
        assert!(book.is_linked(&id(0)) && !book.is_linked(&id(3)));
    }

    #[test]
    fn a_network_that_is_none_is_told() {
        let egress = Egress { allow_networks: vec!["10.0.0.0/8".into(), "everywhere".into()], ..Egress::default() };
        assert!(networks(&egress).unwrap_err().to_string().contains("`everywhere` is no network"));
    }
}
