//! A process that can be found again: its pid, when it started, and the program it runs.
//!
//! A pid alone names nothing, since the kernel uses it again; pid and start time together are unique within one boot of
//! the host. A found process is held by a pidfd (pidfd_open(2)), so that a signal can never hit a successor.
//! Processes started here lead a session of their own, outlive the daemon and hold no descriptor but those given to them.
#![allow(unsafe_code)]

use engine::host::vmm::VmmExit;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

/// What of a process is written down to find it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks from the host's start to the process's: field 22 of /proc/<pid>/stat (proc(5)).
    pub start_ticks: u64,
    pub program: PathBuf,
}

/// A process held by its pidfd, alive or ended and not yet reaped.
#[derive(Debug)]
pub struct Process {
    pub identity: Identity,
    pidfd: OwnedFd,
}

/// What a process used until now, and has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ms: u64,
    /// Resident memory, the guest's touched pages included.
    pub resident_bytes: u64,
}

/// What to start, and the only descriptors that reach it besides its three streams.
pub struct Launch<'a> {
    pub program: &'a Path,
    pub arguments: &'a [OsString],
    pub folder: &'a Path,
    pub stdout: File,
    pub stderr: File,
    pub inherited: &'a [BorrowedFd<'a>],
}

impl Identity {
    /// The process of this identity, if it still lives.
    pub fn find(&self) -> Option<Process> {
        // 0 is no process, 1 is never ours; a record that says so is damaged.
        let pid = i32::try_from(self.pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Only now: what is read while the pidfd is held belongs to the process that it holds, or to none.
        let stat = Stat::read(self.pid)?;
        let same = stat.start_ticks == self.start_ticks && !stat.ended && runs_program(self.pid, &self.program);
        same.then(|| Process { identity: self.clone(), pidfd })
    }
}

impl Process {
    pub fn start(launch: Launch<'_>) -> io::Result<Process> {
        Process::start_in(launch, &[])
    }

    /// Enters the namespaces first, in their order (setns(2)).
    pub fn start_in(launch: Launch<'_>, namespaces: &[File]) -> io::Result<Process> {
        let namespaces: Vec<_> = namespaces.iter().map(AsRawFd::as_raw_fd).collect();
        let inherited: Vec<_> = launch.inherited.iter().map(|fd| fd.as_raw_fd()).collect();
        let mut command = Command::new(launch.program);
        command.args(launch.arguments).current_dir(launch.folder).env_clear().env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(launch.stdout).stderr(launch.stderr);
        // SAFETY: between fork and exec only system calls are made (umask, setns, setsid, close_range, fcntl), no memory is
        // allocated and no lock taken; close_range closes nothing yet, it marks; every number in `inherited` is borrowed by
        // `launch` for this whole call, so it is open in the child.
        unsafe {
            command.pre_exec(move || {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
                rustix::process::setsid()?;
                for namespace in &namespaces {
                    if libc::setns(*namespace, 0) == -1 {
                        return Err(io::Error::last_os_error());
                    }
                }
                // Descriptors that were inherited by the daemon itself are nobody's business either. A kernel older than
                // 5.11 refuses; then all those that were opened here are marked already.
                libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
                inherited.iter().try_for_each(|fd| {
                    let fd = BorrowedFd::borrow_raw(*fd);
                    fcntl_setfd(fd, FdFlags::empty()).map_err(io::Error::from)
                })
            });
        }
        let child = command.spawn()?;
        // `child` is ours and unreaped, so its pid cannot have been used again yet.
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let stat = Stat::read(child.id()).ok_or_else(|| io::Error::other("it ended at once"))?;
        let program = launch.program.to_owned();
        Ok(Process { identity: Identity { pid: child.id(), start_ticks: stat.start_ticks, program }, pidfd })
    }

    /// Delivers a signal; a process that has ended takes it in silence.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn has_ended(&self) -> bool {
        self.await_end(Duration::ZERO)
    }

    /// True once the process has ended; false when it had not within `patience`.
    pub fn await_end(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let left = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return Stat::read(self.identity.pid).is_none_or(|stat| stat.ended),
            }
        }
    }

    /// Takes the exit status of an ended child; empty for a process that is not our child (after a daemon's restart).
    pub fn reap(&self) -> VmmExit {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => VmmExit { code: status.exit_status(), signal: status.terminating_signal() },
            Ok(None) | Err(_) => VmmExit::default(),
        }
    }

    /// Ends it now and reaps it; false when it did not go within `patience`.
    pub fn kill(&self, patience: Duration) -> bool {
        let killed = self.signal(Signal::KILL).is_ok() && self.await_end(patience);
        if killed {
            let _exit_is_ours = self.reap();
        }
        killed
    }

    pub fn usage(&self) -> Option<Usage> {
        let stat = Stat::read(self.identity.pid).filter(|stat| stat.start_ticks == self.identity.start_ticks)?;
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        Some(Usage {
            cpu_ms: stat.cpu_ticks.saturating_mul(1000) / ticks_per_second,
            resident_bytes: stat.resident_pages.saturating_mul(rustix::param::page_size() as u64),
        })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// All processes whose standard error is this file: how a VMM is found whose record was never written.
pub fn processes_logging_to(log: &Path) -> Vec<Process> {
    let Ok(log) = fs::metadata(log) else { return Vec::new() };
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    pids.filter(|pid| is_stderr_of(*pid, &log))
        .filter_map(|pid| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            Identity { pid, start_ticks: Stat::read(pid)?.start_ticks, program }.find()
        })
        .collect()
}

fn is_stderr_of(pid: u32, file: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let stderr = fs::metadata(format!("/proc/{pid}/fd/2"));
    stderr.is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
}

/// Does this process run that program? A program replaced since then (an upgrade) shows ` (deleted)` and is right too;
/// so is one whose link may not be read.
fn runs_program(pid: u32, program: &Path) -> bool {
    let Ok(found) = fs::read_link(format!("/proc/{pid}/exe")) else { return true };
    let found = found.to_string_lossy();
    let found = Path::new(found.trim_end_matches(" (deleted)"));
    found == program || fs::canonicalize(program).is_ok_and(|program| program == found)
}

/// The fields of /proc/<pid>/stat that are used here (proc(5)).
struct Stat {
    ended: bool,
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the program's name in parentheses and may hold anything, parentheses and blanks included.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3, the state, is the first after the name.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            ended: matches!(*fields.first()?, "Z" | "X" | "x"),
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            start_ticks: number(22)?,
            resident_pages: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(seconds: &str, inherited: &[BorrowedFd<'_>]) -> Process {
        let null = || File::options().write(true).open("/dev/null").unwrap();
        let program = fs::canonicalize("/bin/sleep").unwrap();
        Process::start(Launch {
            program: &program,
            arguments: &[seconds.into()],
            folder: Path::new("/"),
            stdout: null(),
            stderr: null(),
            inherited,
        })
        .unwrap()
    }

    #[test]
    fn a_process_is_found_by_pid_and_start_time_and_never_by_pid_alone() {
        let process = sleeper("60", &[]);
        let identity = process.identity.clone();
        assert!(identity.find().is_some());
        assert!(Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() }.find().is_none());
        assert!(Identity { program: "/bin/true".into(), ..identity.clone() }.find().is_none());
        for pid in [0, 1, u32::MAX, 1 << 31] {
            assert!(Identity { pid, ..identity.clone() }.find().is_none(), "{pid}");
        }
        assert!(process.kill(Duration::from_secs(10)));
        assert!(identity.find().is_none());
    }

    #[test]
    fn an_ended_child_tells_how_it_ended() {
        let process = sleeper("0", &[]);
        assert!(process.await_end(Duration::from_secs(10)));
        assert!(process.identity.find().is_none(), "a zombie is no running process");
        assert_eq!(process.reap(), VmmExit { code: Some(0), signal: None });
        assert_eq!(process.reap(), VmmExit::default());

        let process = sleeper("60", &[]);
        process.signal(Signal::TERM).unwrap();
        assert!(process.await_end(Duration::from_secs(10)));
        assert_eq!(process.reap(), VmmExit { code: None, signal: Some(15) });
        process.signal(Signal::TERM).unwrap();
    }

    #[test]
    fn only_what_was_given_is_inherited_and_a_lock_lives_as_long_as_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = File::create(&path).unwrap();
        lock.try_lock().unwrap();
        let other = File::create(folder.path().join("other")).unwrap();
        let process = sleeper("60", &[lock.as_fd()]);
        drop(lock);

        let held = || fs::read_dir(format!("/proc/{}/fd", process.identity.pid)).unwrap().count();
        // A program that has just begun holds its libraries, too, for a moment; what it inherited it holds for good.
        let end = Instant::now() + Duration::from_secs(10);
        while held() != 4 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(held(), 4, "three streams and the lock, never {other:?}");
        assert!(File::open(&path).unwrap().try_lock().is_err());
        assert!(process.kill(Duration::from_secs(10)));
        File::open(&path).unwrap().try_lock().unwrap();
    }

    #[test]
    fn a_hostile_program_name_does_not_shift_the_fields() {
        let text = "7 (a) R 1 (x)) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 4242 1000 77 18446744073709551615 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.ended, stat.cpu_ticks, stat.start_ticks, stat.resident_pages), (false, 42, 4242, 77));
        for bad in ["", "7", "7 (a", "7 (a) S 1 2"] {
            assert!(Stat::parse(bad).is_none(), "{bad:?}");
        }
    }
}
