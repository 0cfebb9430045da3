//! A place of a benchmark's own: release binaries, a state folder, a runtime folder short enough for sockets, and a daemon
//! that nobody else uses. Dropping it deletes its sandboxes and ends its daemon.
//!
//! Guests are *tiny*: the agent as init and busybox. Their image and kernel are made once per checkout by the product itself,
//! below `target/`; a set that the end-to-end tests have made there already is as good.

use crate::build::{self, Binaries};
use crate::process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tar::{Builder, EntryType, Header};

/// The tiny image, and the least of a machine for it.
pub const TINY: &[&str] =
    &["--image", "tiny", "--vmm", "qemu", "--init", "agent", "--vcpu", "1", "--memory", "256", "--quiet"];
const KERNEL: &str = "debian-cloud";
/// 100 a second: the unit of times in proc(5), on every architecture that Linux runs on today.
const TICKS_PER_S: f64 = 100.0;

pub struct World {
    banger: PathBuf,
    folder: PathBuf,
    /// In memory, as the runtime folder of any machine with systemd is.
    runtime: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl World {
    /// Without images and kernels.
    pub fn empty(name: &str, binaries: &Binaries) -> Result<World> {
        let name = format!("bgr-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        let memory = Some(PathBuf::from("/dev/shm")).filter(|memory| memory.is_dir());
        let runtime = memory.unwrap_or_else(std::env::temp_dir).join(format!("{name}-run"));
        for folder in [folder.join("state"), folder.join("config"), folder.join("cache"), runtime.clone()] {
            fs::create_dir_all(folder).context("cannot make a folder for the benchmark")?;
        }
        Ok(World { banger: binaries.banger(), folder, runtime, variables: Vec::new() })
    }

    /// On the simulated host.
    pub fn simulated(name: &str, binaries: &Binaries) -> Result<World> {
        Ok(World::empty(name, binaries)?.with("BANGER_HOST", "sim"))
    }

    pub fn tiny(name: &str, binaries: &Binaries) -> Result<World> {
        let set = tiny_set(binaries)?;
        let world = World::empty(name, binaries)?;
        for kind in ["images", "kernels"] {
            // Artifacts never change once they are listed: links are copies, and share the page cache.
            let (from, to) = (set.join(kind), world.folder.join("state"));
            let linked = Command::new("cp").arg("-al").arg(&from).arg(&to).stderr(Stdio::null()).status();
            if !linked.is_ok_and(|status| status.success()) {
                process::run_command(Command::new("cp").args(["-a", "--sparse=always"]).arg(&from).arg(&to))?;
            }
        }
        Ok(world)
    }

    /// One more word in the environment of `banger` and of the daemon that it starts.
    pub fn with(mut self, name: &'static str, value: &str) -> World {
        self.variables.push((name, value.to_owned()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn environment(&self, command: &mut Command) {
        command
            .env("BANGER_STATE", self.path("state"))
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("BANGER_SOCKET")
            .env_remove("BANGER_HOST")
            .env_remove("RUST_BACKTRACE")
            .envs(self.variables.iter().map(|(name, value)| (*name, value)));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.banger);
        command.args(arguments).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    /// Runs it to its end; its data goes nowhere.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        process::run_command(self.command(arguments).stdout(Stdio::null()))
    }

    pub fn answer(&self, arguments: &[&str]) -> Result<String> {
        process::output_of(&mut self.command(arguments))
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let answered = self.answer(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&answered).with_context(|| format!("`{} --json` is not JSON", arguments.join(" ")))
    }

    /// Boots a tiny guest.
    pub fn boot(&self, name: &str, more: &[&str]) -> Result<()> {
        self.run(&[&["vm", "create", "--name", name], TINY, more].concat())
    }

    pub fn delete(&self, name: &str) -> Result<()> {
        self.run(&["vm", "delete", "--force", "--quiet", name])
    }

    pub fn daemon(&self) -> Result<Process> {
        let pid = self.json(&["daemon", "status"])?["pid"].as_u64().context("a daemon has a pid")?;
        Ok(Process(pid))
    }

    /// The socket on which a guest's agent is reached.
    pub fn vsock(&self, name: &str) -> Result<PathBuf> {
        let (shown, status) = (self.json(&["vm", "show", name])?, self.json(&["daemon", "status"])?);
        let socket = Path::new(status["socket"].as_str().context("the daemon has a socket")?);
        let run = socket.parent().context("a socket lies in a folder")?;
        Ok(run.join("vm").join(shown["id"].as_str().context("a sandbox has an id")?).join("vsock.sock"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for arguments in [&["vm", "delete", "--all", "--force", "--quiet"][..], &["daemon", "stop"]] {
            let _ = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_dir_all(&self.runtime);
    }
}

/// A process as proc(5) tells of it.
#[derive(Clone, Copy)]
pub struct Process(u64);

impl Process {
    pub fn resident_kib(self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// What it has computed so far, user and system, in seconds.
    pub fn cpu_s(self) -> Result<f64> {
        let text = self.read("stat")?;
        // The name in brackets may hold blanks; user and system time are the 12th and 13th word after it.
        let words: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok()).context("a time is a number");
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_S)
    }

    fn status(self, key: &str) -> Result<u64> {
        let text = self.read("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)).context("a process has memory")?;
        line.trim().trim_end_matches(" kB").trim().parse().context("memory is a number")
    }

    fn read(self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// The folder with `images` and `kernels`.
fn tiny_set(binaries: &Binaries) -> Result<PathBuf> {
    let target = build::target_folder();
    let own = target.join("bench-tiny");
    let known = [own.clone(), target.join("debug/e2e-artifacts/tiny"), target.join("release/e2e-artifacts/tiny")];
    if let Some(set) = known.into_iter().find(|set| set.join("complete").exists()) {
        return Ok(set);
    }
    eprintln!("making the tiny image and its kernel, once");
    let _ = fs::remove_dir_all(&own);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    let world = World::empty("set", binaries)?;
    world.run(&["kernel", "pull", KERNEL])?;
    let tar = world.path("tiny.tar");
    write_tiny(&tar)?;
    world.run(&["image", "import", "tiny", &tar.display().to_string()])?;
    for kind in ["images", "kernels"] {
        let from = world.path("state").join(kind);
        process::run_command(Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(&own))?;
    }
    fs::write(own.join("complete"), "").context("cannot mark the set as whole")?;
    Ok(own)
}

/// Busybox, its links and the few files a machine wants.
fn write_tiny(path: &Path) -> Result<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
    let busybox = busybox.context("busybox is not installed (package busybox-static)")?;
    let mut tar = Builder::new(File::create(path).context("cannot make an archive")?);
    let mut append = |kind, path: &str, mode, data: &[u8], link: Option<&str>| -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        match link {
            Some(target) => tar.append_link(&mut header, path, target),
            None => tar.append_data(&mut header, path, data),
        }
        .context("cannot write an archive")
    };
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var"] {
        append(EntryType::Directory, folder, 0o755, &[], None)?;
    }
    let program = fs::read(busybox).context("cannot read busybox")?;
    append(EntryType::Regular, "bin/busybox", 0o755, &program, None)?;
    for applet in process::output(busybox, &["--list"])?.lines().filter(|applet| *applet != "busybox") {
        append(EntryType::Symlink, &format!("bin/{applet}"), 0o777, &[], Some("busybox"))?;
    }
    append(EntryType::Regular, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n", None)?;
    append(EntryType::Regular, "etc/group", 0o644, b"root:x:0:\n", None)?;
    append(EntryType::Regular, "etc/os-release", 0o644, b"ID=tiny\nPRETTY_NAME=\"Tiny\"\n", None)?;
    tar.finish().context("cannot finish an archive")
}
