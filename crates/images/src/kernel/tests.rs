use super::*;
use proptest::prelude::*;
use std::io::Write;

/// The smallest ELF that passes for a kernel: one segment to load and, if wanted, one with a PVH note.
fn vmlinux(pvh: bool) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 8, if pvh { 18 } else { 17 }] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0\0\0\0\x01\0\0\0\0");
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for field in [0x100_0000u64, 64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for field in [64u16, 56, 2, 0, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    let text = b"Linux version %s\0Linux version 6.1.0-test+ (x) #1\0";
    let mut offset = 64 + 2 * 56;
    for (kind, contents) in [(1u32, text.len()), (4, note.len())] {
        file.extend(kind.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        for field in [offset as u64, 0xffff_ffff_8100_0000, 0x100_0000, contents as u64, contents as u64, 0] {
            file.extend(field.to_le_bytes());
        }
        offset += contents;
    }
    file.extend(text);
    file.extend(note);
    file
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x180u16.to_le_bytes());
    file[0x380..0x38e].copy_from_slice(b"6.1.0-boot (x)");
    file[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend([0; 16]);
    file.extend(payload);
    file
}

fn zstd_payload(vmlinux: &[u8], declared: usize) -> Vec<u8> {
    let mut payload = zstd::encode_all(vmlinux, 0).expect("memory takes it");
    payload.extend((declared as u32).to_le_bytes());
    payload
}

#[test]
fn a_vmlinux_is_taken_as_it_is() {
    let file = vmlinux(true);
    let kernel = unpack(&file).expect("it is a kernel");
    assert_eq!(*kernel.bytes, file[..]);
    assert_eq!(kernel.facts.release.as_deref(), Some("6.1.0-test+"));
    assert_eq!(kernel.facts.backends(), Backend::ALL);
    let without = vmlinux(false);
    assert_eq!(unpack(&without).expect("it is a kernel").facts.backends(), [Backend::Firecracker, Backend::Sim]);
}

#[test]
fn a_bzimage_gives_its_vmlinux() {
    let inner = vmlinux(true);
    for (payload, packing) in [
        (zstd_payload(&inner, inner.len()), Some(Packing::Zstd)),
        (gzip(&inner), Some(Packing::Gzip)),
        (inner.clone(), None),
    ] {
        let file = bzimage(&payload);
        let kernel = unpack(&file).expect("it is a kernel");
        assert_eq!(*kernel.bytes, inner[..]);
        assert_eq!(kernel.facts.origin, Origin::BzImage(packing));
        assert_eq!(kernel.facts.release.as_deref(), Some("6.1.0-boot"));
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[test]
fn a_payload_that_lies_about_its_size_is_refused() {
    let inner = vmlinux(true);
    let longer = bzimage(&zstd_payload(&inner, inner.len() + 1));
    assert!(matches!(unpack(&longer), Err(KernelError::BzImage { .. })));
    let shorter = bzimage(&zstd_payload(&inner, inner.len() - 1));
    assert!(matches!(unpack(&shorter), Err(KernelError::Unpack(UnpackError::TooLarge { .. }))));
}

#[test]
fn what_is_no_kernel_is_refused_with_its_reason() {
    let refused = |file: &[u8], reason: &str| {
        let error = unpack(file).expect_err("it is no kernel");
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused(b"", "neither");
    refused(b"#!/bin/sh", "neither");
    refused(&bzimage(b"BZh91AY"), "bzip2");
    refused(&bzimage(&vmlinux(true))[..1040], "outside the file");
    let mut arm = vmlinux(true);
    arm[18] = 183;
    refused(&arm, "x86-64");
    let mut object = vmlinux(true);
    object[16] = 1;
    refused(&object, "no executable");
    let mut lost = vmlinux(true);
    lost[24..32].fill(0xee);
    refused(&lost, "entry point");
    refused(&vmlinux(true)[..200], "outside the file");
}

proptest! {
    #[test]
    fn a_damaged_kernel_never_panics(damage in prop::collection::vec((0usize..1400, any::<u8>()), 1..8)) {
        let inner = vmlinux(true);
        for mut file in [inner.clone(), bzimage(&zstd_payload(&inner, inner.len()))] {
            for (at, byte) in &damage {
                let at = at % file.len();
                file[at] = *byte;
            }
            let _ = unpack(&file);
        }
    }
}
