//! `bangerd`: reads its flags, opens the log, hands over to the library, and tells who started it how that went.
#![allow(unsafe_code)]

use clap::Parser;
use daemon::app::{HostKind, log_file};
use daemon::config::Config;
use daemon::daemon::{Daemon, DaemonError, Options};
use daemon::host::network::choice::Wanted;
use daemon::instance::InstanceError;
use daemon::layout::Layout;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Two workers serve any number of connections: they wait, the blocking threads work.
const WORKERS: usize = 2;
/// Long work and readers together, with room to spare (`app::MAX_LONG_WORK`).
const MAX_BLOCKING_THREADS: usize = 320;
/// 512 KiB: the deepest call of ours needs a tenth; a boot takes a thread each.
const THREAD_STACK_BYTES: usize = 512 * 1024;

/// Serves banger's control API on a Unix socket.
///
/// `banger` starts it when it is needed. VMs run on when it ends.
#[derive(Parser)]
#[command(name = "bangerd", version)]
struct Arguments {
    /// What is under the sandboxes: this machine, or a small world in memory.
    #[arg(long, value_enum, default_value = "real", env = "BANGER_HOST")]
    host: HostKind,
    /// The control socket; its folder becomes the runtime folder unless BANGER_RUNTIME names one.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The folder for records, disks, images and logs.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "BANGER_CONFIG")]
    config: Option<PathBuf>,
    /// How sandboxes are connected: `auto`, `bridged` or `user`.
    #[arg(long, value_name = "MODE", env = "BANGER_NETWORK")]
    network: Option<Wanted>,
    /// Write one line here once it serves (`ready`), or why it cannot, then close it.
    #[arg(long, value_name = "FD")]
    ready_fd: Option<RawFd>,
    /// Also log to stderr. It never detaches by itself.
    #[arg(long)]
    foreground: bool,
    /// Tell whether this version fits the store: exits with 0 (it does), 1 (migrations are pending) or 2 (too new).
    #[arg(long)]
    check_migrations: bool,
    /// Bring the records of a backup back, then end. No daemon may run over them.
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
    /// With `--restore`: put records that are whole aside as well.
    #[arg(long, requires = "restore")]
    replace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    become_private();
    let mut ready = Ready(arguments.ready_fd.map(adopt));
    match run(&arguments, &mut ready) {
        Ok(code) => code,
        Err(error) => fail(&error, &mut ready),
    }
}

fn run(arguments: &Arguments, ready: &mut Ready) -> anyhow::Result<ExitCode> {
    let options = options(arguments)?;
    if arguments.check_migrations {
        return check_migrations(options.layout.state());
    }
    options.layout.prepare()?;
    if let Some(file) = &arguments.restore {
        return Ok(restore(&options.layout, file, arguments.replace));
    }
    daemon::logging::begin(&log_file(&options.layout), options.config.log_level.as_deref(), arguments.foreground)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_stack_size(THREAD_STACK_BYTES)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let daemon = tokio::task::spawn_blocking(move || Daemon::open(options)).await??;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        ready.say("ready");
        daemon.serve().await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn options(arguments: &Arguments) -> anyhow::Result<Options> {
    let mut config = Config::load(&config_file(arguments)?)?;
    config.network = arguments.network.or(config.network);
    let found = Layout::discover()?;
    let environment = model::paths::Environment::read(rustix::process::geteuid().as_raw(), |key| std::env::var_os(key));
    let chosen = arguments
        .socket
        .clone()
        .or_else(|| environment.banger_socket.clone().filter(|path| !path.is_empty()).map(PathBuf::from));
    let runtime = match (&chosen, std::env::var_os("BANGER_RUNTIME")) {
        (Some(socket), None) => std::path::absolute(socket)?.parent().unwrap_or(Path::new("/")).to_owned(),
        _ => found.runtime().to_owned(),
    };
    let state = arguments.state.clone().or_else(|| config.state.clone());
    let state = state.map_or_else(|| Ok(found.state().to_owned()), std::path::absolute)?;
    // Imaginary sandboxes never stand in the records of real ones.
    let state = if arguments.host == HostKind::Sim { state.join("sim") } else { state };
    let layout = Layout::at(state, runtime, found.cache().to_owned())?;
    let socket = chosen.unwrap_or_else(|| environment.control_socket());
    Ok(Options { host: arguments.host, layout, socket, config })
}

fn config_file(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    use etcetera::BaseStrategy;
    match &arguments.config {
        Some(path) => Ok(path.clone()),
        None => Ok(etcetera::choose_base_strategy()?.config_dir().join("banger/config.toml")),
    }
}

fn check_migrations(state: &Path) -> anyhow::Result<ExitCode> {
    use engine::store::{Migrations, check};
    Ok(match check(state)? {
        Migrations::Compatible => ExitCode::from(0),
        Migrations::Pending(_) => ExitCode::from(1),
        Migrations::TooNew => ExitCode::from(2),
    })
}

/// One line either way: how many sandboxes there are now on stdout, or why nothing has changed on stderr.
#[allow(clippy::print_stdout)]
fn restore(layout: &Layout, file: &Path, replace: bool) -> ExitCode {
    match daemon::backup::restore(layout, file, replace) {
        Ok(vms) => {
            println!("{vms}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let fault = error.fault();
            complain(&serde_json::to_string(&fault).unwrap_or_else(|_| fault.message.clone()));
            ExitCode::FAILURE
        }
    }
}

/// A daemon that finds another one serving has nothing to do, and who started it has what it wanted.
fn fail(error: &anyhow::Error, ready: &mut Ready) -> ExitCode {
    let daemon = error.downcast_ref::<DaemonError>();
    if let Some(DaemonError::Instance(InstanceError::AlreadyRuns { .. })) = daemon {
        complain(&error.to_string());
        return if ready.say("ready") { ExitCode::SUCCESS } else { ExitCode::from(3) };
    }
    let mut sentence = format!("{error:#}");
    if let Some(DaemonError::Engine(engine)) = daemon {
        sentence = engine.chain();
        if let Some(hint) = &engine.hint {
            sentence.push_str(&format!(" ({hint})"));
        }
    }
    tracing::error!("{sentence}");
    ready.say(&sentence);
    complain(&sentence);
    ExitCode::FAILURE
}

#[allow(clippy::print_stderr)]
fn complain(sentence: &str) {
    eprintln!("bangerd: {sentence}");
}

/// Who started us reads one line here.
struct Ready(Option<File>);

impl Ready {
    /// False when nobody listens.
    fn say(&mut self, sentence: &str) -> bool {
        let Some(mut pipe) = self.0.take() else { return false };
        let line = sentence.replace('\n', " ");
        writeln!(pipe, "{line}").is_ok()
    }
}

fn adopt(fd: RawFd) -> File {
    // SAFETY: the descriptor was named to us for this use alone and nothing else in this process owns it; a number that
    // names none makes every use of the file fail with EBADF.
    let file = unsafe { File::from_raw_fd(fd) };
    // No VMM may keep the pipe open.
    let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC);
    file
}

/// Whatever we make is ours alone; and a small process: two heap arenas instead of one per thread.
fn become_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // SAFETY: mallopt(3) takes two integers and is called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // 128 KiB: what is freed at the top of the heap goes back to the system.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
    }
}
