//! A world of its own for each test: folders, and a guest of a few bytes that needs no kernel.
//!
//! The guest is an ELF that both VMMs enter by PVH: it prints its command line to the serial port, then sleeps for ever
//! or ends by a reset and a triple fault, which is how a machine without a power button ends in either VMM.

use daemon::host::vmm::backends::Programs;
use daemon::host::vmm::boot::LayoutKernels;
use daemon::host::vmm::{HostVmm, Settings};
use daemon::layout::Layout;
use engine::host::network::Attachment;
use engine::host::vmm::{Machine, Vmm};
use model::{Backend, ByteSize, InitMode, SandboxId, Vcpus};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    Sleeps,
    Ends,
}

pub struct World {
    pub layout: Layout,
    _folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        // Not TMPDIR: a socket's path has to be short.
        let folder = tempfile::Builder::new().prefix("banger-").tempdir_in("/tmp").unwrap();
        let [state, runtime, cache] = ["s", "r", "c"].map(|name| folder.path().join(name));
        let layout = Layout::at(state, runtime, cache).unwrap();
        layout.prepare().unwrap();
        World { layout, _folder: folder }
    }

    /// What a daemon that starts now would have.
    pub fn daemon(&self) -> HostVmm {
        let kernels = LayoutKernels { layout: self.layout.clone(), agent: "none".into() };
        let before_boot = Arc::new(|_: &SandboxId| Ok(()));
        let settings = Settings {
            layout: self.layout.clone(),
            programs: Programs::default(),
            kernels: Arc::new(kernels),
            weights: Default::default(),
            before_boot,
        };
        HostVmm::new(settings).unwrap()
    }

    /// A machine whose files all exist.
    pub fn machine(&self, backend: Backend, guest: Guest) -> Machine {
        let machine = Machine {
            id: SandboxId::from_bits(0xba09_0000_0000_0001),
            backend,
            image: "empty".parse().unwrap(),
            kernel: "handmade".parse().unwrap(),
            vcpus: Vcpus::ONE,
            memory: ByteSize::from_mib(64),
            init: InitMode::Agent,
            attachment: Attachment::default(),
        };
        put(&self.layout.kernel_vmlinux(&machine.kernel), &elf(guest));
        put(&self.layout.image_rootfs(&machine.image), &[0; 4096]);
        put(&self.layout.root_disk(&machine.id), &[0; 4096]);
        put(&self.layout.work_disk(&machine.id), &[0; 4096]);
        machine
    }
}

impl Drop for World {
    /// No test leaves a VMM behind, failed or not.
    fn drop(&mut self) {
        let daemon = self.daemon();
        for facts in daemon.observe().unwrap_or_default() {
            let _ended = daemon.ensure_stopped(&facts.id, None);
        }
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Why this backend cannot be tried here.
pub fn missing(backend: Backend) -> Option<String> {
    let facts = World::new().daemon().backends().into_iter().find(|facts| facts.backend == backend);
    facts.filter(|facts| !facts.usable).map(|facts| facts.reason)
}

pub fn process_file(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

const LOAD_ADDRESS: u32 = 0x0010_0000;
const HEADER_BYTES: u32 = 0x1000;

/// An ELF with one loadable segment and the note that tells a VMM where to enter in 32-bit mode (XEN_ELFNOTE_PHYS32_ENTRY).
fn elf(guest: Guest) -> Vec<u8> {
    let code = code(guest);
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(LOAD_ADDRESS.to_le_bytes());
    let note_at = 64 + 2 * 56u64;

    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for long in [u64::from(LOAD_ADDRESS), 64, 0] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, words: [u64; 6]| {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        words.iter().for_each(|word| elf.extend(word.to_le_bytes()));
    };
    let (size, load) = (code.len() as u64, u64::from(LOAD_ADDRESS));
    segment(1, 5, [HEADER_BYTES.into(), load, load, size, size, 4096]);
    segment(4, 4, [note_at, 0, 0, note.len() as u64, note.len() as u64, 4]);
    elf.extend(note);
    elf.resize(HEADER_BYTES as usize, 0);
    elf.extend(code);
    elf
}

/// 32-bit protected mode, paging and interrupts off, EBX at the start info, whose byte 24 holds the command line's address.
fn code(guest: Guest) -> Vec<u8> {
    let mut code = vec![
        0x8b, 0x73, 0x18, // mov esi, [ebx+24]
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz done
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0xb0, 0x0a, // done: mov al, '\n'
        0xee, // out dx, al
    ];
    match guest {
        Guest::Sleeps => code.extend([0xf4, 0xeb, 0xfd]), // hlt; jmp back
        Guest::Ends => {
            code.extend([0xb0, 0xfe, 0xe6, 0x64]); // mov al, 0xfe; out 0x64, al: the keyboard controller's reset
            // Firecracker acts on the reset while its processor goes on; where KVM is emulated what follows is an error of its
            // own. So it waits: 200,000 turns, a fraction of a second even there.
            code.extend([0xb9, 0x40, 0x0d, 0x03, 0x00, 0xe2, 0xfe]); // mov ecx, 200000; loop here
            let no_idt = LOAD_ADDRESS + code.len() as u32 + 8;
            code.extend([0x0f, 0x01, 0x1d]); // lidt [no_idt]
            code.extend(no_idt.to_le_bytes());
            code.push(0xcc); // int3, which nobody handles
            code.extend([0; 6]);
        }
    }
    code
}
