//! The VMM of a sandbox, started by hand: the same command line with disks and sockets of its own, no manager around it.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The agent's port, and the host's on which it reports (`wire::guest`).
const AGENT_PORT: u32 = 5000;
const READY_PORT: u32 = 5001;
const CHANNEL_STDOUT: u8 = 1;
const DEADLINE: Duration = Duration::from_secs(120);

pub struct BareMachine {
    arguments: Vec<String>,
    folder: PathBuf,
}

impl BareMachine {
    /// Learns the command line of a running QEMU.
    pub fn like(pid: u64) -> Result<BareMachine> {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).context("cannot read the VMM's command line")?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let arguments = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let folder = std::env::temp_dir().join(format!("banger-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).context("cannot make a folder for the bare machine")?;
        Ok(BareMachine { arguments, folder })
    }

    /// Copies the writable disks, and leads disks, console and sockets to our folder. Call while the sandbox is stopped.
    pub fn with_own_disks(mut self) -> Result<BareMachine> {
        for name in ["root.ext4", "work.ext4"] {
            let from = self.drive(name).with_context(|| format!("the VMM has no drive {name}"))?;
            let to = self.folder.join(name);
            let copied =
                Command::new("cp").arg("--sparse=always").arg(&from).arg(&to).status().context("cannot run cp")?;
            if !copied.success() {
                bail!("cannot copy {from}");
            }
        }
        let root = self.drive("root.ext4").context("the VMM has no root drive")?;
        let place = Path::new(&root).parent().context("a disk lies in a folder")?.display().to_string();
        let own = self.folder.display().to_string();
        self.arguments.iter_mut().for_each(|word| *word = word.replace(&place, &own));
        self.arguments = self.stand_alone();
        Ok(self)
    }

    /// The path of a drive's file, out of the JSON of a `-blockdev`.
    fn drive(&self, name: &str) -> Option<String> {
        let end = format!("/{name}\"");
        let word = self.arguments.iter().find(|word| word.contains(&end))?;
        let until = word.find(&end)? + end.len() - 1;
        let from = word[..until].rfind('"')? + 1;
        Some(word[from..until].to_owned())
    }

    /// What only a manager needs goes: waiting for a word to start, the control socket, passed descriptors.
    fn stand_alone(&self) -> Vec<String> {
        let mut kept = Vec::new();
        let mut words = self.arguments.iter().cloned();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-S" => {}
                "-mon" => drop(words.next()),
                // The wire to banger's gateway: a bare machine has QEMU's own network instead.
                "-netdev" => match words.next() {
                    Some(value) if value.contains("fd=") => kept.extend([word, "user,id=net0,ipv6=off".to_owned()]),
                    value => kept.extend([word, value.unwrap_or_default()]),
                },
                "-chardev" => match words.next() {
                    Some(value) if value.contains("id=control") => {}
                    Some(value) if value.contains("id=vsock") => {
                        let socket = self.folder.join("vhost.sock");
                        kept.extend([word, format!("socket,id=vsock,path={}", socket.display())]);
                    }
                    value => kept.extend([word, value.unwrap_or_default()]),
                },
                _ => kept.push(word),
            }
        }
        kept
    }

    /// Boots it, asks for the agent's health, then for the answer of a command, each as a client without a manager would.
    pub fn boot(&self) -> Result<Answers> {
        let path = |name: &str| self.folder.join(name);
        for name in ["vhost.sock", "vsock.sock", "vsock.sock_5001"] {
            let _ = std::fs::remove_file(path(name));
        }
        let began = Instant::now();
        let ready = UnixListener::bind(path(&format!("vsock.sock_{READY_PORT}"))).context("cannot bind a socket")?;
        let mut device = Command::new("vhost-device-vsock");
        device.args(["--guest-cid", "3", "--socket"]).arg(path("vhost.sock")).arg("--uds-path").arg(path("vsock.sock"));
        let _device = Reaped(
            device.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start the vsock device")?,
        );
        await_socket(&path("vhost.sock"), began)?;
        let mut vmm = Command::new(&self.arguments[0]);
        vmm.args(&self.arguments[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _vmm = Reaped(vmm.spawn().context("cannot start the bare VMM")?);
        let (word, _) = ready.accept().context("cannot hear the agent")?;
        BufReader::new(word).read_line(&mut String::new()).context("the agent said nothing")?;
        let mut agent = self.dial()?;
        agent.write_all(b"GET /healthz HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
        agent.read_exact(&mut [0]).context("the agent closed the connection")?;
        let health = began.elapsed();
        self.command_answers()?;
        Ok(Answers { health, command: began.elapsed() })
    }

    /// A connection to the agent, through the vsock device's `CONNECT` line.
    fn dial(&self) -> Result<UnixStream> {
        let mut agent = UnixStream::connect(self.folder.join("vsock.sock")).context("cannot reach the agent")?;
        agent.set_read_timeout(Some(DEADLINE))?;
        agent.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
        read_until(&mut agent, b"\n").context("the vsock device closed the connection")?;
        Ok(agent)
    }

    /// The first byte that `echo x` prints, over `/exec`: a WebSocket (RFC 6455) of whose frames no more is known here than
    /// this conversation needs.
    fn command_answers(&self) -> Result<()> {
        let mut agent = self.dial()?;
        let head = "GET /exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        agent.write_all(head.as_bytes())?;
        read_until(&mut agent, b"\r\n\r\n").context("the agent refused the upgrade")?;
        let request = br#"{"argv":["echo","x"]}"#;
        // A final text frame, masked with zeros: the bytes as they are.
        let length = u8::try_from(request.len()).expect("the request is short") | 0x80;
        agent.write_all(&[&[0x81, length, 0, 0, 0, 0][..], request].concat())?;
        loop {
            let mut frame = [0; 3];
            agent.read_exact(&mut frame).context("the command gave no answer")?;
            match frame {
                [0x82, _, CHANNEL_STDOUT] => return Ok(()),
                [0x82, length @ 1..=125, _] => agent.read_exact(&mut vec![0; usize::from(length) - 1])?,
                [kind, length, _] => bail!("the agent sent a frame of kind {kind:#x} and length {length}"),
            }
        }
    }
}

/// From the first `execve` to the first byte of each answer.
pub struct Answers {
    pub health: Duration,
    pub command: Duration,
}

fn read_until(stream: &mut UnixStream, end: &[u8]) -> Result<()> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        read.push(byte[0]);
    }
    Ok(())
}

impl Drop for BareMachine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn await_socket(path: &Path, began: Instant) -> Result<()> {
    while !path.exists() {
        if began.elapsed() > DEADLINE {
            bail!("the vsock device made no socket");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
