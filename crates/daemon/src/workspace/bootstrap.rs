//! The tools that a repository pins, and its own set-up commands, installed in the guest through its agent: in the
//! background, with a log on the host, and never a reason for anything else to fail.

use super::tools::Tool;
use crate::app::{App, HostKind};
use crate::guest_channel::{CommandEvent, Guest, Vsock};
use engine::Sandbox;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use wire::guest::{ExecRequest, ExecStatus};

/// 1 h: compilers are large and links slow; a download that hangs ends.
const WITHIN: Duration = Duration::from_secs(3600);
/// 16 MiB of words; what comes after is not written down.
const MAX_LOG_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub folder: String,
    pub tools: Vec<Tool>,
    /// Lines for the guest's shell, in order.
    pub setup: Vec<String>,
    /// Variables that all of it sees.
    pub env: BTreeMap<String, String>,
}

impl Bootstrap {
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty() && self.setup.is_empty()
    }

    /// One line per thing to do, as `--dry-run` shows it and the log begins.
    pub fn lines(&self) -> Vec<String> {
        let tool = |tool: &Tool| format!("{}@{} ({})", tool.name, tool.version, tool.source);
        self.tools.iter().map(tool).chain(self.setup.iter().map(|line| format!("$ {line}"))).collect()
    }

    /// For `sh`. Every step is tried, and the status tells whether all of them worked.
    fn script(&self) -> String {
        let mut script = String::from("failed=0\n");
        if !self.tools.is_empty() {
            let words = |native| self.tools.iter().filter(move |tool: &&Tool| tool.native == native);
            let names: Vec<_> = self.tools.iter().map(|tool| format!("{}@{}", tool.name, tool.version)).collect();
            script.push_str("if command -v mise >/dev/null 2>&1; then\n  export MISE_YES=1\n");
            if words(true).next().is_some() {
                script.push_str("  mise install || failed=1\n");
            }
            for tool in words(false) {
                script.push_str(&format!(
                    "  mise use --global {} || failed=1\n",
                    quote(&format!("{}@{}", tool.name, tool.version))
                ));
            }
            let missing = quote(&format!("mise is not in this image; not installed: {}", names.join(" ")));
            script.push_str(&format!("else\n  echo {missing}\n  failed=1\nfi\n"));
        }
        for line in &self.setup {
            let line = quote(line);
            script.push_str(&format!("echo '$' {line}\nsh -c {line} || failed=1\n"));
        }
        script.push_str("exit $failed\n");
        script
    }
}

/// Runs it to its end; the answer says whether all of it worked.
pub async fn run(app: &Arc<App>, sandbox: &Sandbox, bootstrap: &Bootstrap) -> bool {
    if app.kind == HostKind::Sim {
        return true;
    }
    let path = app.layout.bootstrap_log(&sandbox.id);
    let outcome = match Log::open(path).await {
        Ok(mut log) => {
            let ended = attempt(app, sandbox, bootstrap, &mut log).await;
            let _ = log.write(format!("bootstrap {ended}\n").as_bytes()).await;
            ended
        }
        Err(error) => format!("failed: cannot write its log: {error}"),
    };
    tracing::info!(vm = %sandbox.name(), "bootstrap {outcome}");
    outcome == DONE
}

const DONE: &str = "done";

async fn attempt(app: &Arc<App>, sandbox: &Sandbox, bootstrap: &Bootstrap, log: &mut Log) -> String {
    for line in bootstrap.lines() {
        let _ = log.write(format!("plan: {line}\n").as_bytes()).await;
    }
    // While it works, the sandbox is in use.
    let _session = app.engine.hold(&sandbox.id);
    tokio::select! {
        ended = command(app, sandbox, bootstrap, log) => ended,
        () = app.stopped() => "was cut short: bangerd stopped".to_owned(),
        () = tokio::time::sleep(WITHIN) => format!("was cut short after {} min", WITHIN.as_secs() / 60),
    }
}

async fn command(app: &Arc<App>, sandbox: &Sandbox, bootstrap: &Bootstrap, log: &mut Log) -> String {
    let guest = Guest::new(Vsock::channel(app.layout.clone()), sandbox.id.clone());
    let mut env = bootstrap.env.clone();
    env.insert("MISE_TRUSTED_CONFIG_PATHS".to_owned(), bootstrap.folder.clone());
    let request = ExecRequest {
        argv: vec![bootstrap.script()],
        cwd: Some(bootstrap.folder.clone()),
        env,
        login_shell: true,
        ..ExecRequest::default()
    };
    let mut command = match guest.exec(&request).await {
        Ok(command) => command,
        Err(error) => return format!("failed: {error}"),
    };
    loop {
        match command.output.next().await {
            CommandEvent::Stdout(bytes) | CommandEvent::Stderr(bytes) => {
                if let Err(error) = log.write(&bytes).await {
                    return format!("failed: cannot write its log: {error}");
                }
            }
            CommandEvent::Ended(ExecStatus::Exited { code: 0 }) => return DONE.to_owned(),
            CommandEvent::Ended(ExecStatus::Exited { code }) => return format!("failed with status {code}"),
            CommandEvent::Ended(ExecStatus::Signalled { signal }) => return format!("was ended by signal {signal}"),
            CommandEvent::Ended(ExecStatus::NotStarted { fault }) => return format!("failed: {}", fault.message),
        }
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

struct Log {
    file: File,
    left: usize,
}

impl Log {
    /// Emptied: it tells of the last bootstrap.
    async fn open(path: PathBuf) -> io::Result<Log> {
        Ok(Log { file: File::create(path).await?, left: MAX_LOG_BYTES })
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes = &bytes[..bytes.len().min(self.left)];
        self.left -= bytes.len();
        self.file.write_all(bytes).await?;
        self.file.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_what_a_shell_reads() {
        let tool = |name: &str, native| Tool { name: name.into(), version: "1".into(), source: "x", native };
        let bootstrap = Bootstrap {
            folder: "/root/repo".into(),
            tools: vec![tool("go", false), tool("node", true)],
            setup: vec!["echo it's; exit 3".into(), "echo second".into()],
            env: BTreeMap::new(),
        };
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &bootstrap.script()])
            .env("PATH", "/nonexistent")
            .output();
        // No `sh` for the inner commands on that PATH either: all fails, and all is tried.
        let output = output.expect("sh runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "mise is not in this image; not installed: go@1 node@1\n$ echo it's; exit 3\n$ echo second\n");
        assert_eq!(bootstrap.lines(), ["go@1 (x)", "node@1 (x)", "$ echo it's; exit 3", "$ echo second"]);
    }
}
