//! A guest without a VM: the real agent on a Unix socket, our ssh server in front of it on a loopback port, and the real
//! OpenSSH client with a configuration, a home and an agent of its own.
// Each test uses its part of the rig; a skipped one says so.
#![allow(dead_code, clippy::print_stderr)]

use daemon::guest_channel::{Dialling, Guest, GuestChannel};
use daemon::ssh::keys::Keys;
use daemon::ssh::{self, Target};
use model::SandboxId;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};

/// 60 s: far more than any step takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

struct AgentSocket(PathBuf);

impl GuestChannel for AgentSocket {
    fn dial<'a>(&'a self, _: &'a SandboxId) -> Dialling<'a> {
        Box::pin(async move { Ok(Box::new(UnixStream::connect(&self.0).await?) as _) })
    }
}

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub guest: Guest,
    channel: Arc<dyn GuestChannel>,
    pub port: u16,
    _agent: Child,
    _server: tokio::task::JoinSet<()>,
}

/// Absent: a need is missing, and said so.
pub async fn rig() -> Option<Rig> {
    let agent = agent_binary().or_else(|| skip("the agent is not built (`cargo build -p agent`)"))?;
    which("ssh").or_else(|| skip("this test needs the OpenSSH client"))?;
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    let mut command = Command::new(agent);
    command.args(["serve", "--listen"]).arg(format!("unix:{}", socket.display()));
    let agent = command.kill_on_drop(true).stdin(Stdio::null()).spawn().expect("the agent starts");
    until("the agent answers", || socket.exists()).await;

    let id = SandboxId::from_bits(0xfeed);
    let keys = Keys::open(folder.path().join("ssh")).expect("a key folder");
    keys.write_known_hosts(&[(id.clone(), "web".parse().expect("a name"))]).expect("known hosts");
    let host_key = keys.ensure_host_key(&id).expect("a host key");
    let channel: Arc<dyn GuestChannel> = Arc::new(AgentSocket(socket));
    let guest = Guest::new(channel.clone(), id);
    let target = Target { guest: guest.clone(), name: "web".to_owned(), host_key };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        let mut sessions = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("an option");
            sessions.spawn(ssh::serve(stream, target.clone()));
        }
    });
    let rig = Rig { folder, guest, channel, port, _agent: agent, _server: server };
    rig.write_config(&keys);
    Some(rig)
}

impl Rig {
    pub fn channel(&self) -> Arc<dyn GuestChannel> {
        self.channel.clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("config")
    }

    fn write_config(&self, keys: &Keys) {
        let text = format!(
            "Host web.vm\n HostName 127.0.0.1\n Port {}\n HostKeyAlias web.vm\n User {}\n UserKnownHostsFile {}\n \
             GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n BatchMode yes\n IdentitiesOnly yes\n \
             IdentityFile none\n LogLevel ERROR\n",
            self.port,
            rustix::process::geteuid().as_raw(),
            keys.known_hosts_path().display(),
        );
        std::fs::write(self.config(), text).expect("a configuration");
    }

    /// `program -F <config> arguments`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(self.config()).kill_on_drop(true);
        command.env_remove("SSH_AUTH_SOCK").env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub async fn ssh(&self, arguments: &[&str]) -> Output {
        finish(self.command("ssh").args(arguments)).await
    }
}

pub async fn finish(command: &mut Command) -> Output {
    let child = command.spawn().expect("the program starts");
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    output.unwrap_or_else(|_| panic!("{command:?} hangs")).expect("it can be waited for")
}

pub async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Standard output, if the program was content; else all it said.
pub fn told(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{:?}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

pub fn skip<T>(why: &str) -> Option<T> {
    let line = format!("daemon ssh: skipped: {why}\n");
    eprint!("{line}");
    if let Some(log) = std::env::var_os("BANGER_SKIP_LOG") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
    None
}

/// Where `xtask` puts it, or beside this test.
pub fn agent_binary() -> Option<PathBuf> {
    let folder = std::env::var_os("BANGER_BIN_FOLDER").map(|folder| Path::new(&folder).join("libexec"));
    let placed = folder.map(|folder| folder.join("banger-vsock-agent")).filter(|file| file.is_file());
    placed.or_else(|| beside("banger-vsock-agent"))
}

/// A binary of this build.
pub fn beside(program: &str) -> Option<PathBuf> {
    let built = std::env::var_os("BANGER_BIN_FOLDER").map(PathBuf::from);
    let folder = built.or_else(|| Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned()))?;
    Some(folder.join(program)).filter(|file| file.is_file())
}

/// Bytes that no compression and no repetition hides an error in.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
