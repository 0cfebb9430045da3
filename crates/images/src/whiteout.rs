//! Names by which a layer takes away what lower layers brought (OCI image layer specification).
//!
//! A whiteout hides lower layers only, wherever it stands among the entries of its own layer: what that layer
//! itself brings stays. [`crate::tree`] does the hiding; here is only what a name means.

/// What the last component of an entry's path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// An ordinary file name.
    Plain(&'a [u8]),
    /// `.wh.<name>`: the sibling of that name is gone.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: everything beside it is gone.
    Opaque,
    /// Other `.wh..wh.*` names: bookkeeping of aufs, means nothing. `.wh.` with no good name behind it too.
    Meaningless,
}

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

pub fn classify(name: &[u8]) -> Name<'_> {
    if name == OPAQUE {
        return Name::Opaque;
    }
    if name.starts_with(META_PREFIX) {
        return Name::Meaningless;
    }
    match name.strip_prefix(PREFIX) {
        None => Name::Plain(name),
        Some(b"" | b"." | b"..") => Name::Meaningless,
        Some(hidden) => Name::Whiteout(hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_the_specification_says() {
        assert_eq!(classify(b"a"), Name::Plain(b"a"));
        assert_eq!(classify(b".wh.a"), Name::Whiteout(b"a"));
        assert_eq!(classify(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(classify(b".wh..wh.plnk"), Name::Meaningless);
        assert_eq!(classify(b".wh."), Name::Meaningless);
        assert_eq!(classify(b".wh..."), Name::Meaningless);
        assert_eq!(classify(b".whatever"), Name::Plain(b".whatever"));
    }
}
