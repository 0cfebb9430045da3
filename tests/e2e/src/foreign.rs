//! Images as other people make them: one busybox and nothing else, one static program, a Debian without systemd. Each
//! brings a command of its own, said in an OCI configuration.

use crate::artifacts::{KERNEL, append, made_once};
use crate::world::World;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::EntryType;

pub const BUSYBOX_ONLY: &str = "busybox-only";
pub const STATIC_ONLY: &str = "static-only";
pub const DEBIAN_BARE: &str = "debian-bare";
pub const DEBIAN_SERVICE: &str = "debian-service";
pub const DEBIAN_OFFLINE: &str = "debian-offline";
pub const DEBIAN_HOST: &str = "debian-host";

/// The images that need nothing but a compiler.
pub fn small() -> PathBuf {
    made_once("foreign-small", |world| {
        world.banger(&["kernel", "pull", KERNEL]).ok();
        import(world, BUSYBOX_ONLY, write_busybox, &loop_config("/bin/busybox", "65534:65534"));
        import(world, STATIC_ONLY, write_static, &static_config());
    })
}

/// Debian as a container image: apt and a shell, no init of any kind.
pub fn debian_bare() -> PathBuf {
    made_once("foreign-debian-bare", |world| {
        world.banger(&["kernel", "pull", KERNEL]).ok();
        import(world, DEBIAN_BARE, write_debian, &loop_config("/bin/busybox", "nobody:nogroup"));
    })
}

/// A Debian without systemd that has the packages of one lying in apt's cache: a guest here reaches no mirror.
pub fn debian_offline() -> PathBuf {
    made_once("foreign-debian-offline", |world| {
        world.banger(&["kernel", "pull", KERNEL]).ok();
        let tar = world.path().join("offline.tar");
        write_debian_offline(&tar);
        world.banger(&["image", "import", DEBIAN_OFFLINE, &tar.to_string_lossy()]).ok();
        std::fs::remove_file(tar).expect("the archive can be removed");
    })
}

/// A Debian that is itself a host of sandboxes, as a person's machine may be: systemd-resolved answers its programs, and it
/// has what a bridge needs, modules as well. There is a whole python3 in it, too.
pub fn debian_host() -> PathBuf {
    made_once("foreign-debian-host", |world| {
        world.banger(&["kernel", "pull", KERNEL]).ok();
        let tar = world.path().join("host.tar");
        write_debian_host(&tar);
        world.banger(&["image", "import", DEBIAN_HOST, &tar.to_string_lossy()]).ok();
        std::fs::remove_file(tar).expect("the archive can be removed");
    })
}

/// The default image, whole, with a command of its own beside its systemd.
pub fn debian_service() -> PathBuf {
    let image = format!("images/{DEBIAN_SERVICE}");
    made_once("foreign-debian-service", |world| {
        // The default image under another name, made once for all tests.
        let made = crate::artifacts::debian();
        for (from, to) in [
            ("kernels".into(), "kernels".into()),
            (format!("images/{}", crate::artifacts::DEBIAN_IMAGE), image.clone()),
        ] {
            let to: PathBuf = world.state().join(to);
            std::fs::create_dir_all(to.parent().expect("it lies in a folder")).expect("a folder can be made");
            let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(made.join(from)).arg(&to).status();
            assert!(copied.expect("cp runs").success(), "cannot copy to {}", to.display());
        }
        configure(world, DEBIAN_SERVICE, &loop_config("/bin/sh", "nobody:nogroup"));
    })
}

/// A command that tells who and where it is, and how it was told to stop. `shell` is run as `sh`, or is one.
fn loop_config(shell: &str, user: &str) -> Value {
    let script = "echo $GREETING from $PWD as $(busybox id -u 2>/dev/null || id -u); \
        trap 'echo told to stop; exit 0' QUIT; while :; do busybox sleep 0.2 2>/dev/null || sleep 0.2; done";
    let entrypoint = if shell.ends_with("busybox") { vec![shell, "sh", "-c"] } else { vec![shell, "-c"] };
    json!({
        "entrypoint": entrypoint,
        "cmd": [script],
        "env": ["GREETING=hello", "PATH=/usr/local/bin:/usr/bin:/bin"],
        "user": user,
        "working_dir": "/srv/app",
        "stop_signal": "SIGQUIT",
    })
}

fn static_config() -> Value {
    json!({ "entrypoint": ["/app"], "env": ["COLOUR=green"], "user": "65532", "working_dir": "/" })
}

fn import(world: &World, name: &str, write: fn(&Path, &Path), config: &Value) {
    let tar = world.path().join(format!("{name}.tar"));
    write(&tar, world.path());
    world.banger(&["image", "import", name, &tar.to_string_lossy()]).ok();
    std::fs::remove_file(tar).expect("the archive can be removed");
    configure(world, name, config);
}

/// An archive of files says nothing of a command: what a registry's configuration would say goes where an import of one
/// keeps it.
fn configure(world: &World, name: &str, config: &Value) {
    let path = world.state().join("images").join(name).join("manifest.json");
    let text = std::fs::read(&path).expect("an image has a manifest");
    let mut manifest: Value = serde_json::from_slice(&text).expect("a manifest is JSON");
    manifest["config"] = config.clone();
    std::fs::write(&path, manifest.to_string()).expect("the manifest can be written");
}

fn write_busybox(path: &Path, _work: &Path) {
    let busybox = crate::needs::which("busybox").expect("busybox is installed (package busybox-static)");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a tar can be made"));
    let bytes = std::fs::read(busybox).expect("busybox reads");
    append(&mut tar, EntryType::Regular, "bin/busybox", 0o755, &bytes, None);
    tar.finish().expect("the tar can be finished");
}

const STATIC_PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count > 1) { printf("%s\n", words[1]); return 7; }
    printf("app as %d, %s\n", (int)getuid(), getenv("COLOUR"));
    fflush(stdout);
    for (;;) pause();
}
"#;

/// No shell, no libc, no user file, not even a folder beside the program.
fn write_static(path: &Path, work: &Path) {
    let (source, program) = (work.join("app.c"), work.join("app"));
    std::fs::write(&source, STATIC_PROGRAM).expect("the program can be written");
    let compiled = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).status();
    assert!(compiled.expect("cc runs").success(), "the static program cannot be compiled");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a tar can be made"));
    append(&mut tar, EntryType::Regular, "app", 0o755, &std::fs::read(program).expect("it reads"), None);
    tar.finish().expect("the tar can be finished");
}

/// The packages are those that the agent's plan for Debian asks for.
fn write_debian_offline(path: &Path) {
    let download = "APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get --yes --no-install-recommends --download-only install \
        systemd systemd-sysv dbus openssh-server";
    let mut debootstrap = Command::new("mmdebstrap");
    debootstrap.args(["--quiet", "--variant=minbase", "--skip=cleanup/apt"]);
    debootstrap.arg(format!("--customize-hook={download}")).arg("bookworm").arg(path);
    let made = debootstrap.env("TMPDIR", "/var/tmp").output().expect("mmdebstrap runs");
    assert!(made.status.success(), "mmdebstrap: {}", String::from_utf8_lossy(&made.stderr));
}

const HOST_PACKAGES: &str = "systemd,systemd-sysv,systemd-resolved,libnss-resolve,dbus,iproute2,nftables,kmod,python3";

/// The modules alone of the kernel that the guest boots: it comes from outside, and an initramfs of its own from us.
const HOST_MODULES: &str = r#"set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*-cloud-amd64\)$/\1/p' | head -n 1)
cd "$1/var"
apt-get -qq download "$package"
dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x -C "$1" ./lib/modules
rm "$package"_*.deb
chroot "$1" depmod "${package#linux-image-}"
"#;

fn write_debian_host(path: &Path) {
    let hook = path.with_extension("hook");
    std::fs::write(&hook, HOST_MODULES).expect("a script can be written");
    let mut debootstrap = Command::new("mmdebstrap");
    debootstrap.args(["--quiet", "--variant=minbase", &format!("--include={HOST_PACKAGES}")]);
    debootstrap.arg(format!("--customize-hook=sh {} \"$1\"", hook.display())).arg("bookworm").arg(path);
    let made = debootstrap.env("TMPDIR", "/var/tmp").output().expect("mmdebstrap runs");
    assert!(made.status.success(), "mmdebstrap: {}", String::from_utf8_lossy(&made.stderr));
}

fn write_debian(path: &Path, _work: &Path) {
    let mut debootstrap = Command::new("mmdebstrap");
    debootstrap.args(["--quiet", "--variant=minbase", "--include=busybox", "bookworm"]).arg(path);
    let made = debootstrap.env("TMPDIR", "/var/tmp").output().expect("mmdebstrap runs");
    assert!(made.status.success(), "mmdebstrap: {}", String::from_utf8_lossy(&made.stderr));
}
