//! Bundles: an image with its whole boot set in one file that carries its own hash, for machines that fetch nothing else.
//! The crate `images` has the format; here it meets the library: the kernel becomes one of the library's, called as the
//! image.

use super::manifest::{self, ImageManifest, KernelManifest};
use super::staging::Staging;
use super::{Library, Trouble, kernel, refuse_existing};
use crate::host::clock::HostClock;
use ::images::bundle::{self, BundleManifest, Part};
use ::images::modules::Module;
use ::images::{Layer, Limits, digest};
use engine::host::clock::Clock;
use engine::host::images::Images;
use engine::host::{Report, Result, Unit, Watch};
use model::{Digest, ImageName, KernelName};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// 256 MiB: all modules of a guest.
const MAX_MODULES_BYTES: u64 = 256 << 20;
const MAX_MODULES: usize = 2000;
const REPORT_BYTES: u64 = 4 << 20;

impl Library {
    /// Writes the bundle of an image and a kernel into a folder; tells the file's path.
    pub fn bundle_image(
        &self,
        name: &ImageName,
        kernel: &KernelName,
        folder: &Path,
        watch: &dyn Watch,
    ) -> Result<PathBuf> {
        let attempt = format!("cannot bundle image {name}");
        if !self.layout.kernel_manifest(kernel).is_file() {
            let _change = self.ensure_kernel(kernel, watch)?;
        }
        let work = || {
            let image = self.manifest_of(name)?;
            let kernel_manifest = KernelManifest::read(&self.layout.kernel_manifest(kernel))
                .ok_or_else(|| Trouble::NotFound(format!("there is no kernel `{kernel}`")))?;
            let staging = Staging::begin(&self.layout.images())?;
            self.lay_out(name, kernel, &kernel_manifest, &staging)?;
            watch.report(Report::Stage { text: format!("reading image {name}") });
            let words = kernel_manifest.boot_args.join(" ");
            let described =
                bundle::describe(staging.path(), name.clone(), super::architecture(), image.config, &words)?;
            watch.report(Report::Stage { text: format!("writing the bundle of {name}") });
            let place = folder.join(described.file_name());
            write(&described, staging.path(), &place, watch)?;
            Ok(place)
        };
        work().map_err(|error: Trouble| error.told(&attempt, &self.layout))
    }

    /// The boot set under the names that the format has for it.
    fn lay_out(
        &self,
        name: &ImageName,
        kernel: &KernelName,
        manifest: &KernelManifest,
        staging: &Staging,
    ) -> std::result::Result<(), Trouble> {
        let parts = [
            (Part::Rootfs, self.layout.image_rootfs(name)),
            (Part::WorkSeed, self.layout.image_work_seed(name)),
            (Part::Kernel, self.layout.kernel_vmlinux(kernel)),
            (Part::Initrd, self.layout.kernel(kernel).join(kernel::INITRD)),
        ];
        for (part, path) in parts.into_iter().filter(|(_, path)| path.exists()) {
            std::os::unix::fs::symlink(path, staging.file(part.file_name()))?;
        }
        if !manifest.modules.is_empty() {
            let out = File::create_new(staging.file(Part::Modules.file_name()))?;
            pack_modules(&self.layout.kernel_modules(kernel), &manifest.modules, out)?;
        }
        Ok(())
    }

    /// Makes an image, and its kernel, of a bundle. `expected` is the hash in its name.
    pub fn unbundle(
        &self,
        bundle: impl Read,
        expected: Option<&Digest>,
        wanted: Option<&ImageName>,
        source: &str,
        watch: &dyn Watch,
    ) -> Result<ImageName> {
        let attempt = format!("cannot unpack {source}");
        let told = |error: Trouble| error.told(&attempt, &self.layout);
        watch.report(Report::Stage { text: format!("unpacking {source}") });
        let staging = Staging::begin(&self.layout.images()).map_err(told)?;
        let (mut done, mut said) = (0, 0);
        let mut progress = |bytes: u64| {
            done += bytes;
            if done >= said + REPORT_BYTES {
                said = done;
                watch.report(Report::Progress { done, total: None, unit: Unit::Bytes });
            }
            if watch.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let set = bundle::read(bundle, expected, staging.path(), &mut progress).map_err(|error| told(error.into()))?;
        if set.architecture != super::architecture() {
            let sentence = format!("it is made for {}, which cannot run here", set.architecture);
            return Err(told(Trouble::Unfit { sentence, hint: None }));
        }
        let name = wanted.cloned().unwrap_or_else(|| set.name.clone());
        refuse_existing(&self.layout.image(&name), &attempt)?;
        let kernel = self.take_kernel(&name, &set, &staging, source).map_err(told)?;
        self.take_image(&name, &set, kernel, staging, source).map_err(told)?;
        Ok(name)
    }

    /// The bundle's kernel becomes one of ours; the same one is not kept twice.
    fn take_kernel(
        &self,
        image: &ImageName,
        set: &BundleManifest,
        staging: &Staging,
        source: &str,
    ) -> std::result::Result<KernelName, Trouble> {
        let of = |part: Part| staging.file(part.file_name());
        let digest = set.files.iter().find(|file| file.part == Part::Kernel).map(|file| file.digest.clone());
        let digest = digest.ok_or_else(|| Trouble::NotFound("it brings no kernel".to_owned()))?;
        let own: KernelName = image.as_str().parse().expect("an image's name can be a kernel's");
        let known = KernelManifest::read(&self.layout.kernel_manifest(&own));
        let name = match known {
            Some(known) if known.digest == digest => return Ok(own),
            None if !self.layout.kernel(&own).exists() => own,
            _ => format!("{}-{}", image.as_str().chars().take(100).collect::<String>(), &digest.hex()[..8])
                .parse()
                .expect("a name with hexadecimal digits is one"),
        };
        if self.layout.kernel(&name).exists() {
            return Ok(name);
        }
        let making = Staging::begin(&self.layout.kernels())?;
        let bytes = fs::read(of(Part::Kernel))?;
        let vmlinux = ::images::kernel::unpack(&bytes).map_err(|error| Trouble::Kernel(Box::new(error)))?;
        let modules = if of(Part::Modules).exists() { unpack_modules(&of(Part::Modules))? } else { Vec::new() };
        let words = kernel::boot_args(&set.boot_arguments)?;
        kernel::store(&vmlinux, &modules, words, source, &making)?;
        if of(Part::Initrd).exists() {
            fs::rename(of(Part::Initrd), making.file(kernel::INITRD))?;
        }
        making.commit(&self.layout.kernel(&name))?;
        Ok(name)
    }

    fn take_image(
        &self,
        name: &ImageName,
        set: &BundleManifest,
        kernel: KernelName,
        staging: Staging,
        source: &str,
    ) -> std::result::Result<(), Trouble> {
        for part in [Part::Kernel, Part::Initrd, Part::Modules] {
            let _ = fs::remove_file(staging.file(part.file_name()));
        }
        let rootfs = staging.file(Part::Rootfs.file_name());
        super::image::check(&rootfs)?;
        let digest = set.files.iter().find(|file| file.part == Part::Rootfs).map(|file| file.digest.clone());
        let digest = digest.unwrap_or_else(|| digest::of_bytes(&[]));
        let mut manifest = ImageManifest::new(digest, source, HostClock.now());
        manifest.config = set.config.clone();
        manifest.owns_kernel = kernel.as_str() == name.as_str();
        manifest.kernel = Some(kernel);
        super::register::look_at(&rootfs, &mut manifest);
        manifest::write(&staging.file("manifest.json"), &manifest)?;
        staging.commit(&self.layout.image(name))
    }
}

/// `tools-amd64-<sha256>.tar.zst`: the hash in a bundle's name, if it is one.
pub fn hash_in_name(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?.strip_suffix(".tar.zst")?;
    let (_, hash) = name.rsplit_once('-')?;
    format!("sha256:{hash}").parse().ok()
}

fn write(
    described: &BundleManifest,
    folder: &Path,
    place: &Path,
    watch: &dyn Watch,
) -> std::result::Result<(), Trouble> {
    let partial = place.with_added_extension("partial");
    let out = File::create(&partial)?;
    let total = described.files.iter().map(|file| file.bytes).sum();
    let (mut done, mut said) = (0, 0);
    let mut progress = |bytes: u64| {
        done += bytes;
        if done >= said + REPORT_BYTES {
            said = done;
            watch.report(Report::Progress { done, total: Some(total), unit: Unit::Bytes });
        }
        if watch.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let written = bundle::write(described, folder, &out, &mut progress).map_err(Trouble::from);
    let placed = written.and_then(|()| {
        out.sync_all()?;
        Ok(fs::rename(&partial, place)?)
    });
    // The error that is on its way says why.
    placed.inspect_err(|_| drop(fs::remove_file(&partial)))
}

/// In load order, which is their order in the archive.
fn pack_modules(folder: &Path, names: &[String], out: File) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    for name in names {
        let bytes = fs::read(folder.join(name))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..])?;
    }
    archive.into_inner()?.sync_all()
}

fn unpack_modules(archive: &Path) -> std::result::Result<Vec<Module>, Trouble> {
    let refuse = |reason: &str| Trouble::Invalid(format!("the bundle's modules are refused: {reason}"));
    // The archive's headers are read once by our own reader, whose limits hold for hostile ones.
    let layer = Layer::open(archive)?;
    if layer.bytes() > MAX_MODULES_BYTES
        || layer.entries(&Limits::default()).take(MAX_MODULES + 1).count() > MAX_MODULES
    {
        return Err(refuse("they are too large or too many"));
    }
    let mut modules = Vec::new();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.strip_suffix(".ko").filter(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        });
        let (Some(name), tar::EntryType::Regular) = (name, entry.header().entry_type()) else {
            return Err(refuse("there is something else among them"));
        };
        let mut bytes = Vec::new();
        let name = name.to_owned();
        (&mut entry).take(MAX_MODULES_BYTES).read_to_end(&mut bytes)?;
        modules.push(Module { name, bytes });
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundles_name_holds_its_hash() {
        let hash = "a".repeat(64);
        assert!(hash_in_name(Path::new(&format!("/x/my-tools-amd64-{hash}.tar.zst"))).is_some());
        for other in ["x.tar.zst", "x-abc.tar.zst", &format!("x-{hash}.tar")] {
            assert!(hash_in_name(Path::new(other)).is_none(), "{other}");
        }
    }

    #[test]
    fn modules_keep_their_order_and_nothing_else_is_among_them() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["b.ko".to_owned(), "a_1.ko".to_owned()];
        for name in &names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let archive = folder.path().join("modules.tar");
        pack_modules(folder.path(), &names, File::create(&archive).unwrap()).unwrap();
        let modules = unpack_modules(&archive).unwrap();
        assert_eq!(modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(), ["b", "a_1"]);
        for bad in ["../a.ko", "a/b.ko", "a.so", ".ko"] {
            let mut builder = tar::Builder::new(File::create(&archive).unwrap());
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..bad.len()].copy_from_slice(bad.as_bytes());
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
            drop(builder);
            assert!(unpack_modules(&archive).is_err(), "{bad}");
        }
    }
}
