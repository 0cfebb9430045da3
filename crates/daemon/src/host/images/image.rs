//! A root file system's tar archive becomes an image: the shared read-only disk, the seed of work disks, the manifest.
//! The same archive gives the same bytes.

use super::Trouble;
use super::manifest::{self, Fingerprint, ImageManifest};
use super::mkfs::MkfsExt4;
use super::staging::Staging;
use crate::host::clock::HostClock;
use crate::program;
use ::images::ext4::{self, ImageError, Init, Progress, RootfsFacts, WriteOptions};
use ::images::{Compression, Layer, Limits};
use engine::host::clock::Clock;
use engine::host::{Report, Unit, Watch};
use model::Digest;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Stdio;

/// Progress is told once in so many bytes.
const REPORT_BYTES: u64 = 4 * 1024 * 1024;
/// e2fsck ends with 0 when there was nothing to mend (e2fsck(8)).
const CHECKER: &str = "e2fsck";

pub fn from_archive(archive: &Path, staging: &Staging, source: &str, watch: &dyn Watch) -> Result<(), Trouble> {
    let layer = open(archive, staging, watch)?;
    from_layers(
        std::slice::from_ref(&layer),
        staging,
        |digest| ImageManifest::new(digest, source, HostClock.now()),
        watch,
    )?;
    let _ = std::fs::remove_file(staging.file(SPOOL));
    Ok(())
}

/// Lowest layer first; `describe` makes the manifest, to which what was found in the layers is added.
pub fn from_layers(
    layers: &[Layer],
    staging: &Staging,
    describe: impl FnOnce(Digest) -> ImageManifest,
    watch: &dyn Watch,
) -> Result<(), Trouble> {
    let facts = write_disks(layers, staging, watch)?;
    let mut manifest = describe(facts.digest);
    manifest.has_systemd = facts.system.init == Init::Systemd;
    manifest.take_os_release(facts.system.os_release.as_deref());
    manifest.work_seed = Some(Fingerprint::of(&staging.file("work-seed.ext4"))?);
    manifest::write(&staging.file("manifest.json"), &manifest)?;
    Ok(())
}

/// Root file system and work-seed.
pub fn write_disks(layers: &[Layer], staging: &Staging, watch: &dyn Watch) -> Result<RootfsFacts, Trouble> {
    let options = WriteOptions { work_seed: Some(staging.file("work-seed.ext4")), ..WriteOptions::default() };
    let rootfs = staging.file("rootfs.ext4");
    let mut told = 0;
    let mut progress = |progress: Progress| {
        if let Progress::Writing { bytes, of } = progress
            && (bytes == of || bytes >= told + REPORT_BYTES)
        {
            told = bytes;
            watch.report(Report::Progress { done: bytes, total: Some(of), unit: Unit::Bytes });
        }
        wanted(watch)
    };
    let facts = write(layers, &rootfs, &options, staging, &mut progress)?;
    check(&rootfs)?;
    check(&staging.file("work-seed.ext4"))?;
    if facts.dropped_xattrs > 0 {
        watch.report(Report::Note { text: format!("{} extended attributes were left out", facts.dropped_xattrs) });
    }
    Ok(facts)
}

/// By our own writer; where that cannot lay the image out, by the file system's own, if it can work here.
fn write(
    layers: &[Layer],
    rootfs: &Path,
    options: &WriteOptions,
    staging: &Staging,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<RootfsFacts, ImageError> {
    match ext4::write_rootfs(layers, rootfs, options, progress) {
        Err(error @ (ImageError::Layout(_) | ImageError::NotUtf8 { .. })) if MkfsExt4::is_possible() => {
            tracing::warn!(%error, "the image is written by mkfs.ext4 instead");
            let writer = MkfsExt4 { scratch: staging.path().to_owned() };
            ext4::write_rootfs_with(&writer, layers, rootfs, options, progress).map_err(|_| error)
        }
        outcome => outcome,
    }
}

const SPOOL: &str = "layer.tar";

/// A plain archive is read where it lies; a packed one is unpacked into the staging folder first.
fn open(archive: &Path, staging: &Staging, watch: &dyn Watch) -> Result<Layer, Trouble> {
    let failed = |source| Trouble::File { what: "cannot read", path: archive.to_owned(), source };
    let mut file = File::open(archive).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Trouble::NotFound(format!("there is no file {}", archive.display())),
        _ => failed(error),
    })?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Trouble::NotFound(format!("{} is no file", archive.display())));
    }
    let mut start = Vec::new();
    (&mut file).take(8).read_to_end(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    match Compression::detect(&start) {
        Compression::Plain => Ok(Layer::open(archive)?),
        packed => {
            let spool = OpenOptions::new().read(true).write(true).create_new(true).open(staging.file(SPOOL))?;
            Ok(Layer::spool(file, packed, spool, &Limits::default(), &mut |_| wanted(watch))?)
        }
    }
}

fn wanted(watch: &dyn Watch) -> ControlFlow<()> {
    if watch.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// A second opinion by the file system's own checker; without it an image is as good as the writer.
pub fn check(disk: &Path) -> Result<(), Trouble> {
    let checked = program::command(CHECKER).args(["-f", "-n"]).arg(disk).stdin(Stdio::null()).output();
    match checked {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).lines().take(5).collect::<Vec<_>>().join("; ");
            Err(Trouble::Program { program: CHECKER, said })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Trouble::Unfit {
            sentence: format!("`{CHECKER}` is not installed"),
            hint: Some("install e2fsprogs".to_owned()),
        }),
        Err(error) => Err(error.into()),
    }
}

/// `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"` of os-release(5), at most 120 characters of it.
pub fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value: String = value.trim_matches(['"', '\'']).chars().filter(|c| !c.is_control()).take(120).collect();
    Some(value)
}
