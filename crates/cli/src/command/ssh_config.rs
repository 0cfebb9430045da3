//! `banger ssh-config`: makes `ssh web.vm` work from everywhere, by one fenced `Include` in the person's own file.

use super::Context;
use crate::client::Path as ApiPath;
use crate::failure::{Failure, Outcome};
use crate::render;
use clap::Args;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use wire::FaultKind;
use wire::control::{DaemonStatus, Sandbox};

const BEGIN: &str = "# banger: begin (`banger ssh-config --uninstall` removes this)";
const END: &str = "# banger: end";

/// Make `ssh NAME.vm` work, and scp, sftp, rsync and editors with it.
///
/// Without an option, or with `--print`, it prints the lines for ssh. `--install` writes them to a file of banger's own \
/// and adds one `Include` to ~/.ssh/config, between two comments; `--uninstall` takes both away again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger ssh-config --install\n  ssh web.vm")]
pub struct SshConfigArgs {
    /// Print the lines and change nothing
    #[arg(long, conflicts_with_all = ["install", "uninstall"])]
    pub print: bool,
    /// Include the lines in ~/.ssh/config
    #[arg(long, conflicts_with = "uninstall")]
    pub install: bool,
    /// Take them out of ~/.ssh/config
    #[arg(long)]
    pub uninstall: bool,
}

pub async fn run(context: &Context, args: SshConfigArgs) -> Outcome {
    if args.uninstall {
        let files = Files::of_person()?;
        files.uninstall().map_err(|error| cannot("take banger out of", &files.person, &error))?;
        return note(context, &format!("`{}` includes nothing of banger's any more", files.person.display()));
    }
    let stanza = stanza(context).await?;
    if !args.install {
        return render::data(&stanza);
    }
    let files = Files::of_person()?;
    files.install(&stanza).map_err(|error| cannot("add banger to", &files.person, &error))?;
    note(context, "`ssh NAME.vm` reaches every sandbox now")
}

fn note(context: &Context, line: &str) -> Outcome {
    if !context.output.quiet {
        render::note(line);
    }
    Ok(())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(FaultKind::HostUnfit, format!("cannot {what} `{}`: {error}", path.display()))
}

/// Where the daemon keeps what ssh needs.
pub async fn keys_folder(context: &Context) -> Outcome<PathBuf> {
    let status: DaemonStatus = context.client.get(ApiPath::new("/v1/daemon")).await?;
    Ok(Path::new(&status.state_folder).join("ssh"))
}

/// The options for a sandbox, without the host's line. Both the stanza and `vm ssh` are made of them.
pub async fn options(context: &Context) -> Outcome<Vec<(&'static str, String)>> {
    let keys = keys_folder(context).await?;
    let quoted = |path: PathBuf| format!("\"{}\"", path.display());
    Ok(vec![
        ("ProxyCommand", proxy_command()?),
        ("UserKnownHostsFile", quoted(keys.join("known_hosts"))),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("IdentityFile", quoted(keys.join("id_ed25519"))),
        ("User", "root".to_owned()),
    ])
}

/// The guest of QEMU's own network, in which every guest is alone: an address that no host reaches.
const UNREACHABLE: &str = "10.0.2.15";

/// The options for a server that the guest runs itself. Its key is not ours to pin: the first one that it shows counts, and is
/// forgotten with the sandbox.
pub async fn direct_options(context: &Context, sandbox: &Sandbox) -> Outcome<Vec<(&'static str, String)>> {
    let keys = keys_folder(context).await?;
    let quoted = |path: PathBuf| format!("\"{}\"", path.display());
    let bare = |address: &String| address.split('/').next().unwrap_or_default().to_owned();
    let address = sandbox.addresses.iter().map(bare).find(|address| address != UNREACHABLE);
    let way = match address {
        Some(address) => ("HostName", address),
        None => ("ProxyCommand", proxy_command()?.replace("ssh-proxy", "ssh-proxy --direct")),
    };
    Ok(vec![
        way,
        ("HostKeyAlias", sandbox.id.clone()),
        ("UserKnownHostsFile", quoted(keys.join("direct").join(&sandbox.id))),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "accept-new".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
        ("IdentityFile", quoted(keys.join("id_ed25519"))),
        ("User", "root".to_owned()),
    ])
}

/// This very program by its full path: an editor's PATH may lack it. A shell reads it, and ssh before that its `%`.
fn proxy_command() -> Outcome<String> {
    let program = std::env::current_exe();
    let program = program.map_err(|error| Failure::new(FaultKind::Internal, format!("cannot find myself: {error}")))?;
    let quoted = program.display().to_string().replace('\'', r"'\''").replace('%', "%%");
    Ok(format!("'{quoted}' internal ssh-proxy %n"))
}

async fn stanza(context: &Context) -> Outcome<String> {
    let mut text = String::from("# Written by `banger ssh-config`.\nHost *.vm\n");
    for (name, value) in options(context).await? {
        text.push_str(&format!("    {name} {value}\n"));
    }
    Ok(text)
}

/// The two files that this is about.
struct Files {
    person: PathBuf,
    own: PathBuf,
}

impl Files {
    fn of_person() -> Outcome<Files> {
        let path = |key: &str| std::env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
        let homeless = || Failure::new(FaultKind::HostUnfit, "cannot find your home: HOME is not set");
        let home = path("HOME").ok_or_else(homeless)?;
        let config = path("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        Ok(Files { person: home.join(".ssh/config"), own: config.join("banger/ssh_config") })
    }

    fn install(&self, stanza: &str) -> io::Result<()> {
        folder(&self.own, 0o755)?;
        replace(&self.own, stanza, 0o644)?;
        folder(&self.person, 0o700)?;
        let old = read(&self.person)?;
        let include = format!("Include \"{}\"", self.own.display());
        let new = with_block(&old, Some(&include));
        if new == old { Ok(()) } else { replace(&self.person, &new, 0o600) }
    }

    fn uninstall(&self) -> io::Result<()> {
        let old = read(&self.person)?;
        let new = with_block(&old, None);
        if new != old {
            replace(&self.person, &new, 0o600)?;
        }
        match std::fs::remove_file(&self.own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn folder(file: &Path, mode: u32) -> io::Result<()> {
    match file.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(mode).create(folder),
        None => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// The block stands first: further down it would belong to whatever `Host` is above it. What others wrote stays as it is.
fn with_block(old: &str, line: Option<&str>) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for part in old.split_inclusive('\n') {
        match part.trim_end() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            _ => kept.push_str(part),
        }
    }
    // A block that never ends is not ours to cut: the person's lines come after it.
    if inside {
        kept = old.split_inclusive('\n').filter(|part| part.trim_end() != BEGIN).collect();
    }
    match line {
        Some(line) => format!("{BEGIN}\n{line}\n{END}\n{kept}"),
        None => kept,
    }
}

/// By rename, so that ssh reads the old file or the new one. A link is followed, and a file keeps its mode.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let target = match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        resolved => resolved?,
    };
    let mode = std::fs::metadata(&target).map_or(mode, |metadata| metadata.permissions().mode() & 0o7777);
    let mut partial = target.clone().into_os_string();
    partial.push(format!(".banger-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, &target)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSONS: &str = "# mine\nHost work\n    User me\n";

    fn files() -> (tempfile::TempDir, Files) {
        let home = tempfile::tempdir().expect("a folder");
        let files =
            Files { person: home.path().join(".ssh/config"), own: home.path().join(".config/banger/ssh_config") };
        (home, files)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_person_without_ssh_files_gets_private_ones() {
        let (_home, files) = files();
        files.install("Host *.vm\n").expect("installed");
        assert_eq!((mode(&files.person), mode(files.person.parent().expect("a folder"))), (0o600, 0o700));
        assert_eq!(std::fs::read_to_string(&files.own).expect("read"), "Host *.vm\n");
        files.uninstall().expect("uninstalled");
        assert_eq!(std::fs::read_to_string(&files.person).expect("read"), "");
        assert!(!files.own.exists());
        files.uninstall().expect("again");
    }

    #[test]
    fn what_a_person_wrote_survives_mode_and_link_and_all() {
        let (home, files) = files();
        let real = home.path().join("dotfiles");
        std::fs::create_dir(files.person.parent().expect("a folder")).expect("made");
        std::fs::write(&real, PERSONS).expect("written");
        std::fs::set_permissions(&real, Permissions::from_mode(0o640)).expect("a mode");
        std::os::unix::fs::symlink(&real, &files.person).expect("a link");
        files.install("x\n").expect("installed");
        let once = std::fs::read_to_string(&real).expect("read");
        assert!(once.starts_with(BEGIN) && once.ends_with(PERSONS), "{once}");
        files.install("x\n").expect("installed");
        assert_eq!(std::fs::read_to_string(&real).expect("read"), once, "twice is once");
        assert!(std::fs::symlink_metadata(&files.person).expect("there").is_symlink());
        assert_eq!(mode(&real), 0o640);
        files.uninstall().expect("uninstalled");
        assert_eq!(std::fs::read_to_string(&real).expect("read"), PERSONS);
        let left = std::fs::read_dir(home.path()).expect("a folder").flatten().map(|entry| entry.file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("banger-")), "no partial file stays");
    }

    #[test]
    fn a_block_without_its_end_takes_nothing_along() {
        assert_eq!(with_block(&format!("{BEGIN}\n{PERSONS}"), None), PERSONS);
        assert_eq!(with_block("no newline", Some("x")), format!("{BEGIN}\nx\n{END}\nno newline"));
    }
}
