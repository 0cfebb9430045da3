//! Names of files as text: as they are where they are plain, else quoted as git quotes them (git-config(1), `core.quotePath`), so
//! that every name is one line and can be told from every other.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn quote(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) => text.to_owned(),
        _ => quoted(path.as_os_str().as_bytes()),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\{other:03o}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn every_name_is_one_line_and_only_strange_ones_are_quoted() {
        for (name, shown) in [
            (&b"src/main.rs"[..], "src/main.rs"),
            ("\u{e4}".as_bytes(), "\u{e4}"),
            (b"a\nb", r#""a\nb""#),
            (b"q\"b", r#""q\"b""#),
            (b"\xff", r#""\377""#),
            (b"b\\s", r#""b\\s""#),
        ] {
            assert_eq!(quote(Path::new(OsStr::from_bytes(name))), shown);
        }
    }
}
