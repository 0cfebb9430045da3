//! What this host can run: which VMMs are installed, which versions, whether KVM is real; and the verdict in a sentence.
//!
//! [`survey`] looks, [`facts`] decides. A `/dev/kvm` that opens is no proof of hardware: where the processor shows
//! neither `vmx` nor `svm`, a hypervisor interprets guest kernels at a thousandth of the speed, and ordinary ones die.
//! Then QEMU without KVM comes first, and Firecracker runs only for who asks for it by name.

use super::qemu::Accelerator;
use engine::host::vmm::{BackendFacts, Features};
use model::Backend;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use std::{env, fs, io, thread};

/// Where the person put things, from the configuration.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    pub firecracker: Option<PathBuf>,
    pub qemu: Option<PathBuf>,
    pub vsock_device: Option<PathBuf>,
}

/// 1.5 brought the entropy device and is the oldest whose API fits.
const OLDEST_FIRECRACKER: Version = Version(1, 5);
/// What the end-to-end tests have run on.
const TESTED_FIRECRACKER: (Version, Version) = (Version(1, 14), Version(1, 16));
/// 6.2 brought JSON in `-blockdev` files for microvm and the seccomp words used here.
const OLDEST_QEMU: Version = Version(6, 2);

const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// 1 MiB: `-device help` takes 40 KiB.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    Hardware,
    Emulated,
    /// Why it cannot be used.
    Closed(String),
}

/// A program, and what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    pub path: PathBuf,
    /// As printed: `1.16.1`.
    pub version: String,
    pub number: Version,
    /// What it lacks although its version would do.
    pub lacks: Option<&'static str>,
}

/// What was found; a program that was not says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    pub firecracker: Result<Tool, String>,
    pub qemu: Result<Tool, String>,
    pub vsock_device: Result<PathBuf, String>,
    pub kvm: Kvm,
}

impl Findings {
    pub fn accelerator(&self) -> Accelerator {
        if self.kvm == Kvm::Hardware { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

/// Looks at the host; asks a program again only when its file has changed.
#[derive(Debug, Default)]
pub struct Surveyor {
    asked: Mutex<Vec<(Stamp, Result<Tool, String>)>>,
}

type Stamp = (PathBuf, SystemTime, u64);

impl Surveyor {
    pub fn survey(&self, programs: &Programs) -> Findings {
        let firecracker = find("firecracker", programs.firecracker.as_deref(), "BANGER_FIRECRACKER");
        let qemu = find("qemu-system-x86_64", programs.qemu.as_deref(), "BANGER_QEMU");
        Findings {
            firecracker: firecracker.and_then(|path| self.ask(path, ask_firecracker)),
            qemu: qemu.and_then(|path| self.ask(path, ask_qemu)),
            vsock_device: find_vsock_device(programs.vsock_device.as_deref()),
            kvm: look_at_kvm(),
        }
    }

    fn ask(&self, path: PathBuf, ask: fn(&Path) -> Result<Tool, String>) -> Result<Tool, String> {
        let found = fs::metadata(&path).and_then(|found| Ok((found.modified()?, found.ino())));
        let (modified, inode) = found.map_err(|error| format!("cannot look at `{}`: {error}", path.display()))?;
        let stamp = (path, modified, inode);
        let mut asked = self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, tool)) = asked.iter().find(|(known, _)| *known == stamp) {
            return tool.clone();
        }
        let tool = ask(&stamp.0);
        asked.retain(|(known, _)| known.0 != stamp.0);
        asked.push((stamp, tool.clone()));
        tool
    }
}

/// The verdicts, best choice first: Firecracker on hardware KVM, QEMU on hardware KVM, QEMU without, Firecracker on
/// emulated KVM.
pub fn facts(findings: &Findings) -> Vec<BackendFacts> {
    let firecracker = firecracker_facts(findings);
    let qemu = qemu_facts(findings);
    match findings.kvm {
        Kvm::Hardware | Kvm::Closed(_) => vec![firecracker, qemu],
        Kvm::Emulated => vec![qemu, firecracker],
    }
}

const EMULATED: &str = "KVM here is emulated (no vmx or svm in the CPU flags)";

fn firecracker_facts(findings: &Findings) -> BackendFacts {
    let (usable, reason) = match (&findings.firecracker, &findings.kvm) {
        (Err(why), _) => (false, why.clone()),
        (Ok(tool), _) if tool.number < OLDEST_FIRECRACKER => {
            (false, format!("Firecracker {} is too old: {OLDEST_FIRECRACKER} or newer is needed", tool.version))
        }
        (Ok(_), Kvm::Closed(why)) => (false, why.clone()),
        (Ok(tool), Kvm::Emulated) => {
            let reason = format!("{EMULATED}: ordinary kernels die there; only a kernel made for it runs, slowly");
            (true, reason + &untested(tool))
        }
        (Ok(tool), Kvm::Hardware) => (true, format!("Firecracker {} on hardware KVM{}", tool.version, untested(tool))),
    };
    BackendFacts {
        backend: Backend::Firecracker,
        usable,
        reason,
        version: findings.firecracker.as_ref().ok().map(|tool| tool.version.clone()),
        accelerated: findings.kvm == Kvm::Hardware,
        features: Features { vsock: true, network: true, pause: true, snapshot: true, balloon: true, entropy: true },
    }
}

fn untested(tool: &Tool) -> String {
    let (first, last) = TESTED_FIRECRACKER;
    match (first..=last).contains(&tool.number) {
        true => String::new(),
        false => format!("; tested are {first} to {last}, this is {}", tool.version),
    }
}

fn qemu_facts(findings: &Findings) -> BackendFacts {
    let (usable, reason) = match (&findings.qemu, &findings.vsock_device) {
        (Err(why), _) | (Ok(_), Err(why)) => (false, why.clone()),
        (Ok(tool), Ok(_)) if tool.number < OLDEST_QEMU => {
            (false, format!("QEMU {} is too old: {OLDEST_QEMU} or newer is needed", tool.version))
        }
        (Ok(Tool { lacks: Some(what), version, .. }), Ok(_)) => {
            (false, format!("QEMU {version} was built without {what}"))
        }
        (Ok(tool), Ok(_)) => match &findings.kvm {
            Kvm::Hardware => (true, format!("QEMU {} on hardware KVM", tool.version)),
            Kvm::Emulated => (true, format!("{EMULATED}, so QEMU {} translates the guest's code", tool.version)),
            Kvm::Closed(why) => (true, format!("QEMU {} translates the guest's code: {why}", tool.version)),
        },
    };
    BackendFacts {
        backend: Backend::Qemu,
        usable,
        reason,
        version: findings.qemu.as_ref().ok().map(|tool| tool.version.clone()),
        accelerated: findings.kvm == Kvm::Hardware,
        // No snapshot: QEMU refuses to save a machine with a vhost-user vsock device.
        features: Features { vsock: true, network: true, pause: true, snapshot: false, balloon: true, entropy: true },
    }
}

/// The configuration's path, the environment's, else the first on PATH.
fn find(name: &str, configured: Option<&Path>, variable: &str) -> Result<PathBuf, String> {
    let chosen = configured.map(Path::to_owned).or_else(|| env::var_os(variable).map(PathBuf::from));
    match chosen {
        Some(chosen) if is_executable(&chosen) => Ok(chosen),
        Some(chosen) => Err(format!("`{}` is no program that can be run", chosen.display())),
        None => search(name, on_path()).ok_or_else(|| format!("no `{name}` is on PATH")),
    }
}

/// Rust's package manager puts it where a login shell looks, but a daemon often does not.
fn find_vsock_device(configured: Option<&Path>) -> Result<PathBuf, String> {
    const NAME: &str = "vhost-device-vsock";
    let beside = env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let elsewhere = beside.into_iter().chain(cargo.map(|cargo| cargo.join("bin")));
    match find(NAME, configured, "BANGER_VSOCK_DEVICE") {
        Err(why) if configured.is_none() => search(NAME, elsewhere)
            .ok_or_else(|| format!("{why} (QEMU needs it for vsock; `cargo install {NAME}` makes one)")),
        found => found,
    }
}

fn on_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).filter(|folder| folder.is_absolute()).collect::<Vec<_>>().into_iter()
}

fn search(name: &str, mut folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| is_executable(path)))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn ask_firecracker(path: &Path) -> Result<Tool, String> {
    let said = answer(path, &["--version"])?;
    let (version, number) = parse_version(&said, "Firecracker v").ok_or_else(|| no_version(path, &said))?;
    Ok(Tool { path: path.to_owned(), version, number, lacks: None })
}

fn ask_qemu(path: &Path) -> Result<Tool, String> {
    // `-sandbox` comes first: a QEMU built without seccomp refuses it before it says its version.
    let sandboxed = answer(path, &["-sandbox", "on", "-version"]);
    let said = sandboxed.clone().or_else(|_| answer(path, &["-version"]))?;
    let (version, number) = parse_version(&said, "version ").ok_or_else(|| no_version(path, &said))?;
    let lacks = |arguments: &[&str], word: &str| !answer(path, arguments).is_ok_and(|said| said.contains(word));
    let lacks = match () {
        () if lacks(&["-machine", "help"], "\nmicrovm") => Some("the `microvm` machine"),
        () if lacks(&["-device", "help"], "\"vhost-user-vsock-device\"") => Some("`vhost-user-vsock-device`"),
        () if sandboxed.is_err() => Some("seccomp (`-sandbox`)"),
        () => None,
    };
    Ok(Tool { path: path.to_owned(), version, number, lacks })
}

fn no_version(path: &Path, said: &str) -> String {
    let said: String = said.lines().next().unwrap_or_default().chars().take(80).collect();
    format!("`{}` does not tell its version; it says `{said}`", path.display())
}

/// The number after `marker`, whatever a distribution has written behind it: `7.2.22 (Debian …)`, `1.17.0-dev`.
fn parse_version(said: &str, marker: &str) -> Option<(String, Version)> {
    let (_, rest) = said.split_once(marker)?;
    let version = rest.split(|c: char| c.is_whitespace() || c == '(').next()?;
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let number = Version(numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((version.chars().take(40).collect(), number))
}

/// What the program prints, within bounds of time and size.
fn answer(path: &Path, arguments: &[&str]) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("cannot run `{}`: {why}", path.display());
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let stdout = child.stdout.take().expect("it was asked for");
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        let read: io::Result<usize> = stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut said);
        drop(sender.send(read.map(|_| String::from_utf8_lossy(&said).into_owned())));
    });
    let said = receiver.recv_timeout(ANSWER_PATIENCE);
    // Too late for a program that is done; the end of one that is not.
    drop(child.kill());
    let status = child.wait();
    drop(reader.join());
    match (said, status) {
        (Ok(Ok(said)), _) if said.len() as u64 >= MAX_ANSWER_BYTES => Err(failed(&"it does not stop talking")),
        (Ok(Ok(said)), Ok(status)) if status.success() || status.code().is_none() => Ok(said),
        (Ok(Ok(_)), Ok(status)) => Err(failed(&status)),
        (Ok(Err(error)), _) | (_, Err(error)) => Err(failed(&error)),
        (Err(_), _) => Err(failed(&"it does not answer")),
    }
}

fn look_at_kvm() -> Kvm {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Kvm::Closed(match error.kind() {
            io::ErrorKind::NotFound => "this host has no /dev/kvm".into(),
            io::ErrorKind::PermissionDenied => {
                "/dev/kvm is closed to you: join its group, `sudo usermod -aG kvm $USER`, and log in again".into()
            }
            _ => format!("cannot open /dev/kvm: {error}"),
        });
    }
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let loaded = ["kvm_intel", "kvm_amd"].iter().any(|module| Path::new("/sys/module").join(module).exists());
    if loaded || has_virtualization(&flags) { Kvm::Hardware } else { Kvm::Emulated }
}

/// Does /proc/cpuinfo show hardware virtualization? A flag is a whole word.
fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_ascii_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::vmm::choose;
    use model::VmmChoice;

    fn tool(version: &str) -> Tool {
        let (version, number) = parse_version(&format!("v{version}"), "v").unwrap();
        Tool { path: "/bin/x".into(), version, number, lacks: None }
    }

    fn all(kvm: Kvm) -> Findings {
        let vsock_device = Ok("/bin/vhost-device-vsock".into());
        Findings { firecracker: Ok(tool("1.16.1")), qemu: Ok(tool("7.2.22")), vsock_device, kvm }
    }

    fn check(findings: &Findings, wanted: VmmChoice, expected: Result<Backend, &str>) {
        let chosen = choose(wanted, &facts(findings));
        match expected {
            Ok(backend) => assert_eq!(chosen.as_ref(), Ok(&backend), "{findings:?}"),
            Err(words) => assert!(chosen.as_ref().is_err_and(|why| why.contains(words)), "{chosen:?}, not {words}"),
        }
    }

    #[test]
    fn the_choice_follows_the_host() {
        use Backend::{Firecracker, Qemu};
        use VmmChoice::Auto;
        let hardware = all(Kvm::Hardware);
        let emulated = all(Kvm::Emulated);
        let closed = all(Kvm::Closed("this host has no /dev/kvm".into()));
        check(&hardware, Auto, Ok(Firecracker));
        check(&emulated, Auto, Ok(Qemu));
        check(&emulated, VmmChoice::Firecracker, Ok(Firecracker));
        check(&closed, Auto, Ok(Qemu));
        check(&closed, VmmChoice::Firecracker, Err("no /dev/kvm"));

        let old = Findings { firecracker: Ok(tool("1.4.2")), ..hardware.clone() };
        check(&old, Auto, Ok(Qemu));
        check(&old, VmmChoice::Firecracker, Err("Firecracker 1.4.2 is too old: 1.5 or newer"));
        let bare = Findings { firecracker: Err("no `firecracker` is on PATH".into()), ..closed.clone() };
        check(&bare, Auto, Ok(Qemu));
        let lame = Findings { vsock_device: Err("no `vhost-device-vsock`".into()), ..closed };
        check(&lame, Auto, Err("no /dev/kvm; no `vhost-device-vsock`"));
        let lacks = Tool { lacks: Some("the `microvm` machine"), ..tool("7.2.22") };
        check(&Findings { qemu: Ok(lacks), ..bare }, Auto, Err("built without the `microvm` machine"));
    }

    #[test]
    fn an_untested_firecracker_is_named_and_used() {
        let newer = Findings { firecracker: Ok(tool("1.17.0-dev")), ..all(Kvm::Hardware) };
        let facts = &facts(&newer)[0];
        assert!(facts.usable && facts.reason.contains("tested are 1.14 to 1.16, this is 1.17.0-dev"), "{facts:?}");
    }

    #[test]
    fn versions_are_read_from_what_programs_print() {
        let check = |said: &str, marker: &str, expected: Option<(&str, Version)>| {
            let expected = expected.map(|(text, number)| (text.to_owned(), number));
            assert_eq!(parse_version(said, marker), expected, "{said}");
        };
        check("Firecracker v1.16.1\n\nmore", "Firecracker v", Some(("1.16.1", Version(1, 16))));
        check("Firecracker v1.17.0-dev\n", "Firecracker v", Some(("1.17.0-dev", Version(1, 17))));
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        check(debian, "version ", Some(("7.2.22", Version(7, 2))));
        check("QEMU emulator version 10.0.0\n", "version ", Some(("10.0.0", Version(10, 0))));
        for bad in ["", "Firecracker v", "Firecracker v1", "Firecracker vx.y", "Firecracker v99999999999.1"] {
            check(bad, "Firecracker v", None);
        }
    }

    #[test]
    fn only_a_whole_word_is_a_flag() {
        assert!(has_virtualization("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization("flags : fpu svm"));
        assert!(!has_virtualization("flags : fpu svm_lock xvmx\nmodel name : vmx\nvmx flags : vnmi"));
    }

    #[test]
    fn a_program_that_hangs_floods_or_fails_is_no_tool() {
        assert!(answer(Path::new("/bin/sh"), &["-c", "exit 3"]).unwrap_err().contains("3"));
        assert!(answer(Path::new("/bin/sh"), &["-c", "yes"]).unwrap_err().contains("does not stop talking"));
        assert!(answer(Path::new("/no/such"), &[]).unwrap_err().contains("cannot run `/no/such`"));
        let surveyor = Surveyor::default();
        assert!(surveyor.ask("/bin/echo".into(), ask_firecracker).unwrap_err().contains("does not tell its version"));
    }
}
