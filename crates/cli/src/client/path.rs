//! Paths of the control API. What a person typed is escaped, so that a reference can never become another path.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Debug, Clone)]
pub struct Path {
    text: String,
    queried: bool,
    void: bool,
}

impl Path {
    /// A path of ours, taken as it is.
    pub fn new(text: &str) -> Self {
        Path { text: text.to_owned(), queried: false, void: false }
    }

    /// `/v1/vms/<reference>`.
    pub fn vm(reference: &str) -> Self {
        Path::new("/v1/vms").then(reference)
    }

    /// One more segment.
    pub fn then(mut self, segment: &str) -> Self {
        self.text.push('/');
        self.void |= segment.is_empty();
        // A lone dot would be taken for "here" by anything that normalizes paths.
        match segment {
            "." => self.text.push_str("%2E"),
            ".." => self.text.push_str("%2E%2E"),
            _ => self.text.extend(utf8_percent_encode(segment, ESCAPED)),
        }
        self
    }

    pub fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.queried { '&' } else { '?' });
        self.queried = true;
        self.text.push_str(key);
        self.text.push('=');
        self.text.extend(utf8_percent_encode(value, ESCAPED));
        self
    }

    /// An empty name would make it another path.
    pub fn is_void(&self) -> bool {
        self.void
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_stays_one_segment() {
        for (typed, path) in [
            ("web", "/v1/vms/web"),
            ("a/b?c#d", "/v1/vms/a%2Fb%3Fc%23d"),
            ("..", "/v1/vms/%2E%2E"),
            ("ä ", "/v1/vms/%C3%A4%20"),
        ] {
            assert_eq!(Path::vm(typed).as_str(), path);
        }
    }

    #[test]
    fn queries_are_joined() {
        let path = Path::new("/v1/history").query("vm", "a&b").query("limit", "3");
        assert_eq!(path.as_str(), "/v1/history?vm=a%26b&limit=3");
    }
}
