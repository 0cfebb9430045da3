//! A registry for tests that answers whatever a test wants, also what no honest one would: over plain HTTP on loopback,
//! one connection a thread.

use images::digest;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Fake {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut_after: Option<usize>,
    /// After what is sent, nothing more comes and the connection stays.
    pub stall: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), ..Reply::default() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

impl Fake {
    pub fn serve(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(question) = read(&stream) else { return };
                    seen.lock().unwrap().push(question.clone());
                    let _ = write(&stream, &answer(&question));
                });
            }
        });
        Fake { address, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    if !line.ends_with("HTTP/1.1\r\n") {
        // A TLS greeting: an HTTP server says so in its own words.
        let _ = (&mut &*stream).write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((key, value)) => headers.insert(key.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    Some(Asked { path, headers })
}

fn write(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let cut = reply.cut_after.unwrap_or(reply.body.len()).min(reply.body.len());
    stream.write_all(&reply.body[..cut])?;
    stream.flush()?;
    if reply.stall {
        std::thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

/// An image as a registry holds it: documents and blobs by path.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifest: Vec<u8>,
    pub layers: Vec<String>,
    pub config: String,
}

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Held {
    /// One layer for each list of files, gzip first, then zstd, then plain, then again.
    pub fn image(layers: &[&[(&str, &[u8])]]) -> Held {
        let mut held = Held::default();
        let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
        for (number, files) in layers.iter().enumerate() {
            let plain = archive(files);
            diff_ids.push(format!("\"{}\"", digest::of_bytes(&plain)));
            let (packed, media) = match number % 3 {
                0 => (gzip(&plain), "tar+gzip"),
                1 => (zstd::encode_all(&plain[..], 1).unwrap(), "tar+zstd"),
                _ => (plain, "tar"),
            };
            let (digest, size) = held.hold(packed);
            descriptors.push(format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.{media}","digest":"{digest}","size":{size}}}"#
            ));
            held.layers.push(digest);
        }
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            super::super::pull::architecture(),
            diff_ids.join(",")
        );
        let (digest, size) = held.hold(config.into_bytes());
        held.manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{size}}},"layers":[{}]}}"#,
            descriptors.join(",")
        )
        .into_bytes();
        held.config = digest;
        held
    }

    /// With other bytes in the place of a blob, and a manifest that names them.
    pub fn replace(&mut self, old: &str, bytes: Vec<u8>) {
        let before = self.blobs.remove(old).expect("it is held").len();
        let (digest, size) = self.hold(bytes);
        let descriptor = |digest: &str, size: usize| format!(r#""digest":"{digest}","size":{size}"#);
        let manifest = String::from_utf8(std::mem::take(&mut self.manifest)).expect("it is text");
        let replaced = manifest.replace(&descriptor(old, before), &descriptor(&digest, size));
        assert_ne!(replaced, manifest, "the manifest names it");
        self.manifest = replaced.into_bytes();
        for name in self.layers.iter_mut().chain([&mut self.config]).filter(|name| **name == old) {
            name.clone_from(&digest);
        }
    }

    fn hold(&mut self, bytes: Vec<u8>) -> (String, usize) {
        let (digest, size) = (digest::of_bytes(&bytes).to_string(), bytes.len());
        self.blobs.insert(digest.clone(), bytes);
        (digest, size)
    }

    /// As an honest registry answers, ranges and all.
    pub fn answer(&self, asked: &Asked) -> Reply {
        let last = asked.path.rsplit('/').next().unwrap_or_default();
        if asked.path.contains("/manifests/") {
            return match self.blobs.get(last) {
                Some(index) => Reply::new(200, index.clone()),
                None => Reply::new(200, self.manifest.clone()).header("Content-Type", OCI_MANIFEST),
            };
        }
        let Some(blob) = self.blobs.get(last) else { return Reply::new(404, "") };
        let from =
            asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match from {
            Some(from) if from < blob.len() => Reply::new(206, &blob[from..])
                .header("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, blob.clone()),
        }
    }
}

pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        archive.append_data(&mut header, name, *contents).unwrap();
    }
    archive.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
