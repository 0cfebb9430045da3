//! Kernel modules that came in the initramfs, loaded in the order that the host wrote down.

use crate::console;
use std::ffi::CString;
use std::fs::File;
use std::path::Path;

/// Loads what `folder/order` lists. A module that does not load is told and passed over: what needed it fails with a
/// sentence of its own, and many machines do without.
pub fn load(folder: &Path) {
    let Ok(order) = std::fs::read_to_string(folder.join("order")) else { return };
    for (name, parameters) in parse_order(&order) {
        if let Err(error) = load_one(&folder.join(name), parameters) {
            console::boot(&format!("cannot load module {name}: {error}"));
        }
    }
}

fn parse_order(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(char::is_whitespace).unwrap_or((line, "")))
}

fn load_one(path: &Path, parameters: &str) -> std::io::Result<()> {
    let parameters = CString::new(parameters.trim())?;
    match rustix::system::finit_module(File::open(path)?, &parameters, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keeps_the_sequence_and_splits_off_parameters() {
        let text = "virtio_ring.ko\n\n# comment\nvirtio_mmio.ko device=1@2:3 x=y\n";
        let modules: Vec<_> = parse_order(text).collect();
        assert_eq!(modules, [("virtio_ring.ko", ""), ("virtio_mmio.ko", "device=1@2:3 x=y")]);
    }
}
