//! The work-seed: what an image had below `/root`, from which every sandbox's work disk is cloned. Its fingerprint is kept
//! beside it; a seed that is gone or is not what it was is made anew and takes its place in one step.

use super::manifest::{self, Fingerprint, ImageManifest};
use super::staging::Staging;
use super::{Library, Trouble, image, pull};
use ::images::ext4::{self, WORK_LABEL};
use ::images::{Layer, digest};
use engine::host::{Report, Result, Watch};
use model::{ByteSize, Change, ImageName};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

impl Fingerprint {
    pub fn of(path: &Path) -> io::Result<Fingerprint> {
        let file = File::open(path)?;
        let (digest, bytes) = digest::of_file(&file)?;
        Ok(Fingerprint { digest, bytes, modified_ns: modified_ns(&file.metadata()?) })
    }

    /// The same length and time: nobody has written to it.
    fn looks_right(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| found.len() == self.bytes && modified_ns(&found) == self.modified_ns)
    }
}

fn modified_ns(found: &fs::Metadata) -> i64 {
    found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec())
}

impl Library {
    /// Sees to it that an image's seed is what was put into it.
    pub(super) fn mend_work_seed(&self, name: &ImageName, watch: &dyn Watch) -> Result<Change> {
        let Some(mut manifest) = ImageManifest::read(&self.layout.image_manifest(name)) else {
            return Ok(Change::Unchanged);
        };
        let seed = self.layout.image_work_seed(name);
        let Some(kept) = manifest.work_seed.clone().filter(|kept| !kept.looks_right(&seed)) else {
            return Ok(Change::Unchanged);
        };
        let mut work = || {
            let found = Fingerprint::of(&seed).ok();
            let change = match &found {
                // Copied or touched: the same bytes of another time.
                Some(found) if found.digest == kept.digest => Change::Unchanged,
                _ => {
                    watch.report(Report::Stage { text: format!("making the work-seed of {name} anew") });
                    self.remake(name, &manifest, &kept, watch)?;
                    Change::Changed
                }
            };
            manifest.work_seed = Some(Fingerprint::of(&seed)?);
            let staging = Staging::begin(&self.layout.images())?;
            manifest::write(&staging.file("manifest.json"), &manifest)?;
            fs::rename(staging.file("manifest.json"), self.layout.image_manifest(name))?;
            Ok(change)
        };
        work().map_err(|error: Trouble| error.told(&format!("cannot mend the work-seed of {name}"), &self.layout))
    }

    /// From the layers where the cache still has them; else an empty one, which is said.
    fn remake(
        &self,
        name: &ImageName,
        manifest: &ImageManifest,
        kept: &Fingerprint,
        watch: &dyn Watch,
    ) -> std::result::Result<(), Trouble> {
        let staging = Staging::begin(&self.layout.images())?;
        let made = staging.file("work-seed.ext4");
        match self.layers_of(manifest, &staging)? {
            Some(layers) => image::write_disks(&layers, &staging, watch).map(drop)?,
            None => {
                let text = format!("what {name} had below /root is lost; new sandboxes begin with an empty one");
                watch.report(Report::Note { text });
                let mut uuid = [0; 16];
                uuid.copy_from_slice(&hex_bytes(kept.digest.hex())[..16]);
                ext4::format_empty(&made, ByteSize::from_bytes(kept.bytes), WORK_LABEL, uuid, 0)?;
            }
        }
        File::open(&made)?.sync_all()?;
        Ok(fs::rename(made, self.layout.image_work_seed(name))?)
    }

    /// The layers that an image was made of, unpacked again; `None` when one is not kept any more.
    fn layers_of(
        &self,
        manifest: &ImageManifest,
        staging: &Staging,
    ) -> std::result::Result<Option<Vec<Layer>>, Trouble> {
        let Some(origin) = &manifest.origin else { return Ok(None) };
        let mut layers = Vec::new();
        for (number, layer) in origin.layers.iter().enumerate() {
            let Some(blob) = self.blobs.find(&layer.blob)? else { return Ok(None) };
            layers.push(pull::unpack(blob, &staging.file(&format!("layer-{number}.tar")), &|| false)?);
        }
        Ok(Some(layers))
    }
}

fn hex_bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
    (0..hex.len() / 2).map(|byte| digit(2 * byte)).collect()
}
