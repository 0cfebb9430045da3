//! Files through the real clients: `scp`, `sftp`, `rsync`, `git`, in a guest that has none of their servers but what the
//! agent and the image bring.

mod ssh_rig;

use ssh_rig::{Rig, finish, noise, rig, skip, told, which};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn needs(program: &str) -> Option<()> {
    which(program).map(drop).or_else(|| skip(&format!("this test needs `{program}`")))
}

/// A small tree with what copies like to lose: an empty file, a mode, a link, an odd name, a file of several packets.
fn tree(at: &Path) {
    std::fs::create_dir_all(at.join("inner/empty")).expect("folders");
    std::fs::write(at.join("inner/big"), noise(3_000_000)).expect("written");
    std::fs::write(at.join("none"), "").expect("written");
    std::fs::write(at.join("a name 'with' \"all\" ä"), "odd").expect("written");
    std::fs::write(at.join("run"), "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(at.join("run"), std::fs::Permissions::from_mode(0o751)).expect("a mode");
    std::os::unix::fs::symlink("inner/big", at.join("link")).expect("a link");
}

/// Path, kind or mode, content; sorted.
fn listing(at: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![at.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = std::fs::symlink_metadata(&path).expect("metadata");
            let content = match (metadata.is_dir(), metadata.is_symlink()) {
                (true, _) => Vec::new(),
                (_, true) => std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes(),
                _ => std::fs::read(&path).expect("a file"),
            };
            let mode = metadata.permissions().mode();
            found.push((path.strip_prefix(at).expect("below").display().to_string(), mode, content));
            if metadata.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

fn places(rig: &Rig) -> (std::path::PathBuf, std::path::PathBuf, std::path::PathBuf) {
    let (here, there, back) = (rig.path("here"), rig.path("there"), rig.path("back"));
    std::fs::create_dir(&here).expect("a folder");
    tree(&here);
    (here, there, back)
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_copies_there_and_back() {
    let Some(rig) = rig().await else { return };
    let Some(()) = needs("scp") else { return };
    let (here, there, back) = places(&rig);
    // scp follows links.
    std::fs::remove_file(here.join("link")).expect("removed");
    let copy = async |from: String, to: String| {
        told(finish(rig.command("scp").args(["-rp", &from, &to])).await);
    };
    copy(here.display().to_string(), format!("web.vm:{}", there.display())).await;
    assert_eq!(listing(&there), listing(&here));
    copy(format!("web.vm:{}", there.display()), back.display().to_string()).await;
    assert_eq!(listing(&back), listing(&here));
    let time = |path: &Path| std::fs::metadata(path.join("run")).and_then(|m| m.modified()).expect("a time");
    let seconds =
        |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert_eq!(seconds(time(&back)), seconds(time(&here)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_scp_protocol_works_where_the_guest_has_scp() {
    let Some(rig) = rig().await else { return };
    let Some(()) = needs("scp") else { return };
    std::fs::write(rig.path("one"), noise(100_000)).expect("written");
    let to = format!("web.vm:{}", rig.path("two").display());
    told(finish(rig.command("scp").args(["-O", "one", &to])).await);
    assert_eq!(std::fs::read(rig.path("two")).expect("read"), noise(100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sftp_batch_does_what_it_says() {
    let Some(rig) = rig().await else { return };
    let Some(()) = needs("sftp") else { return };
    let (here, there, back) = places(&rig);
    std::fs::create_dir(&back).expect("a folder");
    let batch = format!(
        "mkdir {there}\ncd {there}\nlcd {here}\nput -p run\nput inner/big\nrename big bigger\nln -s run link\n\
         ln run hard\nchmod 600 bigger\nls -l\nget -p bigger {back}/big\nrm bigger\nmkdir sub\nrmdir sub\n\
         -rm no-such-file\ndf\nls -1\n",
        there = there.display(),
        here = here.display(),
        back = back.display(),
    );
    std::fs::write(rig.path("batch"), batch).expect("written");
    let said = told(finish(rig.command("sftp").args(["-b", "batch", "web.vm"])).await);
    assert_eq!(std::fs::read(back.join("big")).expect("read"), noise(3_000_000));
    assert_eq!(std::fs::metadata(back.join("big")).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(said.contains("-rwxr-x--x") && said.contains("lrwxrwxrwx"), "{said}");
    let mut left: Vec<_> = listing(&there).into_iter().map(|(name, ..)| name).collect();
    left.sort();
    assert_eq!(left, ["hard", "link", "run"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_lists_a_folder_of_many() {
    let Some(rig) = rig().await else { return };
    let Some(()) = needs("sftp") else { return };
    let many = rig.path("many");
    std::fs::create_dir(&many).expect("a folder");
    for number in 0..1234 {
        std::fs::write(many.join(format!("file-{number}")), "").expect("written");
    }
    std::fs::write(rig.path("batch"), format!("ls -1 {}\n", many.display())).expect("written");
    let said = told(finish(rig.command("sftp").args(["-b", "batch", "web.vm"])).await);
    assert_eq!(said.lines().filter(|line| line.contains("/file-")).count(), 1234);
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_mirrors_there_and_back() {
    let Some(rig) = rig().await else { return };
    let Some(()) = needs("rsync") else { return };
    let (here, there, back) = places(&rig);
    let shell = format!("ssh -F {}", rig.config().display());
    let mirror = async |from: String, to: String| {
        let mut command = tokio::process::Command::new("rsync");
        command.args(["-a", "--delete", "-e", &shell, &from, &to]).current_dir(rig.folder.path());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        told(finish(command.kill_on_drop(true)).await);
    };
    mirror(format!("{}/", here.display()), format!("web.vm:{}/", there.display())).await;
    assert_eq!(listing(&there), listing(&here));
    std::fs::remove_file(there.join("none")).expect("removed");
    mirror(format!("web.vm:{}/", there.display()), format!("{}/", back.display())).await;
    assert_eq!(listing(&back), listing(&there));
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_and_pushes_over_ssh() {
    let Some(rig) = rig().await else { return };
    let Some(()) = needs("git") else { return };
    let git = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]).args(arguments);
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}", rig.config().display()));
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0").current_dir(rig.folder.path());
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        told(finish(command.kill_on_drop(true)).await)
    };
    git(&["init", "-q", "work"]).await;
    std::fs::write(rig.path("work/file"), noise(2_000_000)).expect("written");
    git(&["-C", "work", "add", "."]).await;
    git(&["-C", "work", "commit", "-qm", "one"]).await;
    git(&["init", "-q", "--bare", "bare"]).await;
    let url = format!("ssh://web.vm{}", rig.path("bare").display());
    git(&["-C", "work", "push", "-q", &url, "main"]).await;
    git(&["clone", "-q", &url, "clone"]).await;
    assert_eq!(std::fs::read(rig.path("clone/file")).expect("read"), noise(2_000_000));
}
