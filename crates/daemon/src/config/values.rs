//! Values as people write them in the configuration: `"2G"`, `4`, `"30s"`. A bare number means what it means on the
//! command line: MiB for a size, seconds for a duration.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text,
        }
    }
}

/// Any type of `model` that people type.
pub fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    let text = scalar(deserializer)?;
    text.parse().map(Some).map_err(|error: T::Err| D::Error::custom(error))
}

pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = scalar(deserializer)?;
    parse_duration(&text).map(Some).ok_or_else(|| {
        let given: String = text.chars().take(40).collect();
        D::Error::custom(format!("`{given}` is no duration: write it like `30s`, `5m`, `2h` or `1d`"))
    })
}

/// A weight as cgroups count it (cgroup-v2.rst).
pub fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = scalar(deserializer)?;
    match text.parse() {
        Ok(weight @ 1..=10_000) => Ok(Some(weight)),
        _ => {
            let given: String = text.chars().take(40).collect();
            Err(D::Error::custom(format!("`{given}` is no weight: 1 to 10000 are possible, 100 is usual")))
        }
    }
}

fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let scalar =
        Scalar::deserialize(deserializer).map_err(|_| D::Error::custom("a text or a number is wanted here"))?;
    Ok(scalar.into_text())
}

pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_a_bare_number_is_seconds() {
        for (text, expected) in
            [("30s", Some(30_000)), ("5m", Some(300_000)), ("2h", Some(7_200_000)), ("7", Some(7_000))]
        {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
        }
        for bad in ["", "s", "-1s", "1 week", "99999999999999999999d"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }
}
