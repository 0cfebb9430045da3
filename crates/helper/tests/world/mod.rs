//! A small world for one test: a network namespace as the host, with a real `bangerd-root` in it, and further ones for
//! guests and for the outside. A guest's frames go through the real tap, opened by name as a VMM opens it.
#![allow(unsafe_code, dead_code)]

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use wire::Fault;
use wire::privilege::{Ask, varlink};

/// Whether namespaces can be made here; says so when not, and fails when they are required.
pub fn possible() -> bool {
    if nix::unistd::geteuid().is_root() && Path::new("/dev/net/tun").exists() {
        return true;
    }
    let required = std::env::var("REQUIRE_NEEDS").unwrap_or_default();
    assert!(!required.split(',').any(|need| need == "root"), "root and /dev/net/tun are required");
    let _ = writeln!(io::stderr(), "skipped: needs root and /dev/net/tun");
    false
}

/// Runs a test on a thread of its own in a network namespace of its own.
pub fn in_a_host(test: impl FnOnce(&Host) + Send + 'static) {
    if !possible() {
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        run("ip link set lo up");
        let host = Host { folder: tempfile::tempdir().unwrap(), here: Namespace::current() };
        test(&host);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Host {
    pub folder: TempDir,
    pub here: Namespace,
}

impl Host {
    pub fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("ledger/socket")
    }

    /// Starts the helper, and waits until it answers or ends.
    pub fn helper(&self) -> Helper {
        self.helper_with(&[])
    }

    pub fn helper_with(&self, environment: &[(&str, &str)]) -> Helper {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bangerd-root"));
        command.args(["--owner", "1000", "--ready-fd", "9", "--ledger"]).arg(self.ledger());
        command.arg("--socket").arg(self.socket()).envs(environment.iter().copied());
        let writer_number = writer.as_raw_fd();
        // SAFETY: dup2 is async-signal-safe, and the closure touches nothing else.
        unsafe {
            command.pre_exec(move || match libc::dup2(writer_number, 9) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        drop(writer);
        let mut said = String::new();
        BufReader::new(File::from(reader)).read_line(&mut said).unwrap();
        Helper { child, socket: self.socket(), ready: said == "ready\n" }
    }

    /// All that can be seen of this host's network.
    pub fn picture(&self) -> String {
        let links = run("ip -j addr") + &run("ip -j link") + &run("ip -j -4 route show table all");
        let routes6 = run("ip -j -6 route show table all");
        let rules = run("nft -j list ruleset");
        let settings: Vec<_> =
            ["ip_forward", "conf/all/accept_redirects", "conf/default/forwarding", "conf/lo/forwarding"]
                .iter()
                .map(|name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap())
                .collect();
        format!("{links}\n{routes6}\n{rules}\n{settings:?}")
    }
}

pub struct Helper {
    child: Child,
    socket: PathBuf,
    pub ready: bool,
}

impl Helper {
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("the helper listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// The helper's answer; the outer error is a conversation that broke, as when it was killed.
    pub fn try_ask<A: Ask>(&self, ask: &A) -> io::Result<Result<A::Reply, Fault>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        varlink::converse(&mut stream, ask)
    }

    pub fn ask<A: Ask>(&self, ask: &A) -> A::Reply {
        self.try_ask(ask).unwrap().unwrap_or_else(|fault| panic!("{}: {fault} {:?}", A::METHOD, fault.causes))
    }

    pub fn refusal<A: Ask>(&self, ask: &A) -> Fault
    where
        A::Reply: std::fmt::Debug,
    {
        self.try_ask(ask).unwrap().expect_err("this must be refused")
    }

    /// Ends it as `kill -9` does, and answers what it said on its standard error.
    pub fn kill(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut said = String::new();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut said);
        said
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A network namespace, held by its descriptor.
pub struct Namespace(File);

impl Namespace {
    fn current() -> Namespace {
        Namespace(File::open("/proc/thread-self/ns/net").unwrap())
    }

    pub fn new() -> Namespace {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            Namespace::current()
        })
        .join()
        .unwrap()
    }

    /// Runs something inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A TCP server that tells each caller their own address, for as long as the test lives.
    pub fn serve(&self, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let listener = self.run(|| TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().unwrap().ip();
                std::thread::spawn(move || {
                    let _ = writeln!(stream, "{peer}");
                    // Then whatever comes is sent back.
                    let mut buffer = [0; 512];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..count]);
                    }
                });
            }
        });
    }

    /// What the server there says, or why it cannot be reached.
    pub fn reach(&self, address: &str) -> Result<String, io::ErrorKind> {
        self.connect(address).map(|(_, greeting)| greeting)
    }

    pub fn connect(&self, address: &str) -> Result<(TcpStream, String), io::ErrorKind> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).map_err(|error| error.kind())?;
            Ok((stream, line.trim().to_owned()))
        })
    }

    /// Plugs a wire between this namespace and the calling thread's: `outer` there, `eth0` in here.
    pub fn wire(&self, outer: &str) {
        let (sender, receiver) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                sender.send(nix::unistd::gettid()).unwrap();
                let _ = wait.recv();
            });
            let thread = receiver.recv().unwrap();
            run(&format!("ip link add {outer} type veth peer name eth0 netns {thread}"));
            drop(done);
        });
    }
}

/// A guest: a namespace whose `eth0` is wired to a tap of the host, as a VMM does it.
pub struct Guest {
    pub inside: Namespace,
}

impl Guest {
    /// Called on a thread of the host.
    pub fn plug(device: &str, mac: &str, address: &str, gateway: IpAddr) -> Guest {
        let outer = open_tap(device).expect("the tap opens by name");
        let inside = Namespace::new();
        let inner = inside.run(|| {
            let inner = open_tap("eth0").unwrap();
            run(&format!("ip link set eth0 address {mac}"));
            run(&format!("ip addr add {address} dev eth0"));
            run("ip link set eth0 up");
            run(&format!("ip route add default via {gateway}"));
            inner
        });
        pump(outer.try_clone().unwrap(), inner.try_clone().unwrap());
        pump(inner, outer);
        Guest { inside }
    }
}

/// Frames from one to the other; ends when a tap vanishes or the test does.
fn pump(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut frame = [0; 65536];
        while let Ok(count) = from.read(&mut frame) {
            let _ = to.write(&frame[..count]);
        }
    });
}

pub fn open_tap(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid `ifreq`; TUNSETIFF (0x400454ca) reads and writes one.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        match libc::ioctl(tun.as_raw_fd(), 0x4004_54ca, &request) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(tun),
        }
    }
}

/// Runs a command line in the calling thread's namespace; it must succeed.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// As [`run`], for what may fail.
pub fn try_run(line: &str) -> bool {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap().status.success()
}

/// Runs a program as an ordinary user, in the calling thread's namespace.
pub fn as_user(uid: u32, line: &str) -> bool {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).uid(uid).gid(uid).stderr(Stdio::null()).stdout(Stdio::null());
    command.status().unwrap().success()
}

pub fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the caller hands over a descriptor that is theirs.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
