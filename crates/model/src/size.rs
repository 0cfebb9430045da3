//! Sizes in bytes, read as people write them: `4G`, `512MiB`, `64k`. Units are binary; a bare number is MiB.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no size: {reason}")]
pub struct SizeError {
    pub given: String,
    pub reason: &'static str,
}

impl ByteSize {
    pub const fn from_bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    pub const fn from_mib(mib: u64) -> Self {
        ByteSize(mib * MIB)
    }

    pub const fn from_gib(gib: u64) -> Self {
        ByteSize(gib * GIB)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole MiB, rounded down: the unit in which a VMM takes memory.
    pub const fn mib(self) -> u64 {
        self.0 / MIB
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;
    fn from_str(given: &str) -> Result<Self, SizeError> {
        let refuse = |reason| SizeError { given: given.chars().take(40).collect(), reason };
        let text = given.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(refuse("it must start with a number, as in `4G` or `512MiB`"));
        }
        let number: u64 = number.parse().map_err(|_| refuse("the number does not fit in 64 bits"))?;
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "b" => 1,
            "k" | "kb" | "kib" => KIB,
            "" | "m" | "mb" | "mib" => MIB,
            "g" | "gb" | "gib" => GIB,
            "t" | "tb" | "tib" => TIB,
            _ => return Err(refuse("the unit is one of B, K, M, G, T (also KiB, MiB, …); a bare number is MiB")),
        };
        let bytes = number.checked_mul(factor).ok_or_else(|| refuse("it does not fit in 64 bits"))?;
        Ok(ByteSize(bytes))
    }
}

/// One decimal at most, the largest unit that keeps the number at 1 or more: `1.5GiB`, `512MiB`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = match self.0 {
            0..KIB => return f.pad(&format!("{}B", self.0)),
            KIB..MIB => (KIB, "KiB"),
            MIB..GIB => (MIB, "MiB"),
            GIB..TIB => (GIB, "GiB"),
            TIB.. => (TIB, "TiB"),
        };
        let tenths = (u128::from(self.0) * 10 + u128::from(factor) / 2) / u128::from(factor);
        let text = match tenths % 10 {
            0 => format!("{}{unit}", tenths / 10),
            tenth => format!("{}.{tenth}{unit}", tenths / 10),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(given: &str, expected: Option<u64>) {
        assert_eq!(given.parse::<ByteSize>().ok().map(ByteSize::bytes), expected, "{given:?}");
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        check("4G", Some(4 * GIB));
        check("4GiB", Some(4 * GIB));
        check("512MiB", Some(512 * MIB));
        check("4KiB", Some(4096));
        check("17b", Some(17));
        check(" 2 t ", Some(2 * TIB));
        check("512", Some(512 * MIB));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in ["", "G", "-1G", "1.5G", "4X", "4 G B", "99999999999999999999", "18446744073709551615G", "0x10"] {
            check(bad, None);
        }
    }

    #[test]
    fn sizes_show_one_decimal_at_most() {
        for (bytes, shown) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (GIB, "1GiB"), (GIB + GIB / 2, "1.5GiB")] {
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn whole_units_survive_their_text(mib in 1u64..1023) {
            let size = ByteSize::from_mib(mib);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }

        #[test]
        fn parsing_never_panics(given in any::<String>()) {
            let _ = given.parse::<ByteSize>();
        }
    }
}
