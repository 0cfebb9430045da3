//! One session channel: a command, a shell or a subsystem in the guest, from its first byte to its exit status.

use super::inbox::{Inbound, Outlet};
use super::listen::Client;
use super::{listen, signal};
use crate::guest_channel::{Command, CommandEvent, CommandInput, CommandOutput};
use russh::server::{Handle, Msg};
use russh::{ChannelWriteHalf, Error};
use std::collections::BTreeMap;
use wire::FaultKind;
use wire::control::exit;
use wire::guest::{ExecRequest, ExecStatus, WindowSize};

/// What `ssh` itself exits with when something other than the command failed.
const SSH_FAILED: u32 = 255;
/// SSH_EXTENDED_DATA_STDERR of RFC 4254, 5.2.
const STDERR: u32 = 1;
/// 256 variables of 64 KiB together: more than any client sends.
const MAX_VARIABLES: usize = 256;
const MAX_ENVIRONMENT_BYTES: usize = 64 * 1024;

/// What the client has asked for before it says what to run.
#[derive(Debug, Default)]
pub struct Wishes {
    environment: BTreeMap<String, String>,
    environment_bytes: usize,
    terminal: Option<(String, WindowSize)>,
    pub agent_forwarding: bool,
}

pub enum What {
    Shell,
    Line(String),
    Sftp,
}

impl Wishes {
    /// Answers whether the variable was taken. `SendEnv` of the client decides which come; a guest belongs to its owner.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        let sound = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        let bytes = self.environment_bytes + name.len() + value.len();
        let fits = self.environment.len() < MAX_VARIABLES && bytes <= MAX_ENVIRONMENT_BYTES;
        if sound && fits {
            self.environment_bytes = bytes;
            self.environment.insert(name.to_owned(), value.to_owned());
        }
        sound && fits
    }

    pub fn terminal(&mut self, term: &str, size: WindowSize) {
        self.terminal = Some((term.to_owned(), size));
    }

    /// As OpenSSH's server does it: the user's shell gets the line with `-c`; no line is a login shell. An agent of an older
    /// version, which takes no line, goes by way of `$SHELL`.
    pub fn request(&self, user: &str, what: What) -> ExecRequest {
        let line = match &what {
            What::Line(line) => Some(line.clone()),
            What::Shell | What::Sftp => None,
        };
        let by_shell = |line: String| ["/bin/sh", "-c", r#"exec "${SHELL:-/bin/sh}" -c "$0""#, &line].map(String::from);
        let argv = match what {
            What::Shell => Vec::new(),
            What::Line(line) => by_shell(line).to_vec(),
            // The agent itself, so that an image needs no sftp server.
            What::Sftp => ["/proc/self/exe", "sftp-server"].map(String::from).to_vec(),
        };
        ExecRequest {
            argv,
            env: self.environment.clone(),
            user: Some(user.to_owned()),
            tty: self.terminal.as_ref().map(|(_, size)| *size),
            term: self.terminal.as_ref().map(|(term, _)| term.clone()),
            stdin: true,
            line,
            ..ExecRequest::default()
        }
    }
}

pub struct Running {
    pub client: Client,
    pub writer: ChannelWriteHalf<Msg>,
    pub outlet: Outlet,
}

/// Runs the command; dropped when the client closes the channel, which hangs up in the guest.
pub async fn run(mut running: Running, mut request: ExecRequest, forward_agent: bool) {
    let agent = match forward_agent {
        true => listen::forward_agent(&running.client, request.user.as_deref()).await,
        false => None,
    };
    if let Some(agent) = &agent {
        request.env.insert("SSH_AUTH_SOCK".to_owned(), agent.path().to_owned());
    }
    let ended = match running.client.guest.exec(&request).await {
        Ok(command) => follow(&mut running, command).await,
        Err(error) => complain(&running.writer, &error.to_string(), SSH_FAILED).await,
    };
    if let Err(error) = ended {
        tracing::debug!(id = %running.client.guest.id(), %error, "an ssh channel ended early");
    }
    let _ = running.writer.eof().await;
    let _ = running.writer.close().await;
}

async fn follow(running: &mut Running, command: Command) -> Result<(), Error> {
    let Command { input, output } = command;
    let Running { client, writer, outlet } = running;
    tokio::select! {
        ended = pass_output(&client.handle, writer, output) => ended,
        () = pass_input(outlet, input) => Err(Error::Disconnect),
    }
}

/// Ends when the client has closed the channel. A command that reads no more is no failure: its status is still to come.
async fn pass_input(outlet: &mut Outlet, mut input: CommandInput) {
    while let Some(inbound) = outlet.next().await {
        let passed = match inbound {
            Inbound::Data(data) => input.stdin(&data).await,
            Inbound::Eof => input.end_stdin().await,
            Inbound::Resize(size) => input.resize(size).await,
            Inbound::Signal(number) => input.signal(number).await,
        };
        if let Err(error) = passed {
            tracing::debug!(%error, "a command takes no more input");
            while outlet.next().await.is_some() {}
        }
    }
}

async fn pass_output(handle: &Handle, writer: &ChannelWriteHalf<Msg>, mut output: CommandOutput) -> Result<(), Error> {
    loop {
        match output.next().await {
            CommandEvent::Stdout(data) => writer.data_bytes(data).await?,
            CommandEvent::Stderr(data) => writer.extended_data_bytes(STDERR, data).await?,
            CommandEvent::Ended(status) => return end(handle, writer, status).await,
        }
    }
}

async fn end(handle: &Handle, writer: &ChannelWriteHalf<Msg>, status: ExecStatus) -> Result<(), Error> {
    match status {
        ExecStatus::Exited { code } => writer.exit_status(code.into()).await,
        ExecStatus::Signalled { signal } => {
            let named =
                handle.exit_signal_request(writer.id(), signal::name(signal), false, String::new(), String::new());
            named.await.map_err(|()| Error::SendError)
        }
        ExecStatus::NotStarted { fault } => {
            let code = match fault.kind {
                FaultKind::NotFound => exit::NOT_FOUND_IN_GUEST.into(),
                FaultKind::GuestSilent | FaultKind::Internal => SSH_FAILED,
                _ => exit::NOT_EXECUTABLE.into(),
            };
            complain(writer, &fault.message, code).await
        }
    }
}

async fn complain(writer: &ChannelWriteHalf<Msg>, sentence: &str, code: u32) -> Result<(), Error> {
    // A terminal in raw mode needs the carriage return.
    writer.extended_data_bytes(STDERR, format!("banger: {sentence}\r\n").into_bytes()).await?;
    writer.exit_status(code).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_bounded() {
        let mut wishes = Wishes::default();
        assert!(wishes.set("LANG", "C.UTF-8"));
        assert!(!wishes.set("", "x"));
        assert!(!wishes.set("A=B", "x"));
        assert!(!wishes.set("LONG", &"x".repeat(MAX_ENVIRONMENT_BYTES)));
        for number in 0..MAX_VARIABLES * 2 {
            wishes.set(&format!("N{number}"), "1");
        }
        assert_eq!(wishes.environment.len(), MAX_VARIABLES);
    }

    #[test]
    fn a_line_reaches_the_users_shell_in_one_piece() {
        let request = Wishes::default().request("root", What::Line("echo \"$0\" 'a b'".into()));
        assert_eq!(request.argv.last().map(String::as_str), Some("echo \"$0\" 'a b'"));
        assert_eq!(request.line, request.argv.last().cloned(), "the same for both kinds of agents");
        assert!(request.tty.is_none() && request.stdin);
    }
}
