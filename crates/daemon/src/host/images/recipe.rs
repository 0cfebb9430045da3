//! How an image of a name is made: what the owner's files in `catalog.d` say, else what is built in. The files are read
//! anew each time, so that a change counts at once; one that is wrong is left out and logged.

use super::catalog::{self, ImageRecipe};
use super::registry::Registry;
use super::registry::download::Plain;
use super::staging::Staging;
use super::{Library, Trouble, pull};
use ::images::catalog::{Catalog, Download, ImageEntry, MAX_FILE_BYTES};
use engine::host::{Report, Result, Unit, Watch};
use model::image_ref::OciReference;
use model::{ImageName, KernelName};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Files of the folder that are read.
const MAX_FILES: usize = 256;
const REPORT_BYTES: u64 = 1 << 20;

/// What is to be done for an image.
#[derive(Debug, Clone)]
pub enum Recipe {
    BuiltIn(&'static ImageRecipe<'static>),
    Entry(ImageEntry),
}

impl Library {
    pub fn with_catalog(self, folder: Option<PathBuf>) -> Library {
        Library { catalog_folder: folder, ..self }
    }

    pub(super) fn recipe(&self, name: &ImageName) -> Option<Recipe> {
        let own = self.own_catalog().images.remove(name).map(Recipe::Entry);
        let built_in = || catalog::image(name.as_str()).map(Recipe::BuiltIn);
        own.or_else(built_in).or_else(|| Catalog::builtin().images.remove(name).map(Recipe::Entry))
    }

    /// What can be made here by name, with where it comes from.
    pub fn catalog_images(&self) -> Vec<(ImageName, String)> {
        let described = |(name, entry): (ImageName, ImageEntry)| (name, description(&entry));
        let mut all: BTreeMap<_, _> = Catalog::builtin().images.into_iter().map(described).collect();
        all.extend(catalog::IMAGES.iter().map(|recipe| (super::known(recipe.name), recipe.source.to_owned())));
        all.extend(self.own_catalog().images.into_iter().map(described));
        all.into_iter().collect()
    }

    /// The kernel that the catalog says an image goes with.
    pub fn catalog_kernel(&self, name: &ImageName) -> Option<KernelName> {
        match self.recipe(name)? {
            Recipe::Entry(entry) => entry.kernel,
            Recipe::BuiltIn(_) => None,
        }
    }

    fn own_catalog(&self) -> Catalog {
        let mut catalog = Catalog { images: BTreeMap::new(), kernels: BTreeMap::new() };
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

    pub(super) fn make_entry(&self, name: &ImageName, entry: &ImageEntry, watch: &dyn Watch) -> Result<()> {
        let key = entry.verify_key.as_deref();
        match &entry.recipe {
            ::images::catalog::ImageRecipe::Oci(reference) => self.pull(name, reference, &self.access, key, watch),
            ::images::catalog::ImageRecipe::Bundle(download) => self.make_of_bundle(name, download, watch),
            ::images::catalog::ImageRecipe::DebianPackages { suite, packages } => {
                let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
                let source = format!("debian packages ({suite})");
                let recipe = ImageRecipe { name: name.as_str(), source: &source, codename: suite, packages: &packages };
                self.make_image(name, &recipe, watch)
            }
        }
    }

    /// Of a bundle only that is accepted whose hash the catalog knows: it need not be signed besides.
    fn make_of_bundle(&self, name: &ImageName, download: &Download, watch: &dyn Watch) -> Result<()> {
        watch.report(Report::Stage { text: format!("fetching {}", download.url) });
        let attempt = format!("cannot fetch image {name}");
        let told = |error: Trouble| error.told(&attempt, &self.layout);
        let staging = Staging::begin(&self.layout.images()).map_err(told)?;
        let file = match download.url.strip_prefix("file://") {
            Some(path) => std::fs::File::open(path)
                .map_err(|source| told(Trouble::File { what: "cannot read", path: path.into(), source }))?,
            None => self.fetch_file(&download.url, &staging, watch).map_err(told)?,
        };
        let _name = self.unbundle(file, Some(&download.digest), Some(name), &download.url, watch)?;
        Ok(())
    }

    fn fetch_file(
        &self,
        url: &str,
        staging: &Staging,
        watch: &dyn Watch,
    ) -> std::result::Result<std::fs::File, Trouble> {
        let (registry, uri) = Registry::of_url(url, &self.access)?;
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(staging.file("bundle"))?;
        let said = AtomicU64::new(0);
        let told = |done: u64| {
            if done >= said.load(Ordering::Relaxed) + REPORT_BYTES {
                said.store(done, Ordering::Relaxed);
                watch.report(Report::Progress { done, total: None, unit: Unit::Bytes });
            }
        };
        let plain = Plain { uri: &uri, into: &file };
        pull::block_on(registry.fetch_plain(&plain, &told, &|| watch.cancelled()))?;
        file.rewind()?;
        Ok(file)
    }
}

fn description(entry: &ImageEntry) -> String {
    match &entry.recipe {
        ::images::catalog::ImageRecipe::Oci(reference) => reference.to_string(),
        ::images::catalog::ImageRecipe::Bundle(download) => download.url.clone(),
        ::images::catalog::ImageRecipe::DebianPackages { suite, .. } => format!("debian packages ({suite})"),
    }
}

/// The reference that a name of the catalog stands for.
pub fn reference_of(recipe: &Recipe) -> Option<&OciReference> {
    match recipe {
        Recipe::Entry(ImageEntry { recipe: ::images::catalog::ImageRecipe::Oci(reference), .. }) => Some(reference),
        Recipe::Entry(_) | Recipe::BuiltIn(_) => None,
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
