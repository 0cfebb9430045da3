//! Signatures as cosign makes them: an ECDSA signature (P-256, SHA-256, DER in base64) over a small document that names
//! the manifest's digest, kept in the same repository under the tag `sha256-<hex>.sig`. Only the key that a person
//! named counts; no transparency log is asked.

use super::registry::{Cancelled, Registry, RegistryError};
use ::images::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::Digest;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

/// 64 KiB of a document that has some hundred bytes.
const MAX_PAYLOAD_BYTES: u64 = 64 << 10;
/// 1 MiB: for hashing a file.
const BUFFER_BYTES: usize = 1 << 20;
/// Signatures of one image that are looked at.
const MAX_SIGNATURES: usize = 100;
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the key to verify with is no P-256 public key in PEM")]
    Key,
    #[error("nobody has signed it: {0}")]
    Unsigned(#[source] RegistryError),
    #[error("none of its signatures is by the given key")]
    Foreign,
    #[error("nobody has signed it: there is no {place}")]
    NoSignature { place: String },
    #[error("its signatures cannot be read: {reason}")]
    Unreadable { reason: String },
    #[error(transparent)]
    Registry(RegistryError),
    #[error("cannot read what is signed")]
    Read(#[from] io::Error),
}

pub fn key(pem: &str) -> Result<VerifyingKey, VerifyError> {
    VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| VerifyError::Key)
}

/// Whether `signature` (base64 of DER) is the key's over `message`.
pub fn is_signed(key: &VerifyingKey, message: &[u8], signature: &str) -> bool {
    parse(signature).is_some_and(|signature| key.verify(message, &signature).is_ok())
}

fn parse(signature: &str) -> Option<Signature> {
    Signature::from_der(&STANDARD.decode(signature.trim()).ok()?).ok()
}

/// Fails unless the key's owner has signed the file, from its current position on.
pub fn verify_file(file: &File, signature: &str, key: &VerifyingKey) -> Result<(), VerifyError> {
    let signature = parse(signature).ok_or(VerifyError::Foreign)?;
    let (mut hasher, mut buffer, mut source) = (Sha256::new(), vec![0; BUFFER_BYTES], file);
    loop {
        match source.read(&mut buffer)? {
            0 => return key.verify_prehash(&hasher.finalize(), &signature).map_err(|_| VerifyError::Foreign),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Fails unless the key's owner has signed the manifest of this digest.
pub async fn verify(
    registry: &Registry,
    manifest: &Digest,
    key: &VerifyingKey,
    cancelled: Cancelled<'_>,
) -> Result<(), VerifyError> {
    let tag = format!("sha256-{}.sig", manifest.hex());
    let served = registry.manifest(&tag, cancelled).await.map_err(|error| match error {
        RegistryError::Missing { .. } => VerifyError::Unsigned(error),
        other => VerifyError::Registry(other),
    })?;
    let unreadable = |reason: &str| VerifyError::Unreadable { reason: reason.to_owned() };
    let signatures: Signatures = serde_json::from_slice(&served.bytes).map_err(|_| unreadable("they are no JSON"))?;
    for layer in signatures.layers.into_iter().take(MAX_SIGNATURES) {
        let Some(signature) = layer.annotations.get(ANNOTATION) else { continue };
        if layer.size > MAX_PAYLOAD_BYTES {
            return Err(unreadable("one of them is too large"));
        }
        let payload = registry.small_blob(&layer.digest, MAX_PAYLOAD_BYTES as usize, cancelled).await;
        let payload = payload.map_err(VerifyError::Registry)?;
        if digest::of_bytes(&payload) != layer.digest {
            return Err(unreadable("one of them is not what its digest says"));
        }
        if is_signed(key, &payload, signature) && names(&payload, manifest) {
            return Ok(());
        }
    }
    Err(VerifyError::Foreign)
}

/// A signature of one image must not serve for another.
fn names(payload: &[u8], manifest: &Digest) -> bool {
    let document: Option<Payload> = serde_json::from_slice(payload).ok();
    document.is_some_and(|document| document.critical.image.digest == manifest.as_str())
}

#[derive(Deserialize)]
struct Signatures {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// The signature of another program: what we verify is not what we wrote.
    fn openssl(folder: &std::path::Path, arguments: &[&str]) -> bool {
        let run = Command::new("openssl").args(arguments).current_dir(folder).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    }

    #[test]
    fn what_openssl_signed_is_verified_and_a_flipped_bit_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let payload = br#"{"critical":{"image":{"docker-manifest-digest":"sha256:x"}}}"#;
        std::fs::write(at.join("payload"), payload).unwrap();
        let made = openssl(at, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"])
            && openssl(at, &["ec", "-in", "key.pem", "-pubout", "-out", "public.pem"])
            && openssl(at, &["dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "payload"]);
        if !made {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: openssl is not installed\n");
            return;
        }
        let key = key(&std::fs::read_to_string(at.join("public.pem")).unwrap()).unwrap();
        let signature = STANDARD.encode(std::fs::read(at.join("signature")).unwrap());
        assert!(is_signed(&key, payload, &signature));
        let mut other = payload.to_vec();
        other[3] ^= 1;
        assert!(!is_signed(&key, &other, &signature));
        assert!(!is_signed(&key, payload, "AAAA") && !is_signed(&key, payload, "!"));
        verify_file(&File::open(at.join("payload")).unwrap(), &signature, &key).unwrap();
        std::fs::write(at.join("payload"), other).unwrap();
        assert!(verify_file(&File::open(at.join("payload")).unwrap(), &signature, &key).is_err());
    }

    #[test]
    fn a_payload_names_one_manifest() {
        let digest = digest::of_bytes(b"a");
        let payload = format!(r#"{{"critical":{{"image":{{"docker-manifest-digest":"{digest}"}}}}}}"#);
        assert!(names(payload.as_bytes(), &digest));
        assert!(!names(payload.as_bytes(), &digest::of_bytes(b"b")));
        assert!(!names(b"{}", &digest));
        assert!(matches!(key("no key"), Err(VerifyError::Key)));
    }
}
