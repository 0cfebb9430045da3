//! What a machine boots: kernel, initramfs, drives in their order, and the kernel's command line.
//!
//! Drives, always in this order and found by the agent by it: `vda` the image, read-only and shared; `vdb` the root
//! overlay's upper layer; `vdc` the work disk, when there is one. The words `banger.…` are for the agent and described in
//! `wire::guest::cmdline`; all others are for the kernel.

use crate::layout::Layout;
use engine::host::vmm::Machine;
use engine::host::{HostError, HostErrorKind, Result};
use model::{Backend, InitMode, KernelName, SandboxId};
use std::fs;
use std::path::{Path, PathBuf};
use wire::guest::cmdline;

/// 2048 bytes: COMMAND_LINE_SIZE of x86 kernels, with the final NUL; they cut silently what is over it.
const MAX_COMMAND_LINE_BYTES: usize = 2047;

/// What the images host knows of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFiles {
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    /// Words this kernel needs, from its manifest; later words win over the house's.
    pub boot_args: Vec<String>,
}

/// Asked at every start. The images host answers it; [`LayoutKernels`] is the answer by paths alone.
pub trait Kernels: Send + Sync {
    fn kernel_files(&self, kernel: &KernelName) -> Result<KernelFiles>;
}

/// Kernels as they lie in the layout, with the initramfs of one agent.
#[derive(Debug, Clone)]
pub struct LayoutKernels {
    pub layout: Layout,
    /// The word that names the agent in the initramfs' file name.
    pub agent: String,
}

impl Kernels for LayoutKernels {
    fn kernel_files(&self, kernel: &KernelName) -> Result<KernelFiles> {
        let initramfs = self.layout.kernel_initramfs(kernel, &self.agent);
        Ok(KernelFiles {
            kernel: self.layout.kernel_vmlinux(kernel),
            initramfs: initramfs.exists().then_some(initramfs),
            boot_args: read_boot_args(&self.layout.kernel_manifest(kernel)),
        })
    }
}

/// The field `boot_args` of a kernel's manifest: a list of words; empty where there is none.
fn read_boot_args(manifest: &Path) -> Vec<String> {
    let manifest = fs::read(manifest).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let words = manifest.as_ref().and_then(|manifest| manifest.get("boot_args")?.as_array());
    words.into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    pub command_line: String,
    pub drives: Vec<Drive>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Also the drive's serial number in the guest.
    pub name: &'static str,
    pub path: PathBuf,
    pub read_only: bool,
}

impl Boot {
    /// Everything `machine` boots; what is missing is `NotFound`.
    pub fn find(machine: &Machine, layout: &Layout, kernels: &dyn Kernels, tsc_khz: Option<u64>) -> Result<Boot> {
        let files = kernels.kernel_files(&machine.kernel)?;
        let drives = drives(machine, layout);
        let missing = |what: String| {
            let attempt = format!("cannot start {}: {what} is missing", machine.id);
            Err(HostError::new(HostErrorKind::NotFound, attempt))
        };
        if !files.kernel.is_file() {
            return missing(format!("kernel `{}`", machine.kernel));
        }
        if let Some(drive) = drives.iter().find(|drive| !drive.path.is_file()) {
            return missing(match drive.name {
                "image" => format!("image `{}`", machine.image),
                name => format!("its {name} disk"),
            });
        }
        let command_line = command_line(machine, drives.len() > 2, &files.boot_args, tsc_khz)?;
        Ok(Boot { kernel: files.kernel, initramfs: files.initramfs, command_line, drives })
    }
}

fn drives(machine: &Machine, layout: &Layout) -> Vec<Drive> {
    let image = Drive { name: "image", path: layout.image_rootfs(&machine.image), read_only: true };
    std::iter::once(image).chain(own_drives(layout, &machine.id)).collect()
}

/// The drives that a sandbox writes to.
pub fn own_drives(layout: &Layout, id: &SandboxId) -> impl Iterator<Item = Drive> {
    let root = Drive { name: "root", path: layout.root_disk(id), read_only: false };
    let work = Drive { name: "work", path: layout.work_disk(id), read_only: false };
    std::iter::once(root).chain(Some(work).filter(|work| work.path.exists()))
}

/// `tsc_khz` is given where guest code is interpreted, and only there: such a guest reads the host's counter.
fn command_line(machine: &Machine, has_work: bool, boot_args: &[String], tsc_khz: Option<u64>) -> Result<String> {
    // The serial line is the console; a guest that panics ends its VMM instead of hanging.
    let mut words: Vec<String> = ["console=ttyS0", "quiet", "loglevel=4", "panic=-1"].map(str::to_owned).into();
    // The one way to end that each VMM understands: Firecracker listens for the keyboard controller's reset only,
    // microvm has no keyboard controller, and a triple fault needs no device at all.
    let (reboot, power_off) = match machine.backend {
        Backend::Firecracker => ("reboot=k i8042.noaux i8042.nomux i8042.dumbkbd", cmdline::POWER_OFF_REBOOT),
        Backend::Qemu | Backend::Sim => ("reboot=t", cmdline::POWER_OFF_ACPI),
    };
    let init = match machine.init {
        InitMode::Auto => cmdline::INIT_AUTO,
        InitMode::Agent => cmdline::INIT_AGENT,
        InitMode::Systemd => cmdline::INIT_SYSTEMD,
    };
    words.push(reboot.to_owned());
    if let Some(khz) = tsc_khz {
        // Interpreted code cannot speculate, so mitigations cost and protect nothing.
        words.push(format!("mitigations=off tsc=reliable tsc_early_khz={khz}"));
    }
    let work = if has_work { "1" } else { "0" };
    let for_agent = [
        (cmdline::ROOT, cmdline::ROOT_OVERLAY),
        (cmdline::INIT, init),
        (cmdline::WORK, work),
        (cmdline::POWER_OFF, power_off),
    ];
    words.extend(for_agent.map(|(word, value)| format!("{word}={value}")));
    words.extend_from_slice(boot_args);
    let line = words.join(" ");
    let refuse = |why: &str| {
        let attempt = format!("cannot start {}: the boot arguments of kernel `{}` {why}", machine.id, machine.kernel);
        HostError::new(HostErrorKind::Invalid, attempt)
    };
    match line {
        line if line.len() > MAX_COMMAND_LINE_BYTES => Err(refuse("are too long")),
        line if line.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) => Err(refuse("are not plain text")),
        line => Ok(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::network::Attachment;
    use model::{ByteSize, SandboxId, Vcpus};

    fn machine(backend: Backend) -> Machine {
        Machine {
            id: SandboxId::from_bits(1),
            backend,
            image: "debian".parse().unwrap(),
            kernel: "cloud".parse().unwrap(),
            vcpus: Vcpus::ONE,
            memory: ByteSize::from_mib(128),
            init: InitMode::Agent,
            attachment: Attachment::default(),
        }
    }

    fn check(backend: Backend, tsc_khz: Option<u64>, boot_args: &[&str], expected: &str) {
        let boot_args: Vec<String> = boot_args.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(command_line(&machine(backend), true, &boot_args, tsc_khz).unwrap(), expected);
    }

    #[test]
    fn the_command_line_fits_the_vmm() {
        check(
            Backend::Qemu,
            Some(2_600_000),
            &[],
            "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t mitigations=off tsc=reliable tsc_early_khz=2600000 \
             banger.root=overlay banger.init=agent banger.work=1 banger.poweroff=poweroff",
        );
        check(
            Backend::Firecracker,
            None,
            &["pci=off", "panic=1"],
            "console=ttyS0 quiet loglevel=4 panic=-1 reboot=k i8042.noaux i8042.nomux i8042.dumbkbd \
             banger.root=overlay banger.init=agent banger.work=1 banger.poweroff=reboot pci=off panic=1",
        );
    }

    #[test]
    fn boot_arguments_that_would_be_cut_or_smuggled_are_refused() {
        for bad in ["x".repeat(2048), "a\nb".into(), "ü".into(), "\0".into()] {
            let error = command_line(&machine(Backend::Qemu), false, &[bad], None).unwrap_err();
            assert_eq!(error.kind, HostErrorKind::Invalid, "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let world = tempfile::tempdir().unwrap();
        let [state, runtime, cache] = ["s", "r", "c"].map(|name| world.path().join(name));
        let layout = Layout::at(state, runtime, cache).unwrap();
        layout.prepare().unwrap();
        let kernels = LayoutKernels { layout: layout.clone(), agent: "a1".into() };
        let machine = machine(Backend::Qemu);
        let make = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let find = || Boot::find(&machine, &layout, &kernels, None);
        assert!(find().unwrap_err().attempt.ends_with("kernel `cloud` is missing"));
        make(layout.kernel_vmlinux(&machine.kernel), "");
        assert!(find().unwrap_err().attempt.ends_with("image `debian` is missing"));
        make(layout.image_rootfs(&machine.image), "");
        assert!(find().unwrap_err().attempt.ends_with("its root disk is missing"));
        make(layout.root_disk(&machine.id), "");
        make(layout.kernel_manifest(&machine.kernel), r#"{"boot_args": ["pci=off", 7]}"#);
        let boot = find().unwrap();
        assert!(boot.command_line.ends_with("banger.work=0 banger.poweroff=poweroff pci=off"), "{}", boot.command_line);
        assert_eq!((boot.initramfs, boot.drives.len()), (None, 2));

        make(layout.work_disk(&machine.id), "");
        make(layout.kernel_initramfs(&machine.kernel, "a1"), "");
        let boot = find().unwrap();
        assert_eq!(boot.initramfs, Some(layout.kernel_initramfs(&machine.kernel, "a1")));
        let drives: Vec<_> = boot.drives.iter().map(|drive| (drive.name, drive.read_only)).collect();
        assert_eq!(drives, [("image", true), ("root", false), ("work", false)]);
    }
}
