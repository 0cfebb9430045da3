//! What can be had by name: what the owner's files in `catalog.d` say, else what is built in. The files are read anew each
//! time, so that a change counts at once; one that is wrong is left out and logged. How it is made: [`super::recipe`].

use super::Library;
use ::images::catalog::{Catalog, ImageEntry, ImageRecipe, KernelEntry, KernelRecipe, MAX_FILE_BYTES};
use model::image_ref::OciReference;
use model::{ImageName, KernelName};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files of the folder that are read.
const MAX_FILES: usize = 256;

impl Library {
    pub fn with_catalog(self, folder: Option<PathBuf>) -> Library {
        Library { catalog_folder: folder, ..self }
    }

    pub(super) fn image_entry(&self, name: &ImageName) -> Option<ImageEntry> {
        self.catalog().images.remove(name)
    }

    pub(super) fn kernel_entry(&self, name: &KernelName) -> Option<KernelEntry> {
        self.catalog().kernels.remove(name)
    }

    /// What can be made here by name, with where it comes from.
    pub fn catalog_images(&self) -> Vec<(ImageName, String)> {
        self.catalog().images.into_iter().map(|(name, entry)| (name, image_source(&entry.recipe))).collect()
    }

    pub fn catalog_kernels(&self) -> Vec<(KernelName, String)> {
        self.catalog().kernels.into_iter().map(|(name, entry)| (name, kernel_source(&entry.recipe))).collect()
    }

    /// The kernel that the catalog says an image goes with.
    pub fn catalog_kernel(&self, name: &ImageName) -> Option<KernelName> {
        self.image_entry(name)?.kernel
    }

    fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::builtin();
        let entries = self.catalog_folder.iter().flat_map(std::fs::read_dir).flatten().flatten().take(MAX_FILES);
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
            let added = read(file).map_err(|error| error.to_string()).and_then(|text| {
                catalog.add(&file.display().to_string(), &text).map_err(|error| {
                    match std::error::Error::source(&error) {
                        Some(cause) => format!("{error}: {cause}"),
                        None => error.to_string(),
                    }
                })
            });
            if let Err(error) = added {
                tracing::warn!(file = %file.display(), "left out of the catalog: {error}");
            }
        }
        catalog
    }
}

/// In the words that an image's `source` has afterwards.
pub fn image_source(recipe: &ImageRecipe) -> String {
    match recipe {
        ImageRecipe::Oci(reference) => reference.to_string(),
        ImageRecipe::Bundle(download) => download.url.clone(),
        ImageRecipe::DebianPackages { suite, .. } => format!("debian packages ({suite})"),
    }
}

pub fn kernel_source(recipe: &KernelRecipe) -> String {
    match recipe {
        KernelRecipe::Bundle(download) => download.url.clone(),
        KernelRecipe::DebianPackage { suite, package } => format!("debian package {package} ({suite})"),
        KernelRecipe::LinuxSource { suite, package } => format!("built from debian package {package} ({suite})"),
    }
}

/// The reference that an entry stands for.
pub fn reference_of(entry: &ImageEntry) -> Option<&OciReference> {
    match &entry.recipe {
        ImageRecipe::Oci(reference) => Some(reference),
        ImageRecipe::Bundle(_) | ImageRecipe::DebianPackages { .. } => None,
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
