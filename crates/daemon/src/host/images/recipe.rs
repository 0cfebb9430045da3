//! How an image or kernel of the catalog is made.

use super::catalog::{image_source, kernel_source};
use super::staging::Staging;
use super::{BuildOptions, Library, Source, Trouble, build, image, kernel, packages};
use ::images::catalog::{Download, ImageEntry, ImageRecipe, KernelEntry, KernelRecipe};
use ::images::kernel::bundle as kernel_bundle;
use ::images::modules::Module;
use ::images::stack::Stack;
use ::images::{Compression, Layer, Limits, digest};
use engine::host::{Report, Result, Watch};
use model::{ImageName, KernelName};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek};
use std::ops::ControlFlow;

impl Library {
    pub(super) fn make_image(&self, name: &ImageName, entry: &ImageEntry, watch: &dyn Watch) -> Result<()> {
        let key = entry.verify_key.as_deref();
        match &entry.recipe {
            ImageRecipe::Oci(reference) => self.pull(name, reference, &self.access, key, watch),
            ImageRecipe::Bundle(download) => self.image_of_bundle(name, download, key, watch),
            ImageRecipe::DebianPackages { suite, packages } => {
                watch.report(Report::Stage { text: format!("building image {name}") });
                let work = || {
                    let staging = Staging::begin(&self.layout.images())?;
                    let recipe = packages::RootFileSystem { name: name.as_str(), suite, packages };
                    let archive = packages::root_file_system(&recipe, &staging, watch)?;
                    watch.report(Report::Stage { text: format!("writing image {name}") });
                    image::from_archive(&archive, &staging, &image_source(&entry.recipe), watch)?;
                    fs::remove_file(&archive)?;
                    staging.commit(&self.layout.image(name))
                };
                work().map_err(|error| error.told(&format!("cannot build image {name}"), &self.layout))
            }
        }
    }

    /// Its hash is the catalog's; where the entry names a key, the file is signed besides.
    fn image_of_bundle(
        &self,
        name: &ImageName,
        download: &Download,
        key: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<()> {
        watch.report(Report::Stage { text: format!("fetching {}", download.url) });
        let told = |error: Trouble| error.told(&format!("cannot fetch image {name}"), &self.layout);
        let staging = Staging::begin(&self.layout.images()).map_err(told)?;
        let file = self.fetch(&download.url, key, &staging, watch).map_err(told)?;
        let _name = self.unbundle(file, Some(&download.digest), Some(name), &download.url, watch)?;
        Ok(())
    }

    pub(super) fn make_kernel(&self, name: &KernelName, entry: &KernelEntry, watch: &dyn Watch) -> Result<()> {
        watch.report(Report::Stage { text: format!("fetching kernel {name}") });
        let source = kernel_source(&entry.recipe);
        let work = || {
            let staging = Staging::begin(&self.layout.kernels())?;
            match &entry.recipe {
                KernelRecipe::Bundle(download) => {
                    let file = self.fetch(&download.url, entry.verify_key.as_deref(), &staging, watch)?;
                    kernel_of_bundle(file, download, &staging, watch)?;
                }
                KernelRecipe::DebianPackage { suite, package } => {
                    let package = packages::kernel_package(package, suite, &staging, watch)?;
                    watch.report(Report::Stage { text: format!("unpacking kernel {name}") });
                    kernel::from_package(&package, &staging, &source, watch)?;
                }
                KernelRecipe::LinuxSource { suite, package } => {
                    let source = Source::Package { name: package.clone(), suite: suite.clone() };
                    build::build(&BuildOptions { source, jobs: build::all_jobs() }, &staging, watch)?;
                }
            }
            staging.commit(&self.layout.kernel(name))
        };
        work().map_err(|error: Trouble| error.told(&format!("cannot make kernel {name}"), &self.layout))
    }
}

/// Of a bundle only that is accepted whose hash the catalog knows; it is taken apart as if it came from anybody.
fn kernel_of_bundle(
    mut file: File,
    download: &Download,
    staging: &Staging,
    watch: &dyn Watch,
) -> std::result::Result<(), Trouble> {
    let (found, _) = digest::of_file(&file)?;
    if found != download.digest {
        return Err(Trouble::Invalid(format!("{} is not what its hash says", download.url)));
    }
    let mut start = [0; 6];
    file.rewind()?;
    let read = file.read(&mut start)?;
    file.rewind()?;
    let spool_path = staging.file("bundle.tar");
    let spool = OpenOptions::new().read(true).write(true).create_new(true).open(&spool_path)?;
    let go_on = &mut |_| if watch.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let limits = Limits::default();
    let layer = Layer::spool(file, Compression::detect(&start[..read]), spool, &limits, go_on)?;
    let bundle = kernel_bundle::read(&Stack::new(vec![layer], &limits)?).map_err(kernel::unusable)?;
    let vmlinux = ::images::kernel::unpack(&bundle.vmlinux).map_err(kernel::unusable)?;
    let words = kernel::boot_args(&bundle.boot_arguments.join(" "))?;
    let modules: &[Module] = &bundle.modules;
    kernel::store(&vmlinux, modules, words, &download.url, staging)?;
    if let Some(config) = &bundle.config {
        fs::write(staging.file("config"), config)?;
    }
    for left in ["bundle.tar", super::fetch::FETCHED] {
        let _ = fs::remove_file(staging.file(left));
    }
    Ok(())
}
