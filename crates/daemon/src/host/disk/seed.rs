//! An image's work-seed at the size of a sandbox's disk, made once: `resize2fs` takes longer than all else that a disk costs.
//!
//! A grown seed is a template like the empty ones. Its name holds a stamp of the seed it came from, so that a renewed
//! seed is never mistaken for the old one; what belongs to no seed any more goes when another one is grown.

use super::{DiskError, clone, ext4, make_whole};
use crate::layout::Layout;
use engine::host::disk::Disks;
use model::ImageName;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub fn grown(layout: &Layout, wanted: &Disks) -> Result<PathBuf, DiskError> {
    let seed = layout.image_work_seed(&wanted.image);
    let template = layout.seed_template(&wanted.image, stamp(&seed)?, wanted.work_size);
    if !template.exists() {
        // Two sandboxes may make the same template at once; each makes its own, and the last name stands.
        let partial = template.with_extension(format!("{}.partial", wanted.id));
        make_whole(&partial, &template, |partial| {
            clone::clone_sparse(&seed, partial)?;
            ext4::grow(partial, wanted.work_size)
        })?;
        sweep(layout);
    }
    Ok(template)
}

/// Another file under the same name, or a file that was written again, has another one.
pub fn stamp(seed: &Path) -> Result<u64, DiskError> {
    let facts = fs::metadata(seed)?;
    Ok(facts.ino() ^ (facts.mtime() as u64).wrapping_mul(1_000_000_000).wrapping_add(facts.mtime_nsec() as u64))
}

/// Grown seeds of images that are gone or have another seed now. What cannot be removed is tried again the next time.
fn sweep(layout: &Layout) {
    for entry in fs::read_dir(layout.templates()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(origin) = name.to_str().and_then(origin) else { continue };
        let (image, stamped) = origin;
        if stamp(&layout.image_work_seed(&image)).ok() != Some(stamped) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Image and stamp out of a template's name; none for other files, half-made ones among them.
fn origin(name: &str) -> Option<(ImageName, u64)> {
    let whole = name.strip_prefix("seed-")?.strip_suffix(".ext4")?;
    // An image's name may hold dashes; the two numbers at the end do not.
    let mut parts = whole.rsplitn(3, '-');
    let (_bytes, stamp, image) = (parts.next()?, parts.next()?, parts.next()?);
    Some((image.parse().ok()?, u64::from_str_radix(stamp, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn a_templates_name_tells_its_seed() {
        let of = |name: &str| origin(name).map(|(image, stamp)| (image.to_string(), stamp));
        assert_eq!(of("seed-debian-bookworm-1f-8589934592.ext4"), Some(("debian-bookworm".to_owned(), 31)));
        for other in ["work-8589934592.ext4", "seed-a-1f-1.0abc.partial", "seed-1f-1.ext4", "seed-a-xyz-1.ext4"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
