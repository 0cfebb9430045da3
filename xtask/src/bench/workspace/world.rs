//! An installation of the benchmark's own, an image that has what a person would use by hand, and an ssh server.

use super::exists;
use crate::{build, process};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// This host within the namespace; from the blocks for documentation (RFC 5737).
pub const HOST: &str = "203.0.113.1";
const PORT: u16 = 2222;
const IMAGE: &str = "bench-git";
const SHAPE: &[&str] = &["--image", IMAGE, "--vmm", "qemu", "--init", "agent", "--vcpu", "1", "--memory", "1024"];
const SERVER_WITHIN: Duration = Duration::from_secs(20);
/// So long nothing happens any more: a look at a guest begins 200 ms after its last change.
const QUIET: Duration = Duration::from_secs(3);

/// Kept below `target/` for the next time: kernel and image, made by the product itself.
fn set() -> PathBuf {
    build::target_folder().join("bench-workspace")
}

pub fn make_image() -> Result<()> {
    let set = set();
    if set.join("complete").exists() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(&set);
    fs::create_dir_all(&set)?;
    let tar = set.join("root.tar");
    let packages = "--include=git,openssh-client,rsync";
    let tar_text = tar.display().to_string();
    process::run("mmdebstrap", &["--quiet", "--variant=minbase", packages, "bookworm", &tar_text])?;
    let world = World { folder: set.clone() };
    world.banger(&["kernel", "pull", "--no-progress", "debian-cloud"])?;
    world.banger(&["image", "import", IMAGE, &tar_text])?;
    world.banger(&["daemon", "stop"])?;
    fs::remove_file(tar)?;
    File::create(set.join("complete"))?;
    Ok(())
}

/// A state of its own.
pub struct World {
    folder: PathBuf,
}

impl World {
    pub fn make(folder: &Path) -> Result<World> {
        let world = World { folder: folder.to_owned() };
        fs::create_dir_all(folder.join("state"))?;
        for kind in ["images", "kernels"] {
            let from = set().join("state").join(kind);
            exists(&from)?;
            let (from, to) = (from.display().to_string(), folder.join("state").display().to_string());
            process::run("cp", &["-a", "--sparse=always", &from, &to])?;
        }
        Ok(world)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let folder = |name: &str| self.folder.join(name);
        let mut command = Command::new(build::target_folder().join("release/banger"));
        command.args(arguments).env("BANGER_STATE", folder("state")).env("XDG_RUNTIME_DIR", folder("run"));
        command.env("XDG_CONFIG_HOME", folder("config")).env("XDG_CACHE_HOME", folder("cache"));
        command.env("BANGER_NETWORK", "user").env_remove("BANGER_SOCKET").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    pub fn banger(&self, arguments: &[&str]) -> Result<String> {
        for name in ["run", "cache", "config"] {
            fs::create_dir_all(self.folder.join(name))?;
        }
        process::output_of(&mut self.command(arguments))
    }

    pub fn create(&self, vm: &str, more: &[&str]) -> Result<()> {
        self.banger(&[&["vm", "create", "--name", vm], SHAPE, more].concat()).map(drop)
    }

    /// As a person does it, with or without a repository.
    pub fn run(&self, vm: &str, path: Option<&Path>) -> Result<()> {
        let path = path.map(|path| path.display().to_string());
        let more: Vec<&str> = path.as_deref().into_iter().collect();
        let detached = ["vm", "run", "--detach", "--no-bootstrap", "--name", vm];
        self.banger(&[&detached, SHAPE, &more].concat()).map(drop)
    }

    pub fn delete(&self, vm: &str) -> Result<()> {
        self.banger(&["vm", "delete", "--force", "--discard", vm]).map(drop)
    }

    pub fn give(&self, vm: &str, from: &Path, to: &str) -> Result<()> {
        self.banger(&["vm", "cp", &from.display().to_string(), &format!("{vm}:{to}")]).map(drop)
    }

    pub fn exec(&self, vm: &str, script: &str) -> Result<()> {
        self.exec_output(vm, script).map(drop)
    }

    pub fn exec_output(&self, vm: &str, script: &str) -> Result<String> {
        self.banger(&["vm", "exec", vm, "--guest-path", "/root", "--", "sh", "-c", script])
    }

    /// Until neither the daemon nor what it started has used the processor for a while, and the first look at a
    /// workspace was taken.
    pub fn await_rest(&self, vm: &str, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let status = self.banger(&["daemon", "status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status).context("`daemon status --json` is not JSON")?;
        let pid = status["pid"].as_u64().context("a daemon has a pid")?;
        let (mut used, mut since) = (processor_time(pid)?, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(250));
            let now = processor_time(pid)?;
            if now > used + 2 {
                (used, since) = (now, Instant::now());
            }
            if since.elapsed() > QUIET && self.was_looked_at(vm)? {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("`{vm}` and the daemon do not come to rest");
            }
        }
    }

    fn was_looked_at(&self, vm: &str) -> Result<bool> {
        let shown = self.banger(&["vm", "show", vm, "--json"])?;
        let shown: serde_json::Value = serde_json::from_str(&shown).context("`vm show --json` is not JSON")?;
        Ok(shown["workspaces"][0]["work"]["looked_at_ns"].as_u64().is_some_and(|at| at > 0))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.banger(&["vm", "delete", "--all", "--force", "--discard"]);
        let _ = self.banger(&["daemon", "stop"]);
    }
}

/// Ticks of a process and of its children that ended (proc_pid_stat(5), fields 14 to 17).
fn processor_time(pid: u64) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon runs")?;
    let rest = text.rsplit_once(") ").context("a process has a name")?.1;
    Ok(rest.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// An ssh server for this host's repositories, on [`HOST`] alone.
pub struct Sshd {
    server: Child,
    pub client_key: PathBuf,
    pub port: u16,
}

impl Sshd {
    pub fn start(folder: &Path) -> Result<Sshd> {
        process::run("ip", &["link", "set", "lo", "up"])?;
        process::run("ip", &["address", "add", &format!("{HOST}/32"), "dev", "lo"])?;
        let folder = folder.join("ssh");
        fs::create_dir_all(&folder)?;
        let at = |name: &str| folder.join(name).display().to_string();
        for name in ["host", "client"] {
            process::run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(name)])?;
        }
        fs::copy(at("client.pub"), at("authorized"))?;
        let config = format!(
            "ListenAddress {HOST}:{PORT}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PermitRootLogin prohibit-password\nLogLevel ERROR\n",
            at("host"),
            at("authorized")
        );
        fs::write(at("config"), config)?;
        // OpenSSH wants it, and no service made it here.
        fs::create_dir_all("/run/sshd")?;
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f", &at("config")]).stdin(Stdio::null());
        let server = command.spawn().context("cannot start sshd (package openssh-server)")?;
        let sshd = Sshd { server, client_key: folder.join("client"), port: PORT };
        let end = Instant::now() + SERVER_WITHIN;
        while TcpStream::connect((HOST, PORT)).is_err() {
            if Instant::now() > end {
                bail!("sshd does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(sshd)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
