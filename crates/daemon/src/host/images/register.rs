//! Images whose files are somebody else's: a record of our own names them by links, until `promote` copies them. What is
//! registered is looked at, never changed: sandboxes only read it.

use super::kernel::KernelFiles;
use super::manifest::{self, ImageManifest};
use super::staging::Staging;
use super::{Library, Trouble, kernel, refuse_existing};
use crate::host::clock::HostClock;
use crate::program;
use ::images::digest;
use engine::host::clock::Clock;
use engine::host::images::Images;
use engine::host::{Report, Result, Watch};
use model::{ImageName, KernelName};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What a person registers.
#[derive(Debug, Clone)]
pub struct Registration {
    pub rootfs: PathBuf,
    pub work_seed: Option<PathBuf>,
    pub kernel: OwnKernel,
}

#[derive(Debug, Clone)]
pub enum OwnKernel {
    /// The one that sandboxes get by default.
    Default,
    Named(KernelName),
    /// Becomes a kernel that is called as the image.
    Files {
        files: KernelFiles,
        initrd: Option<PathBuf>,
    },
}

/// `s_magic` of ext2, ext3 and ext4, little endian, 56 bytes into the superblock (Linux `Documentation/filesystems/ext4`).
const MAGIC: [u8; 2] = [0x53, 0xef];
const MAGIC_AT: u64 = 1024 + 56;
const READER: &str = "debugfs";

impl Library {
    pub fn register_image(&self, name: &ImageName, wanted: &Registration, watch: &dyn Watch) -> Result<()> {
        let attempt = format!("cannot register image {name}");
        refuse_existing(&self.layout.image(name), &attempt)?;
        watch.report(Report::Stage { text: format!("looking at {}", wanted.rootfs.display()) });
        let told = |error: Trouble| error.told(&attempt, &self.layout);
        for file in [Some(&wanted.rootfs), wanted.work_seed.as_ref()].into_iter().flatten() {
            refuse_other_than_ext4(file).map_err(told)?;
        }
        let kernel = self.kernel_for(name, &wanted.kernel, watch)?;
        let work = || {
            let staging = Staging::begin(&self.layout.images())?;
            let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, staging.file(to));
            link(&wanted.rootfs, "rootfs.ext4")?;
            if let Some(seed) = &wanted.work_seed {
                link(seed, "work-seed.ext4")?;
            }
            let (digest, _) = digest::of_file(&File::open(&wanted.rootfs)?)?;
            let source = format!("registered from {}", wanted.rootfs.display());
            let mut manifest = ImageManifest::new(digest, &source, HostClock.now());
            manifest.managed = false;
            look_at(&wanted.rootfs, &mut manifest);
            manifest.owns_kernel = matches!(wanted.kernel, OwnKernel::Files { .. });
            manifest.kernel = kernel.clone();
            manifest::write(&staging.file("manifest.json"), &manifest)?;
            staging.commit(&self.layout.image(name))
        };
        work().map_err(told)
    }

    fn kernel_for(&self, image: &ImageName, wanted: &OwnKernel, watch: &dyn Watch) -> Result<Option<KernelName>> {
        match wanted {
            OwnKernel::Default => Ok(None),
            OwnKernel::Named(name) => {
                let _change = self.ensure_kernel(name, watch)?;
                Ok(Some(name.clone()))
            }
            OwnKernel::Files { files, initrd } => {
                let name: KernelName = image.as_str().parse().expect("an image's name can be a kernel's");
                let attempt = format!("cannot register the kernel of image {image}");
                refuse_existing(&self.layout.kernel(&name), &attempt)?;
                let work = || {
                    let staging = Staging::begin(&self.layout.kernels())?;
                    kernel::from_files(files, &staging)?;
                    if let Some(initrd) = initrd {
                        let place = staging.file(kernel::INITRD);
                        std::fs::copy(initrd, place).map_err(|error| missing(initrd, error))?;
                    }
                    staging.commit(&self.layout.kernel(&name))
                };
                work().map_err(|error: Trouble| error.told(&attempt, &self.layout))?;
                Ok(Some(name))
            }
        }
    }
}

fn missing(path: &Path, source: io::Error) -> Trouble {
    match source.kind() {
        io::ErrorKind::NotFound => Trouble::NotFound(format!("there is no file {}", path.display())),
        _ => Trouble::File { what: "cannot read", path: path.to_owned(), source },
    }
}

fn refuse_other_than_ext4(path: &Path) -> std::result::Result<(), Trouble> {
    let file = File::open(path).map_err(|error| missing(path, error))?;
    let mut magic = [0; 2];
    match file.read_exact_at(&mut magic, MAGIC_AT) {
        Ok(()) if magic == MAGIC => Ok(()),
        _ => Err(Trouble::Invalid(format!("{} is no ext4 file system", path.display()))),
    }
}

/// e2fsprogs reads a file system without mounting it; where it cannot, nothing is known.
fn ask(disk: &Path, question: &str) -> Option<String> {
    let mut command = program::command(READER);
    command.args(["-R", question]).arg(disk).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (!text.is_empty()).then_some(text)
}

/// Notes whether there is a systemd in a file system, and what its system calls itself, as far as that can be read.
pub(super) fn look_at(disk: &Path, manifest: &mut ImageManifest) {
    manifest.has_systemd = has_systemd(disk);
    if let Some(text) = os_release(disk) {
        manifest.take_os_release(Some(&text));
    }
}

fn has_systemd(disk: &Path) -> bool {
    let there = |path: &str| ask(disk, &format!("stat {path}")).is_some_and(|text| text.starts_with("Inode:"));
    there("/usr/lib/systemd/systemd") || there("/lib/systemd/systemd")
}

fn os_release(disk: &Path) -> Option<String> {
    ask(disk, "cat /usr/lib/os-release").or_else(|| ask(disk, "cat /etc/os-release"))
}
