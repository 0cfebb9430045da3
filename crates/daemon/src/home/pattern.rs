//! One line of an ignore file and the names it means, as git's `wildmatch` judges (dir.c and wildmatch.c of git).
//!
//! Over bytes, without recursion or backtracking: the reachable places of the text move through the pattern's parts one
//! after another, so a hostile pattern takes parts times bytes and no more. What is longer than [`PATTERN_BYTES`] is no
//! pattern, and so excludes nothing.

/// 1 KiB: a path has 4 at most.
const PATTERN_BYTES: usize = 1024;

#[derive(Debug)]
pub struct Pattern {
    /// `!`: what matches comes back.
    pub keeps: bool,
    /// A slash at the end.
    pub only_folders: bool,
    /// No slash in it: it means a name at any depth.
    pub by_name: bool,
    parts: Vec<Part>,
    /// Only literals, perhaps after one star: compared without the machinery.
    plain: Option<(bool, Vec<u8>)>,
}

#[derive(Debug)]
enum Part {
    Byte(u8),
    /// `?`
    One,
    /// `*`: within a name.
    Name,
    /// `**`: over slashes, too.
    Any,
    /// `**/`: nothing, or any folders.
    Folders,
    Class {
        negated: bool,
        has: Box<[bool; 256]>,
    },
}

/// The patterns of a file, in order.
pub fn read(text: &[u8]) -> impl Iterator<Item = Pattern> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    text.split(|byte| *byte == b'\n').filter_map(|line| Pattern::parse(line.strip_suffix(b"\r").unwrap_or(line)))
}

impl Pattern {
    /// None where the line means nothing.
    pub fn parse(line: &[u8]) -> Option<Pattern> {
        // For git a line ends at its first NUL.
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        if line.len() > PATTERN_BYTES || line.first() == Some(&b'#') {
            return None;
        }
        let line = without_blanks(line);
        let (keeps, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
        let (only_folders, line) = line.strip_suffix(b"/").map_or((false, line), |rest| (true, rest));
        let by_name = !line.contains(&b'/');
        let line = line.strip_prefix(b"/").unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        let parts = parts(line, !by_name)?;
        Some(Pattern { keeps, only_folders, by_name, plain: plain(&parts), parts })
    }

    /// `text`: a name, or the path below the pattern's own folder. `cost` grows by what it took.
    pub fn matches(&self, text: &[u8], cost: &mut u64) -> bool {
        *cost += 1;
        if let Some((after_star, literal)) = &self.plain {
            return match after_star {
                true => {
                    text.ends_with(literal) && (self.by_name || !text[..text.len() - literal.len()].contains(&b'/'))
                }
                false => text == literal,
            };
        }
        *cost += (self.parts.len() * text.len()) as u64;
        let mut places = vec![false; text.len() + 1];
        places[0] = true;
        for part in &self.parts {
            if !advance(part, text, &mut places, !self.by_name) {
                return false;
            }
        }
        places[text.len()]
    }
}

/// A blank at the end means nothing, but behind a backslash.
fn without_blanks(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' => {}
            // Git leaves a line alone whose last byte is one.
            b'\\' if at + 1 == line.len() => return line,
            b'\\' => {
                at += 1;
                end = at + 1;
            }
            _ => end = at + 1,
        }
        at += 1;
    }
    &line[..end]
}

fn plain(parts: &[Part]) -> Option<(bool, Vec<u8>)> {
    let (after_star, rest) = match parts.split_first() {
        Some((Part::Name, rest)) => (true, rest),
        _ => (false, parts),
    };
    let bytes = rest.iter().map(|part| if let Part::Byte(byte) = part { Some(*byte) } else { None });
    Some((after_star, bytes.collect::<Option<Vec<u8>>>()?))
}

/// None: it can match nothing. `as_path`: stars stop at slashes.
fn parts(line: &[u8], as_path: bool) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b'*' => {
                let stars = line[at..].iter().take_while(|byte| **byte == b'*').count();
                let rest = &line[at + stars..];
                let bounded = (at == 0 || line[at - 1] == b'/')
                    && (rest.is_empty() || rest.starts_with(b"/") || rest.starts_with(b"\\/"));
                at += stars;
                parts.push(match (stars > 1 && bounded && as_path, rest.first()) {
                    (true, Some(b'/')) => {
                        at += 1;
                        Part::Folders
                    }
                    (true, _) => Part::Any,
                    (false, _) => Part::Name,
                });
                continue;
            }
            b'?' => parts.push(Part::One),
            b'[' => {
                let (class, next) = class(line, at + 1)?;
                parts.push(class);
                at = next;
                continue;
            }
            b'\\' => {
                at += 1;
                parts.push(Part::Byte(*line.get(at)?));
            }
            byte => parts.push(Part::Byte(byte)),
        }
        at += 1;
    }
    Some(parts)
}

/// `[…]` from behind its bracket; the place behind its end. None where it has none, or names a class that is none.
fn class(line: &[u8], mut at: usize) -> Option<(Part, usize)> {
    let negated = matches!(line.get(at)?, b'!' | b'^');
    at += usize::from(negated);
    let mut has = Box::new([false; 256]);
    let mut before = 0;
    // A bracket that stands first is one of its members.
    let mut byte = *line.get(at)?;
    loop {
        let member = match byte {
            b'\\' => {
                at += 1;
                let escaped = *line.get(at)?;
                has[usize::from(escaped)] = true;
                escaped
            }
            b'-' if before != 0 && line.get(at + 1).is_some_and(|next| *next != b']') => {
                at += 1;
                if line[at] == b'\\' {
                    at += 1;
                }
                let last = *line.get(at)?;
                (before..=last).for_each(|member| has[usize::from(member)] = true);
                0
            }
            b'[' if line.get(at + 1) == Some(&b':') => {
                let start = at + 2;
                let end = start + line[start..].iter().position(|byte| *byte == b']')?;
                match line[start..end].strip_suffix(b":") {
                    Some(name) => {
                        let test = named(name)?;
                        (0..=255_u8).filter(test).for_each(|member| has[usize::from(member)] = true);
                        at = end;
                        0
                    }
                    None => {
                        has[usize::from(b'[')] = true;
                        b'['
                    }
                }
            }
            byte => {
                has[usize::from(byte)] = true;
                byte
            }
        };
        before = member;
        at += 1;
        byte = *line.get(at)?;
        if byte == b']' {
            return Some((Part::Class { negated, has }, at + 1));
        }
    }
}

fn named(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| (b' '..=b'~').contains(byte),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// Moves every place over one part; false where none is left.
fn advance(part: &Part, text: &[u8], places: &mut [bool], as_path: bool) -> bool {
    let one = |places: &mut [bool], takes: &dyn Fn(u8) -> bool| {
        for at in (0..text.len()).rev() {
            places[at + 1] = places[at] && takes(text[at]);
        }
        places[0] = false;
    };
    match part {
        Part::Byte(byte) => one(places, &|other| other == *byte),
        Part::One => one(places, &|other| !(as_path && other == b'/')),
        Part::Class { negated, has } => {
            one(places, &|other| has[usize::from(other)] != *negated && !(as_path && other == b'/'));
        }
        Part::Name | Part::Any => {
            let crosses = !as_path || matches!(part, Part::Any);
            for at in 0..text.len() {
                places[at + 1] |= places[at] && (crosses || text[at] != b'/');
            }
        }
        Part::Folders => {
            let mut began = false;
            for at in 0..text.len() {
                began |= places[at];
                places[at + 1] |= began && text[at] == b'/';
            }
        }
    }
    places.contains(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_its_bytes() {
        let line = "*a".repeat(PATTERN_BYTES / 2);
        let pattern = Pattern::parse(line.as_bytes()).expect("it is one");
        let mut cost = 0;
        assert!(!pattern.matches("a".repeat(400).as_bytes(), &mut cost));
        assert_eq!(cost, 1 + 1024 * 400);
        assert!(Pattern::parse(&[b'a'; PATTERN_BYTES + 1]).is_none());
    }
}
