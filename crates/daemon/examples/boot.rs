//! Boots machines through the seams and tells how long each part took: `boot STATE KERNEL IMAGE AGENT BACKEND VCPUS MEMORY [ROUNDS]`.
//! STATE is laid out as `layout.rs` says; AGENT is the word in the initramfs' name. Each line is milliseconds.
#![allow(clippy::print_stdout)]

use daemon::host::disk::HostDisk;
use daemon::host::network::HostNetwork;
use daemon::host::network::gateways::Gateways;
use daemon::host::vmm::backends::Programs;
use daemon::host::vmm::boot::LayoutKernels;
use daemon::host::vmm::{HostVmm, Settings};
use daemon::layout::Layout;
use engine::host::disk::{Disk, Disks};
use engine::host::network::{Link, Network};
use engine::host::vmm::{Machine, Vmm};
use model::egress::Egress;
use model::{ByteSize, InitMode, SandboxId};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::guest::READY_PORT;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, kernel, image, agent, backend, vcpus, memory, rounds @ ..] = arguments.as_slice() else {
        return Err("boot STATE KERNEL IMAGE AGENT BACKEND VCPUS MEMORY [ROUNDS]".into());
    };
    let runtime = tempfile::Builder::new().prefix("banger-").tempdir_in("/tmp")?;
    let layout = Layout::at(state.into(), runtime.path().join("r"), runtime.path().join("c"))?;
    layout.prepare()?;
    let ready: Arc<Mutex<Option<UnixListener>>> = Arc::default();
    let vmm = vmm(&layout, agent, Arc::clone(&ready))?;
    for facts in vmm.backends() {
        println!("{}: usable {}, {}", facts.backend, facts.usable, facts.reason);
    }
    let id = SandboxId::from_bits(0xb007);
    let (disk, network) =
        (HostDisk::new(layout.clone()), HostNetwork::new(None).with_gateways(Gateways::new(layout.clone())));
    let mut machine = Machine {
        id: id.clone(),
        backend: backend.parse()?,
        image: image.parse()?,
        kernel: kernel.parse()?,
        vcpus: vcpus.parse()?,
        memory: memory.parse()?,
        init: InitMode::Auto,
        attachment: Default::default(),
    };
    println!("disks\tlink\tvmm\tagent\tstop\tguest uptime");
    for _ in 0..rounds.first().map_or(Ok(1), |rounds| rounds.parse::<u32>())? {
        let [disks, link, start, first_word, stop, uptime] = round(&vmm, &disk, &network, &mut machine, &ready)?;
        println!("{disks:.1}\t{link:.1}\t{start:.1}\t{first_word:.0}\t{stop:.1}\t{uptime:.0}");
    }
    Ok(())
}

type Ready = Arc<Mutex<Option<UnixListener>>>;

fn vmm(layout: &Layout, agent: &str, ready: Ready) -> Result<HostVmm, Box<dyn Error>> {
    let folder = layout.clone();
    let before_boot = Arc::new(move |id: &SandboxId| {
        *ready.lock().expect("nobody panics") = Some(UnixListener::bind(folder.vsock_listener(id, READY_PORT))?);
        Ok(())
    });
    let kernels = Arc::new(LayoutKernels { layout: layout.clone(), agent: agent.to_owned() });
    Ok(HostVmm::new(Settings {
        layout: layout.clone(),
        programs: Programs::default(),
        kernels,
        weights: Default::default(),
        before_boot,
    })?)
}

fn round(
    vmm: &HostVmm,
    disk: &HostDisk,
    network: &HostNetwork,
    machine: &mut Machine,
    ready: &Ready,
) -> Result<[f64; 6], Box<dyn Error>> {
    let id = machine.id.clone();
    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1000.0;
    let _change = disk.remove_disks(&id)?;
    let begun = Instant::now();
    let (root_size, work_size) = (ByteSize::from_gib(4), ByteSize::from_gib(8));
    let _change = disk.ensure_disks(&Disks {
        id: id.clone(),
        image: machine.image.clone(),
        root_size,
        work_size,
        work_template: None,
    })?;
    let disks = ms(begun);
    let begun = Instant::now();
    let link = Link { id: id.clone(), name: "boot".parse()?, backend: machine.backend, egress: Egress::default() };
    machine.attachment = network.ensure_link(&link)?.1;
    let link = ms(begun);
    let begun = Instant::now();
    let _change = vmm.ensure_running(machine)?;
    let start = ms(begun);
    let listener = ready.lock().expect("nobody panics").take().ok_or("nobody was asked to listen")?;
    let word = await_word(&listener, vmm, &id);
    let first_word = ms(begun);
    let begun = Instant::now();
    let _change = vmm.ensure_stopped(&id, None)?;
    let stop = ms(begun);
    let Some(word) = word else { return Err(format!("no word; {}", vmm.console_tail(&id, 4000)).into()) };
    let word: serde_json::Value = serde_json::from_str(&word)?;
    Ok([disks, link, start, first_word, stop, word["uptime_ms"].as_f64().unwrap_or_default()])
}

fn await_word(listener: &UnixListener, vmm: &HostVmm, id: &SandboxId) -> Option<String> {
    listener.set_nonblocking(true).ok()?;
    let deadline = Instant::now() + Duration::from_secs(120);
    let stream = loop {
        if let Ok((stream, _)) = listener.accept() {
            break stream;
        }
        if Instant::now() > deadline || vmm.await_exit(id, 2).ok()?.is_some() {
            return None;
        }
    };
    stream.set_nonblocking(false).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}
