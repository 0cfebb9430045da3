//! A world of one's own: a state folder, a runtime folder short enough for sockets, and a daemon that nobody else uses.
//!
//! Dropping the world deletes its sandboxes, stops its daemon and fails the test when the audit finds anything left.

pub use crate::program::{DEADLINE, Ran, finish, pid_of};

use nix::unistd::Pid;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct World {
    folder: TempDir,
    pub audit_at_end: bool,
    /// How sandboxes are connected. `user` leaves the host's network alone; `bridged` is for tests in a namespace of
    /// their own.
    pub network: &'static str,
    /// Who `banger` and all that it starts run as; whoever runs the test where absent.
    user: Option<u32>,
    /// What else stands in the environment of `banger`, and so of a daemon that it starts.
    pub variables: Vec<(&'static str, String)>,
}

impl World {
    /// A world with the shared kernel and the tiny image (an agent as init, busybox beside it).
    pub fn tiny() -> World {
        World::with(&crate::artifacts::tiny())
    }

    /// A world with the shared kernel and the default image (systemd).
    pub fn debian() -> World {
        World::with(&crate::artifacts::debian())
    }

    /// A world with Firecracker's test kernel, where it boots, and the tiny image.
    pub fn firecracker() -> World {
        World::with(&crate::artifacts::firecracker())
    }

    /// As [`World::tiny`], for a user who is not root.
    pub fn tiny_of_user(user: u32) -> World {
        // Rust's package manager puts it where only its own user looks.
        let device = crate::needs::which("vhost-device-vsock").expect("the need was checked");
        World::of_user(user, &crate::artifacts::tiny(), Some(&device))
    }

    /// As [`World::firecracker`], for a user who is not root.
    pub fn firecracker_of_user(user: u32) -> World {
        World::of_user(user, &crate::artifacts::firecracker(), None)
    }

    /// Everything is a copy that belongs to them.
    fn of_user(user: u32, artifacts: &Path, vsock_device: Option<&Path>) -> World {
        let mut world = World::empty();
        world.user = Some(user);
        let folder = world.path().to_owned();
        let copied = |from: &Path, to: &Path| {
            let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status();
            assert!(status.expect("cp runs").success(), "cannot copy {}", from.display());
        };
        for kind in ["images", "kernels"] {
            copied(&artifacts.join(kind), &world.state());
        }
        if let Some(device) = vsock_device {
            copied(device, &folder.join("vsock-device"));
        }
        let owner = format!("{user}:{user}");
        let status = Command::new("chown").args(["-R", &owner]).arg(&folder).status();
        assert!(status.expect("chown runs").success(), "{} cannot be given away", folder.display());
        world
    }

    /// The user of each process that has to do with this world.
    pub fn owners_of_processes(&self) -> Vec<u32> {
        use std::os::unix::fs::MetadataExt;
        let owner = |(folder, _): (PathBuf, String)| std::fs::metadata(folder).ok().map(|facts| facts.uid());
        self.processes().filter_map(owner).collect()
    }

    /// Ends, without a chance to clean up, what runs this program for this world.
    pub fn kill_program(&self, program: &str) {
        for (folder, told) in self.processes() {
            let pid = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let Some(pid) = pid.filter(|_| told.split('\0').next().is_some_and(|word| word.ends_with(program))) {
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }

    /// The folder in /proc, command line and environment of each process that names this world.
    fn processes(&self) -> impl Iterator<Item = (PathBuf, String)> + use<> {
        let ours = self.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").expect("processes can be listed").flatten();
        processes.filter_map(move |entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let told = String::from_utf8_lossy(&[line, environment].concat()).into_owned();
            told.contains(&ours).then(|| (entry.path(), told))
        })
    }

    pub fn empty() -> World {
        let folder = tempfile::Builder::new().prefix("bgr-").tempdir_in("/tmp").expect("a folder can be made in /tmp");
        for name in ["state", "run", "config", "cache", "home"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder can be made");
        }
        World { folder, audit_at_end: true, network: "user", user: None, variables: Vec::new() }
    }

    pub fn with(artifacts: &Path) -> World {
        let world = World::empty();
        for kind in ["images", "kernels", "templates"] {
            let from = artifacts.join(kind);
            if from.is_dir() {
                // Artifacts never change once they are listed: links are copies, and share the page cache. Where /tmp is a
                // file system of its own there are no links.
                let to = world.state();
                let copy = |how| {
                    Command::new("cp")
                        .arg(how)
                        .args(["--sparse=always", "--"])
                        .arg(&from)
                        .arg(&to)
                        .output()
                        .expect("cp runs")
                };
                let linked = copy("-al").status.success() || copy("-a").status.success();
                assert!(linked, "cannot copy {} into {}", from.display(), to.display());
            }
        }
        world
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn write_config(&self, text: &str) {
        let folder = self.folder.path().join("config/banger");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        std::fs::write(folder.join("config.toml"), text).expect("the config can be written");
    }

    /// `banger` with these arguments in this world, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("banger"));
        self.environment(&mut command);
        if let Some(user) = self.user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(user).current_dir("/").env("HOME", self.path().join("home"));
            command.env("BANGER_VSOCK_DEVICE", self.path().join("vsock-device"));
        }
        command.args(arguments);
        command
    }

    pub fn environment(&self, command: &mut Command) {
        let folder = self.folder.path();
        command
            .env("BANGER_STATE", folder.join("state"))
            .env("XDG_RUNTIME_DIR", folder.join("run"))
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env("BANGER_BANGERD", binary("bangerd"))
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .env("BANGER_NETWORK", self.network)
            .env("PATH", ordinary_path())
            .env("NO_COLOR", "1")
            .env_remove("BANGER_SOCKET")
            .env_remove("BANGER_HOST")
            .env_remove("RUST_BACKTRACE");
    }

    pub fn banger(&self, arguments: &[&str]) -> Ran {
        self.banger_with_input(arguments, b"")
    }

    pub fn banger_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("banger starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let ran = finish(child, &format!("banger {}", arguments.join(" ")));
        writer.join().expect("the writer of stdin ends");
        ran
    }

    /// The daemon's pid, from its own answer.
    pub fn daemon_pid(&self) -> i32 {
        let status = self.banger(&["daemon", "status", "--json"]).ok().json();
        i32::try_from(status["pid"].as_i64().expect("a pid is a number")).expect("a pid fits")
    }

    /// Ends the daemon without a chance to clean up.
    pub fn kill_daemon(&self) {
        let pid = Pid::from_raw(self.daemon_pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the daemon can be killed");
        let gone = Instant::now() + Duration::from_secs(10);
        while nix::sys::signal::kill(pid, None).is_ok() && !is_zombie(pid.as_raw()) {
            assert!(Instant::now() < gone, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub fn vm(&self, name: &str) -> Value {
        self.banger(&["vm", "show", name, "--json"]).ok().json()
    }

    #[track_caller]
    pub fn state_of(&self, name: &str) -> String {
        self.vm(name)["state"].as_str().expect("a state is a word").to_owned()
    }

    /// Waits until `banger vm show` tells this state; for changes that nobody asked for.
    #[track_caller]
    pub fn await_state(&self, name: &str, wanted: &str, within: Duration) {
        let end = Instant::now() + within;
        loop {
            let state = self.state_of(name);
            if state == wanted {
                return;
            }
            assert!(Instant::now() < end, "{name} is {state}, not {wanted}, after {within:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `e2fsck -fn` on both disks of a sandbox that does not run.
    #[track_caller]
    pub fn assert_disks_are_clean(&self, name: &str) {
        let folder = self.state().join("vms").join(self.vm(name)["id"].as_str().expect("an id is text"));
        for disk in ["root.ext4", "work.ext4"] {
            let checked = Command::new("/sbin/e2fsck").arg("-fn").arg(folder.join(disk)).output().expect("e2fsck runs");
            assert!(checked.status.success(), "{disk}: {}", String::from_utf8_lossy(&checked.stdout));
        }
    }

    #[track_caller]
    pub fn assert_audit_is_empty(&self) {
        let audit = self.banger(&["audit", "--json"]).ok().json();
        assert_eq!(audit["findings"], serde_json::json!([]), "the audit is not empty");
    }

    fn put_away(&self) -> Result<(), String> {
        let deleted = self.banger(&["vm", "delete", "--all", "--force"]);
        let audit = self.banger(&["audit", "--json"]);
        self.banger(&["daemon", "stop"]);
        if deleted.code != 0 {
            return Err(format!("sandboxes could not be deleted: {}", deleted.stderr));
        }
        let findings = serde_json::from_str::<Value>(&audit.stdout).map_err(|error| format!("{error}: {audit:?}"))?;
        match findings["findings"].as_array().is_some_and(Vec::is_empty) {
            true => Ok(()),
            false => Err(format!("the audit found: {}", audit.stdout)),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.state().join("banger.db").exists() {
            return;
        }
        let clean = self.put_away();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.state().join("bangerd.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let shown: Vec<&str> = tail.into_iter().rev().collect();
            let _ = writeln!(std::io::stderr(), "the daemon's log ends with:\n{}", shown.join("\n"));
        } else if self.audit_at_end {
            clean.expect("the world is left as it was found");
        }
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// The binaries under test: those `cargo xtask test` built, else those of the debug build beside this test.
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("BANGER_BIN_FOLDER") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().expect("a test knows its own path");
            own.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_path_buf()
        }
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing; `cargo xtask test` builds it", path.display());
    path
}

/// An ordinary user's on Debian: without the folders of root's programs.
fn ordinary_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| !folder.ends_with("sbin"));
    std::env::join_paths(folders).expect("the parts of a PATH make one")
}
