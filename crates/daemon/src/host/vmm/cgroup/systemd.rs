//! Groups as transient scopes of systemd: the system's for root, else the person's own manager.
//!
//! Its D-Bus interface (org.freedesktop.systemd1(5)) is spoken by `busctl`, which comes with every systemd: three calls do
//! not pay for a D-Bus library. A scope ends by itself with its last process.

use super::Limits;
use model::{Change, SandboxId};
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// systemd answers in milliseconds, and has moved the processes a few later.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Manager {
    whose: &'static str,
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.whose {
            "--user" => f.write_str("your systemd"),
            _ => f.write_str("systemd"),
        }
    }
}

impl Manager {
    /// The manager that would take our processes, if there is one.
    pub fn find() -> Option<Manager> {
        // sd_booted(3).
        if !Path::new("/run/systemd/system").is_dir() {
            return None;
        }
        let whose = if rustix::process::geteuid().is_root() { "--system" } else { "--user" };
        let manager = Manager { whose };
        let asked = manager.busctl(&["get-property", NAME, PATH, MANAGER, "Version"]);
        asked.is_ok().then_some(manager)
    }

    pub fn start_scope(&self, scope: &str, id: &SandboxId, pids: &[u32], limits: Limits) -> io::Result<()> {
        if pids.iter().all(|pid| is_in(*pid, scope)) {
            return Ok(());
        }
        let arguments = start_arguments(scope, id, pids, limits);
        self.busctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        let deadline = Instant::now() + PATIENCE;
        while !pids.iter().all(|pid| is_in(*pid, scope) || !Path::new(&format!("/proc/{pid}")).exists()) {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("systemd has not made {scope} yet")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub fn stop_scope(&self, scope: &str) -> io::Result<Change> {
        if self.scopes(scope).is_empty() {
            return Ok(Change::Unchanged);
        }
        self.busctl(&["call", NAME, PATH, MANAGER, "StopUnit", "ss", scope, "replace"])?;
        Ok(Change::Changed)
    }

    /// Loaded scopes whose names fit.
    pub fn scopes(&self, pattern: &str) -> Vec<String> {
        let arguments =
            ["list-units", "--type=scope", "--state=active,deactivating", "--plain", "--no-legend", "--no-pager"];
        let listed = Command::new("systemctl").arg(self.whose).args(arguments).arg(pattern).env("LC_ALL", "C").output();
        let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().filter_map(|line| line.split_ascii_whitespace().next()).map(str::to_owned).collect()
    }

    fn busctl(&self, arguments: &[&str]) -> io::Result<()> {
        let timeout = format!("--timeout={}", PATIENCE.as_secs());
        let output = Command::new("busctl")
            .args([self.whose, &timeout, "--quiet"])
            .args(arguments)
            .env("LC_ALL", "C")
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("systemd refused: {}", said.trim().chars().take(300).collect::<String>())))
    }
}

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// `StartTransientUnit(name, mode, properties, auxiliary units)`, its signature `ssa(sv)a(sa(sv))`.
fn start_arguments(scope: &str, id: &SandboxId, pids: &[u32], limits: Limits) -> Vec<String> {
    let Limits { cpu_weight, io_weight, memory_bytes, tasks } = limits;
    let mut words: Vec<String> =
        ["call", NAME, PATH, MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", "7", "PIDs", "au"]
            .map(str::to_owned)
            .into();
    words.push(pids.len().to_string());
    words.extend(pids.iter().map(u32::to_string));
    for (property, kind, value) in [
        ("Description", "s", format!("banger VM {id}")),
        ("CollectMode", "s", "inactive-or-failed".to_owned()),
        ("CPUWeight", "t", cpu_weight.to_string()),
        ("IOWeight", "t", io_weight.to_string()),
        ("MemoryMax", "t", memory_bytes.to_string()),
        ("TasksMax", "t", tasks.to_string()),
    ] {
        words.extend([property.to_owned(), kind.to_owned(), value]);
    }
    words.push("0".to_owned());
    words
}

fn is_in(pid: u32, scope: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_asked_for_in_busctls_words() {
        let limits = Limits { cpu_weight: 50, io_weight: 100, memory_bytes: 4096, tasks: 7 };
        let words = start_arguments("banger-1-2.scope", &SandboxId::from_bits(2), &[41, 42], limits);
        let expected = "call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager \
             StartTransientUnit ssa(sv)a(sa(sv)) banger-1-2.scope fail 7 PIDs au 2 41 42 \
             Description s banger VM 0000000000000002 CollectMode s inactive-or-failed CPUWeight t 50 IOWeight t 100 \
             MemoryMax t 4096 TasksMax t 7 0";
        assert_eq!(words.join(" "), expected);
    }
}
