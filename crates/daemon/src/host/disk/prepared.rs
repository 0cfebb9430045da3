//! Work disks that begin with a repository of the host: templates like the empty ones and the grown seeds.
//!
//! What goes on one, and when it serves, is [`crate::workspace::template`]'s; here it is written, cloned, found and put
//! away. Under a name lies a whole disk that never changes, beside it what the host remembers of its files. A template
//! may vanish at any time: whoever wanted it begins with the image's seed. All of them together are bounded, and the one
//! that was not used for the longest time goes first.

use super::{DiskError, Label, ext4, make_whole, seed};
use crate::layout::Layout;
use images::ext4::{ImageError, Progress, WorkDisk, write_work_disk};
use model::{ByteSize, ImageName, WorkTemplate};
use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, utimensat};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// 16 templates, and 16 GiB on the disk.
const MOST: usize = 16;
const MOST_BYTES: u64 = 16 << 30;
/// 2 GiB stay free for what people ask for.
const SPARE_BYTES: u64 = 2 << 30;

/// A template, and what of it the budget asks.
#[derive(Debug)]
pub struct Held {
    pub name: WorkTemplate,
    pub bytes: u64,
    used: SystemTime,
}

pub struct Contents<'a> {
    pub image: &'a ImageName,
    pub size: ByteSize,
    pub archive: &'a Path,
    /// What the archive brings at the top.
    pub new_name: &'a [u8],
    /// What the host remembers of it.
    pub memory: &'a dyn Fn(&Path) -> io::Result<()>,
}

/// Writes the template of this name; `go_on` says whether it is still wanted.
pub fn make(
    layout: &Layout,
    name: &WorkTemplate,
    contents: &Contents,
    go_on: &dyn Fn() -> bool,
) -> Result<(), DiskError> {
    let (disk, memory) = (layout.work_template(name), layout.work_template_memory(name));
    (contents.memory)(&memory)?;
    let partial = disk.with_extension("ext4.partial");
    let written = make_whole(&partial, &disk, |partial| {
        let image_seed = layout.image_work_seed(contents.image);
        let seed = image_seed.is_file().then_some(image_seed.as_path());
        let (archive, new_name) = (contents.archive, contents.new_name);
        let wanted = WorkDisk { seed, archive, new_name, uuid: Label::Work.uuid() };
        let mut wanted_still = |_: Progress| if go_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        write_work_disk(&wanted, partial, &mut wanted_still).map_err(|error| match error {
            ImageError::Create { source, .. } | ImageError::Write(source) => source.into(),
            other => DiskError::Format(other),
        })?;
        ext4::grow(partial, contents.size)
    });
    written.inspect_err(|_| drop(fs::remove_file(memory)))
}

/// Stands for the disk that a template of this image begins with; another seed, another number.
pub fn origin(layout: &Layout, image: &ImageName) -> u64 {
    seed::stamp(&layout.image_work_seed(image)).unwrap_or(0)
}

/// The file to clone, if it is there with this size; it counts as used now.
pub fn find(layout: &Layout, name: &WorkTemplate, size: ByteSize) -> Option<PathBuf> {
    let disk = layout.work_template(name);
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    let fits = fs::metadata(&disk).is_ok_and(|facts| facts.is_file() && facts.len() == size.bytes());
    // Its time only says who goes first.
    let _ = fits.then(|| utimensat(rustix::fs::CWD, &disk, &times, AtFlags::empty()));
    fits.then_some(disk)
}

/// All that there are, the one that was used last first.
pub fn list(layout: &Layout) -> Vec<Held> {
    let entries = fs::read_dir(layout.templates()).into_iter().flatten().flatten();
    let held = entries.filter_map(|entry| {
        let name = name_of(&entry.path(), "ext4")?;
        let facts = entry.metadata().ok()?;
        Some(Held { name, bytes: facts.blocks() * 512, used: facts.modified().ok()? })
    });
    let mut held: Vec<Held> = held.collect();
    held.sort_by(|one, other| other.used.cmp(&one.used).then_with(|| one.name.cmp(&other.name)));
    held
}

/// Whether one that takes so many bytes has a place here, after others have gone for it.
pub fn has_room(layout: &Layout, bytes: u64) -> bool {
    let free = rustix::fs::statvfs(layout.state()).map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize));
    bytes <= MOST_BYTES && free.is_ok_and(|free| free > bytes.saturating_add(SPARE_BYTES))
}

/// Puts away what is beyond the bounds, what the newer one replaces, and memories of templates that are gone.
pub fn sweep(layout: &Layout, newest: &WorkTemplate) {
    let (mut count, mut bytes) = (0, 0_u64);
    for held in list(layout) {
        let replaced = held.name.key() == newest.key() && held.name != *newest;
        (count, bytes) = (count + usize::from(!replaced), bytes + if replaced { 0 } else { held.bytes });
        if replaced || held.name != *newest && (count > MOST || bytes > MOST_BYTES) {
            remove(layout, &held.name);
        }
    }
    for path in strays(layout) {
        let _ = fs::remove_file(path);
    }
}

/// Memories without a disk. One that is just being made has its memory first.
pub fn strays(layout: &Layout) -> Vec<PathBuf> {
    let entries = fs::read_dir(layout.templates()).into_iter().flatten().flatten().map(|entry| entry.path());
    let alone = |path: &PathBuf| {
        name_of(path, "shipped").is_some_and(|name| {
            let disk = layout.work_template(&name);
            !disk.exists() && !disk.with_extension("ext4.partial").exists()
        })
    };
    entries.filter(alone).collect()
}

/// The disk last: a memory without one is found and put away, a disk without one would never serve.
pub fn remove(layout: &Layout, name: &WorkTemplate) {
    for path in [layout.work_template(name), layout.work_template_memory(name)] {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a template");
        }
    }
}

fn name_of(path: &Path, extension: &str) -> Option<WorkTemplate> {
    let name = path.file_name()?.to_str()?.strip_prefix("repository-")?;
    name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()
}
