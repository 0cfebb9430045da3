//! What can be pulled by name: the catalog that is built in, and files that people add. A file wins over the catalog
//! that is built in, a later file over an earlier one.
//!
//! ```toml
//! [[image]]
//! name = "tools"
//! kind = "bundle"              # or "oci" with `reference`, or "debian-packages" with `suite` and `packages`
//! url = "https://…/tools-amd64-….tar.zst"
//! sha256 = "…"                 # of the bundle's manifest, as its name has it
//! verify-key = "-----BEGIN PUBLIC KEY-----…"   # whoever has that key must have signed it; also with "oci"
//!
//! [[kernel]]
//! name = "tuned"
//! kind = "bundle"              # or "debian-package" with `package`, or "linux-source", both with an optional `suite`
//! url = "https://…/tuned-x86_64-….tar.zst"
//! sha256 = "…"                 # of the file, as its name has it
//! ```

use model::image_ref::OciReference;
use model::{Digest, ImageName, KernelName};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    pub images: BTreeMap<ImageName, ImageEntry>,
    pub kernels: BTreeMap<KernelName, KernelEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    pub description: String,
    pub recipe: ImageRecipe,
    /// The kernel it goes with.
    pub kernel: Option<KernelName>,
    /// Public key whose signature the image must carry, PEM.
    pub verify_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRecipe {
    Bundle(Download),
    Oci(OciReference),
    DebianPackages { suite: String, packages: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEntry {
    pub description: String,
    pub recipe: KernelRecipe,
    /// Public key whose signature a bundle must carry, PEM.
    pub verify_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelRecipe {
    Bundle(Download),
    /// A package, or one that depends on the newest of its kind.
    DebianPackage {
        suite: String,
        package: String,
    },
    /// The generic guest kernel, built from a package's source.
    LinuxSource {
        suite: String,
        package: String,
    },
}

/// Something at a URL, of which only these bytes are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub url: String,
    pub digest: Digest,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("{file} is no catalog")]
    Syntax { file: String, source: toml_edit::de::Error },
    #[error("{file} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge { file: String },
    #[error("the entry {entry} in {file} is wrong: {reason}")]
    Entry { file: String, entry: String, reason: String },
}

/// 1 MiB: thousands of entries.
pub const MAX_FILE_BYTES: usize = 1 << 20;
const BUILTIN: &str = include_str!("../catalog/builtin.toml");
/// Of a kernel whose entry names none.
const SUITE: &str = "bookworm";
/// Depends on the newest one of the suite.
const LINUX_SOURCE: &str = "linux-source";

impl Catalog {
    /// The catalog that is built in.
    pub fn builtin() -> Self {
        let mut catalog = Catalog { images: BTreeMap::new(), kernels: BTreeMap::new() };
        catalog.add("the built-in catalog", BUILTIN).expect("a test reads the built-in catalog");
        catalog
    }

    /// Adds the entries of a file; all of them or, on error, none. `file` is its name for messages.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), CatalogError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(CatalogError::TooLarge { file: file.to_owned() });
        }
        let raw: RawCatalog =
            toml_edit::de::from_str(text).map_err(|source| CatalogError::Syntax { file: file.to_owned(), source })?;
        let wrong =
            |entry: &str, reason| CatalogError::Entry { file: file.to_owned(), entry: entry.to_owned(), reason };
        let mut images = Vec::new();
        for raw in raw.image {
            let name = raw.name.clone();
            images.push(raw.convert().map_err(|reason| wrong(&name, reason))?);
        }
        let mut kernels = Vec::new();
        for raw in raw.kernel {
            let name = raw.name.clone();
            kernels.push(raw.convert().map_err(|reason| wrong(&name, reason))?);
        }
        self.images.extend(images);
        self.kernels.extend(kernels);
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCatalog {
    #[serde(default)]
    image: Vec<RawImage>,
    #[serde(default)]
    kernel: Vec<RawKernel>,
}

/// One table with all fields, so that an unknown or misplaced one is named instead of ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawImage {
    name: String,
    #[serde(default)]
    description: String,
    kind: ImageKind,
    kernel: Option<String>,
    verify_key: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
    reference: Option<String>,
    suite: Option<String>,
    packages: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ImageKind {
    Bundle,
    Oci,
    DebianPackages,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawKernel {
    name: String,
    #[serde(default)]
    description: String,
    kind: KernelKind,
    verify_key: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
    suite: Option<String>,
    package: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KernelKind {
    Bundle,
    DebianPackage,
    LinuxSource,
}

impl RawImage {
    fn convert(self) -> Result<(ImageName, ImageEntry), String> {
        let name = self.name.parse::<ImageName>().map_err(|error| error.to_string())?;
        let recipe = match self.kind {
            ImageKind::Bundle => ImageRecipe::Bundle(download(self.url, self.sha256)?),
            ImageKind::Oci => ImageRecipe::Oci(OciReference::parse(&wanted(self.reference, "reference")?)?),
            ImageKind::DebianPackages => ImageRecipe::DebianPackages {
                suite: debian_word(wanted(self.suite, "suite")?)?,
                packages: wanted(self.packages, "packages")?.into_iter().map(debian_word).collect::<Result<_, _>>()?,
            },
        };
        if matches!(recipe, ImageRecipe::DebianPackages { .. }) {
            refuse_key(self.verify_key.as_deref())?;
        }
        let kernel = self.kernel.map(|kernel| kernel.parse::<KernelName>().map_err(|error| error.to_string()));
        let entry = ImageEntry {
            description: self.description,
            recipe,
            kernel: kernel.transpose()?,
            verify_key: self.verify_key,
        };
        Ok((name, entry))
    }
}

impl RawKernel {
    fn convert(self) -> Result<(KernelName, KernelEntry), String> {
        let name = self.name.parse::<KernelName>().map_err(|error| error.to_string())?;
        let recipe = match self.kind {
            KernelKind::Bundle => KernelRecipe::Bundle(download(self.url, self.sha256)?),
            KernelKind::DebianPackage => KernelRecipe::DebianPackage {
                suite: suite(self.suite)?,
                package: debian_word(wanted(self.package, "package")?)?,
            },
            KernelKind::LinuxSource => {
                KernelRecipe::LinuxSource { suite: suite(self.suite)?, package: linux_source(self.package)? }
            }
        };
        if !matches!(recipe, KernelRecipe::Bundle(_)) {
            refuse_key(self.verify_key.as_deref())?;
        }
        Ok((name, KernelEntry { description: self.description, recipe, verify_key: self.verify_key }))
    }
}

/// A key that nothing is held to would only look like safety.
fn refuse_key(key: Option<&str>) -> Result<(), String> {
    match key {
        Some(_) => Err("its packages are verified by apt, and `verify-key` says nothing of them".into()),
        None => Ok(()),
    }
}

fn suite(given: Option<String>) -> Result<String, String> {
    given.map_or_else(|| Ok(SUITE.to_owned()), debian_word)
}

fn linux_source(given: Option<String>) -> Result<String, String> {
    let package = debian_word(given.unwrap_or_else(|| LINUX_SOURCE.to_owned()))?;
    match package.starts_with(LINUX_SOURCE) {
        true => Ok(package),
        false => Err("the package of a kernel's source is called `linux-source-…`".into()),
    }
}

fn wanted<T>(field: Option<T>, name: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("its kind needs `{name}`"))
}

fn download(url: Option<String>, sha256: Option<String>) -> Result<Download, String> {
    let url = wanted(url, "url")?;
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("https" | "http" | "file")) || url.contains(|c: char| c.is_control() || c == ' ') {
        return Err("its `url` is none of https, http or file".into());
    }
    let digest =
        format!("sha256:{}", wanted(sha256, "sha256")?).parse::<Digest>().map_err(|error| error.to_string())?;
    Ok(Download { url, digest })
}

/// Names of packages and suites become arguments of apt and mmdebstrap (Debian policy, section 5.6.1).
fn debian_word(word: String) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.');
    let first = word.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if first && word.len() <= 128 && word.bytes().all(inner) {
        Ok(word)
    } else {
        Err("a package or suite is not lower-case letters, digits, `+`, `-` and `.`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_good() {
        let catalog = Catalog::builtin();
        let debian = &catalog.images[&"debian-bookworm".parse::<ImageName>().unwrap()];
        assert!(matches!(&debian.recipe, ImageRecipe::DebianPackages { suite, .. } if suite == "bookworm"));
        let kernel = |name: &str| &catalog.kernels[&name.parse::<KernelName>().unwrap()].recipe;
        assert!(matches!(kernel("debian-cloud"), KernelRecipe::DebianPackage { suite, .. } if suite == "bookworm"));
        assert!(matches!(kernel("generic"), KernelRecipe::LinuxSource { package, .. } if package == "linux-source"));
    }

    /// Packages between `apt-get install` and what follows it, one a line.
    fn packages_of_dockerfile(text: &str) -> std::collections::BTreeSet<&str> {
        let (_, rest) = text.split_once("--no-install-recommends").expect("it installs packages");
        let (list, _) = rest.split_once("&&").expect("it cleans up afterwards");
        list.split_whitespace().filter(|word| *word != "\\").collect()
    }

    #[test]
    fn the_golden_image_is_the_same_as_a_dockerfile_and_as_packages() {
        let dockerfile = include_str!("../../../images/golden/Dockerfile");
        let catalog = Catalog::builtin();
        let entry = &catalog.images[&"golden".parse::<ImageName>().unwrap()];
        let ImageRecipe::DebianPackages { packages, .. } = &entry.recipe else { panic!("it is made of packages") };
        let listed: std::collections::BTreeSet<&str> = packages.iter().map(String::as_str).collect();
        assert_eq!(listed, packages_of_dockerfile(dockerfile));
        for needed in
            ["systemd", "openssh-server", "git", "jq", "curl", "tmux", "build-essential", "docker.io", "docker-compose"]
        {
            assert!(listed.contains(needed), "{needed}");
        }
    }

    #[test]
    fn a_file_wins_over_what_is_built_in() {
        let mut catalog = Catalog::builtin();
        let before = catalog.images.len();
        catalog.add("mine", "[[image]]\nname='alpine'\nkind='oci'\nreference='other/alpine:1'").expect("it is good");
        assert_eq!(catalog.images.len(), before);
        let entry = &catalog.images[&"alpine".parse::<ImageName>().unwrap()];
        assert!(matches!(&entry.recipe, ImageRecipe::Oci(reference) if reference.repository == "other/alpine"));
    }

    #[test]
    fn the_examples_of_the_reference_are_good() {
        let page = include_str!("../../../docs/reference/catalog.md");
        let mut catalog = Catalog { images: BTreeMap::new(), kernels: BTreeMap::new() };
        for example in page.split("```toml\n").skip(1) {
            let (text, _) = example.split_once("```").expect("it ends");
            catalog.add("the reference", text).expect("it is good");
        }
        assert_eq!((catalog.images.len(), catalog.kernels.len()), (3, 3));
    }

    fn refused(text: &str, reason: &str) {
        let mut catalog = Catalog::builtin();
        let error = catalog.add("mine", text).expect_err("it is wrong");
        let whole = match &error {
            CatalogError::Syntax { source, .. } => format!("{error}: {source}"),
            other => other.to_string(),
        };
        assert!(whole.contains(reason), "{whole}");
        assert_eq!(catalog, Catalog::builtin(), "nothing of a wrong file is taken");
    }

    #[test]
    fn wrong_entries_are_named() {
        refused("[[image]]\nname='x'\nkind='oci'", "needs `reference`");
        refused("[[image]]\nname='../x'\nkind='oci'\nreference='a/b'", "../x");
        refused("[[image]]\nname='x'\nkind='torrent'", "torrent");
        refused("[[image]]\nname='x'\nkind='oci'\nreference='a/b'\ncolour='red'", "colour");
        refused("[[image]]\nname='x'\nkind='bundle'\nurl='ftp://x'\nsha256='0'", "https, http or file");
        refused("[[image]]\nname='x'\nkind='bundle'\nurl='https://x'\nsha256='0'", "64");
        refused("[[kernel]]\nname='x'\nkind='debian-package'\npackage='--allow-untrusted'", "lower-case");
        refused("[[kernel]]\nname='x'\nkind='debian-package'", "needs `package`");
        refused("[[kernel]]\nname='x'\nkind='linux-source'\npackage='bash'", "linux-source-");
        refused("[[kernel]]\nname='x'\nkind='linux-source'\nsuite='a b'", "lower-case");
        refused("[[kernel]]\nname='x'\nkind='linux-source'\nverify-key='k'", "verified by apt");
        refused("[[kernel]]\nname='x'\nkind='bundle'\nurl='https://x'", "needs `sha256`");
        refused("[[image]]\nname='x'\nkind='debian-packages'\nsuite='s'\npackages=[]\nverify-key='k'", "by apt");
        refused("[[image]]\nname='x'\nkind='debian-packages'\nsuite='s'\npackages=['a;b']", "lower-case");
        refused(&"#".repeat(MAX_FILE_BYTES + 1), "larger than");
    }
}
