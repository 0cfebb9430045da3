//! Where everything lies: every path of this installation, derived from validated ids and names, on one page.
//!
//! ```text
//! state    bangerd's own records and all disks; survives a reboot     BANGER_STATE, $XDG_STATE_HOME/banger, ~/.local/state/banger
//!   banger.db  bangerd.lock
//!   consents/<digest>
//!   ssh/                   id_ed25519 known_hosts host/<id>
//!   vms/<id>/              root.ext4 work.ext4 console.log vmm.log bootstrap.log workspace-<n>.shipped lock
//!   images/<name>/         rootfs.ext4 work-seed.ext4 manifest.json
//!   kernels/<name>/        vmlinux initramfs-<agent>.cpio modules/ manifest.json
//!   templates/             <label>-<bytes>.ext4: empty file systems, one per size;
//!                          seed-<image>-<stamp>-<bytes>.ext4: an image's work-seed, grown to that size;
//!                          repository-<template>.ext4 .shipped: such a disk with a repository on it
//! runtime  sockets and what names a running process; gone at reboot   the rule of `model::paths`
//!   bangerd.sock
//!   vm/<id>/               machine.json vsock.sock vsock.sock_<port> api.sock qmp.sock
//! cache    may be deleted at any time                                 BANGER_CACHE, $XDG_CACHE_HOME/banger, ~/.cache/banger
//!   blobs/sha256/          <hex> <hex>.partial: what registries and archives brought
//!   shipments/<number>/    repositories on their way into a guest
//! ```
//!
//! Nothing but this module joins a path to one of the three folders. All three are 0700 and the owner's.
//! Installations may share a runtime folder: a run belongs to the one whose state holds `vms/<id>`.

use model::paths::{CONTROL_SOCKET, Environment, MAX_SOCKET_PATH_BYTES};
use model::{ByteSize, ImageName, KernelName, SandboxId, WorkTemplate};
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The longest socket below the runtime folder: a 16-digit id and the socket of the largest port a guest may call.
const LONGEST_SOCKET: &str = "vm/0123456789abcdef/vsock.sock_4294967295";

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("cannot find a home for banger's state: set `BANGER_STATE`, or HOME")]
    Homeless,
    #[error("cannot use `{path}` as banger's {what} folder: it is no absolute path")]
    Relative { what: &'static str, path: PathBuf },
    #[error(
        "cannot use `{path}` as banger's runtime folder: sockets in it would need {bytes} bytes, and a socket path holds {MAX_SOCKET_PATH_BYTES}"
    )]
    TooLong { path: PathBuf, bytes: usize },
    #[error("cannot make banger's {what} folder `{path}`")]
    Create { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot use `{path}` as banger's {what} folder: it is a link or no folder")]
    NoFolder { what: &'static str, path: PathBuf },
    #[error("cannot use `{path}` as banger's {what} folder: it belongs to user {owner}, and bangerd runs as {uid}")]
    Foreign { what: &'static str, path: PathBuf, owner: u32, uid: u32 },
}

/// The three folders; a value of this type has short enough socket paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
    runtime: PathBuf,
    cache: PathBuf,
    socket: PathBuf,
}

impl Layout {
    /// The folders of the process that asks, by its environment and user.
    pub fn discover() -> Result<Layout, LayoutError> {
        Self::from_environment(&|key| std::env::var_os(key), rustix::process::geteuid().as_raw())
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>, uid: u32) -> Result<Layout, LayoutError> {
        let path = |key: &str| variable(key).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = |own: &str, xdg: &str, below: &str| match (path(own), path(xdg), path("HOME")) {
            (Some(own), _, _) => Ok(own),
            // A relative XDG path is to be ignored (XDG base directory specification).
            (None, Some(xdg), _) if xdg.is_absolute() => Ok(xdg.join("banger")),
            (None, _, Some(home)) => Ok(home.join(below).join("banger")),
            (None, _, None) => Err(LayoutError::Homeless),
        };
        let runtime = Environment::read(uid, variable);
        let mut layout = Self::at(
            home("BANGER_STATE", "XDG_STATE_HOME", ".local/state")?,
            runtime.runtime_folder(),
            home("BANGER_CACHE", "XDG_CACHE_HOME", ".cache")?,
        )?;
        layout.socket = runtime.control_socket();
        Ok(layout)
    }

    pub fn at(state: PathBuf, runtime: PathBuf, cache: PathBuf) -> Result<Layout, LayoutError> {
        for (what, path) in [("state", &state), ("runtime", &runtime), ("cache", &cache)] {
            if !path.is_absolute() {
                return Err(LayoutError::Relative { what, path: path.clone() });
            }
        }
        let bytes = runtime.join(LONGEST_SOCKET).as_os_str().len();
        match bytes > MAX_SOCKET_PATH_BYTES {
            true => Err(LayoutError::TooLong { path: runtime, bytes }),
            false => Ok(Layout { socket: runtime.join(CONTROL_SOCKET), state, runtime, cache }),
        }
    }

    /// Makes the folders that are missing, and proves that those which are there are ours.
    pub fn prepare(&self) -> Result<(), LayoutError> {
        let uid = rustix::process::geteuid().as_raw();
        for (what, path) in [("state", &self.state), ("runtime", &self.runtime), ("cache", &self.cache)] {
            claim_folder(what, path, uid)?;
        }
        for path in [self.vms(), self.images(), self.kernels(), self.templates(), self.runs()] {
            make_folder("state", &path)?;
        }
        Ok(())
    }

    pub fn state(&self) -> &Path {
        &self.state
    }
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    pub fn database(&self) -> PathBuf {
        self.state.join("banger.db")
    }
    /// Held by the one `bangerd` that owns this state.
    pub fn daemon_lock(&self) -> PathBuf {
        self.state.join("bangerd.lock")
    }

    /// Keys and known_hosts; what lies in it is `crate::ssh::keys`' own.
    pub fn ssh(&self) -> PathBuf {
        self.state.join("ssh")
    }

    /// Which sandbox has which address on the bridge; `host::network::book` owns it.
    pub fn addresses(&self) -> PathBuf {
        self.state.join("addresses.json")
    }
    /// The ledger and socket of a root helper that `bangerd` starts itself.
    pub fn root_helper(&self) -> PathBuf {
        self.runtime.join("root")
    }
    /// What a person let repositories ask for.
    pub fn consents(&self) -> PathBuf {
        self.state.join("consents")
    }

    pub fn vms(&self) -> PathBuf {
        self.state.join("vms")
    }
    pub fn vm(&self, id: &SandboxId) -> PathBuf {
        self.vms().join(id.as_str())
    }
    pub fn root_disk(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("root.ext4")
    }
    /// What a sandbox in user mode may reach, as its gateway reads it.
    pub fn gateway_policy(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("net.json")
    }
    pub fn work_disk(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("work.ext4")
    }
    /// Quarantines and memories of its workspaces; they go with the sandbox.
    pub fn work_home(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("home")
    }
    /// What the guest wrote to its serial line.
    pub fn console_log(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("console.log")
    }
    /// What the VMM and its companions said themselves.
    pub fn vmm_log(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("vmm.log")
    }
    /// What the last bootstrap of a workspace said.
    pub fn bootstrap_log(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("bootstrap.log")
    }
    /// What was shipped to this folder of the guest the last time; named by a number that stands for the folder.
    pub fn shipped(&self, id: &SandboxId, folder: u64) -> PathBuf {
        self.vm(id).join(format!("workspace-{folder:016x}.shipped"))
    }
    /// Locked while anybody may write to the disks beside it.
    pub fn disk_lock(&self, id: &SandboxId) -> PathBuf {
        self.vm(id).join("lock")
    }

    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }
    pub fn image(&self, name: &ImageName) -> PathBuf {
        self.images().join(name.as_str())
    }
    pub fn image_rootfs(&self, name: &ImageName) -> PathBuf {
        self.image(name).join("rootfs.ext4")
    }
    pub fn image_work_seed(&self, name: &ImageName) -> PathBuf {
        self.image(name).join("work-seed.ext4")
    }
    pub fn image_manifest(&self, name: &ImageName) -> PathBuf {
        self.image(name).join("manifest.json")
    }

    pub fn kernels(&self) -> PathBuf {
        self.state.join("kernels")
    }
    pub fn kernel(&self, name: &KernelName) -> PathBuf {
        self.kernels().join(name.as_str())
    }
    pub fn kernel_vmlinux(&self, name: &KernelName) -> PathBuf {
        self.kernel(name).join("vmlinux")
    }
    /// One initramfs per kernel and agent; `agent` is a digest or version, a plain word.
    pub fn kernel_initramfs(&self, name: &KernelName, agent: &str) -> PathBuf {
        debug_assert!(agent.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'), "{agent:?}");
        self.kernel(name).join(format!("initramfs-{agent}.cpio"))
    }
    pub fn kernel_modules(&self, name: &KernelName) -> PathBuf {
        self.kernel(name).join("modules")
    }
    pub fn kernel_manifest(&self, name: &KernelName) -> PathBuf {
        self.kernel(name).join("manifest.json")
    }

    /// Blobs by digest; what lies in it is `crate::host::images::blobs`' own.
    pub fn blobs(&self) -> PathBuf {
        self.cache.join("blobs/sha256")
    }

    pub fn templates(&self) -> PathBuf {
        self.state.join("templates")
    }
    /// An empty file system of exactly this size; disks are cloned from it. `label` is a plain word.
    pub fn disk_template(&self, label: &'static str, size: ByteSize) -> PathBuf {
        self.templates().join(format!("{label}-{}.ext4", size.bytes()))
    }
    /// The work-seed of an image at exactly this size. `stamp` changes with the seed.
    pub fn seed_template(&self, image: &ImageName, stamp: u64, size: ByteSize) -> PathBuf {
        self.templates().join(format!("seed-{image}-{stamp:x}-{}.ext4", size.bytes()))
    }

    /// A work disk that begins with a repository, and what the host remembers of what is on it.
    pub fn work_template(&self, name: &WorkTemplate) -> PathBuf {
        self.templates().join(format!("repository-{name}.ext4"))
    }
    pub fn work_template_memory(&self, name: &WorkTemplate) -> PathBuf {
        self.templates().join(format!("repository-{name}.shipped"))
    }

    pub fn shipments(&self) -> PathBuf {
        self.cache.join("shipments")
    }
    /// Staged repositories of one import; it goes when the import ends.
    pub fn shipment(&self, number: u64) -> PathBuf {
        self.shipments().join(format!("{number:016x}"))
    }

    pub fn control_socket(&self) -> &Path {
        &self.socket
    }
    pub fn runs(&self) -> PathBuf {
        self.runtime.join("vm")
    }
    /// Exists while a sandbox's VMM does; it goes with it.
    pub fn run(&self, id: &SandboxId) -> PathBuf {
        self.runs().join(id.as_str())
    }
    pub fn machine_record(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("machine.json")
    }
    /// Where the host calls the guest: `CONNECT <port>\n`.
    pub fn vsock(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("vsock.sock")
    }
    /// Where the guest's calls to the host's `port` arrive; whoever waits for them binds it before the VMM starts.
    pub fn vsock_listener(&self, id: &SandboxId, port: u32) -> PathBuf {
        self.run(id).join(format!("vsock.sock_{port}"))
    }
    pub fn vsock_device(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("vhost.sock")
    }
    /// Where the gateway of a sandbox in user mode answers.
    pub fn gateway_control(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("net.sock")
    }
    pub fn api_socket(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("api.sock")
    }
    /// What Firecracker counts, a line of JSON a minute.
    pub fn metrics(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("metrics.json")
    }
    pub fn qmp_socket(&self, id: &SandboxId) -> PathBuf {
        self.run(id).join("qmp.sock")
    }
}

/// One of the three folders: a real folder, ours, closed to everyone else.
fn claim_folder(what: &'static str, path: &Path, uid: u32) -> Result<(), LayoutError> {
    make_folder(what, path)?;
    let failed = |source| LayoutError::Create { what, path: path.to_owned(), source };
    let found = fs::symlink_metadata(path).map_err(failed)?;
    // A link under /tmp may be anybody's; a link in the owner's own home is the owner's choice.
    if !found.is_dir() && (what == "runtime" || !path.is_dir()) {
        return Err(LayoutError::NoFolder { what, path: path.to_owned() });
    }
    let found = fs::metadata(path).map_err(failed)?;
    if found.uid() != uid {
        return Err(LayoutError::Foreign { what, path: path.to_owned(), owner: found.uid(), uid });
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

fn make_folder(what: &'static str, path: &Path) -> Result<(), LayoutError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    match made {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            Err(LayoutError::NoFolder { what, path: path.to_owned() })
        }
        made => made.map_err(|source| LayoutError::Create { what, path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discover(variables: &[(&str, &str)], uid: u32) -> Result<Layout, LayoutError> {
        let find = |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| OsString::from(value));
        Layout::from_environment(&find, uid)
    }

    fn check(variables: &[(&str, &str)], uid: u32, expected: [&str; 4]) {
        let layout = discover(variables, uid).unwrap();
        let found = [layout.state(), layout.runtime(), layout.cache(), layout.control_socket()];
        assert_eq!(found.map(|path| path.to_str().unwrap()), expected, "{variables:?}");
    }

    #[test]
    fn folders_follow_the_environment() {
        let home = ("HOME", "/home/a");
        let own = ["/home/a/.local/state/banger", "/tmp/banger-runtime-7", "/home/a/.cache/banger"];
        let own = [own[0], own[1], own[2], "/tmp/banger-runtime-7/bangerd.sock"];
        check(&[home], 7, own);
        check(&[home, ("XDG_STATE_HOME", "relative"), ("XDG_CACHE_HOME", "")], 7, own);
        let root = ["/root/.local/state/banger", "/run/banger", "/root/.cache/banger", "/run/banger/bangerd.sock"];
        check(&[("HOME", "/root")], 0, root);
        let xdg = [home, ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/7"), ("XDG_CACHE_HOME", "/c")];
        check(&xdg, 7, ["/s/banger", "/run/user/7/banger", "/c/banger", "/run/user/7/banger/bangerd.sock"]);
        let own = [("BANGER_STATE", "/s"), ("BANGER_SOCKET", "/x.sock"), ("BANGER_CACHE", "/c"), xdg[1]];
        check(&own, 0, ["/s", "/run/banger", "/c", "/x.sock"]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_sentence() {
        let refused = |variables: &[(&str, &str)]| discover(variables, 7).unwrap_err().to_string();
        assert!(refused(&[]).contains("set `BANGER_STATE`"));
        assert!(refused(&[("HOME", "/h"), ("BANGER_STATE", "here")]).contains("no absolute path"));
        let long = format!("/{}", "r".repeat(90));
        assert!(refused(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", &long)]).contains("a socket path holds 107"));
    }

    #[test]
    fn the_longest_socket_fits_or_is_refused() {
        let id = SandboxId::from_bits(u64::MAX);
        let runtime = format!("/{}", "r".repeat(MAX_SOCKET_PATH_BYTES - LONGEST_SOCKET.len() - 2));
        let layout = Layout::at("/s".into(), runtime.into(), "/c".into()).unwrap();
        assert_eq!(layout.vsock_listener(&id, u32::MAX).as_os_str().len(), MAX_SOCKET_PATH_BYTES);
    }

    #[test]
    fn folders_are_made_private_and_a_link_is_no_runtime_folder() {
        let world = tempfile::tempdir().unwrap();
        let at = |runtime: &str| {
            let [state, runtime, cache] = ["s", runtime, "c"].map(|name| world.path().join(name));
            Layout::at(state, runtime, cache).unwrap()
        };
        let layout = at("r");
        layout.prepare().unwrap();
        layout.prepare().unwrap();
        for path in [layout.state(), layout.runtime(), layout.cache()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700, "{path:?}");
        }
        std::os::unix::fs::symlink(world.path().join("r"), world.path().join("link")).unwrap();
        assert!(matches!(at("link").prepare(), Err(LayoutError::NoFolder { .. })));
        fs::write(world.path().join("file"), "").unwrap();
        assert!(matches!(at("file").prepare(), Err(LayoutError::NoFolder { .. })));
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert!(matches!(claim_folder("runtime", folder.path(), uid + 1), Err(LayoutError::Foreign { .. })));
    }
}
