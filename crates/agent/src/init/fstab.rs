//! An image's /etc/fstab made tolerant: images of installed machines name disks (a root by UUID, /boot/efi) that no sandbox has,
//! and systemd would wait 90 s for each and end in its emergency shell.
//!
//! The file itself stays as it is; systemd is pointed to a copy in /run by `SYSTEMD_FSTAB`, and only where the two differ.

use super::InitError;
use std::fs;
use std::path::Path;

/// Where the copy stands, as seen in the new root.
pub const COPY: &str = "/run/banger/fstab";

/// Writes the copy if `root`'s fstab needs one.
pub fn install(root: &Path) -> Result<(), InitError> {
    let Ok(text) = fs::read_to_string(root.join("etc/fstab")) else { return Ok(()) };
    let tolerant = tolerant(&text);
    if tolerant == text {
        return Ok(());
    }
    fs::write(root.join(COPY.trim_start_matches('/')), tolerant).map_err(InitError::step(format!("write {COPY}")))
}

/// The root's line goes, as the root is mounted already; what needs a disk is mounted if the disk is there after a second.
fn tolerant(text: &str) -> String {
    text.split_inclusive('\n').filter_map(tolerant_line).collect()
}

fn tolerant_line(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [source, target, kind, rest @ ..] = fields.as_slice() else { return Some(line.to_owned()) };
    if source.starts_with('#') {
        return Some(line.to_owned());
    }
    if *target == "/" {
        return None;
    }
    let options = rest.first().copied().unwrap_or("defaults");
    if !needs_disk(source) || options.split(',').any(|option| option == "nofail" || option == "noauto") {
        return Some(line.to_owned());
    }
    let numbers = rest.get(1..).unwrap_or_default().join(" ");
    Some(format!("{source} {target} {kind} {options},nofail,x-systemd.device-timeout=1s {numbers}\n"))
}

fn needs_disk(source: &str) -> bool {
    ["/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="].iter().any(|prefix| source.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_become_optional_and_the_rest_stays() {
        let text = "# disks\nUUID=1 / ext4 defaults 0 1\nUUID=2 /boot/efi vfat umask=077 0 1\ntmpfs /tmp tmpfs size=1G 0 0\n/dev/vdd /data ext4 nofail 0 0\n\n/dev/sda2 none swap\n";
        let expected = "# disks\nUUID=2 /boot/efi vfat umask=077,nofail,x-systemd.device-timeout=1s 0 1\ntmpfs /tmp tmpfs size=1G 0 0\n/dev/vdd /data ext4 nofail 0 0\n\n/dev/sda2 none swap defaults,nofail,x-systemd.device-timeout=1s \n";
        assert_eq!(tolerant(text), expected);
    }

    #[test]
    fn a_file_without_disks_needs_no_copy() {
        let text = "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n";
        assert_eq!(tolerant(text), text);
    }
}
