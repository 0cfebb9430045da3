//! Shows bytes that an archive chose to a person: bounded, without control characters.

/// 200 characters: enough to recognise a path, too few to flood a terminal.
const SHOWN_CHARS: usize = 200;

/// The lossy text of `bytes`, escaped and shortened.
pub(crate) fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_CHARS)]);
    let mut shown: String = text.chars().take(SHOWN_CHARS).flat_map(escape).collect();
    if text.chars().count() > SHOWN_CHARS || bytes.len() > 4 * SHOWN_CHARS {
        shown.push('…');
    }
    shown
}

fn escape(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

#[cfg(test)]
mod tests {
    use super::show;

    #[test]
    fn control_characters_and_length_are_tamed() {
        assert_eq!(show(b"a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(show(&[b'x'; 5000]).chars().count(), 201);
        assert_eq!(show(&[0xff]), "\u{fffd}");
    }
}
