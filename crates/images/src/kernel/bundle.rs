//! A kernel in one file, for others (`NAME-ARCH-SHA256.tar.zst`, which `scripts/publish-kernel` writes): what the library
//! keeps of one. Whoever opens it knows the file's hash; still it is an archive like any other here.
//!
//! ```text
//! vmlinux          the ELF
//! manifest.json    its digest, its boot arguments, its modules in load order
//! config           what it was built with, where that is known
//! modules/*.ko     exactly those that the manifest names
//! ```
//! Anything else in it is refused.

use crate::digest;
use crate::layer::LayerError;
use crate::modules::Module;
use crate::stack::{Stack, StackError};
use crate::text;
use crate::tree::{NodeId, NodeKind, ROOT};
use model::Digest;
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Debug)]
pub struct KernelBundle {
    pub vmlinux: Vec<u8>,
    /// In load order.
    pub modules: Vec<Module>,
    pub boot_arguments: Vec<String>,
    pub config: Option<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelBundleError {
    #[error("the kernel's bundle cannot be read")]
    Layer(#[from] LayerError),
    #[error("the kernel's bundle is not whole")]
    Stack(#[from] StackError),
    #[error("the manifest of the kernel's bundle is no valid JSON of its kind")]
    Manifest(#[source] serde_json::Error),
    #[error("the kernel's bundle is refused: {reason}")]
    Refused { reason: String },
    #[error("the kernel in the bundle is not what its manifest says")]
    Changed,
}

/// What of the manifest is of interest here; it has more.
#[derive(Debug, Deserialize)]
struct Manifest {
    digest: Digest,
    #[serde(default)]
    boot_args: Vec<String>,
    #[serde(default)]
    modules: Vec<String>,
}

/// 1 GiB: a kernel with debug information.
const MAX_VMLINUX_BYTES: u64 = 1 << 30;
/// 1 MiB of a document that has some hundred bytes; a kernel's configuration has a quarter of it.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// 64 MiB: ten times the largest module of a distribution's kernel.
const MAX_MODULE_BYTES: u64 = 64 << 20;
/// 256 MiB and 2000 files: a guest loads some twenty.
const MAX_MODULES_BYTES: u64 = 256 << 20;
const MAX_MODULES: usize = 2000;
const MODULE: &str = ".ko";

/// Takes the archive apart; `stack` holds it as its only layer.
pub fn read(stack: &Stack) -> Result<KernelBundle, KernelBundleError> {
    refuse_others(stack)?;
    let manifest = stack.read("manifest.json", MAX_TEXT_BYTES)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(KernelBundleError::Manifest)?;
    let vmlinux = stack.read("vmlinux", MAX_VMLINUX_BYTES)?;
    if digest::of_bytes(&vmlinux) != manifest.digest {
        return Err(KernelBundleError::Changed);
    }
    let config = stack.tree().lookup("config").map(|_| stack.read("config", MAX_TEXT_BYTES)).transpose()?;
    let modules = modules(stack, &manifest.modules)?;
    Ok(KernelBundle { vmlinux, modules, boot_arguments: manifest.boot_args, config })
}

fn refused(reason: String) -> KernelBundleError {
    KernelBundleError::Refused { reason }
}

fn refuse_others(stack: &Stack) -> Result<(), KernelBundleError> {
    let tree = stack.tree();
    for (name, id) in tree.children(ROOT) {
        let good = match name {
            b"vmlinux" | b"manifest.json" | b"config" => is_file(stack, id),
            b"modules" => tree.is_directory(id),
            _ => false,
        };
        if !good {
            return Err(refused(format!("it holds {} that is no part of a kernel", text::show(name))));
        }
    }
    Ok(())
}

fn is_file(stack: &Stack, id: NodeId) -> bool {
    matches!(stack.tree().node(id).kind, NodeKind::File { .. })
}

/// Those that the manifest lists, each once, and no others.
fn modules(stack: &Stack, listed: &[String]) -> Result<Vec<Module>, KernelBundleError> {
    let folder = stack.tree().lookup("modules");
    let there: Vec<(&[u8], NodeId)> = folder.into_iter().flat_map(|folder| stack.tree().children(folder)).collect();
    let names: BTreeSet<&[u8]> = listed.iter().map(String::as_bytes).collect();
    if listed.len() > MAX_MODULES
        || names.len() != listed.len()
        || names != there.iter().map(|(name, _)| *name).collect()
    {
        return Err(refused("its modules are not those that its manifest lists".to_owned()));
    }
    if let Some((name, _)) = there.iter().find(|(_, id)| !is_file(stack, *id)) {
        return Err(refused(format!("its module {} is no file", text::show(name))));
    }
    let mut total = 0;
    let mut modules = Vec::new();
    for file in listed {
        let bytes = stack.read(&format!("modules/{file}"), MAX_MODULE_BYTES)?;
        total += bytes.len() as u64;
        if total > MAX_MODULES_BYTES {
            return Err(refused(format!("its modules are larger than {MAX_MODULES_BYTES} bytes")));
        }
        let name = file.strip_suffix(MODULE).filter(|name| is_word(name));
        let name = name.ok_or_else(|| refused(format!("{} is no module's name", text::show(file.as_bytes()))))?;
        modules.push(Module { name: name.to_owned(), bytes });
    }
    Ok(modules)
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Compression, Layer};
    use crate::limits::Limits;
    use std::ops::ControlFlow;

    fn stack(files: &[(&str, &[u8])]) -> Stack {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *contents).expect("memory takes it");
        }
        let bytes = archive.into_inner().expect("memory takes it");
        let spool = tempfile::tempfile().expect("a file can be made");
        let limits = Limits::default();
        let go_on = &mut |_| ControlFlow::Continue(());
        let layer = Layer::spool(&bytes[..], Compression::Plain, spool, &limits, go_on).expect("it is an archive");
        Stack::new(vec![layer], &limits).expect("it is a tree")
    }

    fn manifest(modules: &str) -> Vec<u8> {
        let digest = digest::of_bytes(b"ELF");
        format!(r#"{{"format":1,"digest":"{digest}","boot_args":["quiet"],"modules":[{modules}]}}"#).into_bytes()
    }

    #[test]
    fn a_kernel_comes_with_its_modules_in_their_order() {
        let manifest = manifest(r#""b.ko","a_1.ko""#);
        let files: [(&str, &[u8]); 5] = [
            ("vmlinux", b"ELF"),
            ("manifest.json", &manifest),
            ("config", b"CONFIG_X=y\n"),
            ("modules/a_1.ko", b"a"),
            ("modules/b.ko", b"b"),
        ];
        let bundle = read(&stack(&files)).expect("it is good");
        let names: Vec<_> = bundle.modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!((names, bundle.boot_arguments.join(" ").as_str()), (vec!["b", "a_1"], "quiet"));
        assert_eq!((bundle.vmlinux.as_slice(), bundle.config.as_deref()), (&b"ELF"[..], Some(&b"CONFIG_X=y\n"[..])));
        assert!(read(&stack(&files[..2])).is_err(), "its modules are missing");
    }

    #[test]
    fn whatever_is_not_exactly_a_kernel_is_refused() {
        let (none, one) = (manifest(""), manifest(r#""a.ko""#));
        let refused = |files: &[(&str, &[u8])], words: &str| {
            let error = read(&stack(files)).expect_err("it is refused").to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(&[("vmlinux", b"ELF")], "not whole");
        refused(&[("manifest.json", &none)], "not whole");
        refused(&[("vmlinux", b"other"), ("manifest.json", &none)], "not what its manifest says");
        refused(&[("vmlinux", b"ELF"), ("manifest.json", b"{")], "no valid JSON");
        refused(&[("vmlinux", b"ELF"), ("manifest.json", &none), ("more", b"")], "no part of a kernel");
        refused(&[("vmlinux/x", b"ELF"), ("manifest.json", &none)], "no part of a kernel");
        refused(&[("vmlinux", b"ELF"), ("manifest.json", &none), ("modules/a.ko", b"")], "that its manifest lists");
        refused(&[("vmlinux", b"ELF"), ("manifest.json", &one), ("modules/a.ko/x", b"")], "is no file");
        let twice = manifest(r#""a.ko","a.ko""#);
        refused(&[("vmlinux", b"ELF"), ("manifest.json", &twice), ("modules/a.ko", b"")], "that its manifest lists");
        let other = manifest(r#""a.so""#);
        refused(&[("vmlinux", b"ELF"), ("manifest.json", &other), ("modules/a.so", b"")], "no module's name");
    }
}
