//! Whose certificates count: the system's authorities, and for one registry those that lie in its `certs.d` folder (as
//! Docker and Podman have it) or were named with the request.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files of one folder that are read.
const MAX_FILES: usize = 64;

#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Folders that hold `<host:port>/*.crt`.
    pub folders: Vec<PathBuf>,
    /// PEM files that count for every registry.
    pub files: Vec<PathBuf>,
    made: Arc<Mutex<HashMap<String, Arc<ClientConfig>>>>,
}

impl Trust {
    pub fn new(folders: Vec<PathBuf>, files: Vec<PathBuf>) -> Trust {
        Trust { folders, files, made: Arc::default() }
    }

    /// For TLS with `authority` (host and port).
    pub fn config(&self, authority: &str) -> io::Result<Arc<ClientConfig>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(authority) {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(authority)?);
        made.insert(authority.to_owned(), config.clone());
        Ok(config)
    }

    fn make(&self, authority: &str) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "some of the system's certificates cannot be read");
        }
        roots.add_parsable_certificates(system.certs);
        for file in self.files.iter().cloned().chain(self.own_files(authority)?) {
            for certificate in read(&file)? {
                roots.add(certificate).map_err(|error| named(&file, io::Error::other(error)))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn own_files(&self, authority: &str) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        // The authority comes from an address: no slash can be in it.
        for folder in self.folders.iter().map(|folder| folder.join(authority)) {
            let entries = match std::fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|error| named(&folder, error))?,
            };
            for entry in entries.take(MAX_FILES) {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "crt") {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }
}

fn read(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let failed = |error| named(file, io::Error::other(error));
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    match certificates.is_empty() {
        true => Err(named(file, io::Error::other("there is no certificate in it"))),
        false => Ok(certificates),
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read certificates of {}: {error}", path.display()))
}
