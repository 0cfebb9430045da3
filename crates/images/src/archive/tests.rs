use super::*;
use crate::sparse::Piece;
use crate::testing::Archive;
use proptest::prelude::*;
use tar::{EntryType, Header};

fn read(bytes: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
    Entries::new(bytes, bytes.len() as u64, &Limits::default()).collect()
}

fn only(archive: Archive) -> Entry {
    let mut entries = read(&archive.bytes()).expect("the archive is good");
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn archive() -> Archive {
    Archive::default()
}

#[test]
fn contents_are_found_by_offset() {
    let bytes = archive().file("a", "hello").directory("d").file("b", "world").bytes();
    let entries = read(&bytes).expect("the archive is good");
    let contents = |entry: &Entry| match &entry.kind {
        Kind::File(contents) => {
            let piece = contents.pieces[0];
            bytes[piece.stored_at as usize..][..piece.length as usize].to_vec()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(contents(&entries[0]), b"hello");
    assert_eq!(entries[1].kind, Kind::Directory);
    assert_eq!(contents(&entries[2]), b"world");
}

#[test]
fn an_archive_may_end_without_its_empty_blocks_but_not_within_an_entry() {
    let bytes = archive().file("a", "hello").unfinished();
    assert_eq!(read(&bytes).expect("it is whole").len(), 1);
    assert_eq!(read(&bytes[..512 + 5]).expect("only padding is missing").len(), 1);
    assert!(matches!(read(&bytes[..512 + 4]), Err(ArchiveError::Truncated { offset: 0 })));
    assert!(matches!(read(&bytes[..511]), Err(ArchiveError::Truncated { offset: 0 })));
}

#[test]
fn what_follows_the_end_is_not_read_and_a_lone_empty_block_is_an_error() {
    let mut bytes = archive().file("a", "").bytes();
    bytes.extend([0xaa; 512]);
    assert_eq!(read(&bytes).expect("it has ended").len(), 1);
    let mut bytes = vec![0; 512];
    bytes.extend(archive().file("a", "").bytes());
    assert!(matches!(read(&bytes), Err(ArchiveError::Malformed { .. })));
}

#[test]
fn pax_values_win_over_the_header() {
    let records: &[(&str, &[u8])] = &[
        ("path", b"long/\xff name"),
        ("uid", b"3000000"),
        ("gid", b"4294967295"),
        ("mtime", b"1700000000.25"),
        ("SCHILY.xattr.security.capability", b"\x01\n\x00="),
        ("comment", b"nobody reads this"),
    ];
    let entry = only(archive().pax(records).file("short", ""));
    assert_eq!(entry.path, b"long/\xff name");
    assert_eq!((entry.uid, entry.gid, entry.mtime), (3_000_000, u32::MAX, (1_700_000_000, 250_000_000)));
    assert_eq!(entry.xattrs[&b"security.capability"[..]], b"\x01\n\x00=");
}

#[test]
fn gnu_long_names_are_read_within_the_limit() {
    let long = |bytes: usize| {
        let name = [vec![b'n'; bytes], vec![0]].concat();
        archive().entry(EntryType::GNULongName, "././@LongLink", "", &name)
    };
    assert_eq!(only(long(300).file("short", "")).path.len(), 300);
    let entry = only(archive().entry(EntryType::GNULongLink, "././@LongLink", "", &[b't'; 200]).symlink("l", "t"));
    assert_eq!(entry.kind, Kind::Symlink(vec![b't'; 200]));
    let error = read(&long(2 << 20).file("short", "").bytes()).expect_err("it is too long");
    assert!(matches!(error, ArchiveError::Exceeded(Exceeded::Header { .. })));
}

#[test]
fn a_header_that_claims_more_than_there_is_is_refused_without_room_being_made_for_it() {
    let mut header = Header::new_gnu();
    header.set_size(1 << 60);
    header.set_entry_type(EntryType::Regular);
    let mut lying = archive();
    lying.raw(header.clone(), b"");
    assert!(matches!(read(&lying.bytes()), Err(ArchiveError::Truncated { .. })));
    header.set_entry_type(EntryType::XHeader);
    let mut lying = archive();
    lying.raw(header, b"");
    assert!(matches!(read(&lying.bytes()), Err(ArchiveError::Exceeded(Exceeded::Header { .. }))));
}

#[test]
fn links_and_directories_have_no_contents_whatever_their_size_says() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Link);
    header.as_mut_bytes()[..1].copy_from_slice(b"l");
    header.as_mut_bytes()[157] = b'a';
    header.set_size(512);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut with_size = archive().file("a", "");
    with_size.raw(header, b"");
    let entries = read(&with_size.file("b", "").bytes()).expect("the archive is good");
    assert_eq!(entries.len(), 3);
}

#[test]
fn sparse_files_of_pax_1_0_begin_with_their_map() {
    let mut map = b"2\n0\n5\n1000000\n3\n".to_vec();
    map.resize(512, 0);
    map.extend(b"helloend");
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"real"),
        ("GNU.sparse.realsize", b"1000003"),
    ];
    let entry = only(archive().pax(records).entry(EntryType::Regular, "GNUSparseFile.1/real", "", &map));
    assert_eq!(entry.path, b"real");
    let Kind::File(contents) = entry.kind else { panic!("{:?}", entry.kind) };
    let start = contents.pieces[0].stored_at;
    let expected =
        [Piece { at: 0, length: 5, stored_at: start }, Piece { at: 1_000_000, length: 3, stored_at: start + 5 }];
    assert_eq!((contents.size, &*contents.pieces), (1_000_003, &expected[..]));
    let lying = archive().pax(records).entry(EntryType::Regular, "x", "", b"9999999\n");
    assert!(read(&lying.bytes()).is_err());
}

#[test]
fn numbers_are_octal_or_base_256() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"\x80\0\0\0\0\x2d\xc6\xc0", Some(3_000_000)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        (b"12x", None),
        (b"-1", None),
    ] {
        assert_eq!(number(field), expected, "{field:?}");
    }
}

#[test]
fn unknown_kinds_and_broken_checksums_are_refused() {
    let error = read(&archive().entry(EntryType::new(b'V'), "volume", "", b"").bytes()).expect_err("it is unknown");
    assert!(matches!(error, ArchiveError::UnknownKind { kind: 'V', .. }));
    let mut bytes = archive().file("a", "").bytes();
    bytes[0] = b'b';
    assert!(matches!(read(&bytes), Err(ArchiveError::Malformed { offset: 0, .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2048), seal: bool) {
        if seal && bytes.len() >= 512 {
            // A right checksum lets the rest of the header be read.
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..512].iter().map(|&byte| u32::from(byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = read(&bytes);
    }
}
