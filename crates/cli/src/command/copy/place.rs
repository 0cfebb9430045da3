//! Where a copy comes from and where it goes, as docker's `cp` understands the words.

use crate::client::{ClientError, Path as ApiPath};
use crate::command::Context;
use crate::failure::{Failure, Outcome};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use wire::FaultKind;
use wire::guest::{FileFacts, FileKind};

/// What a relative path in a guest begins at.
const HOME: &str = "/root";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Host(PathBuf),
    Guest { vm: String, path: String },
    Stream,
}

impl FromStr for Place {
    type Err = String;
    /// A slash before the colon makes it a path here: `./a:b`.
    fn from_str(given: &str) -> Result<Self, String> {
        match given.split_once(':') {
            _ if given.is_empty() => Err("an empty name is no place".into()),
            _ if given == "-" => Ok(Place::Stream),
            Some(("", _)) => Err("a sandbox's name comes before the colon".into()),
            Some((vm, path)) if !vm.contains('/') => {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("{HOME}/{path}") };
                Ok(Place::Guest { vm: vm.to_owned(), path })
            }
            _ => Ok(Place::Host(PathBuf::from(given))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host(path) => path.display().fmt(f),
            Place::Guest { vm, path } => write!(f, "{vm}:{path}"),
            Place::Stream => write!(f, "-"),
        }
    }
}

impl Place {
    fn text(&self) -> String {
        match self {
            Place::Host(path) => path.to_string_lossy().into_owned(),
            Place::Guest { path, .. } => path.clone(),
            Place::Stream => "-".to_owned(),
        }
    }

    /// Absent: nothing is there.
    async fn kind(&self, context: &Context) -> Outcome<Option<(FileKind, String)>> {
        match self {
            Place::Stream => Ok(None),
            Place::Guest { vm, path } => match facts(context, vm, path).await {
                Ok(facts) => Ok(Some((facts.kind, facts.path))),
                // A sandbox that is not there is none of the file's business.
                Err(ClientError::Fault(fault)) if fault.kind == FaultKind::NotFound && fault.message.contains(path) => {
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            },
            Place::Host(path) => Ok(host_kind(path)),
        }
    }
}

async fn facts(context: &Context, vm: &str, path: &str) -> Result<FileFacts, ClientError> {
    context.client.get(ApiPath::vm(vm).then("files").then("facts").query("path", path)).await
}

fn host_kind(path: &Path) -> Option<(FileKind, String)> {
    let facts = std::fs::metadata(path).or_else(|_| std::fs::symlink_metadata(path)).ok()?;
    let kind = match () {
        () if facts.is_file() => FileKind::File,
        () if facts.is_dir() => FileKind::Folder,
        () => FileKind::Other,
    };
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Some((kind, real.to_string_lossy().into_owned()))
}

/// What is read.
#[derive(Debug)]
pub struct Source {
    pub place: Place,
    pub is_folder: bool,
    /// Its own name; `.` for what is in it without itself.
    pub name: String,
    pub follow: bool,
}

impl Source {
    pub async fn look(context: &Context, place: Place, follow: bool) -> Outcome<Source> {
        let text = place.text();
        if place == Place::Stream {
            return Ok(Source { place, is_folder: true, name: ".".into(), follow });
        }
        let found = place.kind(context).await?;
        let Some((kind, real)) = found else {
            return Err(Failure::new(FaultKind::NotFound, format!("cannot copy {place}: there is no such file")));
        };
        let inside = text == "." || text == "/" || text.ends_with("/.");
        let name = if inside { Some(".".to_owned()) } else { last(&text).or_else(|| last(&real)) };
        Ok(Source {
            is_folder: kind == FileKind::Folder,
            name: name.unwrap_or_else(|| ".".to_owned()),
            // A slash at the end means what is behind a link.
            follow: follow || inside || text.ends_with('/'),
            place,
        })
    }
}

/// The last part of a path, unless that is no name.
fn last(text: &str) -> Option<String> {
    Path::new(text).file_name()?.to_str().map(str::to_owned)
}

/// Below which folder the archive is unpacked, and what the source is called in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub place: Place,
    pub name: String,
}

impl Target {
    pub async fn look(context: &Context, place: &Place, source: &Source, several: bool) -> Outcome<Target> {
        let refuse =
            |why: &str| Failure::new(FaultKind::Invalid, format!("cannot copy {} to {place}: {why}", source.place));
        match (&source.place, place) {
            (Place::Host(_), Place::Host(_)) => {
                return Err(refuse("both are on this host").with_hint("a place in a sandbox is written NAME:PATH"));
            }
            (Place::Stream, Place::Stream | Place::Host(_)) | (Place::Host(_), Place::Stream) => {
                return Err(refuse("one of both must be in a sandbox"));
            }
            (_, Place::Stream) => return Ok(Target { place: Place::Stream, name: source.name.clone() }),
            _ => {}
        }
        let text = place.text();
        let found = place.kind(context).await?;
        match found {
            Some((FileKind::Folder, real)) => Ok(Target { place: place.at(&real), name: source.name.clone() }),
            Some(_) if several || source.place == Place::Stream => Err(refuse("it is no folder")),
            Some(_) if source.is_folder => Err(refuse("a folder cannot take the place of a file")),
            Some((FileKind::Other, _)) => Err(refuse("it is neither file nor folder")),
            Some((FileKind::File, real)) => Target::named(place, &real).ok_or_else(|| refuse("it has no name")),
            None if several => Err(refuse("there is no such folder")),
            None if source.place == Place::Stream => Ok(Target { place: place.at(&text), name: ".".into() }),
            None if text.ends_with('/') && !source.is_folder => Err(refuse("there is no such folder")),
            None => {
                let target = Target::named(place, &text).ok_or_else(|| refuse("it has no name"))?;
                match target.place.kind(context).await? {
                    Some((FileKind::Folder, _)) => Ok(target),
                    _ => Err(refuse("the folder above it is not there").with_hint("make it first")),
                }
            }
        }
    }

    fn named(place: &Place, path: &str) -> Option<Target> {
        let path = Path::new(path);
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = match path.parent()?.to_str()? {
            "" => ".",
            parent => parent,
        };
        Some(Target { place: place.at(parent), name })
    }
}

impl Place {
    /// On the same side, elsewhere.
    fn at(&self, path: &str) -> Place {
        match self {
            Place::Guest { vm, .. } => Place::Guest { vm: vm.clone(), path: path.to_owned() },
            Place::Host(_) => Place::Host(PathBuf::from(path)),
            Place::Stream => Place::Stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: Place) {
        assert_eq!(given.parse::<Place>(), Ok(expected), "{given}");
    }

    #[test]
    fn a_place_is_in_a_sandbox_here_or_a_stream() {
        let guest = |vm: &str, path: &str| Place::Guest { vm: vm.into(), path: path.into() };
        check("web:/etc/hosts", guest("web", "/etc/hosts"));
        check("web:notes:today", guest("web", "/root/notes:today"));
        check("web:", guest("web", "/root/"));
        check("./a:b", Place::Host("./a:b".into()));
        check("/tmp/a:b", Place::Host("/tmp/a:b".into()));
        check("notes", Place::Host("notes".into()));
        check("-", Place::Stream);
        assert!("".parse::<Place>().is_err() && ":/etc".parse::<Place>().is_err());
    }
}
