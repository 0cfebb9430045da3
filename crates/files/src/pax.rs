//! Records of a PAX extended header: `<length> <key>=<value>\n` (POSIX pax). Driven by the lengths alone, since values are
//! binary.

use std::io::{self, ErrorKind};

pub type Record<'a> = (&'a [u8], &'a [u8]);

pub fn render(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        if length.to_string().len() != rest.to_string().len() {
            length = rest + length.to_string().len();
        }
        text.extend_from_slice(format!("{length} ").as_bytes());
        text.extend_from_slice(key);
        text.push(b'=');
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    text
}

pub fn parse(mut rest: &[u8]) -> io::Result<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (record, behind) = split(rest).ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidData, "a record of the archive's extended header is malformed")
        })?;
        records.push(record);
        rest = behind;
    }
    Ok(records)
}

fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = number(&bytes[..space])?;
    let record = bytes.get(..length).filter(|_| length > space + 2)?;
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &bytes[length..]))
}

pub fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Seconds and nanoseconds: `1700000000.25`.
pub fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let (whole, part) = match digits.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &[][..]),
    };
    let seconds: i64 = number(whole)?;
    let nanos = (0..9).try_fold(0, |sum, at| Some(sum * 10 + number::<u32>(part.get(at..=at).unwrap_or(b"0"))?))?;
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
    fn records_of_every_length_and_binary_values_read_back() {
        for length in (0..120).chain(980..1010) {
            let records = vec![(b"key".to_vec(), vec![b'\n'; length]), (b"b".to_vec(), b"=\0 7 x".to_vec())];
            let text = render(&records);
            let read: Vec<_> =
                parse(&text).expect("records").into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            assert_eq!(read, records, "{length}");
        }
        for bad in [b"5".as_slice(), b"99 a=b\n", b"0 a=b\n", b"6 ab\n", b"6 a=bc", b"x a=b\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_may_have_parts_and_lie_before_the_epoch() {
        assert_eq!(time(b"17.25"), Some((17, 250_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!((time(b"17"), time(b"x"), time(b"1.x")), (Some((17, 0)), None, None));
    }
}
