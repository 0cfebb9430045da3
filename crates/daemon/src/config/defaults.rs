//! What a sandbox gets when nobody says: from the configuration, else from the host's size, else built in; each value
//! keeps where it came from for `banger doctor`.

use super::Config;
use model::image_ref::ImageRef;
use model::{ByteSize, KernelName, RestartPolicy, Vcpus};
use std::fmt;
use std::time::Duration;

pub const IMAGE: &str = "debian-bookworm";
pub const KERNEL: &str = "debian-cloud";
/// Sparse on the host, so that only what is written costs.
const DISK: ByteSize = ByteSize::from_gib(8);
const ROOT: ByteSize = ByteSize::from_gib(8);
const MAX_MEMORY: ByteSize = ByteSize::from_gib(8);
/// A small host still gives a sandbox enough for systemd and an editor.
const MIN_MEMORY: ByteSize = ByteSize::from_mib(512);
const MAX_VCPUS: u64 = 4;
/// Measured on loaded two-core machines: a systemd guest answers within 10 s, 18 s where the processor is emulated.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT_EMULATED: Duration = Duration::from_secs(180);
const STOP_GRACE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    Config,
    Host,
    BuiltIn,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Provenance::Config => "config",
            Provenance::Host => "host",
            Provenance::BuiltIn => "built in",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From<T> {
    pub value: T,
    pub provenance: Provenance,
}

fn from<T>(config: &Option<T>, provenance: Provenance, otherwise: T) -> From<T>
where
    T: Clone,
{
    match config {
        Some(value) => From { value: value.clone(), provenance: Provenance::Config },
        None => From { value: otherwise, provenance },
    }
}

/// How large this host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSize {
    pub cpus: u64,
    pub memory: ByteSize,
    /// Guests run instruction by instruction.
    pub emulated: bool,
}

impl HostSize {
    pub fn measure() -> HostSize {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let info = rustix::system::sysinfo();
        let memory = info.totalram as u64 * u64::from(info.mem_unit);
        HostSize { cpus, memory: ByteSize::from_bytes(memory), emulated: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// A name or a reference to one in a registry.
    pub image: From<ImageRef>,
    pub kernel: From<KernelName>,
    pub vcpus: From<Vcpus>,
    pub memory: From<ByteSize>,
    pub disk_size: From<ByteSize>,
    pub root_size: From<ByteSize>,
    pub restart: From<RestartPolicy>,
    pub ready_timeout: From<Duration>,
    pub stop_grace: From<Duration>,
}

impl Defaults {
    pub fn new(config: &Config, host: HostSize) -> Defaults {
        let ready = if host.emulated { READY_TIMEOUT_EMULATED } else { READY_TIMEOUT };
        Defaults {
            image: from(&config.default_image, Provenance::BuiltIn, IMAGE.parse().expect("a built-in name is valid")),
            kernel: from(
                &config.default_kernel,
                Provenance::BuiltIn,
                KERNEL.parse().expect("a built-in name is valid"),
            ),
            vcpus: from(&config.vm_defaults.vcpu, Provenance::Host, vcpus_of(host.cpus)),
            memory: from(&config.vm_defaults.memory, Provenance::Host, memory_of(host.memory)),
            disk_size: from(&config.vm_defaults.disk_size, Provenance::BuiltIn, DISK),
            root_size: from(&config.vm_defaults.root_size, Provenance::BuiltIn, ROOT),
            restart: from(&config.restart, Provenance::BuiltIn, RestartPolicy::No),
            ready_timeout: from(
                &config.ready_timeout,
                if host.emulated { Provenance::Host } else { Provenance::BuiltIn },
                ready,
            ),
            stop_grace: from(&config.stop_grace, Provenance::BuiltIn, STOP_GRACE),
        }
    }
}

fn vcpus_of(cpus: u64) -> Vcpus {
    let count = (cpus / 4).clamp(1, MAX_VCPUS);
    u8::try_from(count).ok().and_then(|count| Vcpus::try_from(count).ok()).expect("1 to 4 CPUs are valid")
}

/// Whole MiB: the unit in which a VMM takes memory.
fn memory_of(memory: ByteSize) -> ByteSize {
    ByteSize::from_mib((memory.mib() / 8).clamp(MIN_MEMORY.mib(), MAX_MEMORY.mib()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cpus: u64, memory_gib: u64, expected: (u8, ByteSize)) {
        let host = HostSize { cpus, memory: ByteSize::from_gib(memory_gib), emulated: false };
        let defaults = Defaults::new(&Config::default(), host);
        assert_eq!((defaults.vcpus.value.count(), defaults.memory.value), expected, "{host:?}");
        assert_eq!(defaults.vcpus.provenance, Provenance::Host);
    }

    #[test]
    fn a_sandbox_gets_a_part_of_its_host() {
        check(2, 24, (1, ByteSize::from_gib(3)));
        check(8, 16, (2, ByteSize::from_gib(2)));
        check(64, 512, (4, ByteSize::from_gib(8)));
        check(1, 1, (1, ByteSize::from_mib(512)));
    }

    #[test]
    fn the_configuration_goes_first() {
        let mut config = Config::default();
        config.vm_defaults.memory = Some(ByteSize::from_gib(1));
        let defaults = Defaults::new(&config, HostSize::measure());
        assert_eq!(defaults.memory, From { value: ByteSize::from_gib(1), provenance: Provenance::Config });
    }
}
