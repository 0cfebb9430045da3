//! Streams the contents of one file out of its layer, in the stretches that the image stores.
//!
//! Sparse pieces start and end at any byte, ext4 stores whole blocks: pieces are widened to blocks and joined, and
//! what lies between two pieces of one stretch reads as zeros.

use crate::positioned::ReadAt;
use crate::sparse::{Contents, Piece};
use mkext4::SparseSeg;
use std::io::{self, Read};
use std::ops::Range;

const BLOCK: u64 = 4096;

/// The stretches of a file that get blocks.
pub(super) fn stretches(contents: &Contents) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for piece in &contents.pieces {
        let start = piece.at - piece.at % BLOCK;
        let end = (piece.at + piece.length).next_multiple_of(BLOCK).min(contents.size);
        match stretches.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => stretches.push(start..end),
        }
    }
    stretches
}

/// The same as a list without gaps, as `mkext4` wants it; `None` for a file without holes.
pub(super) fn segments(contents: &Contents, stretches: &[Range<u64>]) -> Option<Vec<SparseSeg>> {
    let whole = stretches.first().is_some_and(|first| *first == (0..contents.size));
    if whole || contents.size == 0 {
        return None;
    }
    let (mut segments, mut at) = (Vec::new(), 0);
    for stretch in stretches {
        if stretch.start > at {
            segments.push(SparseSeg::Hole(stretch.start - at));
        }
        segments.push(SparseSeg::Data(stretch.end - stretch.start));
        at = stretch.end;
    }
    if at < contents.size {
        segments.push(SparseSeg::Hole(contents.size - at));
    }
    Some(segments)
}

/// Reads all stretches of a file one after the other.
pub(super) struct Stream<'a, S> {
    layer: &'a S,
    pieces: &'a [Piece],
    stretches: Vec<Range<u64>>,
    /// Index into `stretches`.
    stretch: usize,
    /// Index into `pieces`.
    piece: usize,
    /// Offset in the file.
    at: u64,
}

impl<'a, S: ReadAt> Stream<'a, S> {
    pub(super) fn new(layer: &'a S, contents: &'a Contents) -> Self {
        let stretches = stretches(contents);
        let at = stretches.first().map_or(0, |stretch| stretch.start);
        Stream { layer, pieces: &contents.pieces, stretches, stretch: 0, piece: 0, at }
    }
}

impl<S: ReadAt> Read for Stream<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stretch) = self.stretches.get(self.stretch) else { return Ok(0) };
        let end = match self.pieces.get(self.piece) {
            Some(piece) if self.at >= piece.at => piece.at + piece.length,
            Some(piece) => piece.at.min(stretch.end),
            None => stretch.end,
        };
        let wanted = buffer.len().min(usize::try_from(end - self.at).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..wanted];
        match self.pieces.get(self.piece) {
            Some(piece) if self.at >= piece.at => {
                self.layer.read_exact_at(buffer, piece.stored_at + (self.at - piece.at))?;
                self.piece += usize::from(self.at + wanted as u64 == end);
            }
            _ => buffer.fill(0),
        }
        self.at += wanted as u64;
        if self.at == stretch.end {
            self.stretch += 1;
            self.at = self.stretches.get(self.stretch).map_or(self.at, |next| next.start);
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(layer: &[u8], contents: &Contents) -> Vec<u8> {
        let mut read = Vec::new();
        Stream::new(&layer, contents).read_to_end(&mut read).expect("a slice can be read");
        read
    }

    #[test]
    fn a_whole_file_is_one_stretch() {
        let contents = Contents::whole(5000, 10);
        assert_eq!(segments(&contents, &stretches(&contents)), None);
        let layer: Vec<u8> = (0..6000).map(|i| i as u8).collect();
        assert_eq!(read(&layer, &contents), &layer[10..5010]);
        assert_eq!(read(&layer, &Contents::whole(0, 10)), b"");
    }

    proptest! {
        /// Laying the stretches where the segments say gives the file that the pieces describe.
        #[test]
        fn stretches_and_segments_make_the_file(map in prop::collection::vec((0u64..9000, 1u64..9000), 0..6), tail in 0u64..9000) {
            let mut at = 0;
            let map: Vec<(u64, u64)> = map.into_iter().map(|(gap, length)| {
                let piece = (at + gap, length);
                at += gap + length;
                piece
            }).collect();
            let size = at + tail;
            let stored: u64 = map.iter().map(|(_, length)| length).sum();
            let layer: Vec<u8> = (0..stored).map(|i| (i % 255 + 1) as u8).collect();
            let contents = Contents::sparse(size, &map, 0, stored).expect("the map is good");
            let mut expected = vec![0; size as usize];
            for piece in &contents.pieces {
                let bytes = &layer[piece.stored_at as usize..][..piece.length as usize];
                expected[piece.at as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            let mut stream = &read(&layer, &contents)[..];
            let mut made = Vec::new();
            let segments = segments(&contents, &stretches(&contents))
                .unwrap_or_else(|| if size == 0 { vec![] } else { vec![SparseSeg::Data(size)] });
            for segment in segments {
                match segment {
                    SparseSeg::Hole(length) => made.resize(made.len() + length as usize, 0),
                    SparseSeg::Data(length) => {
                        let (now, rest) = stream.split_at(length as usize);
                        made.extend_from_slice(now);
                        stream = rest;
                    }
                }
            }
            prop_assert!(stream.is_empty());
            prop_assert!(made == expected);
        }
    }
}
