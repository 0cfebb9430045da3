//! Fresh randomness from the host: two guests restored from one snapshot would otherwise draw the same numbers.

// Opened for two ioctls of /dev/random that no library wraps.
#![allow(unsafe_code)]

use crate::http::io_fault;
use rustix::ioctl::{NoArg, Setter, ioctl, opcode};
use std::fs::File;
use std::io;
use wire::{Fault, FaultKind};

/// What `/identity` carries: 32 bytes, as much as the kernel's generator keeps.
const SEED_BYTES: usize = 32;

/// `struct rand_pool_info` of linux/random.h with room for one seed.
#[repr(C)]
struct Pool {
    entropy_bits: i32,
    size_bytes: i32,
    seed: [u8; SEED_BYTES],
}

/// `_IOW('R', 3, int[2])`: the size in the number is that of the two counters alone.
const ADD_ENTROPY: rustix::ioctl::Opcode = opcode::write::<[i32; 2]>(b'R', 3);
/// `_IO('R', 7)`
const RESEED: rustix::ioctl::Opcode = opcode::none(b'R', 7);

/// Mixes `hex` into the kernel's pool and makes the generator draw from it at once.
pub fn add(hex: &str) -> Result<(), Fault> {
    let seed = parse(hex).ok_or_else(|| Fault::new(FaultKind::Invalid, "the entropy is not 64 hexadecimal digits"))?;
    feed(seed).map_err(io_fault("seed the random generator"))
}

fn feed(seed: [u8; SEED_BYTES]) -> io::Result<()> {
    let device = File::options().write(true).open("/dev/urandom")?;
    let pool = Pool { entropy_bits: 8 * SEED_BYTES as i32, size_bytes: SEED_BYTES as i32, seed };
    // SAFETY: RNDADDENTROPY reads a rand_pool_info: two ints and `size_bytes` bytes, which is exactly what `Pool` is.
    unsafe { ioctl(&device, Setter::<ADD_ENTROPY, Pool>::new(pool))? };
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { ioctl(&device, NoArg::<RESEED>::new())? };
    Ok(())
}

fn parse(hex: &str) -> Option<[u8; SEED_BYTES]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * SEED_BYTES {
        return None;
    }
    let mut seed = [0; SEED_BYTES];
    for (byte, pair) in seed.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_numbers_are_the_kernels() {
        assert_eq!(ADD_ENTROPY, 0x4008_5203);
        assert_eq!(RESEED, 0x5207);
        assert_eq!(size_of::<Pool>(), 8 + SEED_BYTES);
    }

    #[test]
    fn a_seed_is_64_digits() {
        assert_eq!(parse(&"0f".repeat(32)), Some([15; 32]));
        assert_eq!(parse("0f"), None);
        assert_eq!(parse(&"xx".repeat(32)), None);
    }
}
