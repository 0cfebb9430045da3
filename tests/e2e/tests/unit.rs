//! Promise: under systemd `bangerd` is started, restarted and stopped as any service, and its sandboxes run on, each in a
//! scope of its own.
//!
//! The host is a container that boots this machine's own systemd over an overlay of its root file system: no part of this
//! machine is touched, and everything in it is real.

use e2e::world::binary;
use e2e::{Ran, World, needs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOOTED_WITHIN: Duration = Duration::from_secs(60);

/// A machine with systemd, for as long as it lives.
struct Booted {
    root: PathBuf,
    nspawn: Child,
    leader: u32,
}

impl Booted {
    fn over(world: &World) -> Booted {
        let folder = |name: &str| {
            let path = world.path().join("systemd").join(name);
            std::fs::create_dir_all(&path).expect("a folder can be made");
            path
        };
        let (scratch, root) = (folder("scratch"), folder("root"));
        run("mount", &["-t", "tmpfs", "none", text(&scratch)]);
        ["upper", "work"]
            .iter()
            .for_each(|name| std::fs::create_dir(scratch.join(name)).expect("a folder can be made"));
        let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", scratch.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &layers, text(&root)]);
        write_unit(&root, world);
        let bind = format!("--bind={}", world.path().display());
        let programs = format!("--bind-ro={}", binary("bangerd").parent().expect("it lies in a folder").display());
        let arguments =
            ["--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--directory", text(&root)];
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn.args(arguments).arg(bind).arg(programs);
        nspawn.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nspawn = nspawn.spawn().expect("systemd-nspawn runs");
        let mut booted = Booted { root, nspawn, leader: 0 };
        booted.await_systemd();
        booted
    }

    fn await_systemd(&mut self) {
        let end = Instant::now() + BOOTED_WITHIN;
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn.id());
        loop {
            let leader = std::fs::read_to_string(&children).unwrap_or_default();
            self.leader = leader.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or_default();
            let state = self.run(&["systemctl", "is-system-running"]).stdout;
            if self.leader != 0 && matches!(state.trim(), "running" | "degraded") {
                return;
            }
            assert!(Instant::now() < end, "systemd is `{}` after {BOOTED_WITHIN:?}", state.trim());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn run(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string(), "--all", "env", "SYSTEMD_COLORS=0"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        e2e::world::finish(command.spawn().expect("nsenter runs"), &words.join(" "))
    }

    fn banger(&self, world: &World, arguments: &[&str]) -> Ran {
        let folder = |name: &str| world.path().join(name).display().to_string();
        let environment = [format!("BANGER_STATE={}", folder("state")), format!("XDG_RUNTIME_DIR={}", folder("run"))];
        // Nobody may start a second daemon behind systemd's back.
        let mut words = vec!["env", "NO_COLOR=1", "BANGER_BANGERD=/bin/false", &environment[0], &environment[1]];
        let banger = binary("banger").display().to_string();
        words.push(&banger);
        words.extend(arguments);
        self.run(&words)
    }

    fn scopes(&self) -> Vec<String> {
        let listed = self.run(&["systemctl", "list-units", "--plain", "--no-legend", "banger-*.scope"]).stdout;
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.leader.to_string()]).status();
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        for mounted in [self.root.clone(), self.root.with_file_name("scratch")] {
            let _ = Command::new("umount").arg("--lazy").arg(mounted).status();
        }
    }
}

/// The packaged unit, with the folders of this world and the programs under test.
fn write_unit(root: &Path, world: &World) {
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/bangerd.service");
    let unit = std::fs::read_to_string(packaged).expect("the unit is packaged");
    let path = std::env::var("PATH").unwrap_or_default();
    let cargo = std::env::var("HOME").map(|home| format!("{home}/.cargo/bin")).unwrap_or_default();
    let folder = |name: &str| world.path().join(name).display().to_string();
    let environment = format!(
        "[Service]\nEnvironment=BANGER_STATE={} XDG_RUNTIME_DIR={} XDG_CONFIG_HOME={} XDG_CACHE_HOME={} PATH={path}:{cargo}\n",
        folder("state"),
        folder("run"),
        folder("config"),
        folder("cache")
    );
    let bangerd = binary("bangerd").display().to_string();
    let unit = unit.replace("/usr/bin/bangerd", &bangerd).replacen("[Service]\n", &environment, 1);
    std::fs::write(root.join("etc/systemd/system/bangerd.service"), unit).expect("the unit can be written");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("it runs");
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn bangerd_is_a_service_whose_sandboxes_run_on_in_scopes_of_their_own() {
    let name = "bangerd_is_a_service_whose_sandboxes_run_on_in_scopes_of_their_own";
    if !needs::qemu(name) || !needs::root(name) || !needs::program("systemd-nspawn", name) {
        return;
    }
    let world = World::tiny();
    world.write_config("[limits]\ncpu_weight = 50\n");
    let host = Booted::over(&world);
    host.run(&["systemctl", "start", "bangerd"]).ok();
    // Type=notify: what is started answers.
    host.banger(&world, &["daemon", "status"]).ok();
    host.banger(&world, &["vm", "run", "-d", "--name", "x", "--image", "tiny", "--memory", "256M"]).ok();
    let boot = || host.banger(&world, &["vm", "exec", "x", "--", "cat", "/proc/sys/kernel/random/boot_id"]).ok().stdout;
    let first = boot();
    let scopes = host.scopes();
    let [scope] = scopes.as_slice() else { panic!("one scope for one VM, not {scopes:?}") };
    let shown = host.run(&["systemctl", "show", scope, "-p", "CPUWeight", "-p", "MemoryMax", "-p", "TasksMax"]).stdout;
    let ceiling = format!("MemoryMax={}", (256_u64 + 1536) << 20);
    for limit in ["CPUWeight=50", &ceiling, "TasksMax=1024"] {
        assert!(shown.lines().any(|line| line == limit), "{limit}: {shown}");
    }

    host.run(&["systemctl", "restart", "bangerd"]).ok();
    assert_eq!(boot(), first, "a restart of the service is none of the guest's business");
    host.run(&["systemctl", "stop", "bangerd"]).ok();
    assert_eq!(host.scopes(), scopes, "nor is its stop");
    host.run(&["systemctl", "start", "bangerd"]).ok();
    assert_eq!(boot(), first);
    host.run(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", "bangerd"]).ok();
    let end = Instant::now() + Duration::from_secs(30);
    while host.banger(&world, &["daemon", "status"]).code != 0 {
        assert!(Instant::now() < end, "systemd does not start it again");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(boot(), first, "nor its death");

    host.banger(&world, &["vm", "stop", "x"]).ok();
    assert_eq!(host.scopes(), Vec::<String>::new());
    assert_eq!(host.banger(&world, &["audit", "--json"]).ok().json()["findings"], serde_json::json!([]));
    host.run(&["systemctl", "stop", "bangerd"]).ok();
}
