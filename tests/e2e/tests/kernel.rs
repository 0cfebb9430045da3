//! Promise: the generic kernel is the one that was asked for: in a running guest every wanted option is there, and it boots
//! as each VMM enters a kernel, with ACPI's list of devices and with the command line's.

use e2e::{World, needs};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The list that `kernel build` holds a configuration to.
const WANTED: &str = include_str!("../../../crates/images/kernel/generic-x86_64.config");

#[test]
fn the_generic_kernel_boots_both_command_lines_with_every_option() {
    let test = "the_generic_kernel_boots_both_command_lines_with_every_option";
    if !needs::qemu(test) {
        return;
    }
    let Some(vmlinux) = needs::generic_kernel(test) else { return };
    let world = World::tiny();
    let imported = world.banger(&["kernel", "import", "generic", "--from", &vmlinux.to_string_lossy()]).ok();
    assert!(imported.stderr.contains("boots with firecracker and qemu"), "{imported:?}");
    world.banger(&["vm", "run", "-d", "--name", "own", "--image", "tiny", "--kernel", "generic"]).ok();
    let config = world.banger(&["vm", "exec", "own", "--", "zcat", "/proc/config.gz"]).ok().stdout;
    let missing = missing(&config);
    assert!(missing.is_empty(), "the running kernel lacks {missing:?}");
    // What containers ask for, tried where it runs.
    let script = "mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /mnt && mount -t tmpfs none /mnt; \
        ip link add v0 type veth peer name v1 && ip link add b0 type bridge && ip link set v0 master b0 && \
        ls -d /sys/fs/cgroup/cgroup.controllers /dev/net/tun /dev/vsock";
    let tried = world.banger(&["vm", "exec", "own", "--", "sh", "-c", script]).ok();
    assert_eq!(tried.stdout.lines().count(), 3, "{tried:?}");
    let initramfs = initramfs_of(&world.state().join("kernels/generic"));
    firecrackers_way(&vmlinux, &initramfs);
}

/// Wanted lines of which none is in the configuration.
fn missing(config: &str) -> Vec<&str> {
    let has = |setting: &str| config.lines().any(|line| line == setting);
    let wanted = WANTED.lines().filter(|line| line.starts_with("CONFIG_"));
    wanted.filter(|line| !line.split(" | ").any(has)).collect()
}

fn initramfs_of(kernel: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(kernel).expect("the kernel is there").flatten();
    let is_initramfs = |path: &std::path::PathBuf| path.to_string_lossy().contains("initramfs-");
    entries.map(|entry| entry.path()).find(is_initramfs).expect("a kernel that booted has one")
}

/// Firecracker's command line, with devices named on it and no ACPI: the machine's agent is up and says so on the console.
fn firecrackers_way(vmlinux: &Path, initramfs: &Path) {
    let line = "console=ttyS0 loglevel=4 panic=-1 reboot=t pci=off i8042.noaux i8042.nomux i8042.dumbkbd mitigations=off \
        banger.root=overlay banger.work=0";
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "microvm,acpi=off,rtc=on,auto-kernel-cmdline=on", "-accel", "tcg", "-cpu", "max", "-m", "256"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    qemu.args(["-device", "virtio-rng-device"]);
    qemu.arg("-kernel").arg(vmlinux).arg("-initrd").arg(initramfs).arg("-append").arg(tsc(line));
    let mut child =
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("qemu starts");
    let mut output = child.stdout.take().expect("it is piped");
    let (sender, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count) = output.read(&mut piece) {
            if count == 0 || sender.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let (end, mut console) = (Instant::now() + Duration::from_secs(120), String::new());
    // Without a drive the agent gives up after its wait for one, which tells that the kernel came all the way.
    while !console.contains("banger-init: cannot find /dev/vda") && Instant::now() < end {
        if let Ok(piece) = said.recv_timeout(Duration::from_secs(1)) {
            console.push_str(&String::from_utf8_lossy(&piece));
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(console.contains("banger-init: cannot find /dev/vda"), "the console: {console}");
}

/// An emulated guest reads the host's counter; told its rate it need not measure it.
fn tsc(line: &str) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = info.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse::<f64>().ok());
    match mhz {
        Some(mhz) => format!("{line} tsc=reliable tsc_early_khz={}", (mhz * 1000.0) as u64),
        None => line.to_owned(),
    }
}
