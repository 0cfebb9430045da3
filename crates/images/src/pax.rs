//! Records of a PAX extended header: `<length> <key>=<value>\n`, as POSIX pax and Go's `archive/tar` read them.
//!
//! Driven by the lengths alone, since values are binary: the `tar` crate splits at newlines and so refuses an
//! extended attribute that holds a 0x0a byte.

/// One record: key and value as they stand in the header.
pub(crate) type Record<'a> = (&'a [u8], &'a [u8]);

/// Iterates over the records; ends after the first malformed one.
pub(crate) fn records(mut rest: &[u8]) -> impl Iterator<Item = Result<Record<'_>, &'static str>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let item = split_record(rest);
        rest = match &item {
            Ok((_, rest)) => rest,
            Err(_) => &[],
        };
        Some(item.map(|(record, _)| record))
    })
}

fn split_record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    let space = bytes.iter().take(20).position(|&b| b == b' ').ok_or("a PAX record has no length")?;
    let length: usize = decimal(&bytes[..space]).ok_or("a PAX record's length is no number")?;
    if length > bytes.len() || length < space + 3 {
        return Err("a PAX record's length does not fit the header");
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n").ok_or("a PAX record does not end in a newline")?;
    let equals = record.iter().position(|&b| b == b'=').ok_or("a PAX record has no `=`")?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err("a PAX record's key is empty or holds a NUL");
    }
    Ok(((key, value), rest))
}

/// A decimal number without sign.
pub(crate) fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds and nanoseconds of a PAX time such as `-1.25`; digits beyond nanoseconds are cut off.
pub(crate) fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match digits.iter().position(|&b| b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &b""[..]),
    };
    let seconds: i64 = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |sum, i| sum * 10 + fraction.get(i).map_or(0, |&digit| u32::from(digit - b'0')));
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_equals_signs() {
        let header = b"12 path=a=b\n21 SCHILY.xattr.x=\n\n\n";
        let read: Vec<_> = records(header).map(|r| r.expect("well formed")).collect();
        assert_eq!(read, [(&b"path"[..], &b"a=b"[..]), (b"SCHILY.xattr.x", b"\n\n")]);
    }

    #[test]
    fn a_record_that_lies_about_its_length_is_refused() {
        for bad in [&b"99 a=b\n"[..], b"a=b\n", b"3 a\n", b"0 =\n", b"6 a=b", b"-1 a=b\n", b"6 ab\n\n", b"5 =b\n"] {
            assert!(records(bad).any(|r| r.is_err()), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = records(&bytes).count();
            let _ = time(&bytes);
        }
    }
}
