//! What a real machine must have: tools, folders, room, the agent, an image and a kernel.

use super::check;
use crate::app::App;
use crate::host::vmm::cgroup::Groups;
use crate::program::find;
use model::ByteSize;
use model::image_ref::ImageRef;
use model::paths::MAX_SOCKET_PATH_BYTES;
use rustix::fs::{Access, access, statvfs};
use std::path::Path;
use wire::control::{Check, Verdict};

/// 3 GiB: the default image while it is built, and a first sandbox.
const COMFORTABLE: ByteSize = ByteSize::from_gib(3);
/// 512 MiB: what the engine keeps free for guests that run.
const NEEDED: ByteSize = ByteSize::from_mib(512);

/// Program, package, what it is for, what goes without it.
const TOOLS: &[(&str, &str, &str, Verdict)] = &[
    ("mmdebstrap", "mmdebstrap", "builds the default image", Verdict::Warn),
    ("apt-get", "apt", "fetches the default kernel", Verdict::Warn),
    ("e2fsck", "e2fsprogs", "checks every image", Verdict::Fail),
    ("resize2fs", "e2fsprogs", "grows disks", Verdict::Fail),
    ("git", "git", "ships workspaces", Verdict::Warn),
    ("ssh", "openssh-client", "opens shells from editors", Verdict::Warn),
];

pub fn checks(app: &App) -> Vec<Check> {
    let mut checks: Vec<Check> = TOOLS.iter().map(tool).collect();
    checks.push(unprivileged_build());
    checks.push(agent(app));
    checks.push(library(app));
    checks.push(state_folder(app));
    checks.push(free_room(app));
    checks.push(socket_paths(app));
    checks.push(limits(app));
    checks
}

fn limits(app: &App) -> Check {
    let (limited, detail) = Groups::find(app.layout.state()).describe();
    match limited {
        true => check("limits", Verdict::Pass, detail, None),
        false => check(
            "limits",
            Verdict::Warn,
            detail,
            Some("run bangerd under systemd, or in a cgroup that is delegated to it"),
        ),
    }
}

fn tool((program, package, what, without): &(&str, &str, &str, Verdict)) -> Check {
    match find(program) {
        Some(path) => check(program, Verdict::Pass, format!("{} {what}", path.display()), None),
        None => check(program, *without, format!("not installed; it {what}"), Some(&format!("install `{package}`"))),
    }
}

fn unprivileged_build() -> Check {
    let name = "user namespaces";
    if rustix::process::geteuid().is_root() {
        return check(name, Verdict::Pass, "not needed: bangerd runs as root", None);
    }
    let user = std::env::var("USER").unwrap_or_default();
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let uid = rustix::process::geteuid().as_raw().to_string();
    let has_range =
        ranges.lines().any(|line| line.split(':').next().is_some_and(|owner| owner == user || owner == uid));
    match (has_range, find("newuidmap")) {
        (true, Some(_)) => check(name, Verdict::Pass, format!("/etc/subuid has a range for {user}"), None),
        (_, None) => check(
            name,
            Verdict::Warn,
            "`newuidmap` is not installed; building images needs it",
            Some("install `uidmap`"),
        ),
        (false, _) => check(
            name,
            Verdict::Warn,
            format!("/etc/subuid has no range for {user}; building images needs one"),
            Some("`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`"),
        ),
    }
}

fn agent(app: &App) -> Check {
    let found = app.library.as_ref().map(|library| library.agent());
    match found {
        Some(Ok(path)) => check("agent", Verdict::Pass, format!("{} starts every guest", path.display()), None),
        Some(Err(trouble)) => check("agent", Verdict::Fail, trouble.to_string(), Some("`make build` builds it")),
        None => check("agent", Verdict::Warn, "this host needs none", None),
    }
}

fn library(app: &App) -> Check {
    let (image, kernel) = (&app.defaults.image.value, &app.defaults.kernel.value);
    let has_image = match (image, &app.library) {
        (_, Some(library)) => library.find(image).is_ok_and(|found| found.is_some()),
        (ImageRef::Name(name), None) => {
            app.host.images.images().is_ok_and(|all| all.iter().any(|facts| facts.name == *name))
        }
        (ImageRef::Oci(_), None) => false,
    };
    let has_kernel = app.host.images.kernels().is_ok_and(|kernels| kernels.iter().any(|facts| facts.name == *kernel));
    let name = "default image";
    match (has_image, has_kernel) {
        (true, true) => check(name, Verdict::Pass, format!("{image} with kernel {kernel} is here"), None),
        _ => {
            let missing = match (has_image, has_kernel) {
                (false, false) => format!("{image} and kernel {kernel} are"),
                (false, true) => format!("{image} is"),
                (true, _) => format!("kernel {kernel} is"),
            };
            let hint = format!(
                "`banger image pull {image}` and `banger kernel pull {kernel}` prepare them; so does the first start"
            );
            check(name, Verdict::Warn, format!("{missing} not here yet"), Some(&hint))
        }
    }
}

fn state_folder(app: &App) -> Check {
    let folder = app.layout.state();
    match access(folder, Access::WRITE_OK) {
        Ok(()) => check("state folder", Verdict::Pass, format!("{} is writable", folder.display()), None),
        Err(error) => {
            check("state folder", Verdict::Fail, format!("{} cannot be written: {error}", folder.display()), None)
        }
    }
}

fn free_room(app: &App) -> Check {
    let folder = app.layout.state();
    let Some(free) = free_bytes(folder) else {
        return check(
            "free room",
            Verdict::Warn,
            format!("cannot tell how much is free at {}", folder.display()),
            None,
        );
    };
    let detail = format!("{free} free at {}", folder.display());
    match free {
        free if free < NEEDED => check("free room", Verdict::Fail, detail, Some("`banger vm prune` makes room")),
        free if free < COMFORTABLE => check("free room", Verdict::Warn, detail, Some("`banger vm prune` makes room")),
        _ => check("free room", Verdict::Pass, detail, None),
    }
}

fn free_bytes(folder: &Path) -> Option<ByteSize> {
    let found = statvfs(folder).ok()?;
    Some(ByteSize::from_bytes(found.f_bavail.saturating_mul(found.f_frsize)))
}

/// The layout refuses folders whose sockets would not fit; this tells how much is left.
fn socket_paths(app: &App) -> Check {
    let id = model::SandboxId::from_bits(u64::MAX);
    let longest = app.layout.vsock_listener(&id, u32::MAX).as_os_str().len();
    check(
        "socket paths",
        Verdict::Pass,
        format!("{longest} of {MAX_SOCKET_PATH_BYTES} bytes below {}", app.layout.runtime().display()),
        None,
    )
}
