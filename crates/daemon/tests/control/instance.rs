//! One daemon per state folder, whatever a dead one left behind.

use crate::rig::{Rig, open, options};
use daemon::daemon::DaemonError;
use daemon::instance::InstanceError;
use engine::sim::World;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::net::UnixListener;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_says_that_one_runs() {
    let rig = Rig::new().await;
    match open(rig.folder.path(), &World::new(8)).await.err() {
        Some(DaemonError::Instance(InstanceError::AlreadyRuns { pid, .. })) => {
            assert_eq!(pid, Some(std::process::id()))
        }
        other => panic!("{:?}", other.map(|error| error.to_string())),
    }
    rig.get("/v1/daemon").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_dead_daemon_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    options(folder.path()).layout.prepare().unwrap();
    drop(UnixListener::bind(options(folder.path()).socket).unwrap());
    let rig = Rig::over(World::new(8), folder).await;
    rig.get("/v1/daemon").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_of_a_newer_version_is_refused_and_left_alone() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let (world, folder) = rig.stop().await;
    let store = options(folder.path()).layout.database();
    // `user_version`: four bytes at offset 60 of an SQLite file (its format, section 1.3).
    let mut file = std::fs::OpenOptions::new().write(true).open(&store).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&9999u32.to_be_bytes()).unwrap();
    drop(file);
    let before = std::fs::read(&store).unwrap();
    let error = open(folder.path(), &world).await.err().expect("it is refused").to_string();
    assert!(error.contains("newer"), "{error}");
    assert!(std::fs::read(&store).unwrap() == before, "it must not be touched");
    assert!(!options(folder.path()).socket.exists(), "who cannot serve leaves no socket");
}
