//! Values that several verbs read from the command line.

use crate::failure::{Failure, Outcome};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};
use wire::FaultKind;

/// `KEY=VALUE`, split at the first `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: String,
}

pub fn pair(given: &str) -> Result<Pair, String> {
    match given.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Pair { key: key.to_owned(), value: value.to_owned() }),
        _ => Err("it is written KEY=VALUE".into()),
    }
}

/// Pairs as a map; the last of two equal keys wins, as in a shell.
pub fn map(pairs: Vec<Pair>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

/// `90s`, `30m`, `1h30m`; a bare number is seconds.
pub fn span(given: &str) -> Result<Duration, String> {
    if let Ok(seconds) = given.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let span = given.parse::<jiff::SignedDuration>().ok();
    let span = span.and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| "a span is written like `90s`, `30m` or `1h30m`".into())
}

/// A span, or `off`, which is zero.
pub fn span_or_off(given: &str) -> Result<Duration, String> {
    if given == "off" { Ok(Duration::ZERO) } else { span(given) }
}

/// A moment that has passed: so long ago, or at a time of its own.
pub fn moment(given: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = span(given) {
        return Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
    }
    let at = given.parse::<jiff::Timestamp>();
    at.map(SystemTime::from).map_err(|_| "it is a span like `10m`, or a time like `2026-11-25T09:30:00Z`".into())
}

/// A path as the daemon needs it, which stands in another folder. Whether it exists is for the daemon to say.
pub fn absolute(path: &Path) -> Outcome<String> {
    let refuse = |why: String| Failure::new(FaultKind::Invalid, format!("cannot use `{}`: {why}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| refuse(error.to_string()))?;
    absolute.into_os_string().into_string().map_err(|_| refuse("its name is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        let read = |given| pair(given).ok().map(|pair| (pair.key, pair.value));
        assert_eq!(read("a=b=c"), Some(("a".into(), "b=c".into())));
        assert_eq!(read("a="), Some(("a".into(), String::new())));
        assert_eq!((read("a"), read("=b")), (None, None));
    }

    #[test]
    fn a_moment_is_a_span_ago_or_a_time() {
        let at = moment("2026-11-25T09:30:00Z").expect("a time");
        assert_eq!(at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs(), 1_795_599_000);
        let ago = moment("1h").expect("a span").elapsed().expect("it has passed");
        assert!(ago.as_secs().abs_diff(3_600) < 60, "{ago:?}");
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn spans_read_as_people_write_them() {
        for (given, seconds) in [("90", 90), ("90s", 90), ("30m", 1_800), ("1h30m", 5_400)] {
            assert_eq!(span(given), Ok(Duration::from_secs(seconds)), "{given}");
        }
        for bad in ["", "-5s", "x", "5 parsecs"] {
            assert!(span(bad).is_err(), "{bad}");
        }
        assert_eq!(span_or_off("off"), Ok(Duration::ZERO));
    }
}
