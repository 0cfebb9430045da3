//! Kernel modules: which files a guest must load, in which order, unpacked and ready for `finit_module`.
//!
//! Dependencies are read from the modules themselves (`depends=` in `.modinfo`), since a Debian package brings no
//! `modules.dep`: depmod makes that on the machine where it is installed. Names are compared with `-` taken for `_`.

use crate::elf::{self, Elf};
use crate::stack::{Stack, StackError};
use crate::text;
use crate::tree::NodeKind;
use crate::unpack::{Packing, UnpackError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// A module as the guest gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// `virtio_blk`.
    pub name: String,
    /// The ELF object.
    pub bytes: Vec<u8>,
}

/// The modules of one kernel.
#[derive(Debug)]
pub struct Library<'a> {
    source: Source<'a>,
    /// Path of each module by name.
    paths: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
}

#[derive(Debug)]
enum Source<'a> {
    Folder(PathBuf),
    Stack { stack: &'a Stack, folder: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    #[error("cannot read {path}")]
    Read { path: String, source: io::Error },
    #[error("cannot read the package")]
    Stack(#[from] StackError),
    #[error("the kernel has no module {name}, neither as a file nor built in")]
    Missing { name: String },
    #[error("cannot unpack the module {name}")]
    Unpack { name: String, source: UnpackError },
    #[error("the module {name} is malformed: {reason}")]
    Malformed { name: String, reason: &'static str },
    #[error("the modules depend on each other in a circle through {name}")]
    Circle { name: String },
    #[error("{path} holds more than {limit} files")]
    TooMany { path: String, limit: usize },
}

/// What a sandbox's guest needs, if its kernel has it as modules: disks, network, vsock and the overlay root.
pub const SANDBOX_REQUIRED: &[&str] =
    &["virtio_mmio", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport", "overlay", "ext4"];
/// What it uses if it is there.
pub const SANDBOX_OPTIONAL: &[&str] = &["virtio_rng", "virtio_balloon", "erofs", "af_packet", "ipv6", "autofs4"];

/// 64 MiB: ten times the largest module of a distribution kernel, unpacked.
const MAX_MODULE_BYTES: usize = 64 << 20;
/// A distribution kernel has about 4000 modules.
const MAX_FILES: usize = 50_000;

impl<'a> Library<'a> {
    /// A folder such as `/lib/modules/6.1.0-31-cloud-amd64`. Symbolic links in it are not followed: `build` and
    /// `source` lead out of it.
    pub fn from_folder(folder: &Path) -> Result<Library<'static>, ModulesError> {
        let mut library = Library::new(Source::Folder(folder.to_owned()));
        let mut todo = vec![PathBuf::new()];
        let mut seen = 0;
        while let Some(relative) = todo.pop() {
            let path = folder.join(&relative);
            let failed = |source| ModulesError::Read { path: path.display().to_string(), source };
            for entry in std::fs::read_dir(&path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                seen += 1;
                if seen > MAX_FILES {
                    return Err(ModulesError::TooMany { path: folder.display().to_string(), limit: MAX_FILES });
                }
                let relative = relative.join(entry.file_name());
                match entry.file_type().map_err(failed)? {
                    kind if kind.is_dir() => todo.push(relative),
                    kind if kind.is_file() => library.add(&relative.to_string_lossy()),
                    _ => {}
                }
            }
        }
        library.read_builtin()?;
        Ok(library)
    }

    /// A folder inside an archive, such as `lib/modules/6.1.0-31-cloud-amd64` of a Debian package.
    pub fn from_stack(stack: &'a Stack, folder: &str) -> Result<Self, ModulesError> {
        let missing = || StackError::Missing { path: folder.to_owned() };
        let top = stack.tree().lookup(folder).ok_or_else(missing)?;
        let mut library = Library::new(Source::Stack { stack, folder: folder.to_owned() });
        let mut todo = vec![(String::new(), top)];
        while let Some((path, id)) = todo.pop() {
            match &stack.tree().node(id).kind {
                NodeKind::File { .. } => library.add(&path),
                NodeKind::Directory(_) => todo.extend(stack.tree().children(id).filter_map(|(name, child)| {
                    let name = str::from_utf8(name).ok()?;
                    Some((if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }, child))
                })),
                _ => {}
            }
        }
        library.read_builtin()?;
        Ok(library)
    }

    /// The modules to load for `required` and `optional`, each behind what it depends on. Those built into the kernel
    /// need none; an optional one that is nowhere is left out.
    pub fn resolve(&self, required: &[&str], optional: &[&str]) -> Result<Vec<Module>, ModulesError> {
        let mut resolver =
            Resolver { library: self, done: BTreeSet::new(), on_the_way: BTreeSet::new(), order: Vec::new() };
        for name in required {
            resolver.add(&normalise(name))?;
        }
        for name in optional.iter().map(|name| normalise(name)).filter(|name| self.paths.contains_key(name)) {
            resolver.add(&name)?;
        }
        Ok(resolver.order)
    }

    fn new(source: Source<'a>) -> Self {
        Library { source, paths: BTreeMap::new(), builtin: BTreeSet::new() }
    }

    fn add(&mut self, path: &str) {
        if let Some(name) = module_name(path) {
            self.paths.insert(name, path.to_owned());
        }
    }

    fn read_builtin(&mut self) -> Result<(), ModulesError> {
        let list = match self.read("modules.builtin") {
            Ok(list) => list,
            Err(ModulesError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(ModulesError::Stack(StackError::Missing { .. })) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.builtin = String::from_utf8_lossy(&list).lines().filter_map(module_name).collect();
        Ok(())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, ModulesError> {
        match &self.source {
            Source::Stack { stack, folder } => Ok(stack.read(&format!("{folder}/{path}"), MAX_MODULE_BYTES as u64)?),
            Source::Folder(folder) => {
                let path = folder.join(path);
                let failed = |source| ModulesError::Read { path: path.display().to_string(), source };
                let file = std::fs::File::open(&path).map_err(failed)?;
                let mut bytes = Vec::new();
                let read = io::Read::read_to_end(&mut io::Read::take(file, MAX_MODULE_BYTES as u64 + 1), &mut bytes);
                match read.map_err(failed)? {
                    0..=MAX_MODULE_BYTES => Ok(bytes),
                    _ => Err(failed(io::Error::other("it is larger than any module"))),
                }
            }
        }
    }

    fn load(&self, name: &str, path: &str) -> Result<Vec<u8>, ModulesError> {
        let bytes = self.read(path)?;
        match Packing::detect(&bytes) {
            None => Ok(bytes),
            Some(packing) => packing
                .unpack(&bytes, MAX_MODULE_BYTES)
                .map_err(|source| ModulesError::Unpack { name: name.to_owned(), source }),
        }
    }
}

struct Resolver<'a> {
    library: &'a Library<'a>,
    done: BTreeSet<String>,
    on_the_way: BTreeSet<String>,
    order: Vec<Module>,
}

impl Resolver<'_> {
    /// Adds a module behind its dependencies. The depth is bounded: each call puts another module on the way, and
    /// `depends=` chains longer than [`MAX_DEPTH`] do not exist.
    fn add(&mut self, name: &str) -> Result<(), ModulesError> {
        if self.done.contains(name) {
            return Ok(());
        }
        let Some(path) = self.library.paths.get(name) else {
            return match self.library.builtin.contains(name) {
                true => Ok(()),
                false => Err(ModulesError::Missing { name: text::show(name.as_bytes()) }),
            };
        };
        if self.on_the_way.len() >= MAX_DEPTH || !self.on_the_way.insert(name.to_owned()) {
            return Err(ModulesError::Circle { name: name.to_owned() });
        }
        let bytes = self.library.load(name, path)?;
        let info =
            ModuleInfo::parse(&bytes).map_err(|reason| ModulesError::Malformed { name: name.to_owned(), reason })?;
        for dependency in &info.depends {
            self.add(dependency)?;
        }
        for dependency in info.softly.iter().filter(|name| self.library.paths.contains_key(*name)) {
            self.add(dependency)?;
        }
        self.on_the_way.remove(name);
        self.done.insert(name.to_owned());
        self.order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// The longest chain of a distribution kernel has about ten modules.
const MAX_DEPTH: usize = 64;

/// What a module says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct ModuleInfo {
    depends: Vec<String>,
    /// Modules to be loaded before it, if they are there (`softdep=pre: …`).
    softly: Vec<String>,
}

impl ModuleInfo {
    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let elf = Elf::parse(bytes).filter(|elf| elf.kind() == elf::ET_REL);
        let elf = elf.ok_or("it is no 64-bit ELF object")?;
        let modinfo = elf.section(".modinfo").ok_or("it has no `.modinfo` section")?;
        let mut info = ModuleInfo::default();
        for field in modinfo.split(|&byte| byte == 0) {
            let Ok(field) = str::from_utf8(field) else { continue };
            if let Some(names) = field.strip_prefix("depends=") {
                info.depends = names.split(',').filter(|name| !name.is_empty()).map(normalise).collect();
            } else if let Some(rule) = field.strip_prefix("softdep=") {
                info.softly.extend(soft_dependencies(rule));
            }
        }
        Ok(info)
    }
}

/// The names behind `pre:` up to `post:`.
fn soft_dependencies(rule: &str) -> impl Iterator<Item = String> {
    let before = rule.split("post:").next().unwrap_or_default();
    before.split_once("pre:").map_or("", |(_, names)| names).split_whitespace().map(normalise)
}

fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/block/virtio-blk.ko.xz` is `virtio_blk`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let name = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].into_iter().find_map(|suffix| file.strip_suffix(suffix))?;
    (!name.is_empty()).then(|| normalise(name))
}

#[cfg(test)]
mod tests;
