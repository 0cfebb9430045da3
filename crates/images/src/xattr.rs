//! Which extended attributes of an archive reach the disk, and in which form.
//!
//! Kept: `user.`, `trusted.`, `security.` and POSIX ACLs (converted, see [`crate::acl`]). Dropped and counted:
//! other `system.` attributes (they belong to other file systems), names that no kernel accepts, malformed ACLs, and
//! everything overlayfs keeps for itself: the image becomes the lower layer of an overlay, and an archive must
//! not tell the guest's kernel where to look for files.

use crate::acl::{self, Acl};
use crate::archive::Xattrs;
use std::collections::BTreeMap;

/// Attributes as ext4 stores them.
pub type Stored = BTreeMap<Box<str>, Box<[u8]>>;

/// ext4 without `ea_inode` keeps the attributes of a file in one block of 4 KiB: header 32 bytes, end mark 4.
/// The room inside the inode is left out of the reckoning.
const ROOM_BYTES: usize = 4096 - 32 - 4;
/// Each attribute: 16 bytes, its name and its value, both padded to 4.
const ENTRY_BYTES: usize = 16;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Converted {
    pub stored: Stored,
    /// Permission bits that a minimal ACL sets.
    pub mode: Option<u16>,
    pub dropped: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

pub fn convert(xattrs: Xattrs, directory: bool) -> Result<Converted, TooLarge> {
    let mut converted = Converted::default();
    for (name, value) in xattrs {
        let Ok(name) = String::from_utf8(name) else {
            converted.dropped += 1;
            continue;
        };
        match name.as_str() {
            "system.posix_acl_access" => converted.take_acl(&name, acl::convert(&value)),
            "system.posix_acl_default" if directory => converted.take_acl(&name, acl::convert_default(&value)),
            _ if kept(&name) => drop(converted.stored.insert(name.into(), value.into())),
            _ => converted.dropped += 1,
        }
    }
    let used: usize = converted.stored.iter().map(|(name, value)| room(name, value)).sum();
    if used > ROOM_BYTES { Err(TooLarge) } else { Ok(converted) }
}

impl Converted {
    fn take_acl(&mut self, name: &str, acl: Option<Acl>) {
        match acl {
            Some(Acl::Stored(value)) => drop(self.stored.insert(name.into(), value.into())),
            Some(Acl::Mode(mode)) => self.mode = Some(mode),
            Some(Acl::Empty) => {}
            None => self.dropped += 1,
        }
    }
}

fn kept(name: &str) -> bool {
    let overlay = name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
    let suffix = ["user.", "trusted.", "security."].into_iter().find_map(|prefix| name.strip_prefix(prefix));
    !overlay && suffix.is_some_and(|suffix| (1..=255 - "security.".len()).contains(&suffix.len()))
}

fn room(name: &str, value: &[u8]) -> usize {
    ENTRY_BYTES + name.len().next_multiple_of(4) + value.len().next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, kept: bool) {
        let xattrs = Xattrs::from([(name.as_bytes().to_vec(), b"v".to_vec())]);
        let converted = convert(xattrs, false).expect("it is small");
        assert_eq!(converted.stored.contains_key(name), kept, "{name}");
        assert_eq!(converted.dropped, u32::from(!kept), "{name}");
    }

    #[test]
    fn only_what_belongs_on_the_disk_is_kept() {
        check("user.comment", true);
        check("security.capability", true);
        check("trusted.x", true);
        check("trusted.overlay.redirect", false);
        check("user.overlay.opaque", false);
        check("system.nfs4_acl", false);
        check("user.", false);
        check("nonsense", false);
        check("system.posix_acl_access", false);
    }

    #[test]
    fn more_than_a_block_of_attributes_is_too_much() {
        let xattrs = |bytes| Xattrs::from([(b"user.a".to_vec(), vec![0; bytes])]);
        assert!(convert(xattrs(4000), false).is_ok());
        assert_eq!(convert(xattrs(4040), false), Err(TooLarge));
    }
}
