//! What was done below a folder: listed, read and watched.

use crate::client::{Agent, DEADLINE};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tokio::net::UnixStream;
use wire::guest::work::{Kind, RECORD_BYTES, Record, WatchEvent, encode_paths};

fn records(mut bytes: &[u8], with_content: bool) -> Vec<(Record, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<RECORD_BYTES>() {
        let (mut record, length) = Record::decode(head).expect("a record");
        let (path, rest) = rest.split_at(length);
        record.path = path.to_vec();
        let size = if with_content && record.kind != Kind::Absent { record.size as usize } else { 0 };
        let (content, rest) = rest.split_at(size);
        bytes = rest;
        found.push((record, content.to_vec()));
    }
    assert_eq!(found.pop().map(|(last, _)| last.kind), Some(Kind::End), "the answer was cut short");
    found
}

fn tree(folder: &Path) {
    fs::create_dir_all(folder.join("deep/er")).expect("folders");
    fs::create_dir_all(folder.join("left/out")).expect("folders");
    fs::write(folder.join("deep/file"), "content").expect("a file");
    fs::write(folder.join("left/out/file"), "unseen").expect("a file");
    symlink("deep/file", folder.join("link")).expect("a link");
}

#[tokio::test]
async fn a_scan_lists_everything_but_what_is_left_out() {
    let agent = Agent::start().await;
    let top = agent.folder.path().join("top");
    tree(&top);
    let body = encode_paths([&b"left"[..]]);
    let (status, bytes) = agent.call("POST", &format!("/work/scan?path={}", top.display()), body).await;
    assert_eq!(status, 200);
    let found: BTreeMap<_, _> =
        records(&bytes, false).into_iter().map(|(record, _)| (record.path.clone(), record)).collect();
    let kinds: Vec<_> =
        found.iter().map(|(path, record)| (String::from_utf8_lossy(path).into_owned(), record.kind)).collect();
    let expected = [
        ("deep", Kind::Folder),
        ("deep/er", Kind::Folder),
        ("deep/file", Kind::File),
        ("left", Kind::Folder),
        ("link", Kind::Link),
    ];
    assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));
    assert_eq!(found[&b"deep/file"[..]].size, 7);
    let (status, _) = agent.call("POST", "/work/scan?path=/no/such/folder", "").await;
    assert_eq!(status, 404);
    let (status, _) = agent.call("POST", &format!("/work/scan?path={}", top.display()), "../x\0").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn named_folders_are_listed_without_what_is_below() {
    let agent = Agent::start().await;
    let top = agent.folder.path().join("top");
    tree(&top);
    let body = encode_paths([&b""[..], b"deep", b"gone", b"link"]);
    let call = "work/scan";
    let (_, bytes) = agent.call("POST", &format!("/{call}?path={}&flat=true", top.display()), body).await;
    let mut found: Vec<_> = records(&bytes, false).into_iter().map(|(record, _)| record.path).collect();
    found.sort();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for (folder, name) in [(top.clone(), ""), (top.join("deep"), "deep/")] {
        let children = fs::read_dir(folder).expect("a folder").map(|child| child.expect("a child").file_name());
        expected.extend(children.map(|child| format!("{name}{}", child.to_string_lossy()).into_bytes()));
    }
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn files_are_read_in_the_order_in_which_they_are_named() {
    let agent = Agent::start().await;
    let top = agent.folder.path().join("top");
    tree(&top);
    let _pipe = rustix::fs::mknodat(rustix::fs::CWD, top.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0);
    let body = encode_paths([&b"link"[..], b"gone", b"deep/file", b"deep", b"pipe", b"left/out/file"]);
    let (_, bytes) = agent.call("POST", &format!("/work/read?path={}", top.display()), body).await;
    let found: Vec<_> = records(&bytes, true)
        .into_iter()
        .map(|(record, content)| (record.kind, String::from_utf8(content).unwrap()))
        .collect();
    let expected = [
        (Kind::Link, "deep/file"),
        (Kind::Absent, ""),
        (Kind::File, "content"),
        (Kind::Absent, ""),
        (Kind::Absent, ""),
        (Kind::File, "unseen"),
    ];
    assert_eq!(found, expected.map(|(kind, content)| (kind, content.to_owned())));
}

#[tokio::test]
async fn a_watch_tells_of_changes_also_in_folders_made_later() {
    let agent = Agent::start().await;
    let top = agent.folder.path().join("top");
    tree(&top);
    fs::create_dir_all(top.join(".git/objects")).expect("folders");
    fs::create_dir_all(top.join(".git/refs/heads")).expect("folders");
    let stream = UnixStream::connect(agent.socket()).await.expect("connect");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("http");
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(encode_paths([&b"left"[..]])));
    let request = Request::post(format!("/work/watch?path={}", top.display())).header("host", "guest").body(body);
    let mut lines = sender.send_request(request.expect("a request")).await.expect("an answer").into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(DEADLINE, lines.frame()).await.expect("in time").expect("a line");
        serde_json::from_slice::<WatchEvent>(&frame.expect("a frame").into_data().expect("data")).expect("an event")
    };
    // The top, deep, deep/er, .git, .git/refs, .git/refs/heads.
    assert_eq!(next().await, WatchEvent::Watching { folders: 6, complete: true });
    let changed = |folder: &str| WatchEvent::Changed { folders: Some(vec![folder.to_owned()]) };
    fs::write(top.join("deep/file"), "changed").expect("a file");
    assert_eq!(next().await, changed("deep"));
    fs::create_dir_all(top.join("new/er")).expect("folders");
    // How much of the new folders is told depends on when each got its watch; the top tells of the first.
    let WatchEvent::Changed { folders: Some(folders) } = next().await else { panic!("a change is told") };
    assert!(folders.contains(&String::new()), "{folders:?}");
    fs::write(top.join("new/er/file"), "x").expect("a file");
    assert_eq!(next().await, changed("new/er"));
    fs::write(top.join(".git/refs/heads/main"), "x").expect("a file");
    assert_eq!(next().await, changed(".git/refs/heads"));
    // Neither what is left out nor objects are told of.
    fs::write(top.join("left/out/file"), "x").expect("a file");
    fs::write(top.join(".git/objects/x"), "x").expect("a file");
    let silent = tokio::time::timeout(std::time::Duration::from_secs(1), next()).await;
    assert!(silent.is_err(), "{silent:?}");
}
