//! Small formats that have no home of their own: a query string, /proc's escapes, a managed block in somebody's file.

/// The value of `name` in a query, percent-decoded; `None` where it is missing or no UTF-8.
pub fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| percent_decode(value)).flatten()
    })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [left.next()?, left.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// /proc/mounts writes blank, tab, newline and backslash as three octal digits.
pub fn unescape_mount(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

pub const BLOCK_BEGIN: &str = "# banger: begin, rewritten at every start";
pub const BLOCK_END: &str = "# banger: end";

/// `old` with our block replaced, or put in front where there is none. What others wrote stays. An empty block vanishes.
pub fn with_block(old: &str, lines: &[String]) -> String {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in old.lines() {
        match line {
            BLOCK_BEGIN => inside = true,
            BLOCK_END if inside => inside = false,
            other if !inside => kept.push(other),
            _ => {}
        }
    }
    let mut text = String::new();
    if !lines.is_empty() {
        for line in [BLOCK_BEGIN].into_iter().chain(lines.iter().map(String::as_str)).chain([BLOCK_END]) {
            text.push_str(line);
            text.push('\n');
        }
    }
    for line in kept {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_nonsense_is_none() {
        assert_eq!(query_value("path=%2Fa%20b&x=1", "path").as_deref(), Some("/a b"));
        assert_eq!(query_value("path=a+b", "path").as_deref(), Some("a+b"));
        assert_eq!(query_value("x=1", "path"), None);
        assert_eq!(query_value("path=%2", "path"), None);
        assert_eq!(query_value("path=%zz", "path"), None);
        assert_eq!(query_value("path=%ff", "path"), None);
    }

    #[test]
    fn escapes_of_proc_mounts_are_undone() {
        assert_eq!(unescape_mount("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape_mount("/a\\9"), "/a\\9");
    }

    #[test]
    fn a_block_is_replaced_and_strangers_lines_stay() {
        let once = with_block("mine\n", &["a".to_owned()]);
        assert_eq!(once, format!("{BLOCK_BEGIN}\na\n{BLOCK_END}\nmine\n"));
        let twice = with_block(&once, &["b".to_owned()]);
        assert_eq!(twice, format!("{BLOCK_BEGIN}\nb\n{BLOCK_END}\nmine\n"));
        assert_eq!(with_block(&twice, &[]), "mine\n");
    }
}
