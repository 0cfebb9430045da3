//! Promise: files go into a guest and come out of it as they are, whole or not at all, and no guest gets rights here by them.

use e2e::{World, needs};
use nix::sys::signal::{Signal, kill};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

fn running(world: &World, name: &str, options: &[&str]) {
    let all = [&["vm", "run", "-d", "--name", name, "--image", "tiny", "--nat", "off"], options].concat();
    world.banger(&all).ok();
}

fn in_guest(world: &World, vm: &str, line: &str) -> String {
    world.banger(&["vm", "exec", vm, "--", "sh", "-c", line]).ok().stdout
}

#[track_caller]
fn cp(world: &World, arguments: &[&str]) {
    world.banger(&[&["vm", "cp"], arguments].concat()).ok();
}

fn home(world: &World, name: &str) -> PathBuf {
    world.path().join("home").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn set_note(path: &Path) -> bool {
    std::process::Command::new("setfattr")
        .args(["-n", "user.note", "-v", "kept"])
        .arg(path)
        .status()
        .is_ok_and(|s| s.success())
}

fn left_over(folder: &Path) -> usize {
    let names = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".banger-")).count()
}

#[test]
fn a_tree_goes_into_a_guest_through_another_and_back_and_is_the_same() {
    if !needs::qemu("a_tree_goes_into_a_guest_through_another_and_back_and_is_the_same") {
        return;
    }
    let world = World::tiny();
    running(&world, "web", &[]);
    running(&world, "db", &[]);
    let tree = home(&world, "tree");
    fs::create_dir_all(tree.join("deep/closed")).expect("folders");
    fs::write(tree.join("run.sh"), "#!/bin/sh\necho ran\n").expect("a file");
    fs::set_permissions(tree.join("run.sh"), Permissions::from_mode(0o751)).expect("a mode");
    fs::hard_link(tree.join("run.sh"), tree.join("same.sh")).expect("a hard link");
    symlink("../run.sh", tree.join("deep/link")).expect("a link");
    symlink("/nowhere", tree.join("dangling")).expect("a link");
    fs::write(tree.join("deep/closed/f"), "inner\n").expect("a file");
    fs::set_permissions(tree.join("deep/closed"), Permissions::from_mode(0o500)).expect("a mode");
    let noted = set_note(&tree.join("run.sh"));
    // Two GiB, of which two pieces are there.
    let sparse = File::create(tree.join("sparse")).expect("a file");
    sparse.set_len(2048 * MIB).expect("its length");
    sparse.write_all_at(b"begin", 0).expect("written");
    sparse.write_all_at(b"end", 2048 * MIB - 3).expect("written");

    cp(&world, &[text(&tree), "web:/srv-tree"]);
    assert_eq!(
        in_guest(&world, "web", "/srv-tree/run.sh; cat /srv-tree/deep/closed/f; readlink /srv-tree/deep/link"),
        "ran\ninner\n../run.sh\n"
    );
    assert_eq!(in_guest(&world, "web", "stat -c '%a %u %g %h' /srv-tree/run.sh"), "751 0 0 2\n");
    let blocks: u64 = in_guest(&world, "web", "stat -c %b /srv-tree/sparse").trim().parse().expect("a number");
    assert!(blocks * 512 < MIB, "{blocks} blocks");
    cp(&world, &["web:/srv-tree", "db:"]);
    assert_eq!(in_guest(&world, "db", "tail -c 3 /root/srv-tree/sparse"), "end");
    cp(&world, &["db:srv-tree", text(&home(&world, "back"))]);
    let back = home(&world, "back");
    for name in ["run.sh", "deep/closed", "deep/closed/f", "sparse"] {
        let [a, b] = [&tree, &back].map(|tree| fs::metadata(tree.join(name)).expect(name));
        assert_eq!((a.mode(), a.len(), a.mtime()), (b.mode(), b.len(), b.mtime()), "{name}");
    }
    assert!(fs::metadata(back.join("sparse")).expect("facts").blocks() * 512 < MIB);
    let mut end = [0; 3];
    File::open(back.join("sparse")).and_then(|file| file.read_exact_at(&mut end, 2048 * MIB - 3)).expect("read");
    assert_eq!(&end, b"end");
    let inodes = ["run.sh", "same.sh"].map(|name| fs::metadata(back.join(name)).expect("facts").ino());
    assert_eq!(inodes[0], inodes[1]);
    assert_eq!(fs::read_link(back.join("dangling")).expect("a link"), Path::new("/nowhere"));
    if noted {
        let note = std::process::Command::new("getfattr")
            .args(["--only-values", "-n", "user.note"])
            .arg(back.join("run.sh"))
            .output();
        assert_eq!(note.expect("getfattr runs").stdout, b"kept");
    }
}

#[test]
fn a_copy_means_what_dockers_means_by_the_same_words() {
    if !needs::qemu("a_copy_means_what_dockers_means_by_the_same_words") {
        return;
    }
    let world = World::tiny();
    running(&world, "web", &[]);
    let folder = home(&world, "folder");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("f"), "f\n").expect("a file");
    let here = |words: &str| format!("{}{words}", text(&folder));
    let listed = |path: &str| in_guest(&world, "web", &format!("cd {path} && find . | sort | tr '\\n' ' '"));
    // Into a folder under its own name, else under the new one; with `/.` without itself.
    in_guest(&world, "web", "mkdir -p /t/there /t/inside; echo old > /t/file; ln -s file /t/link");
    cp(&world, &[&here(""), "web:/t/there"]);
    assert_eq!(listed("/t/there"), ". ./folder ./folder/f ");
    cp(&world, &[&here(""), "web:/t/new"]);
    cp(&world, &[&here("/."), "web:/t/inside"]);
    assert_eq!((listed("/t/new"), listed("/t/inside")), (". ./f ".to_owned(), ". ./f ".to_owned()));
    // A file into a folder, over a file, and through a link onto what it means.
    cp(&world, &[&here("/f"), "web:/t/there/"]);
    cp(&world, &[&here("/f"), "web:/t/link"]);
    assert_eq!(in_guest(&world, "web", "cat /t/there/f /t/file; readlink /t/link"), "f\nf\nfile\n");
    cp(&world, &["-L", "web:/t/link", text(&home(&world, "followed"))]);
    cp(&world, &["web:/t/link", text(&home(&world, "link"))]);
    assert_eq!(fs::read_to_string(home(&world, "followed")).expect("a file"), "f\n");
    assert_eq!(fs::read_link(home(&world, "link")).expect("a link"), Path::new("file"));
    cp(&world, &[&here("/f"), text(&home(&world, "followed")), "web:/t/inside"]);
    assert_eq!(listed("/t/inside"), ". ./f ./followed ");
    // Archives on stdin and stdout.
    let archive = world.command(&["vm", "cp", "web:/t/there", "-"]).output().expect("banger runs").stdout;
    let into = world.banger_with_input(&["vm", "cp", "-", "web:/t/from-tar"], &archive);
    into.ok();
    assert_eq!(listed("/t/from-tar"), ". ./there ./there/f ./there/folder ./there/folder/f ");
    // What makes no sense says so, with a code and a word, and does nothing.
    for (arguments, wanted) in [
        (vec![here("/none"), "web:/t".into()], "no such file"),
        (vec!["web:/t/none".into(), "web:/x".into()], "no such file"),
        (vec![here(""), "web:/t/file".into()], "take the place of a file"),
        (vec![here("/f"), "web:/t/none/".into()], "no such folder"),
        (vec![here("/f"), "web:/t/none/f".into()], "above it is not there"),
        (vec![here("/f"), here("/g")], "both are on this host"),
        (vec![here("/f"), "nobody:/f".into()], "nobody"),
        (vec![here("/f"), "-".into()], "must be in a sandbox"),
    ] {
        let all: Vec<&str> = ["vm", "cp"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let ran = world.banger(&all);
        assert!(ran.code == 125 && ran.stderr.contains(wanted), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn no_guest_reaches_out_of_the_folder_or_gets_rights_by_a_copy() {
    if !needs::qemu("no_guest_reaches_out_of_the_folder_or_gets_rights_by_a_copy") {
        return;
    }
    let world = World::tiny();
    running(&world, "web", &[]);
    let target = home(&world, "target");
    let outside = home(&world, "outside");
    fs::create_dir(&target).expect("a folder");
    fs::create_dir(&outside).expect("a folder");
    // A link that was there, and a guest that sends a folder of the same name.
    symlink(&outside, target.join("door")).expect("a link");
    in_guest(&world, "web", "mkdir -p /t/door && echo evil > /t/door/evil");
    let refused = world.banger(&["vm", "cp", "web:/t/.", text(&target)]);
    assert!(refused.code == 125 && refused.stderr.contains("would leave the folder"), "{refused:?}");
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);
    in_guest(
        &world,
        "web",
        "rm -r /t; mkdir /t; echo x > /t/sudo; chmod 6755 /t/sudo; mknod /t/disk b 254 0; mkfifo /t/pipe",
    );
    let copied = world.banger(&["vm", "cp", "web:/t/.", text(&target)]).ok();
    assert!(copied.stderr.contains("a device is not copied"), "{copied:?}");
    assert_eq!(fs::metadata(target.join("sudo")).expect("facts").mode() & 0o7777, 0o755);
    assert!(!target.join("disk").exists());
    // The same into the guest: an archive of somebody's with a way out.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    tar.append_link(&mut header, "exit", "/etc").expect("an entry");
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(4);
    tar.append_data(&mut header, "exit/evil", b"evil".as_slice()).expect("an entry");
    let archive = tar.into_inner().expect("an archive");
    let refused = world.banger_with_input(&["vm", "cp", "-", "web:/srv-x"], &archive);
    assert!(refused.code == 125 && refused.stderr.contains("would leave the folder"), "{refused:?}");
    assert_eq!(in_guest(&world, "web", "ls /etc/evil 2>/dev/null || echo none"), "none\n");
}

#[test]
fn a_copy_that_breaks_off_leaves_whole_files_and_can_be_made_again() {
    if !needs::qemu("a_copy_that_breaks_off_leaves_whole_files_and_can_be_made_again") {
        return;
    }
    let world = World::tiny();
    running(&world, "web", &["--root-size", "128M", "--disk-size", "512M"]);
    let large = home(&world, "large");
    let bytes: Vec<u8> =
        (0..160 * MIB as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    fs::write(&large, &bytes).expect("a file");
    // A full disk is the guest's own word, and the file that was there stays as it was.
    in_guest(&world, "web", "mkdir /full && echo old > /full/large");
    let full = world.banger(&["vm", "cp", text(&large), "web:/full/large"]);
    assert!(full.code == 125 && full.stderr.contains("disk is full") && full.stderr.contains("hint:"), "{full:?}");
    assert_eq!(in_guest(&world, "web", "cat /full/large; ls -A /full"), "old\nlarge\n");
    // Ctrl-C in the middle, there and back.
    in_guest(&world, "web", "echo old > /root/large");
    interrupted(&world, &["vm", "cp", text(&large), "web:large"]);
    assert_eq!(
        in_guest(&world, "web", "sleep 1; cat /root/large; ls -A /root | grep -v -e lost -e .ssh"),
        "old\nlarge\n"
    );
    cp(&world, &[text(&large), "web:large"]);
    let folder = home(&world, "back");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("large"), "old").expect("a file");
    interrupted(&world, &["vm", "cp", "web:large", text(&folder)]);
    assert_eq!((fs::read(folder.join("large")).expect("a file"), left_over(&folder)), (b"old".to_vec(), 0));
    cp(&world, &["web:large", text(&folder)]);
    assert!(fs::read(folder.join("large")).expect("a file") == bytes);
}

/// Ctrl-C once the copy is under way.
fn interrupted(world: &World, arguments: &[&str]) {
    let mut command = world.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("banger starts");
    std::thread::sleep(Duration::from_millis(700));
    kill(e2e::world::pid_of(&child), Signal::SIGINT).expect("it runs");
    let ran = e2e::world::finish(child, "vm cp");
    assert!(ran.code == 130 && ran.stderr.contains("cancelled"), "{ran:?}");
}

#[test]
fn every_guest_gets_the_files_that_its_owner_wants_there() {
    if !needs::qemu("every_guest_gets_the_files_that_its_owner_wants_there") {
        return;
    }
    let world = World::tiny();
    let person = home(&world, "person");
    fs::create_dir_all(person.join("tool/deep")).expect("folders");
    fs::write(person.join("dotfile"), "[user]\n").expect("a file");
    fs::write(person.join("tool/token"), "secret\n").expect("a file");
    fs::set_permissions(person.join("tool/token"), Permissions::from_mode(0o640)).expect("a mode");
    fs::write(person.join("tool/deep/f"), "deep\n").expect("a file");
    symlink("/etc/passwd", person.join("tool/link")).expect("a link");
    symlink("dotfile", person.join("linked")).expect("a link");
    let entry = |host: &str, guest: &str, mode: &str| {
        format!("[[file_sync]]\nhost = \"{}/{host}\"\nguest = \"{guest}\"\n{mode}\n", text(&person))
    };
    let config = [
        entry("dotfile", "~/.gitconfig", "mode = \"0644\""),
        entry("linked", "/root/.config/linked", ""),
        entry("tool", "~/.tool", ""),
        entry("missing", "~/.missing", ""),
    ];
    world.write_config(&config.concat());
    let made = world.banger(&["vm", "run", "-d", "--name", "web", "--image", "tiny", "--nat", "off"]).ok();
    assert!(made.stderr.contains("missing is not there") && made.stderr.contains("a link is not copied"), "{made:?}");
    let facts = "cd /root; stat -c '%n %a %u' .gitconfig .config/linked .tool/token .tool/deep/f; cat .gitconfig .tool/token; ls -A .tool";
    assert_eq!(
        in_guest(&world, "web", facts),
        ".gitconfig 644 0\n.config/linked 600 0\n.tool/token 640 0\n.tool/deep/f 644 0\n[user]\nsecret\ndeep\ntoken\n"
    );
    // At each start as the host has them then.
    fs::write(person.join("dotfile"), "[core]\n").expect("a file");
    world.banger(&["vm", "restart", "web"]).ok();
    assert_eq!(in_guest(&world, "web", "cat /root/.gitconfig"), "[core]\n");
    // What cannot be so is said when the file is read, with its line.
    world.banger(&["daemon", "stop"]).ok();
    world.write_config("\n[[file_sync]]\nhost = \"~/x\"\nguest = \"/etc/passwd\"\n");
    let refused = world.banger(&["ps"]);
    assert!(
        refused.code == 125 && refused.stderr.contains("guest's home") && refused.stderr.contains("config.toml:"),
        "{refused:?}"
    );
    world.write_config("");
}
