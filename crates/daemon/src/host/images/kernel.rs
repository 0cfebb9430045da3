//! Kernels: from a Debian package or from files to an ELF `vmlinux` with the modules a guest needs, and the initramfs
//! that carries agent and modules into every guest. An initramfs belongs to one kernel and one agent: when the agent
//! changes, the next start makes a new one.

use super::manifest::{self, KernelManifest};
use super::staging::Staging;
use super::{Library, Trouble};
use crate::host::clock::HostClock;
use ::images::kernel::Vmlinux;
use ::images::modules::{self, Module, SANDBOX_OPTIONAL, SANDBOX_REQUIRED};
use ::images::{Limits, deb, digest, initramfs, kernel};
use engine::host::clock::Clock;
use engine::host::{Result, Watch};
use model::KernelName;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

/// 1 GiB: a kernel with debug information.
const MAX_KERNEL_BYTES: u64 = 1 << 30;
/// Two thousand bytes is what a kernel's command line holds.
const MAX_BOOT_ARGS_BYTES: usize = 1024;
/// Of the kernel's owner; unpacked before ours (Linux `Documentation/admin-guide/initrd`: archives may follow each other).
pub const INITRD: &str = "initrd";
const AGENT: &str = "banger-vsock-agent";

/// What a person registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    pub vmlinux: PathBuf,
    pub modules: Option<PathBuf>,
    pub boot_args: String,
}

pub fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Trouble {
    Trouble::Kernel(Box::new(error))
}

pub fn from_files(files: &KernelFiles, staging: &Staging) -> std::result::Result<(), Trouble> {
    let boot_args = boot_args(&files.boot_args)?;
    let (path, found_modules) = locate(&files.vmlinux)?;
    let (path, modules) = (&path, files.modules.clone().or(found_modules));
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Trouble::NotFound(format!("there is no file {}", path.display())),
        _ => Trouble::File { what: "cannot read", path: path.clone(), source },
    };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_KERNEL_BYTES {
        return Err(Trouble::NotFound(format!("{} is too large for a kernel", path.display())));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let vmlinux = kernel::unpack(&bytes).map_err(unusable)?;
    let modules = match &modules {
        None => Vec::new(),
        Some(folder) => {
            let library = modules::Library::from_folder(folder).map_err(unusable)?;
            library.resolve(SANDBOX_REQUIRED, SANDBOX_OPTIONAL).map_err(unusable)?
        }
    };
    store(&vmlinux, &modules, boot_args, &format!("imported from {}", path.display()), staging)
}

/// In a folder: the one kernel in it or in its `boot`, and the one release below its `lib/modules`.
fn locate(given: &Path) -> std::result::Result<(PathBuf, Option<PathBuf>), Trouble> {
    if !given.is_dir() {
        return Ok((given.to_owned(), None));
    }
    let is_kernel = |name: &str| {
        matches!(name, "vmlinux" | "vmlinuz" | "bzImage")
            || name.starts_with("vmlinux-")
            || name.starts_with("vmlinuz-")
    };
    let one = |folder: &Path, wanted: &dyn Fn(&str) -> bool| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> =
            entries.filter(|entry| entry.file_name().to_str().is_some_and(wanted)).map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let mut kernels = one(given, &is_kernel);
    if kernels.is_empty() {
        kernels = one(&given.join("boot"), &is_kernel);
    }
    let kernel = match kernels.as_slice() {
        [kernel] => kernel.clone(),
        [] => {
            return Err(Trouble::NotFound(format!(
                "{} holds no kernel: no vmlinux, vmlinuz or bzImage",
                given.display()
            )));
        }
        _ => return Err(Trouble::NotFound(format!("{} holds more than one kernel: name the file", given.display()))),
    };
    let releases = one(&given.join("lib/modules"), &|name| name.starts_with(|c: char| c.is_ascii_digit()));
    match releases.as_slice() {
        [] => Ok((kernel, None)),
        [modules] => Ok((kernel, Some(modules.clone()))),
        _ => Err(Trouble::NotFound(format!("{} holds modules of more than one release: name one", given.display()))),
    }
}

/// The words go onto a command line as they are.
pub fn boot_args(given: &str) -> std::result::Result<Vec<String>, Trouble> {
    let refuse = |sentence: &str| Err(Trouble::Unfit { sentence: sentence.to_owned(), hint: None });
    if given.len() > MAX_BOOT_ARGS_BYTES {
        return refuse("the boot arguments are over 1024 bytes long");
    }
    if given.chars().any(|c| !c.is_ascii_graphic() && c != ' ') {
        return refuse("the boot arguments hold something other than printable ASCII");
    }
    Ok(given.split_ascii_whitespace().map(str::to_owned).collect())
}

/// A kernel that was built here has all its drivers built in.
pub fn from_build(vmlinux: &Path, source: &str, staging: &Staging) -> std::result::Result<(), Trouble> {
    let bytes = fs::read(vmlinux)?;
    let vmlinux = kernel::unpack(&bytes).map_err(unusable)?;
    store(&vmlinux, &[], Vec::new(), source, staging)
}

/// Takes a `linux-image-…` package apart.
pub fn from_package(
    package: &Path,
    staging: &Staging,
    source: &str,
    watch: &dyn Watch,
) -> std::result::Result<(), Trouble> {
    let spool_path = staging.file("package.tar");
    let spool = OpenOptions::new().read(true).write(true).create_new(true).open(&spool_path)?;
    let wanted = &mut |_| if watch.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let files = deb::open(&File::open(package)?, spool, &Limits::default(), wanted).map_err(unusable)?;
    let missing = || Trouble::NotFound("the package holds no kernel".to_owned());
    let boot = files.tree().lookup("boot").ok_or_else(missing)?;
    let names = files.tree().children(boot).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    let vmlinuz = names.into_iter().find(|name| name.starts_with("vmlinuz-")).ok_or_else(missing)?;
    let release = vmlinuz.trim_start_matches("vmlinuz-").to_owned();
    let bytes = files.read(&format!("boot/{vmlinuz}"), MAX_KERNEL_BYTES).map_err(unusable)?;
    let vmlinux = kernel::unpack(&bytes).map_err(unusable)?;
    let library = modules::Library::from_stack(&files, &format!("lib/modules/{release}")).map_err(unusable)?;
    let modules = library.resolve(SANDBOX_REQUIRED, SANDBOX_OPTIONAL).map_err(unusable)?;
    store(&vmlinux, &modules, Vec::new(), source, staging)?;
    fs::remove_file(spool_path)?;
    fs::remove_file(package)?;
    Ok(())
}

pub fn store(
    vmlinux: &Vmlinux<'_>,
    modules: &[Module],
    boot_args: Vec<String>,
    source: &str,
    staging: &Staging,
) -> std::result::Result<(), Trouble> {
    fs::write(staging.file("vmlinux"), &vmlinux.bytes)?;
    let folder = staging.file("modules");
    fs::create_dir(&folder)?;
    let mut names = Vec::new();
    for module in modules {
        let name = format!("{}.ko", module.name);
        fs::write(folder.join(&name), &module.bytes)?;
        names.push(name);
    }
    let manifest = KernelManifest {
        format: KernelManifest::FORMAT,
        version: vmlinux.facts.release.clone().unwrap_or_else(|| "unknown".to_owned()),
        digest: digest::of_bytes(&vmlinux.bytes),
        source: source.to_owned(),
        created_at_ns: HostClock.now(),
        boot_args,
        backends: vmlinux.facts.backends(),
        modules: names,
    };
    manifest::write(&staging.file("manifest.json"), &manifest)?;
    Ok(())
}

/// The agent's file, as it was when its digest was taken.
pub struct Agent {
    path: PathBuf,
    modified: SystemTime,
    length: u64,
    /// 16 hexadecimal digits of its SHA-256.
    word: String,
}

/// `$BANGER_AGENT`, else beside `bangerd`, else where packages put it.
pub fn find_agent() -> std::result::Result<PathBuf, Trouble> {
    if let Some(chosen) = std::env::var_os("BANGER_AGENT").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(chosen));
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let places = [
        // First: a build tree has another one beside `bangerd`, which is not static.
        folder.join("libexec").join(AGENT),
        folder.join(AGENT),
        folder.join("../lib/banger").join(AGENT),
        folder.join("../libexec/banger").join(AGENT),
    ];
    places.into_iter().find(|path| path.is_file()).ok_or_else(|| Trouble::Unfit {
        sentence: format!("`{AGENT}`, which every guest starts from, is not beside {}", own.display()),
        hint: Some("`make build` builds it; `BANGER_AGENT` may name it".to_owned()),
    })
}

impl Library {
    /// The initramfs of this kernel with the agent of now; made where it is missing.
    pub(super) fn initramfs(&self, name: &KernelName) -> Result<PathBuf> {
        let work = || -> std::result::Result<PathBuf, Trouble> {
            let mut known = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
            let agent = look_at_agent(known.take())?;
            let (path, word) = (agent.path.clone(), agent.word.clone());
            *known = Some(agent);
            let place = self.layout.kernel_initramfs(name, &word);
            if !place.is_file() {
                let manifest = KernelManifest::read(&self.layout.kernel_manifest(name))
                    .ok_or_else(|| Trouble::NotFound(format!("there is no kernel `{name}`")))?;
                make_initramfs(&place, &path, &self.layout.kernel_modules(name), &manifest.modules)?;
                remove_others(&place);
            }
            Ok(place)
        };
        work().map_err(|error| error.told(&format!("cannot make the initramfs of kernel {name}"), &self.layout))
    }
}

fn look_at_agent(known: Option<Agent>) -> std::result::Result<Agent, Trouble> {
    let path = find_agent()?;
    let failed = |source| Trouble::File { what: "cannot read the agent", path: path.clone(), source };
    let found = fs::metadata(&path).map_err(failed)?;
    let modified = found.modified().map_err(failed)?;
    match known {
        Some(agent) if agent.path == path && agent.modified == modified && agent.length == found.len() => Ok(agent),
        _ => {
            let (digest, _) = File::open(&path).and_then(|file| digest::of_file(&file)).map_err(failed)?;
            Ok(Agent { modified, length: found.len(), word: digest.hex()[..16].to_owned(), path })
        }
    }
}

fn make_initramfs(place: &Path, agent: &Path, folder: &Path, names: &[String]) -> std::result::Result<(), Trouble> {
    let mut modules = Vec::new();
    for name in names {
        let bytes = fs::read(folder.join(name))?;
        modules.push(Module { name: name.trim_end_matches(".ko").to_owned(), bytes });
    }
    let partial = place.with_extension("partial");
    let mut out = BufWriter::new(File::create(&partial)?);
    if let Some(mut initrd) = place.parent().and_then(|kernel| File::open(kernel.join(INITRD)).ok()) {
        let length = io::copy(&mut initrd, &mut out)?;
        // The next archive begins at a multiple of four bytes.
        out.write_all(&[0; 4][..(length.next_multiple_of(4) - length) as usize])?;
    }
    initramfs::write_sandbox(&mut out, agent, &modules).map_err(unusable)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&partial, place)?;
    Ok(())
}

/// Those of earlier agents: nobody starts from them any more, and a VMM reads its own only once.
fn remove_others(place: &Path) {
    let Some(folder) = place.parent() else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_initramfs = entry.file_name().to_string_lossy().starts_with("initramfs-");
        if is_initramfs && path != place {
            let _ = fs::remove_file(path);
        }
    }
}
