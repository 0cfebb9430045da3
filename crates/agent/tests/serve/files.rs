//! Archives into and out of the guest.

use crate::client::Agent;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use wire::Fault;

fn archive(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, mode) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_700_000_000);
        // Written raw: the library refuses names that a hostile archive has.
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_cksum();
        builder.append(&header, *content).expect("an entry");
    }
    builder.into_inner().expect("an archive")
}

fn query(path: &Path) -> String {
    format!("/files?path={}", path.display())
}

#[tokio::test]
async fn a_tree_survives_the_way_out_and_in() {
    let agent = Agent::start().await;
    let source = agent.folder.path().join("source");
    fs::create_dir_all(source.join("deep/er")).expect("folders");
    let large: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
    fs::write(source.join("deep/large"), &large).expect("a file");
    fs::write(source.join("run.sh"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o751)).expect("a mode");
    fs::hard_link(source.join("run.sh"), source.join("same.sh")).expect("a hard link");
    symlink("../run.sh", source.join("deep/link")).expect("a link");
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).expect("a socket");
    fs::set_permissions(source.join("deep/er"), fs::Permissions::from_mode(0o500)).expect("a mode");

    let (status, bytes) = agent.call("GET", &query(&source), "").await;
    assert_eq!(status, 200);
    let target = agent.folder.path().join("target/new");
    let (status, body) = agent.call("PUT", &query(&target), bytes).await;
    assert_eq!(status, 204, "{body:?}");

    let copy = target.join("source");
    assert_eq!(fs::read(copy.join("deep/large")).expect("a file"), large);
    assert_eq!(fs::metadata(copy.join("run.sh")).expect("facts").permissions().mode() & 0o7777, 0o751);
    assert_eq!(fs::metadata(copy.join("deep/er")).expect("facts").permissions().mode() & 0o7777, 0o500);
    assert_eq!(fs::read_link(copy.join("deep/link")).expect("a link"), Path::new("../run.sh"));
    let numbers = ["run.sh", "same.sh"].map(|name| fs::metadata(copy.join(name)).expect("facts").ino());
    assert_eq!(numbers[0], numbers[1]);
    assert!(!copy.join("socket").exists());
    let times = [&source, &copy].map(|tree| fs::metadata(tree.join("run.sh")).expect("facts").mtime());
    assert_eq!(times[0], times[1]);
}

#[tokio::test]
async fn a_single_file_is_an_archive_of_one() {
    let agent = Agent::start().await;
    let file = agent.folder.path().join("a b");
    fs::write(&file, "text").expect("a file");
    let path = query(&file).replace(' ', "%20");
    let (_, bytes) = agent.call("GET", &path, "").await;
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entries = archive.entries().expect("entries");
    let mut entry = entries.next().expect("one").expect("good");
    assert_eq!(entry.path().expect("a name").as_ref(), Path::new("a b"));
    let mut text = String::new();
    entry.read_to_string(&mut text).expect("content");
    assert_eq!(text, "text");
    drop(entry);
    assert!(entries.next().is_none());
}

#[tokio::test]
async fn a_read_only_folder_takes_its_files_before_its_mode() {
    let agent = Agent::start().await;
    let target = agent.folder.path().join("target");
    let bytes = archive(&[("d/", b"", 0o500), ("d/f", b"x", 0o600)]);
    let (status, body) = agent.call("PUT", &query(&target), bytes).await;
    assert_eq!(status, 204, "{body:?}");
    assert_eq!(fs::metadata(target.join("d")).expect("facts").permissions().mode() & 0o777, 0o500);
    assert_eq!(fs::metadata(target.join("d")).expect("facts").mtime(), 1_700_000_000);
}

#[tokio::test]
async fn an_entry_that_would_leave_the_folder_is_refused() {
    let agent = Agent::start().await;
    let target = agent.folder.path().join("target");
    let outside = agent.folder.path().join("outside");
    fs::create_dir_all(&target).expect("a folder");
    fs::create_dir_all(&outside).expect("a folder");
    symlink(&outside, target.join("door")).expect("a link");
    for entries in [
        &[("../evil", b"x" as &[u8], 0o644)][..],
        &[("a/../../evil", b"x", 0o644)],
        &[("/tmp/banger-evil", b"x", 0o644)],
        &[("door/evil", b"x", 0o644)],
        &[("door/folder/", b"", 0o755)],
    ] {
        let (status, body) = agent.call("PUT", &query(&target), archive(entries)).await;
        let fault: Fault = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{entries:?} was taken: {status}"));
        assert_eq!((status.as_u16(), fault.kind), (400, wire::FaultKind::Invalid), "{entries:?}: {fault:?}");
    }
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);
    assert!(!agent.folder.path().join("evil").exists() && !Path::new("/tmp/banger-evil").exists());
}

#[tokio::test]
async fn what_is_no_archive_or_no_path_is_a_fault() {
    let agent = Agent::start().await;
    let folder = agent.folder.path().join("target");
    let (status, _) = agent.call("PUT", &query(&folder), vec![b'x'; 2048]).await;
    assert_eq!(status, 400);
    let whole = archive(&[("f", &[1; 4000], 0o644)]);
    let (status, _) = agent.call("PUT", &query(&folder), whole[..1024].to_vec()).await;
    assert_eq!(status, 400, "an archive that breaks off");
    assert_eq!(agent.call("GET", "/files?path=/no/such", "").await.0, 404);
    assert_eq!(agent.call("GET", "/files?path=relative", "").await.0, 400);
    assert_eq!(agent.call("GET", "/files", "").await.0, 400);
}

#[tokio::test]
async fn a_workspace_may_come_packed_and_one_that_is_cut_changes_nothing() {
    let agent = Agent::start().await;
    let (_, known) = agent.call("GET", "/encodings", "").await;
    assert_eq!(serde_json::from_slice::<Vec<String>>(&known).expect("a list"), [wire::guest::LZ4]);
    let plain = archive(&[("a/text", &b"some words again and again ".repeat(8000), 0o644), ("b", b"other", 0o755)]);
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(&plain).expect("memory has room");
    let packed = encoder.finish().expect("memory has room");
    assert!(packed.len() * 10 < plain.len());
    let target = agent.folder.path().join("repo");
    let query = |encoding: &str| format!("/workspace?path={}&id=1&encoding={encoding}", target.display());

    for length in [0, 5, 40, packed.len() / 2, packed.len() - 100] {
        let (status, body) = agent.call("PUT", &query("lz4"), packed[..length].to_vec()).await;
        assert_eq!(status, 400, "{length}: {body:?}");
        assert!(!target.exists(), "{length}");
    }
    for (encoding, bytes) in [("zstd", &packed), ("lz4", &plain)] {
        let (status, _) = agent.call("PUT", &query(encoding), bytes.clone()).await;
        assert_eq!(status, 400, "{encoding}");
    }
    let left: Vec<_> = fs::read_dir(agent.folder.path()).expect("a folder").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("repo")), "{left:?}");

    let (status, body) = agent.call("PUT", &query("lz4"), packed).await;
    assert_eq!(status, 200, "{body:?}");
    assert_eq!(fs::read(target.join("a/text")).expect("a file").len(), 27 * 8000);
    assert_eq!(fs::metadata(target.join("b")).expect("facts").permissions().mode() & 0o777, 0o755);
}
