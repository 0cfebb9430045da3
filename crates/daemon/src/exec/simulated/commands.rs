//! What the simulated guest can do, computed, never executed.

use super::words::{self, Simple};
use super::{Input, Terminal};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use wire::guest::{CHANNEL_STDERR, CHANNEL_STDOUT, ExecRequest};
use wire::{Fault, FaultKind};

/// Every program of the simulated guest; `sh` also knows `exit` and `cd`.
pub const COMMANDS: &[&str] = &[
    "cat", "echo", "false", "hostname", "id", "printenv", "printf", "pwd", "sh", "sleep", "true", "tty", "uname", "wc",
    "yes",
];

/// 16 MiB: where `yes` stops, since nobody means it forever here.
const YES_BYTES: usize = 16 * 1024 * 1024;

pub enum Ended {
    Code(u8),
    Signal(u8),
    Refused(Fault),
}

pub async fn run<S>(request: &ExecRequest, hostname: &str, terminal: &mut Terminal<S>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut guest = Guest { request, hostname, terminal };
    let ended = match request.argv.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => guest.shell().await,
        ["sh" | "/bin/sh" | "bash" | "/bin/bash"] => guest.shell().await,
        ["sh" | "/bin/sh" | "bash" | "/bin/bash", "-c" | "-lc", script, ..] => guest.script(script).await.ended(),
        [line] if request.login_shell && !request.with_tools => guest.script(line).await.ended(),
        words => {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            match guest.simple(&Simple { words, ..Simple::default() }).await {
                Some(code) => Ended::Code(code),
                None => Ended::Refused(not_found(&request.argv[0])),
            }
        }
    };
    match guest.terminal.signal {
        Some(signal) => Ended::Signal(signal),
        None => ended,
    }
}

fn not_found(program: &str) -> Fault {
    let program: String = program.chars().take(80).collect();
    Fault::new(FaultKind::NotFound, format!("cannot run `{program}`: the simulated guest has no such program"))
        .with_hint(format!("it knows {}", COMMANDS.join(", ")))
}

/// How a script went on: with a last code, or to its own `exit`.
enum Script {
    Ran(u8),
    Left(u8),
}

impl Script {
    fn ended(self) -> Ended {
        match self {
            Script::Ran(code) | Script::Left(code) => Ended::Code(code),
        }
    }
}

struct Guest<'a, S> {
    request: &'a ExecRequest,
    hostname: &'a str,
    terminal: &'a mut Terminal<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guest<'_, S> {
    /// Reads lines and runs each, until `exit` or the end of stdin.
    async fn shell(&mut self) -> Ended {
        let terminal = self.request.tty.is_some();
        let mut line = Vec::new();
        let mut last = 0;
        self.prompt(terminal).await;
        loop {
            let data = match self.terminal.read().await {
                Input::Data(data) => data,
                Input::End => return self.script(&String::from_utf8_lossy(&line)).await.ended_or(last),
            };
            for byte in data {
                match byte {
                    b'\r' | b'\n' => {
                        if terminal {
                            self.print(CHANNEL_STDOUT, "\r\n").await;
                        }
                        let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                        match self.script(&text).await {
                            Script::Left(code) => return Ended::Code(code),
                            Script::Ran(code) => last = code,
                        }
                        self.prompt(terminal).await;
                    }
                    // Ctrl-D on an empty line.
                    4 if terminal && line.is_empty() => return Ended::Code(last),
                    byte => {
                        line.push(byte);
                        if terminal {
                            self.terminal.write(CHANNEL_STDOUT, &[byte]).await;
                        }
                    }
                }
            }
        }
    }

    async fn prompt(&mut self, terminal: bool) {
        if terminal {
            let prompt = format!("root@{}:~# ", self.hostname);
            self.print(CHANNEL_STDOUT, &prompt).await;
        }
    }

    async fn script(&mut self, text: &str) -> Script {
        let mut last = 0;
        for command in words::script(text) {
            if self.terminal.interrupted() {
                break;
            }
            if command.after_success && last != 0 {
                continue;
            }
            if command.words[0] == "exit" {
                let code = command.words.get(1).and_then(|code| code.parse::<i64>().ok());
                return Script::Left(code.map_or(last, |code| code as u8));
            }
            last = match self.simple(&command).await {
                Some(code) => code,
                None => {
                    let complaint = format!("sh: 1: {}: not found\n", command.words[0]);
                    self.print(CHANNEL_STDERR, &complaint).await;
                    127
                }
            };
        }
        Script::Ran(last)
    }

    /// Runs one command; none where the guest has no such program.
    async fn simple(&mut self, command: &Simple) -> Option<u8> {
        let out = if command.to_stderr { CHANNEL_STDERR } else { CHANNEL_STDOUT };
        let name = command.words[0].as_str();
        let name = name.strip_prefix("/usr/bin/").or(name.strip_prefix("/bin/")).unwrap_or(name);
        let arguments: Vec<&str> = command.words[1..].iter().map(String::as_str).collect();
        let cwd = self.request.cwd.as_deref().unwrap_or("/root");
        let code = match name {
            "true" | "cd" => 0,
            "false" => 1,
            "echo" => self.print(out, &format!("{}\n", arguments.join(" "))).await,
            "printf" => self.print(out, &arguments.concat().replace("\\n", "\n")).await,
            "pwd" => self.print(out, &format!("{cwd}\n")).await,
            "hostname" => self.print(out, &format!("{}\n", self.hostname)).await,
            "uname" => self.print(out, &format!("Linux {} 0.0.0-simulated x86_64 GNU/Linux\n", self.hostname)).await,
            "id" => self.print(out, &format!("{}\n", self.request.user.as_deref().unwrap_or("0"))).await,
            "tty" if self.request.tty.is_some() => self.print(out, "/dev/pts/0\n").await,
            "tty" => self.print(out, "not a tty\n").await + 1,
            "printenv" => self.printenv(out, &arguments).await,
            "cat" => self.cat(out).await,
            "wc" => self.wc(out, &arguments).await,
            "sleep" => self.sleep(&arguments).await,
            "yes" => self.yes(out).await,
            _ => return None,
        };
        Some(code)
    }

    async fn print(&mut self, channel: u8, text: &str) -> u8 {
        // A terminal has one output, and its line ends are two characters.
        match self.request.tty {
            Some(_) => self.terminal.write(CHANNEL_STDOUT, text.replace('\n', "\r\n").as_bytes()).await,
            None => self.terminal.write(channel, text.as_bytes()).await,
        }
        0
    }

    async fn printenv(&mut self, out: u8, names: &[&str]) -> u8 {
        let found: Vec<String> = match names {
            [] => self.request.env.iter().map(|(name, value)| format!("{name}={value}\n")).collect(),
            names => names.iter().filter_map(|name| Some(format!("{}\n", self.request.env.get(*name)?))).collect(),
        };
        self.print(out, &found.concat()).await;
        u8::from(found.is_empty())
    }

    async fn cat(&mut self, out: u8) -> u8 {
        while let Input::Data(data) = self.terminal.read().await {
            self.terminal.write(out, &data).await;
        }
        0
    }

    async fn wc(&mut self, out: u8, arguments: &[&str]) -> u8 {
        let (mut lines, mut bytes) = (0, 0);
        while let Input::Data(data) = self.terminal.read().await {
            lines += data.iter().filter(|&&byte| byte == b'\n').count();
            bytes += data.len();
        }
        let count = if arguments == ["-c"] { bytes } else { lines };
        self.print(out, &format!("{count}\n")).await
    }

    async fn sleep(&mut self, arguments: &[&str]) -> u8 {
        let seconds = arguments.first().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        let long = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(long) => {}
            () = self.terminal.interruption() => {}
        }
        0
    }

    async fn yes(&mut self, out: u8) -> u8 {
        let chunk = b"y\n".repeat(32 * 1024);
        for _ in 0..YES_BYTES / chunk.len() {
            if self.terminal.interrupted() {
                break;
            }
            self.terminal.write(out, &chunk).await;
        }
        0
    }
}

impl Script {
    /// A line without a command leaves the code of the one before it.
    fn ended_or(self, last: u8) -> Ended {
        match self {
            Script::Ran(0) => Ended::Code(last),
            other => other.ended(),
        }
    }
}
