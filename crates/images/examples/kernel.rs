//! Takes a Debian kernel package apart: `kernel PACKAGE.deb FOLDER [AGENT]` writes `vmlinux`, and with an agent
//! `initramfs.cpio`, into the folder.
#![allow(clippy::print_stdout)]

use images::modules::{Library, SANDBOX_OPTIONAL, SANDBOX_REQUIRED};
use images::{Limits, deb, initramfs, kernel};
use std::error::Error;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [package, folder, agent @ ..] = arguments.as_slice() else { return Err("PACKAGE.deb FOLDER [AGENT]".into()) };
    let spool = tempfile::tempfile()?;
    let stack = deb::open(&File::open(package)?, spool, &Limits::default(), &mut |_| ControlFlow::Continue(()))?;
    let boot = stack.tree().lookup("boot").ok_or("the package has no /boot")?;
    let names = stack.tree().children(boot).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    let vmlinuz = names.into_iter().find(|name| name.starts_with("vmlinuz-")).ok_or("the package has no kernel")?;
    let bytes = stack.read(&format!("boot/{vmlinuz}"), 1 << 30)?;
    let vmlinux = kernel::unpack(&bytes)?;
    println!("{:?} {:?} {} bytes", vmlinux.facts, vmlinux.facts.backends(), vmlinux.bytes.len());
    std::fs::write(Path::new(folder).join("vmlinux"), &vmlinux.bytes)?;
    let release = vmlinuz.trim_start_matches("vmlinuz-");
    let library = Library::from_stack(&stack, &format!("lib/modules/{release}"))?;
    let modules = library.resolve(SANDBOX_REQUIRED, SANDBOX_OPTIONAL)?;
    for module in &modules {
        println!("{} {} bytes", module.name, module.bytes.len());
    }
    if let [agent] = agent {
        let out = File::create(Path::new(folder).join("initramfs.cpio"))?;
        initramfs::write_sandbox(std::io::BufWriter::new(out), Path::new(agent), &modules)?;
    }
    Ok(())
}
