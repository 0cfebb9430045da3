//! POSIX ACLs from the layout of extended attributes (what tar carries) into the layout that ext4 stores.
//!
//! Both are little-endian lists of entries after a version word. `linux/posix_acl_xattr.h`: version 2, each entry
//! `tag u16, permissions u16, id u32`. `fs/ext4/acl.h`: version 1, and the four tags that need no id leave it out.
//! An attribute stored raw makes the kernel answer EINVAL for the file; e2fsck does not notice.

const XATTR_VERSION: u32 = 2;
const EXT4_VERSION: u32 = 1;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// More entries do not fit into an attribute block of 4 KiB anyway.
const MAX_ENTRIES: usize = 500;

/// What becomes of one ACL attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acl {
    /// Store these bytes.
    Stored(Vec<u8>),
    /// It says no more than the mode does (these nine bits); the kernel would not store it either.
    Mode(u16),
    /// It has no entries: the file has no ACL.
    Empty,
}

/// Converts the value of `system.posix_acl_access` or `system.posix_acl_default`; `None` if it is no valid ACL.
pub fn convert(value: &[u8]) -> Option<Acl> {
    let entries = parse(value)?;
    if entries.is_empty() {
        return Some(Acl::Empty);
    }
    if !valid(&entries) {
        return None;
    }
    if let [(_, user, _), (_, group, _), (_, other, _)] = entries[..] {
        return Some(Acl::Mode(user << 6 | group << 3 | other));
    }
    Some(Acl::Stored(encode(&entries)))
}

/// Like [`convert`] for a default ACL: there a minimal one means something and is stored.
pub fn convert_default(value: &[u8]) -> Option<Acl> {
    match convert(value)? {
        Acl::Mode(_) => Some(Acl::Stored(encode(&parse(value)?))),
        other => Some(other),
    }
}

type Entry = (u16, u16, u32);

fn parse(value: &[u8]) -> Option<Vec<Entry>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != XATTR_VERSION || entries.len() % 8 != 0 || entries.len() / 8 > MAX_ENTRIES {
        return None;
    }
    let entry = |e: &[u8]| {
        (
            u16::from_le_bytes([e[0], e[1]]),
            u16::from_le_bytes([e[2], e[3]]),
            u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        )
    };
    Some(entries.chunks_exact(8).map(entry).collect())
}

/// The order and number of entries that `posix_acl_valid` of the kernel wants: owner, users, group, groups,
/// mask (a must with named entries), other.
fn valid(entries: &[Entry]) -> bool {
    let rank = |tag| match tag {
        USER_OBJ => Some(0),
        USER => Some(1),
        GROUP_OBJ => Some(2),
        GROUP => Some(3),
        MASK => Some(4),
        OTHER => Some(5),
        _ => None,
    };
    let count = |wanted| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    let ordered = entries.windows(2).all(|pair| rank(pair[0].0) <= rank(pair[1].0));
    let named = count(USER) + count(GROUP) > 0;
    entries.iter().all(|&(tag, permissions, _)| rank(tag).is_some() && permissions <= 7)
        && ordered
        && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
        && count(MASK) <= 1
        && (!named || count(MASK) == 1)
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut stored = EXT4_VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        stored.extend(tag.to_le_bytes());
        stored.extend(permissions.to_le_bytes());
        if matches!(*tag, USER | GROUP) {
            stored.extend(id.to_le_bytes());
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(entries: &[Entry]) -> Vec<u8> {
        let mut value = XATTR_VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn named_entries_keep_their_ids_and_the_others_lose_them() {
        let value =
            xattr(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (GROUP, 5, 4), (MASK, 5, NONE), (OTHER, 0, NONE)]);
        let expected = [1, 0, 0, 0, 1, 0, 7, 0, 4, 0, 5, 0, 8, 0, 5, 0, 4, 0, 0, 0, 16, 0, 5, 0, 32, 0, 0, 0];
        assert_eq!(convert(&value), Some(Acl::Stored(expected.to_vec())));
    }

    #[test]
    fn a_minimal_acl_is_the_mode() {
        let value = xattr(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 1, NONE)]);
        assert_eq!(convert(&value), Some(Acl::Mode(0o751)));
        assert!(matches!(convert_default(&value), Some(Acl::Stored(_))));
        assert_eq!(convert(&xattr(&[])), Some(Acl::Empty));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_no_acl() {
        let base = [(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 1, NONE)];
        assert_eq!(convert(&xattr(&base[..2])), None, "no entry for others");
        assert_eq!(convert(&xattr(&[base[0], (USER, 7, 1), base[1], base[2]])), None, "named without a mask");
        assert_eq!(convert(&xattr(&[base[1], base[0], base[2]])), None, "wrong order");
        assert_eq!(convert(&xattr(&[(USER_OBJ, 8, NONE), base[1], base[2]])), None, "unknown permission");
        assert_eq!(convert(&[2, 0, 0, 0, 1]), None);
        assert_eq!(convert(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = convert(&bytes);
            let _ = convert_default(&bytes);
        }
    }
}
