//! Where the bytes of a file lie in its layer: one piece for an ordinary file, several with holes between them for
//! a sparse one. Reads the four formats in which GNU tar says so: old GNU headers, PAX 0.0, 0.1 and 1.0.
//!
//! Invariant of [`Contents`]: pieces are in order, do not overlap, are not empty and end within `size`.

use crate::pax::decimal;

/// A stretch of a file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub at: u64,
    pub length: u64,
    /// Offset in the decompressed layer.
    pub stored_at: u64,
}

/// The contents of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub size: u64,
    pub pieces: Box<[Piece]>,
}

impl Contents {
    /// A file stored in one piece.
    pub fn whole(size: u64, stored_at: u64) -> Self {
        let piece = Piece { at: 0, length: size, stored_at };
        Contents { size, pieces: if size == 0 { Box::default() } else { Box::new([piece]) } }
    }

    /// Lays the pieces of a sparse map, which are stored one after the other from `stored_at` on, into a file of
    /// `size` bytes. `stored` is how many bytes the archive holds for them.
    pub(crate) fn sparse(size: u64, map: &[(u64, u64)], stored_at: u64, stored: u64) -> Result<Self, &'static str> {
        let mut pieces = Vec::with_capacity(map.len());
        let (mut end, mut used) = (0, 0);
        for &(at, length) in map {
            let piece_end = at.checked_add(length).ok_or("a sparse piece ends beyond 64 bits")?;
            if at < end || piece_end > size {
                return Err("sparse pieces overlap or end beyond the file");
            }
            if length > 0 {
                pieces.push(Piece { at, length, stored_at: stored_at + used });
            }
            used += length;
            end = piece_end;
        }
        if used > stored {
            return Err("sparse pieces need more bytes than the archive holds for them");
        }
        Ok(Contents { size, pieces: pieces.into() })
    }

    /// Bytes that are stored; the rest is holes.
    pub fn stored_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.length).sum()
    }
}

/// The four sparse fields of an old GNU header or the 21 of its continuation block: 24 bytes each, ended by an
/// empty one.
pub(crate) fn gnu_map(fields: &[u8], map: &mut Vec<(u64, u64)>) -> Result<(), &'static str> {
    for field in fields.chunks_exact(24) {
        let (at, length) = field.split_at(12);
        if field[0] == 0 || field[12] == 0 {
            break;
        }
        let number = |digits| super::archive::number(digits).and_then(|n| u64::try_from(n).ok());
        map.push((
            number(at).ok_or("a sparse offset is no number")?,
            number(length).ok_or("a sparse length is no number")?,
        ));
    }
    Ok(())
}

/// PAX 0.1 (and 0.0, whose records are joined by commas first): `offset,length,offset,length,…`.
pub(crate) fn pax_map(value: &[u8]) -> Result<Vec<(u64, u64)>, &'static str> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Option<Vec<u64>> = value.split(|&b| b == b',').map(decimal).collect();
    let numbers = numbers.ok_or("a sparse map holds something else than numbers")?;
    if numbers.len() % 2 != 0 {
        return Err("a sparse map has an offset without a length");
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_laid_out_in_order() {
        let contents = Contents::sparse(100, &[(10, 5), (20, 0), (50, 50)], 512, 55).expect("a good map");
        let expected = [Piece { at: 10, length: 5, stored_at: 512 }, Piece { at: 50, length: 50, stored_at: 517 }];
        assert_eq!(*contents.pieces, expected);
        assert_eq!(contents.stored_bytes(), 55);
    }

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(Contents::sparse(100, &[(10, 5), (14, 1)], 0, 99).is_err(), "overlap");
        assert!(Contents::sparse(100, &[(99, 2)], 0, 99).is_err(), "beyond the end");
        assert!(Contents::sparse(100, &[(u64::MAX, 2)], 0, 99).is_err(), "overflow");
        assert!(Contents::sparse(100, &[(0, 50)], 0, 49).is_err(), "not stored");
        assert!(pax_map(b"1,2,3").is_err());
        assert!(pax_map(b"1,-2").is_err());
        assert_eq!(pax_map(b"1,2"), Ok(vec![(1, 2)]));
    }
}
