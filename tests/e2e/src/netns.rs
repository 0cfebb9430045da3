//! A host whose network is a test's own: a network namespace for `banger` and everything it starts, and a world beyond
//! it with a public address, a private one and the cloud's metadata. Nothing of the real host's network is touched.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc;

/// Where the world beyond answers on port 80 with the address it sees.
pub const PUBLIC: &str = "203.0.113.2";
pub const PRIVATE: &str = "192.168.77.2";
pub const METADATA: &str = "169.254.169.254";
/// The host's own address towards that world.
pub const HOST: &str = "203.0.113.1";

/// The same three in IPv6, once [`Namespace::speaks_ipv6`].
pub const PUBLIC_V6: &str = "2001:db8:1::2";
pub const PRIVATE_V6: &str = "fd12:3456::2";
pub const HOST_V6: &str = "2001:db8:1::1";

/// What the name server of the world beyond answers.
pub const ANSWER: [u8; 4] = [203, 0, 113, 9];

/// Runs a test on a thread of its own in a network namespace of its own: what that thread starts is inside, too.
pub fn in_a_host(test: impl FnOnce(&Namespace) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may make namespaces");
        run("ip link set lo up");
        ask_for_names_outside();
        let outside = outside();
        test(&outside);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn outside() -> Namespace {
    let outside = Namespace::new();
    outside.wire("out0");
    run(&format!("ip addr add {HOST}/24 dev out0"));
    // Its own IPv6 address would come a second later, and the picture would not be the same any more.
    run("ip link set out0 addrgenmode none");
    run("ip link set out0 up");
    for net in ["192.168.77.0/24", "169.254.169.254/32"] {
        run(&format!("ip route add {net} via {PUBLIC} onlink dev out0"));
    }
    outside.run(|| {
        for address in [format!("{PUBLIC}/24"), format!("{PRIVATE}/24"), format!("{METADATA}/32")] {
            run(&format!("ip addr add {address} dev eth0"));
        }
        run("ip link set eth0 up");
    });
    // A link comes up in its own time, and every picture before that would be another one.
    while !run("ip -j link show out0").contains("\"operstate\":\"UP\"") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for address in [PUBLIC, PRIVATE, METADATA] {
        outside.serve(&format!("{address}:80"));
    }
    outside.serve_names(&format!("{PUBLIC}:53"));
    outside
}

/// This host asks the world beyond for names: a resolv.conf of its own, seen by nobody else.
fn ask_for_names_outside() {
    let folder = std::env::temp_dir().join(format!("bgr-resolv-{}", std::process::id()));
    std::fs::write(&folder, format!("nameserver {PUBLIC}\n")).expect("a file can be made");
    run("mount --make-rprivate /");
    run(&format!("mount --bind {} /etc/resolv.conf", folder.display()));
    std::fs::remove_file(&folder).expect("the name of a mounted file can go");
}

/// Everybody may use KVM and make taps in namespaces of their own, as on an ordinary machine: devices of the calling thread's
/// mount namespace, which is a test's own ([`in_a_host`]).
pub fn open_devices() {
    // From the kernel's list of devices (admin-guide/devices.txt): misc is 10.
    for (path, minor) in [("/dev/kvm", 232), ("/dev/net/tun", 200)] {
        let own = std::env::temp_dir().join(format!("bgr-device-{}-{minor}", std::process::id()));
        let own = own.display();
        run(&format!("mknod -m 0666 {own} c 10 {minor}"));
        run(&format!("mount --bind {own} {path}"));
        run(&format!("rm {own}"));
    }
}

/// All that can be seen of the calling thread's network, byte for byte, as `ip -j` and `nft -j` tell it.
pub fn picture() -> String {
    let links = run("ip -j addr") + &run("ip -j -4 route show table all") + &run("ip -j -6 route show table all");
    let rules = run("nft -j list ruleset");
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("a setting can be read");
    format!("{links}\n{rules}\n{forwarding}")
}

/// Runs a command line in the calling thread's namespace; it must succeed.
#[track_caller]
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().expect("a program is named")).args(words).output().expect("it can be run");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// A network namespace, held by its descriptor.
pub struct Namespace(File);

impl Namespace {
    pub fn current() -> Namespace {
        Namespace(File::open("/proc/thread-self/ns/net").expect("a thread has a namespace"))
    }

    pub fn new() -> Namespace {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
            run("ip link set lo up");
            Namespace::current()
        });
        made.join().expect("a namespace can be made")
    }

    /// Runs something inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The world beyond, and the calling thread's host towards it, speak IPv6 from now on.
    pub fn speaks_ipv6(&self) {
        run(&format!("ip addr add {HOST_V6}/64 dev out0 nodad"));
        self.run(|| {
            for address in [PUBLIC_V6, PRIVATE_V6] {
                run(&format!("ip addr add {address}/64 dev eth0 nodad"));
            }
        });
        run(&format!("ip route add fd12:3456::/64 via {PUBLIC_V6} dev out0"));
        for address in [PUBLIC_V6, PRIVATE_V6] {
            self.serve(&format!("[{address}]:80"));
        }
        self.serve_names(&format!("[{PUBLIC_V6}]:53"));
    }

    /// A TCP server that tells each caller their own address and then echoes, for as long as the test lives.
    pub fn serve(&self, address: &str) {
        let address: SocketAddr = address.parse().expect("an address");
        let listener = self.run(|| TcpListener::bind(address).expect("the address is here"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok(peer) = stream.peer_addr() else { continue };
                std::thread::spawn(move || {
                    let _ = writeln!(stream, "{}", peer.ip());
                    let mut buffer = [0; 512];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..count]);
                    }
                });
            }
        });
    }

    /// A name server that answers every question for an address with [`ANSWER`].
    pub fn serve_names(&self, address: &str) {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = self.run(|| UdpSocket::bind(address).expect("the address is here"));
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let mut told = buffer[..length].to_vec();
                // An answer, recursion available, one record and nothing else: the name asked for, A, IN, 60 s.
                let is_address = told.ends_with(&[0, 1, 0, 1]);
                told[2..4].copy_from_slice(&[0x81, 0x80]);
                told[6..12].copy_from_slice(&[0, u8::from(is_address), 0, 0, 0, 0]);
                if is_address {
                    told.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                    told.extend(ANSWER);
                }
                let _ = socket.send_to(&told, peer);
            }
        });
    }

    /// Plugs a wire between this namespace and the calling thread's: `outer` there, `eth0` in here.
    fn wire(&self, outer: &str) {
        let (sender, receiver) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                sender.send(nix::unistd::gettid()).expect("the other thread waits");
                let _ = wait.recv();
            });
            let thread = receiver.recv().expect("the other thread tells its number");
            run(&format!("ip link add {outer} type veth peer name eth0 netns {thread}"));
            drop(done);
        });
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}
