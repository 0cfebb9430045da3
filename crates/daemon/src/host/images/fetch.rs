//! A file that the catalog names: on this machine or behind HTTP, signed where its entry demands that. Whether it is the
//! right one is for its reader to say, who knows its hash.

use super::registry::download::Plain;
use super::registry::{Registry, RegistryError};
use super::staging::Staging;
use super::{Library, Trouble, pull, verify};
use engine::host::{Report, Unit, Watch};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::sync::atomic::{AtomicU64, Ordering};

/// What it is called in the staging folder.
pub const FETCHED: &str = "fetched";
const SIGNATURE: &str = "signature";
/// 4 KiB: a signature has a hundred bytes.
const MAX_SIGNATURE_BYTES: u64 = 4 << 10;
const REPORT_BYTES: u64 = 1 << 20;

impl Library {
    /// The file at `url`; with a key only if its owner has signed it: `URL.sig`, as `cosign sign-blob` writes it.
    pub(super) fn fetch(
        &self,
        url: &str,
        key: Option<&str>,
        staging: &Staging,
        watch: &dyn Watch,
    ) -> Result<File, Trouble> {
        let key = key.map(verify::key).transpose()?;
        let mut file = self.fetch_file(url, FETCHED, ::images::Limits::default().layer_bytes, staging, watch)?;
        if let Some(key) = &key {
            watch.report(Report::Stage { text: format!("verifying {url}") });
            let signature = self.fetch_signature(&format!("{url}.sig"), staging, watch)?;
            verify::verify_file(&file, &signature, key)?;
            file.rewind()?;
        }
        Ok(file)
    }

    fn fetch_signature(&self, url: &str, staging: &Staging, watch: &dyn Watch) -> Result<String, Trouble> {
        let file =
            self.fetch_file(url, SIGNATURE, MAX_SIGNATURE_BYTES, staging, watch).map_err(|error| match error {
                Trouble::NotFound(_) | Trouble::Registry(RegistryError::Missing { .. }) => {
                    Trouble::Signature(verify::VerifyError::NoSignature { place: url.to_owned() })
                }
                other => other,
            })?;
        let mut text = String::new();
        let read = file.take(MAX_SIGNATURE_BYTES).read_to_string(&mut text);
        let _ = std::fs::remove_file(staging.file(SIGNATURE));
        match read {
            Ok(_) => Ok(text),
            Err(_) => {
                let reason = format!("{url} is no text");
                Err(Trouble::Signature(verify::VerifyError::Unreadable { reason }))
            }
        }
    }

    fn fetch_file(
        &self,
        url: &str,
        name: &str,
        limit: u64,
        staging: &Staging,
        watch: &dyn Watch,
    ) -> Result<File, Trouble> {
        if let Some(path) = url.strip_prefix("file://") {
            return File::open(path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => Trouble::NotFound(format!("there is no file {path}")),
                _ => Trouble::File { what: "cannot read", path: path.into(), source },
            });
        }
        let (registry, uri) = Registry::of_url(url, &self.access)?;
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(staging.file(name))?;
        let said = AtomicU64::new(0);
        let told = |done: u64| {
            if done >= said.load(Ordering::Relaxed) + REPORT_BYTES {
                said.store(done, Ordering::Relaxed);
                watch.report(Report::Progress { done, total: None, unit: Unit::Bytes });
            }
        };
        let plain = Plain { uri: &uri, into: &file, limit };
        pull::block_on(registry.fetch_plain(&plain, &told, &|| watch.cancelled()))?;
        file.rewind()?;
        Ok(file)
    }
}
