//! Promise: the OpenSSH clients of this host meet in a guest what they know of any other machine, whether it has a ssh server
//! and a network or not.

use e2e::program::{await_end, feed, finish};
use e2e::terminal::Terminal;
use e2e::{Ran, World, artifacts, needs};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running guest, the stanza of `ssh-config`, and a home of the test's own.
struct Host {
    world: World,
    config: PathBuf,
}

impl Host {
    fn of(world: World, options: &[&str]) -> Host {
        world.banger(&[&["vm", "run", "-d", "--name", "web"], options].concat()).ok();
        let config = world.path().join("ssh_config");
        std::fs::write(&config, world.banger(&["ssh-config", "--print"]).ok().stdout).expect("written");
        Host { world, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// `program -F <config> arguments`, for all of OpenSSH's clients.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        self.world.environment(&mut command);
        command.env("HOME", self.path("home")).env_remove("SSH_AUTH_SOCK").current_dir(self.path("home"));
        command.arg("-F").arg(&self.config).args(["-o", "LogLevel=ERROR"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ssh(&self, arguments: &[&str]) -> Ran {
        run(self.command("ssh", arguments))
    }

    fn in_guest(&self, line: &str) -> String {
        self.world.banger(&["vm", "exec", "web", "--", "sh", "-c", line]).ok().stdout
    }

    /// Puts a program of this host into the guest, with its libraries beside it: the guest needs have neither.
    fn install(&self, program: &str) {
        if !self.in_guest(&format!("command -v {program} || true")).is_empty() {
            return;
        }
        let path = needs::which(program).unwrap_or_else(|| panic!("{program} is not installed"));
        let listed = Command::new("ldd").arg(&path).output().expect("ldd runs").stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).exists());
        let staged = self.path("staged");
        for (folder, files) in [("lib", libraries.map(PathBuf::from).collect()), ("bin", vec![path.clone()])] {
            std::fs::create_dir_all(staged.join("host").join(folder)).expect("a folder");
            for file in files {
                let name = file.file_name().expect("a name");
                std::fs::copy(&file, staged.join("host").join(folder).join(name)).expect("a copy");
            }
        }
        self.world.banger(&["vm", "cp", staged.join("host").to_str().expect("UTF-8"), "web:/var/"]).ok();
        let loader = "/var/host/lib/ld-linux-x86-64.so.2 --library-path /var/host/lib";
        let start = format!("#!/bin/sh\nexec {loader} /var/host/bin/{program} \"$@\"\n");
        let place = format!("cat > /bin/{program} && chmod +x /bin/{program}");
        self.world.banger_with_input(&["vm", "exec", "-i", "web", "--", "sh", "-c", &place], start.as_bytes()).ok();
    }

    fn probe(&self, manners: &str) {
        let put = "[ -x /bin/probe ] || { cat > /bin/probe && chmod +x /bin/probe; }";
        self.world.banger_with_input(&["vm", "exec", "-i", "web", "--", "sh", "-c", put], &artifacts::probe()).ok();
        self.in_guest(&format!("setsid probe {manners} </dev/null >/dev/null 2>&1 &"));
        let port = manners.split(' ').nth(1).expect("a port").to_owned();
        let listens = || {
            self.world
                .banger(&["vm", "ports", "web", "--json"])
                .ok()
                .stdout
                .contains(&format!("\"guest_port\": {port}"))
        };
        until("the probe listens", listens);
    }
}

fn run(mut command: Command) -> Ran {
    finish(command.spawn().expect("the program starts"), &format!("{command:?}"))
}

#[track_caller]
fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// Says so many bytes to the port and hears how many arrived.
fn ask(port: u16, length: usize) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.set_write_timeout(Some(PATIENCE)).expect("an option");
    stream.write_all(&vec![7; length]).expect("sent");
    stream.shutdown(Shutdown::Write).expect("ended");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn the_openssh_clients_work_with_a_guest_that_has_neither_sshd_nor_network() {
    let test = "the_openssh_clients_work_with_a_guest_that_has_neither_sshd_nor_network";
    if !needs::qemu(test) || !needs::program("ssh", test) || !needs::program("rsync", test) {
        return;
    }
    let host = Host::of(World::tiny(), &["--image", "tiny", "--nat", "off"]);
    the_matrix(&host);
}

#[test]
fn the_openssh_clients_work_with_a_debian_that_has_no_network_and_no_use_for_its_sshd() {
    let test = "the_openssh_clients_work_with_a_debian_that_has_no_network_and_no_use_for_its_sshd";
    if !needs::qemu(test) || !needs::program("ssh", test) || !needs::program("rsync", test) {
        return;
    }
    let host = Host::of(World::debian(), &["--net", "none", "--vcpu", "2", "--memory", "1G"]);
    host.in_guest("systemctl is-system-running --wait");
    host.in_guest("systemctl stop ssh.socket ssh.service; ! pgrep -x sshd");
    the_matrix(&host);
    assert_eq!(host.in_guest("cat /proc/1/comm; ls /sys/class/net"), "systemd\nlo\n");
}

/// Its name, for who reads why the test failed.
type Step = (&'static str, fn(&Host));

fn the_matrix(host: &Host) {
    let steps: [Step; 7] = [
        ("commands and their ends", commands_and_their_ends),
        ("a terminal", a_terminal),
        ("files both ways", files_both_ways),
        ("forwards", forwards),
        ("one connection for all", one_connection_for_all),
        ("the agent of the person", the_agent_of_the_person),
        ("a repository", a_repository),
    ];
    for (name, step) in steps {
        let began = Instant::now();
        step(host);
        // Shown where the test fails: which steps went well, and how fast.
        let _ = writeln!(std::io::stderr(), "{name}: {:.1?}", began.elapsed());
    }
}

fn commands_and_their_ends(host: &Host) {
    let ran = host.ssh(&["web.vm", "echo out; echo err >&2; exit 42"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (42, "out\n", "err\n"));
    assert_eq!(host.ssh(&["web.vm", "printf '%s|' \"a b\" '$HOME' \\\\"]).ok().stdout, "a b|$HOME|\\|");
    assert_eq!(host.ssh(&["web.vm", "no-such-command"]).code, 127);
    assert_eq!(host.ssh(&["web.vm", "kill -TERM $$"]).code, 255, "as OpenSSH tells of a signal");
    assert_eq!(host.ssh(&["nobody.vm", "true"]).code, 255);
    // An account with a shell: most of a system's own have none, here as with any ssh server.
    host.in_guest("echo nora:x:1234:65534::/:/bin/sh >> /etc/passwd");
    assert_eq!(host.ssh(&["-l", "nora", "web.vm", "id -un"]).ok().stdout, "nora\n");
    let sent = noise(3_000_000);
    let back = feed(host.command("ssh", &["web.vm", "cat"]), sent.clone(), "ssh web.vm cat, of 3 MB");
    assert!(back == sent, "{} bytes came back of {}", back.len(), sent.len());
}

fn a_terminal(host: &Host) {
    let mut terminal = Terminal::start(host.command("ssh", &["-tt", "web.vm"]), 24, 80);
    terminal.type_text("stty size; tty; echo mark-$((1+1))\n");
    let shown = terminal.expect("mark-2");
    assert!(shown.contains("24 80") && shown.contains("/dev/pts/"), "{shown}");
    terminal.resize(40, 132);
    terminal.type_text("sleep 1; stty size; echo mark-$((2+2))\n");
    let shown = terminal.expect("mark-4");
    assert!(shown.contains("40 132"), "{shown}");
    terminal.type_text("exit 7\n");
    assert_eq!(terminal.wait(), 7);
    // Who leaves a shell through banger is told that the machine has not gone with it.
    let mut terminal = Terminal::start(host.world.command(&["vm", "ssh", "web"]), 24, 80);
    terminal.type_text("echo mark-$((3+3)); exit 3\n");
    terminal.expect("mark-6");
    terminal.expect("`banger vm stop web` stops it");
    assert_eq!(terminal.wait(), 3);
}

fn files_both_ways(host: &Host) {
    let content = noise(2_000_000);
    std::fs::write(host.path("home/large"), &content).expect("a file");
    std::fs::create_dir_all(host.path("home/tree/deep")).expect("a folder");
    std::fs::write(host.path("home/tree/deep/f"), "deep\n").expect("a file");
    run(host.command("scp", &["-q", "large", "web.vm:/tmp/large"])).ok();
    run(host.command("scp", &["-q", "web.vm:/tmp/large", "back"])).ok();
    assert!(std::fs::read(host.path("home/back")).expect("a file") == content);
    run(host.command("scp", &["-qr", "tree", "web.vm:/tmp/"])).ok();
    assert_eq!(host.in_guest("cat /tmp/tree/deep/f"), "deep\n");
    std::fs::write(host.path("batch"), "put large /tmp/sent\nchmod 600 /tmp/sent\nmkdir /tmp/made\nrename /tmp/sent /tmp/made/moved\nget /tmp/made/moved got\nls -l /tmp/made\n").expect("written");
    let listed = run(host.command("sftp", &["-b", &host.text("batch"), "web.vm"])).ok().stdout;
    assert!(listed.contains("-rw-------"), "{listed}");
    assert!(std::fs::read(host.path("home/got")).expect("a file") == content);
    host.install("rsync");
    let shell = format!("ssh -F {} -o LogLevel=ERROR", host.config.display());
    let rsync = |arguments: &[&str]| {
        let mut command = Command::new("rsync");
        host.world.environment(&mut command);
        command
            .env("HOME", host.path("home"))
            .current_dir(host.path("home"))
            .args(["-a", "-e", &shell])
            .args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run(command)
    };
    rsync(&["tree/", "web.vm:/tmp/mirror/"]).ok();
    host.in_guest("echo more > /tmp/mirror/more && rm /tmp/mirror/deep/f");
    rsync(&["--delete", "web.vm:/tmp/mirror/", "tree/"]).ok();
    assert_eq!(std::fs::read_to_string(host.path("home/tree/more")).expect("a file"), "more\n");
    assert!(!host.path("home/tree/deep/f").exists());
}

fn forwards(host: &Host) {
    host.probe("counts 7003");
    host.probe("http 7080");
    let (local, dynamic, remote) = (free_port(), free_port(), free_port());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = listener.local_addr().expect("bound").port();
    let forwards = [
        "-N".to_owned(),
        format!("-L{local}:localhost:7003"),
        format!("-D{dynamic}"),
        format!("-R{remote}:localhost:{here}"),
        "-oExitOnForwardFailure=yes".to_owned(),
        "web.vm".to_owned(),
    ];
    let forwards: Vec<&str> = forwards.iter().map(String::as_str).collect();
    let mut session = host.command("ssh", &forwards).spawn().expect("ssh starts");
    until("the forward listens", || TcpStream::connect(("127.0.0.1", local)).is_ok());
    assert_eq!(ask(local, 100_000), "100000");
    let proxy = format!("socks5h://127.0.0.1:{dynamic}");
    let curl = Command::new("curl").args(["-sS", "--max-time", "60", "-x", &proxy, "http://localhost:7080/"]).output();
    assert_eq!(String::from_utf8_lossy(&curl.expect("curl runs").stdout), "hello\n");
    // Not waited for: where nobody comes, nothing is heard, and that is told below.
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a peer");
        peer.write_all(b"from outside\n").expect("sent");
    });
    host.in_guest(&format!("probe reads {remote} /tmp/heard"));
    until("it is heard", || host.in_guest("cat /tmp/heard 2>/dev/null || true") == "from outside\n");
    session.kill().expect("it runs");
    await_end(&mut session, "ssh -N with forwards, killed");
    assert!(
        host.in_guest(&format!("probe listens {remote} && echo yes || echo no")).contains("no"),
        "-R outlived its client"
    );
}

fn one_connection_for_all(host: &Host) {
    let control = host.text("mux");
    let mut master = host.command("ssh", &["-N", "-M", "-S", &control, "web.vm"]).spawn().expect("ssh starts");
    until("the master listens", || Path::new(&control).exists());
    // Who cannot connect by itself can only be one of the master's.
    let shared = |words: &[&str]| host.ssh(&[&["-S", &control, "-o", "ProxyCommand=false"], words].concat());
    for status in [0, 9] {
        let ran = shared(&["web.vm", &format!("hostname; exit {status}")]);
        assert_eq!((ran.code, ran.stdout.as_str()), (status, "web\n"), "{ran:?}");
    }
    shared(&["-O", "check", "web.vm"]).ok();
    shared(&["-O", "exit", "web.vm"]).ok();
    await_end(&mut master, "ssh -M after -O exit");
    assert_eq!(shared(&["web.vm", "true"]).code, 255, "there is no master any more");
}

fn the_agent_of_the_person(host: &Host) {
    let (key, socket) = (host.text("key"), host.text("agent"));
    let keygen =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "of-a-test", "-f", &key]).status();
    assert!(keygen.expect("ssh-keygen runs").success());
    let mut agent =
        Command::new("ssh-agent").args(["-D", "-a", &socket]).stdout(Stdio::null()).spawn().expect("it runs");
    until("the agent listens", || Path::new(&socket).exists());
    let added = Command::new("ssh-add").args(["-q", &key]).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.expect("ssh-add runs").success());
    host.install("ssh-add");
    let listed = |forward: &str| {
        let mut command = host.command("ssh", &[forward, "web.vm", "ssh-add -L"]);
        command.env("SSH_AUTH_SOCK", &socket);
        run(command)
    };
    let public = std::fs::read_to_string(host.path("key.pub")).expect("a key has a public half");
    assert_eq!(listed("-A").ok().stdout, public);
    assert_eq!(listed("-a").code, 2, "nobody's agent is there unasked");
    agent.kill().expect("it runs");
    await_end(&mut agent, "ssh-agent, killed");
}

fn a_repository(host: &Host) {
    host.install("git");
    host.install("git-upload-pack");
    host.install("git-receive-pack");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        host.world.environment(&mut command);
        command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]).args(arguments);
        command.env("GIT_SSH_COMMAND", format!("ssh -F {} -o LogLevel=ERROR", host.config.display()));
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0").current_dir(host.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run(command).ok()
    };
    let content = noise(500_000);
    git(&["init", "-q", "code"]);
    std::fs::write(host.path("home/code/file"), &content).expect("written");
    git(&["-C", "code", "add", "."]);
    git(&["-C", "code", "commit", "-qm", "one"]);
    host.in_guest("git -c init.defaultBranch=main init -q --bare /tmp/bare");
    git(&["-C", "code", "push", "-q", "ssh://web.vm/tmp/bare", "main"]);
    git(&["clone", "-q", "ssh://web.vm/tmp/bare", "clone"]);
    assert!(std::fs::read(host.path("home/clone/file")).expect("a file") == content);
}
