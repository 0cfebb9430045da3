//! What every host promises the engine, one function per seam; run on the fake here and on the real one in the daemon.
//!
//! Each panics with a sentence at the first broken promise, and leaves nothing behind when it returns. What the fake
//! alone refuses is not here: these are the promises that plans rely on. Feature `contract` exports it.

use super::disk::{Disk, Disks};
use super::guest::GuestIdentity;
use super::network::{Attachment, Link, LinkMode};
use super::vmm::{Machine, VmmState, choose};
use super::{Host, HostErrorKind, Unwatched};
use model::egress::{Egress, Outbound};
use model::port::PortForward;
use model::{Backend, ByteSize, Change, ImageName, InitMode, KernelName, SandboxId, SandboxName, Vcpus, VmmChoice};

/// A host, and what to try on it.
pub struct Subject<'a> {
    pub host: &'a Host,
    pub image: ImageName,
    pub kernel: KernelName,
    pub memory: ByteSize,
    pub init: InitMode,
    pub outbound: Outbound,
    pub ready_timeout_ms: u64,
}

/// All seams, in the order in which a start needs them.
pub fn all(subject: &Subject) {
    clock(subject);
    images(subject);
    disk(subject);
    network(subject);
    vmm_and_guest(subject);
}

pub fn clock(subject: &Subject) {
    let clock = &subject.host.clock;
    assert!(clock.now() <= clock.now(), "time goes forward");
    assert_ne!(clock.random(), clock.random(), "chance does not repeat itself");
    assert_eq!(clock.boot_id(), clock.boot_id(), "the boot id stays while the host does");
}

pub fn images(subject: &Subject) {
    let images = &subject.host.images;
    let missing = images.ensure_image(&"no-such-image-anywhere".parse().expect("valid"), &Unwatched);
    assert_eq!(missing.expect_err("nobody has it").kind, HostErrorKind::NotFound);
    let _change = images.ensure_image(&subject.image, &Unwatched).expect("the image can be had");
    let _change = images.ensure_kernel(&subject.kernel, &Unwatched).expect("the kernel can be had");
    let again = images.ensure_image(&subject.image, &Unwatched).expect("it is there");
    assert_eq!(again, Change::Unchanged, "an image that is there is not made again");
    assert!(images.images().expect("a list").iter().any(|facts| facts.name == subject.image));
    assert!(images.kernels().expect("a list").iter().any(|facts| facts.name == subject.kernel));
}

pub fn disk(subject: &Subject) {
    let (disk, id) = (&subject.host.disk, subject.new_id());
    let mut wanted = subject.disks(&id);
    assert_eq!(disk.ensure_disks(&wanted).expect("disks are made"), Change::Changed);
    assert_eq!(disk.ensure_disks(&wanted).expect("they are there"), Change::Unchanged);
    assert!(sizes(disk.as_ref(), &id).is_some(), "disks that are there are observed");
    wanted.work_size = ByteSize::from_bytes(wanted.work_size.bytes() * 2);
    assert_eq!(disk.ensure_disks(&wanted).expect("it grows"), Change::Changed);
    assert_eq!(sizes(disk.as_ref(), &id), Some((wanted.root_size, wanted.work_size)));
    let mut smaller = wanted.clone();
    smaller.work_size = ByteSize::from_bytes(wanted.work_size.bytes() / 2);
    assert_eq!(disk.ensure_disks(&smaller).expect("no disk shrinks"), Change::Unchanged);
    assert_eq!(sizes(disk.as_ref(), &id), Some((wanted.root_size, wanted.work_size)));
    assert_eq!(disk.renew_root(&wanted).expect("a new root"), Change::Changed);
    assert_eq!(sizes(disk.as_ref(), &id), Some((wanted.root_size, wanted.work_size)), "the work disk is kept");
    assert_eq!(disk.remove_disks(&id).expect("they go"), Change::Changed);
    assert_eq!(disk.remove_disks(&id).expect("they are gone"), Change::Unchanged);
    assert_eq!(sizes(disk.as_ref(), &id), None);
    assert!(disk.free_bytes().expect("free space is known") > ByteSize::default());
}

pub fn network(subject: &Subject) {
    let (network, id) = (&subject.host.network, subject.new_id());
    let link = subject.link(&id);
    let (_change, first) = network.ensure_link(&link).expect("a link is made");
    let (change, second) = network.ensure_link(&link).expect("it is there");
    assert_eq!((change, &second), (Change::Unchanged, &first), "a link keeps its addresses");
    let other = subject.new_id();
    let (_change, neighbour) = network.ensure_link(&subject.link(&other)).expect("a second link is made");
    if let (LinkMode::Tap { device }, LinkMode::Tap { device: beside }) = (&first.mode, &neighbour.mode) {
        assert_ne!(device, beside, "two sandboxes have two taps");
        assert_ne!((&first.mac, &first.addresses), (&neighbour.mac, &neighbour.addresses));
    }
    for id in [&id, &other] {
        let _change = network.remove_link(id).expect("it goes");
        assert_eq!(network.remove_link(id).expect("it is gone"), Change::Unchanged);
        assert!(!network.observe().expect("links are seen").iter().any(|facts| facts.id == *id));
    }
}

/// Boots one machine and takes it through its life.
pub fn vmm_and_guest(subject: &Subject) {
    let (host, id) = (subject.host, subject.new_id());
    images(subject);
    let absent = host.vmm.await_exit(&id, 10).expect("there is nothing to wait for");
    assert!(absent.is_some(), "a VMM that is not there has ended");
    assert_eq!(host.vmm.ensure_stopped(&id, None).expect("nothing to do"), Change::Unchanged);
    let _change = host.disk.ensure_disks(&subject.disks(&id)).expect("disks are made");
    let (_change, attachment) = host.network.ensure_link(&subject.link(&id)).expect("a link is made");
    let machine = subject.machine(&id, attachment.clone());
    assert_eq!(host.vmm.ensure_running(&machine).expect("it starts"), Change::Changed);
    assert_eq!(host.vmm.ensure_running(&machine).expect("it runs"), Change::Unchanged, "no machine is doubled");
    assert_eq!(state_of(host, &id), Some(VmmState::Running));
    let ready = host.guest.await_ready(&id, subject.ready_timeout_ms, &Unwatched).expect("the guest answers");
    let identity = GuestIdentity { name: subject.name(), attachment };
    host.guest.identify(&id, &identity).expect("it takes its identity");
    assert_eq!(host.guest.health(&id).expect("it is well").boot_id, ready.boot_id);
    ports(subject, &id);
    grow(subject, &id);
    pause(subject, &id);
    assert_eq!(host.vmm.await_exit(&id, 10).expect("it can be waited for"), None, "it has not ended");
    host.guest.request_shutdown(&id, 10_000).expect("it agrees to power off");
    let exit = host.vmm.await_exit(&id, subject.ready_timeout_ms).expect("it can be waited for");
    assert!(exit.is_some(), "it powers off");
    let _change = host.vmm.ensure_stopped(&id, None).expect("what is left goes");
    assert_eq!(host.vmm.ensure_stopped(&id, None).expect("nothing is left"), Change::Unchanged);
    assert_eq!(state_of(host, &id), None);
    let gone = host.guest.await_ready(&id, 1000, &Unwatched).expect_err("nobody is there");
    assert_eq!(gone.kind, HostErrorKind::GuestGone, "waiting for nobody ends at once");
    kill(subject, &machine);
    let _change = host.network.remove_link(&id).expect("the link goes");
    let _change = host.disk.remove_disks(&id).expect("the disks go");
}

/// A port that was any becomes one, and stays that one.
fn ports(subject: &Subject, id: &SandboxId) {
    let network = &subject.host.network;
    let wanted: Vec<PortForward> = vec!["0:80".parse().expect("a valid port")];
    let (_change, bound) = network.ensure_ports(id, &wanted).expect("a port is published");
    assert!(bound.len() == 1 && bound[0].host_port != 0 && bound[0].guest_port == 80, "{bound:?}");
    let (change, again) = network.ensure_ports(id, &bound).expect("it is published");
    assert_eq!((change, again), (Change::Unchanged, bound));
    let (change, none) = network.ensure_ports(id, &[]).expect("it is withdrawn");
    assert_eq!((change, none.len()), (Change::Changed, 0));
}

/// While the guest has them.
fn grow(subject: &Subject, id: &SandboxId) {
    let host = subject.host;
    let mut wanted = subject.disks(id);
    wanted.work_size = ByteSize::from_bytes(wanted.work_size.bytes() * 2);
    assert_eq!(host.disk.extend(&wanted).expect("there is room"), Change::Changed);
    assert_eq!(host.disk.extend(&wanted).expect("there is room"), Change::Unchanged);
    for _ in 0..2 {
        host.vmm.ensure_drives(id).expect("the VMM looks again");
        host.guest.ensure_file_systems(&wanted).expect("the guest follows");
    }
}

fn pause(subject: &Subject, id: &SandboxId) {
    let vmm = &subject.host.vmm;
    let backend = subject.backend();
    if !vmm.backends().iter().any(|facts| facts.backend == backend && facts.features.pause) {
        return;
    }
    assert_eq!(vmm.ensure_paused(id).expect("it pauses"), Change::Changed);
    assert_eq!(vmm.ensure_paused(id).expect("it is paused"), Change::Unchanged);
    assert_eq!(state_of(subject.host, id), Some(VmmState::Paused));
    assert_eq!(vmm.ensure_resumed(id).expect("it goes on"), Change::Changed);
    assert_eq!(vmm.ensure_resumed(id).expect("it runs"), Change::Unchanged);
    assert_eq!(state_of(subject.host, id), Some(VmmState::Running));
}

fn kill(subject: &Subject, machine: &Machine) {
    let (vmm, id) = (&subject.host.vmm, &machine.id);
    assert_eq!(vmm.ensure_running(machine).expect("it starts again"), Change::Changed);
    assert_eq!(vmm.ensure_stopped(id, None).expect("it is killed"), Change::Changed);
    assert_eq!(state_of(subject.host, id), None);
}

fn sizes(disk: &dyn Disk, id: &SandboxId) -> Option<(ByteSize, ByteSize)> {
    let facts = disk.observe().expect("disks can be looked at");
    facts.iter().find(|facts| facts.id == *id).map(|facts| (facts.root_size, facts.work_size))
}

fn state_of(host: &Host, id: &SandboxId) -> Option<VmmState> {
    let facts = host.vmm.observe().expect("VMMs can be looked at");
    facts.into_iter().find(|facts| facts.id == *id).map(|facts| facts.state)
}

impl Subject<'_> {
    fn new_id(&self) -> SandboxId {
        SandboxId::from_bits(self.host.clock.random())
    }

    fn name(&self) -> SandboxName {
        "contract".parse().expect("a valid name")
    }

    fn backend(&self) -> Backend {
        choose(VmmChoice::Auto, &self.host.vmm.backends()).expect("a backend works here")
    }

    fn disks(&self, id: &SandboxId) -> Disks {
        let size = ByteSize::from_gib(1);
        Disks { id: id.clone(), image: self.image.clone(), root_size: size, work_size: size, work_template: None }
    }

    fn link(&self, id: &SandboxId) -> Link {
        let egress = Egress { outbound: self.outbound, ..Egress::default() };
        Link { id: id.clone(), name: self.name(), backend: self.backend(), egress }
    }

    fn machine(&self, id: &SandboxId, attachment: Attachment) -> Machine {
        Machine {
            id: id.clone(),
            backend: self.backend(),
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            vcpus: Vcpus::ONE,
            memory: self.memory,
            init: self.init,
            attachment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::World;

    #[test]
    fn the_simulated_host_keeps_the_contract() {
        let world = World::new(5);
        let host = world.host();
        let subject = Subject {
            host: &host,
            image: "debian-bookworm".parse().expect("valid"),
            kernel: "debian-cloud".parse().expect("valid"),
            memory: ByteSize::from_mib(256),
            init: InitMode::Auto,
            outbound: Outbound::Nat,
            ready_timeout_ms: 1000,
        };
        all(&subject);
        let left = world.print();
        assert_eq!(left.lines().count(), 1, "something is left: {left}");
    }
}
