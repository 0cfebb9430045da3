//! Metadata, as the protocol carries it and as `ls -l` shows it.

use super::packet::{Reader, Short, Writer};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// What a client wants to set; what is absent stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub size: Option<u64>,
    pub owner: Option<(u32, u32)>,
    pub permissions: Option<u32>,
    /// Last access and last change, seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub fn read(packet: &mut Reader) -> Result<Self, Short> {
        let flags = packet.u32()?;
        let has = |flag| flags & flag != 0;
        let attributes = Attributes {
            size: has(SIZE).then(|| packet.u64()).transpose()?,
            owner: has(OWNER).then(|| Ok((packet.u32()?, packet.u32()?))).transpose()?,
            permissions: has(PERMISSIONS).then(|| packet.u32()).transpose()?,
            times: has(TIMES).then(|| Ok((packet.u32()?, packet.u32()?))).transpose()?,
        };
        if has(EXTENDED) {
            for _ in 0..packet.u32()? {
                packet.string()?;
                packet.string()?;
            }
        }
        Ok(attributes)
    }

    pub fn mode(&self, default: u32) -> Mode {
        Mode::from_raw_mode(self.permissions.unwrap_or(default) & 0o7777)
    }

    /// In OpenSSH's order: the owner last, because changing it takes set-user-id bits away again.
    pub fn set_on(&self, file: impl AsFd) -> io::Result<()> {
        let file = file.as_fd();
        if let Some(size) = self.size {
            rustix::fs::ftruncate(file, size)?;
        }
        if self.permissions.is_some() {
            rustix::fs::fchmod(file, self.mode(0))?;
        }
        if let Some(times) = self.timestamps() {
            rustix::fs::futimens(file, &times)?;
        }
        if let Some((uid, gid)) = self.owner {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(())
    }

    pub fn set_at(&self, path: &Path, link_itself: bool) -> io::Result<()> {
        let flags = if link_itself { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        if let Some(size) = self.size {
            std::fs::OpenOptions::new().write(true).open(path)?.set_len(size)?;
        }
        if self.permissions.is_some() {
            rustix::fs::chmodat(CWD, path, self.mode(0), flags)?;
        }
        if let Some(times) = self.timestamps() {
            rustix::fs::utimensat(CWD, path, &times, flags)?;
        }
        if let Some((uid, gid)) = self.owner {
            rustix::fs::chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
        }
        Ok(())
    }

    fn timestamps(&self) -> Option<Timestamps> {
        let at = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let (access, change) = self.times?;
        Some(Timestamps { last_access: at(access), last_modification: at(change) })
    }
}

/// The fields of a file's metadata.
pub fn fields(packet: Writer, metadata: &Metadata) -> Writer {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    packet
        .u32(SIZE | OWNER | PERMISSIONS | TIMES)
        .u64(metadata.size())
        .u32(metadata.uid())
        .u32(metadata.gid())
        .u32(metadata.mode())
        .u32(seconds(metadata.atime()))
        .u32(seconds(metadata.mtime()))
}

/// The line of `ls -l`, numbers for owners, which the client shows as it is.
pub fn long_name(name: &[u8], metadata: &Metadata) -> Vec<u8> {
    let (links, uid, gid, size) = (metadata.nlink(), metadata.uid(), metadata.gid(), metadata.size());
    let (mode, date) = (mode_text(metadata.mode()), date_text(metadata.mtime()));
    let mut line = format!("{mode} {links:>4} {uid:<8} {gid:<8} {size:>8} {date} ").into_bytes();
    line.extend_from_slice(name);
    line
}

fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `Mar  7  2024`, in UTC: days to a date after H. Hinnant's `civil_from_days`.
fn date_text(seconds: i64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    // The shifted year begins in March.
    let month = (shifted + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    format!("{} {day:>2}  {year:>4}", MONTHS[month as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "Jan  1  1970"),
            (951_782_400, "Feb 29  2000"),
            (951_868_800, "Mar  1  2000"),
            (1_709_769_600, "Mar  7  2024"),
            (1_735_603_200, "Dec 31  2024"),
            (-86_400, "Dec 31  1969"),
        ] {
            assert_eq!(date_text(seconds), expected);
        }
    }

    #[test]
    fn modes_read_as_ls_writes_them() {
        for (mode, expected) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o104_755, "-rwsr-xr-x"),
            (0o104_644, "-rwSr--r--"),
            (0o041_777, "drwxrwxrwt"),
            (0o120_777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_text(mode), expected);
        }
    }

    #[test]
    fn attributes_are_read_field_by_field() {
        let packet = Writer::new(0).u32(SIZE | TIMES | EXTENDED).u64(7).u32(1).u32(2).u32(1).string(b"k").string(b"v");
        let bytes = packet.into_fields();
        let read = Attributes::read(&mut Reader::new(&bytes)).expect("attributes");
        assert_eq!(read, Attributes { size: Some(7), times: Some((1, 2)), ..Attributes::default() });
        assert!(Attributes::read(&mut Reader::new(&bytes[..bytes.len() - 1])).is_err());
    }
}
