//! A blob from a registry into the cache: hashed as it arrives, never longer than its descriptor says, resumed where it
//! broke off (also where an earlier daemon died), seen by others only once its digest was found right.

use super::transport::{Answer, unless_cancelled};
use super::{Access, Cancelled, Registry, RegistryError};
use crate::host::images::blobs::{BlobCache, Claim, Partial};
use hyper::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use hyper::{StatusCode, Uri};
use images::manifest::Descriptor;
use model::Digest;
use model::image_ref::OciReference;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How often it is asked whether somebody else has finished it.
const LOOK: Duration = Duration::from_millis(100);
/// 1 MiB: for hashing what an earlier try left.
const BUFFER_BYTES: usize = 1 << 20;

/// Told how many bytes of the blob are here.
pub type Told<'a> = &'a (dyn Fn(u64) + Sync);

impl Registry {
    /// The blob from the cache; fetched where it is missing.
    pub async fn fetch(
        &self,
        blob: &Descriptor,
        cache: &BlobCache,
        told: Told<'_>,
        cancelled: Cancelled<'_>,
    ) -> Result<File, RegistryError> {
        loop {
            match cache.claim(&blob.digest)? {
                Claim::Whole(file) => {
                    told(blob.bytes);
                    return Ok(file);
                }
                Claim::Taken => unless_cancelled(cancelled, tokio::time::sleep(LOOK)).await?,
                Claim::Ours(partial) => return self.download(blob, partial, told, cancelled).await,
            }
        }
    }

    async fn download(
        &self,
        blob: &Descriptor,
        partial: Partial,
        told: Told<'_>,
        cancelled: Cancelled<'_>,
    ) -> Result<File, RegistryError> {
        let mut arrived = Arrived::resume(&partial.file, blob)?;
        // What an earlier process left may be anything: if it turns out wrong, one more try from the start is fair.
        let mut inherited = arrived.bytes > 0;
        let mut failures = 0;
        loop {
            let before = arrived.bytes;
            let ended = match arrived.bytes < blob.bytes || blob.bytes == 0 {
                true => self.pour(blob, &mut arrived, told, cancelled).await,
                false => Ok(()),
            };
            if arrived.bytes > before {
                failures = 0;
            }
            match ended {
                Ok(()) if arrived.digest() == blob.digest => return Ok(partial.commit()?),
                Ok(()) if inherited => {
                    inherited = false;
                    arrived.restart()?;
                }
                Ok(()) => {
                    partial.discard()?;
                    return Err(self.answer(&format!("the blob {} is not what its digest says", blob.digest)));
                }
                Err(error) if error.is_transient() => self.wait(&mut failures, error, cancelled).await?,
                Err(error) => {
                    if arrived.bytes == 0 {
                        partial.discard()?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// One request's worth of it.
    async fn pour(
        &self,
        blob: &Descriptor,
        arrived: &mut Arrived<'_>,
        told: Told<'_>,
        cancelled: Cancelled<'_>,
    ) -> Result<(), RegistryError> {
        let mut answer = self.blob(&blob.digest, arrived.bytes, cancelled).await?;
        if answer.status != StatusCode::PARTIAL_CONTENT || starts_at(&answer) != Some(arrived.bytes) {
            arrived.restart()?;
            if answer.status != StatusCode::OK {
                answer = self.blob(&blob.digest, 0, cancelled).await?;
            }
            if answer.status != StatusCode::OK {
                return Err(self.answer("it sends a part of a blob where the whole was asked for"));
            }
        }
        while let Some(bytes) = answer.next(cancelled).await? {
            if arrived.bytes + bytes.len() as u64 > blob.bytes {
                arrived.restart()?;
                let reason = format!("the blob {} is longer than the {} bytes announced", blob.digest, blob.bytes);
                return Err(self.answer(&reason));
            }
            arrived.take(&bytes)?;
            told(arrived.bytes);
        }
        match arrived.bytes == blob.bytes {
            true => Ok(()),
            // Some servers end a truncated answer as if it were whole; the next try goes on from here.
            false => Err(self.short(blob, arrived.bytes)),
        }
    }

    fn short(&self, blob: &Descriptor, bytes: u64) -> RegistryError {
        RegistryError::Short { host: self.name().to_owned(), bytes, of: blob.bytes }
    }
}

/// A file that is no blob: what it is to be, its reader finds out.
pub struct Plain<'a> {
    pub uri: &'a Uri,
    /// Empty, open for writing.
    pub into: &'a File,
    /// Bytes that it may have.
    pub limit: u64,
}

impl Registry {
    /// A server of files: its repository is of no interest.
    pub fn of_url(url: &str, access: &Access) -> Result<(Registry, Uri), RegistryError> {
        let uri: Option<Uri> = url.parse().ok().filter(|uri: &Uri| uri.authority().is_some());
        let wrong = || RegistryError::Answer { host: super::error::shown(url), reason: "its address is none".into() };
        let uri = uri.ok_or_else(wrong)?;
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let reference = OciReference { registry: host, repository: String::new(), tag: None, digest: None };
        Ok((Registry::new(&reference, access), uri))
    }

    /// Fetches a file, going on after each interruption where it was.
    pub async fn fetch_plain(
        &self,
        wanted: &Plain<'_>,
        told: Told<'_>,
        cancelled: Cancelled<'_>,
    ) -> Result<(), RegistryError> {
        let mut failures = 0;
        loop {
            let before = wanted.into.metadata()?.len();
            match self.pour_plain(wanted, before, told, cancelled).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    if wanted.into.metadata()?.len() > before {
                        failures = 0;
                    }
                    self.wait(&mut failures, error, cancelled).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn pour_plain(
        &self,
        wanted: &Plain<'_>,
        from: u64,
        told: Told<'_>,
        cancelled: Cancelled<'_>,
    ) -> Result<(), RegistryError> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={from}-")).expect("it is plain"));
        }
        let mut answer = self.follow(wanted.uri.clone(), &headers, None, cancelled).await?;
        let mut at = match answer.status {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer) == Some(from) => from,
            StatusCode::OK => 0,
            _ => return Err(self.unexpected(wanted.uri.path().trim_start_matches('/'), answer, cancelled).await),
        };
        wanted.into.set_len(at)?;
        while let Some(bytes) = answer.next(cancelled).await? {
            if at + bytes.len() as u64 > wanted.limit {
                return Err(self.answer("it sends a file without an end"));
            }
            wanted.into.write_all_at(&bytes, at)?;
            at += bytes.len() as u64;
            told(at);
        }
        Ok(())
    }
}

/// `Content-Range: bytes 5-9/10`.
fn starts_at(answer: &Answer) -> Option<u64> {
    let range = answer.header(&CONTENT_RANGE)?.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.trim().parse().ok()
}

/// What has arrived of a blob: in the file, and in the hash.
struct Arrived<'a> {
    file: &'a File,
    hasher: Sha256,
    bytes: u64,
}

impl<'a> Arrived<'a> {
    fn resume(file: &'a File, blob: &Descriptor) -> Result<Arrived<'a>, RegistryError> {
        let mut arrived = Arrived { file, hasher: Sha256::new(), bytes: 0 };
        if file.metadata()?.len() > blob.bytes {
            arrived.restart()?;
            return Ok(arrived);
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut source = file;
        source.seek(SeekFrom::Start(0))?;
        loop {
            let read = source.read(&mut buffer)?;
            if read == 0 {
                return Ok(arrived);
            }
            arrived.hasher.update(&buffer[..read]);
            arrived.bytes += read as u64;
        }
    }

    fn restart(&mut self) -> Result<(), RegistryError> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::from_sha256(self.hasher.clone().finalize().into())
    }
}
