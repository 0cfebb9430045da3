//! A reference to an image somewhere: `debian-bookworm`, `docker.io/library/alpine:3.20`, `host:5000/a/b@sha256:…`.
//!
//! A bare name is looked up among local images, then in the catalog; everything else is an OCI reference
//! (grammar of the distribution specification). Which it is is decided here, once.

use crate::id::Digest;
use crate::name::ImageName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageRef {
    Name(ImageName),
    Oci(OciReference),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciReference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no image reference: {reason}")]
pub struct ImageRefError {
    pub given: String,
    pub reason: String,
}

/// Where a reference without a registry points, as Docker made it custom.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// 255 bytes: the longest repository name of the distribution specification.
const MAX_REPOSITORY_BYTES: usize = 255;

impl FromStr for ImageRef {
    type Err = ImageRefError;
    fn from_str(given: &str) -> Result<Self, ImageRefError> {
        let refuse = |reason: String| ImageRefError { given: given.chars().take(120).collect(), reason };
        if !given.contains(['/', ':', '@']) {
            return given.parse().map(ImageRef::Name).map_err(|error: crate::name::NameError| refuse(error.reason));
        }
        OciReference::parse(given).map(ImageRef::Oci).map_err(refuse)
    }
}

impl OciReference {
    /// Reads any OCI reference; a bare `alpine` means Docker's library here.
    pub fn parse(given: &str) -> Result<Self, String> {
        let (rest, digest) = match given.split_once('@') {
            None => (given, None),
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if let Some(tag) = &tag {
            check_tag(tag)?;
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, path.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{path}")),
        };
        check_registry(registry)?;
        check_repository(&repository)?;
        Ok(OciReference { registry: registry.to_owned(), repository, tag, digest })
    }

    /// The local name an image gets when the person gives none: `library/debian:bookworm` is `debian-bookworm`.
    pub fn default_name(&self) -> ImageName {
        let last = self.repository.rsplit('/').next().unwrap_or("image");
        let mut name = last.to_owned();
        match (&self.tag, &self.digest) {
            (Some(tag), _) if tag != "latest" => name = format!("{name}-{tag}"),
            (None, Some(digest)) => name = format!("{name}-{}", &digest.hex()[..12]),
            _ => {}
        }
        name.truncate(crate::name::MAX_ARTIFACT_BYTES);
        name.parse().expect("a checked repository and tag consist of characters of an image name")
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageRef::Name(name) => name.fmt(f),
            ImageRef::Oci(reference) => reference.fmt(f),
        }
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let valid = (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-']);
    if valid { Ok(()) } else { Err("its tag is not 1 to 128 letters, digits, `_`, `.` and `-`".into()) }
}

fn check_registry(registry: &str) -> Result<(), String> {
    let valid = !registry.is_empty()
        && registry.len() <= 255
        && registry.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
        && !registry.contains("..")
        && registry.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if valid { Ok(()) } else { Err("its registry is no host name".into()) }
}

fn check_repository(repository: &str) -> Result<(), String> {
    let component = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !part.is_empty()
            && part.bytes().all(|b| inner(b) || matches!(b, b'_' | b'.' | b'-'))
            && part.bytes().next().is_some_and(inner)
            && part.bytes().last().is_some_and(inner)
    };
    if repository.len() <= MAX_REPOSITORY_BYTES && repository.split('/').all(component) {
        Ok(())
    } else {
        Err("its repository is not lower-case letters, digits, `.`, `_`, `-` between slashes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(given: &str, expected: &str, name: &str) {
        match given.parse::<ImageRef>() {
            Ok(ImageRef::Oci(reference)) => {
                assert_eq!(reference.to_string(), expected, "{given}");
                assert_eq!(reference.default_name().as_str(), name, "{given}");
            }
            other => panic!("{given}: {other:?}"),
        }
    }

    #[test]
    fn references_are_read_as_docker_reads_them() {
        check("alpine:3.20", "docker.io/library/alpine:3.20", "alpine-3.20");
        check("nginx:latest", "docker.io/library/nginx:latest", "nginx");
        check("a/b", "docker.io/a/b", "b");
        check("localhost:5000/x/y:z", "localhost:5000/x/y:z", "y-z");
        let digest = format!("sha256:{}", "a".repeat(64));
        check(&format!("r.example/x@{digest}"), &format!("r.example/x@{digest}"), "x-aaaaaaaaaaaa");
    }

    #[test]
    fn a_bare_name_is_a_name_here() {
        assert!(matches!("debian-bookworm".parse(), Ok(ImageRef::Name(_))));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            "A/B",
            "a/../b",
            "a//b",
            "x:",
            "x@sha256:12",
            "a b",
            "-x",
            "x/-y",
            "x:.t",
            "../x",
            "..",
            "r..example/x",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(given in "[a-zA-Z0-9:/@._-]{0,80}") {
            if let Ok(ImageRef::Oci(reference)) = given.parse() {
                reference.default_name();
            }
        }
    }
}
