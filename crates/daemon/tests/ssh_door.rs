//! The whole way of a person's ssh: `ssh web.vm` → `banger internal ssh-proxy` → the control socket → `bangerd` → the vsock
//! of a guest, which here is a real agent on this machine behind a socket that greets as a vsock does.

mod ssh_rig;

use daemon::app::HostKind;
use daemon::config::Config;
use daemon::daemon::{Daemon, Options, Under};
use daemon::layout::Layout;
use ssh_rig::{DEADLINE, agent_binary, beside, finish, skip, told, until, which};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;

/// Firecracker's way in: `CONNECT 5000`, `OK 5000`, then the agent.
async fn greet_as_vsock(listener: UnixListener, agent: PathBuf) {
    while let Ok((mut host, _)) = listener.accept().await {
        let agent = agent.clone();
        tokio::spawn(async move {
            let mut greeting = [0; 13];
            host.read_exact(&mut greeting).await.expect("a greeting");
            assert_eq!(&greeting, b"CONNECT 5000\n");
            host.write_all(b"OK 5000\n").await.expect("answered");
            let mut guest = UnixStream::connect(agent).await.expect("the agent listens");
            let _ = tokio::io::copy_bidirectional(&mut host, &mut guest).await;
        });
    }
}

struct Person {
    home: tempfile::TempDir,
    banger: PathBuf,
}

impl Person {
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("BANGER_SOCKET", self.home.path().join("r/bangerd.sock")).env("HOME", self.home.path());
        command.env_remove("XDG_CONFIG_HOME").env_remove("SSH_AUTH_SOCK").env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn banger(&self, line: &str) -> std::process::Output {
        finish(self.command(&self.banger).args(line.split_whitespace())).await
    }
}

/// A daemon of the real kind over simulated seams: only the way to the guest is real.
fn daemon(home: &Path) -> Daemon {
    let [state, runtime, cache] = ["s", "r", "c"].map(|name| home.join(name));
    let layout = Layout::at(state, runtime, cache).expect("a layout");
    let config = Config { dns_port: Some(0), ..Config::default() };
    let options = Options { host: HostKind::Real, socket: layout.control_socket().to_owned(), layout, config };
    let under = |_: &Options| Ok(Under::over(daemon::host::simulated()));
    Daemon::open_on(options, under).expect("a daemon")
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_finds_its_way_from_a_name_to_a_guest() {
    let Some(agent) = agent_binary().or_else(|| skip("the agent is not built")) else { return };
    let Some(banger) = beside("banger").or_else(|| skip("`banger` is not built (`cargo build -p cli`)")) else {
        return;
    };
    if which("ssh").is_none() {
        return skip("this test needs the OpenSSH client").unwrap_or_default();
    }
    // Not TMPDIR: a socket's path has to be short.
    let home = tempfile::Builder::new().prefix("banger-").tempdir_in("/tmp").expect("a home");
    let person = Person { home, banger };
    let daemon = daemon(person.home.path());
    let app = daemon.app().clone();
    let serving = tokio::spawn(daemon.serve());

    told(person.banger("vm create --name web").await);
    let sandbox = app.engine.resolve("web").expect("it was created");
    let vsock = app.layout.vsock(&sandbox.id);
    std::fs::create_dir_all(vsock.parent().expect("a folder")).expect("a run folder");
    let socket = person.home.path().join("agent.sock");
    let mut serve = Command::new(agent);
    serve.args(["serve", "--listen"]).arg(format!("unix:{}", socket.display())).kill_on_drop(true);
    let _agent = serve.spawn().expect("an agent");
    until("the agent listens", || socket.exists()).await;
    tokio::spawn(greet_as_vsock(UnixListener::bind(&vsock).expect("a vsock"), socket));

    // Through banger; then, once installed, by ssh alone, with nothing but the name. OpenSSH looks the home up by number
    // and not by HOME, so the file is named. An agent that is not root runs commands as nobody else.
    let own = nix::unistd::geteuid();
    let user = if own.is_root() { "12345".to_owned() } else { own.to_string() };
    let said = person.banger(&format!("vm ssh --user {user} web -- id -u; exit 3")).await;
    assert_eq!(
        (String::from_utf8_lossy(&said.stdout).into_owned(), said.status.code()),
        (format!("{user}\n"), Some(3)),
        "{said:?}"
    );
    told(person.banger("ssh-config --install").await);
    let config = person.home.path().join(".config/banger/ssh_config");
    let ssh = async |words: &[&str]| {
        finish(person.command("ssh").arg("-F").arg(&config).args(["-l", &user]).args(words)).await
    };
    assert_eq!(told(ssh(&["web.vm", "echo $0 >/dev/null; echo by name"]).await), "by name\n");

    // A name that is not there, and a guest that is not: sentences, not silence.
    let nobody = ssh(&["nobody.vm", "true"]).await;
    let sentence = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(sentence.contains("there is no VM `nobody`"), "{sentence}");
    assert_eq!(nobody.status.code(), Some(255));
    std::fs::remove_file(&vsock).expect("the guest is gone");
    let gone = ssh(&["web.vm", "true"]).await;
    assert_eq!(gone.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("cannot reach the agent"), "{gone:?}");

    // The name goes with the sandbox, and so do its keys.
    let known = app.layout.ssh().join("known_hosts");
    assert!(std::fs::read_to_string(&known).expect("read").contains("web.vm "));
    told(person.banger("vm delete web").await);
    until("it is forgotten", || !std::fs::read_to_string(&known).expect("read").contains("web.vm ")).await;
    let keys = app.layout.ssh().join("host");
    until("its key is gone", || std::fs::read_dir(&keys).expect("a folder").count() == 0).await;
    app.stop();
    tokio::time::timeout(DEADLINE, serving).await.expect("in time").expect("no panic").expect("served");
}
