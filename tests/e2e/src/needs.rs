//! What a test needs of the machine. A missing need is said in one line, counted, and never silently passed over.

use std::io::Write;
use std::path::PathBuf;

/// Ordinary guests boot here: QEMU and its vsock device are installed.
pub fn qemu(test: &str) -> bool {
    let missing = ["qemu-system-x86_64", "vhost-device-vsock"].into_iter().find(|program| which(program).is_none());
    need("qemu", test, missing.map(|program| format!("`{program}` is not on the PATH")))
}

/// A real Firecracker, `/dev/kvm` to run it on, and the test kernel that boots on this kind of KVM.
pub fn firecracker(test: &str) -> bool {
    let reason = match (which("firecracker"), std::fs::File::options().read(true).write(true).open("/dev/kvm")) {
        (None, _) => Some("`firecracker` is not on the PATH".to_owned()),
        (_, Err(error)) => Some(format!("/dev/kvm cannot be opened: {error}")),
        _ if test_kernel().is_none() => Some("the test kernel is not beside the checkout".to_owned()),
        _ => None,
    };
    need("firecracker", test, reason)
}

pub fn root(test: &str) -> bool {
    let reason = (!nix::unistd::geteuid().is_root()).then(|| "the test does not run as root".to_owned());
    need("root", test, reason)
}

/// A kernel that speaks IPv6, also on links that come later.
pub fn ipv6(test: &str) -> bool {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    let reason = match off.as_deref().map(str::trim) {
        Ok("0") => None,
        Ok(_) => Some("new links have it switched off".to_owned()),
        Err(error) => Some(format!("this kernel has none: {error}")),
    };
    need("ipv6", test, reason)
}

/// The hierarchies of cgroup v1, to make groups in.
pub fn cgroup_v1(test: &str) -> bool {
    use nix::unistd::{AccessFlags, access};
    let writable =
        |controller: &str| access(&PathBuf::from("/sys/fs/cgroup").join(controller), AccessFlags::W_OK).is_ok();
    let missing = ["cpu", "memory", "pids"].into_iter().find(|controller| !writable(controller));
    need("cgroup", test, missing.map(|controller| format!("the hierarchy `{controller}` cannot be written to")))
}

pub fn program(name: &str, test: &str) -> bool {
    need(name, test, which(name).is_none().then(|| format!("`{name}` is not on the PATH")))
}

/// The kernel for hosts whose KVM is emulated: `$BANGER_TEST_KERNEL`, or where the shared test kit lies.
pub fn test_kernel() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/testkit/emulated-kvm-kernel/vmlinux");
    let named = std::env::var_os("BANGER_TEST_KERNEL").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from(beside)]).find(|path| path.is_file())
}

/// The generic kernel: it takes a quarter of an hour to build, so it is brought (`$BANGER_GENERIC_KERNEL`, from
/// `scripts/make-generic-kernel`) or lies below `target/`.
pub fn generic_kernel(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("BANGER_GENERIC_KERNEL").map(PathBuf::from);
    let below = crate::world::binary("bangerd").with_file_name("generic-kernel").join("vmlinux");
    let found = named.into_iter().chain([below]).find(|path| path.is_file());
    let missing = found.is_none().then(|| "`BANGER_GENERIC_KERNEL` names no vmlinux".to_owned());
    need("generic-kernel", test, missing).then_some(found).flatten()
}

pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let mut folders = std::env::split_paths(&path).chain(cargo).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.find_map(|folder| Some(folder.join(program)).filter(|found| found.is_file()))
}

fn need(name: &str, test: &str, missing: Option<String>) -> bool {
    let Some(reason) = missing else { return true };
    let required = std::env::var("REQUIRE_NEEDS").unwrap_or_default();
    assert!(!required.split(',').any(|one| one == name), "{test} needs {name}, which is required: {reason}");
    let line = format!("skip: {test} needs {name}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("BANGER_SKIP_LOG") {
        let file = std::fs::File::options().create(true).append(true).open(log);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the skip log can be written");
    }
    false
}
