//! Debian packages through the host's own tools: mmdebstrap makes a root file system of them, apt fetches one. What
//! they fetch is verified by apt with the keyrings of this machine; mirror, proxy and credentials are the owner's.

use super::program::run;
use super::staging::Staging;
use super::{Trouble, sources};
use engine::host::{Report, Watch};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of apt's configuration says how to fetch: proxies, timeouts, dates.
const FETCH_OPTIONS: &[&str] =
    &["Acquire::http", "Acquire::https", "Acquire::ftp", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"];
/// Of the finished tree: what belongs to one machine goes, what only costs time at boot is switched off.
const CUSTOMIZE: &[&str] = &[
    r#"rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/ssh/ssh_host_*"#,
    r#"ln -sf /dev/null "$1"/etc/systemd/system/e2scrub_reap.service"#,
    r#"ln -sf /dev/null "$1"/etc/systemd/system/apt-daily.timer"#,
    r#"ln -sf /dev/null "$1"/etc/systemd/system/apt-daily-upgrade.timer"#,
    r#"mkdir -p "$1"/etc/systemd/system/ssh.service.d; printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' > "$1"/etc/systemd/system/ssh.service.d/keys.conf"#,
];

/// A system that consists of packages of one release.
#[derive(Debug)]
pub struct RootFileSystem<'a> {
    /// Of the image it is for.
    pub name: &'a str,
    pub suite: &'a str,
    pub packages: &'a [String],
}

/// A tar archive of the system, in the staging folder.
pub fn root_file_system(wanted: &RootFileSystem<'_>, staging: &Staging, watch: &dyn Watch) -> Result<PathBuf, Trouble> {
    let sources = write_sources(wanted.suite, staging)?;
    let archive = staging.file("rootfs.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=auto", "--variant=minbase", "--format=tar"]);
    command.arg(format!("--include={}", wanted.packages.join(",")));
    command.args(CUSTOMIZE.iter().map(|hook| format!("--customize-hook={hook}")));
    command.args(fetch_options(watch)?.iter().map(|option| format!("--aptopt={option}")));
    command.arg(wanted.suite).arg(&archive).arg(&sources);
    if std::env::var_os("TMPDIR").is_none() && Path::new("/var/tmp").is_dir() {
        // The tree takes some 600 MB while it is made; /tmp is memory on many machines.
        command.env("TMPDIR", "/var/tmp");
    }
    let mut heard = |line: &str| {
        tracing::info!(target: "mmdebstrap", "{line}");
        if let Some(stage) = stage_of(line) {
            watch.report(Report::Stage { text: format!("building image {}: {stage}", wanted.name) });
        }
    };
    run("mmdebstrap", &mut command, watch, &mut heard)?;
    // It may hold the owner's login to a mirror, and is no part of an image.
    fs::remove_file(&sources)?;
    Ok(archive)
}

/// `I: downloading packages with apt...`: what takes long, in mmdebstrap's words; the rest is for the log.
fn stage_of(line: &str) -> Option<&str> {
    const LONG: &[&str] = &["running apt-get", "downloading", "extracting", "installing", "creating tarball"];
    let stage = line.strip_prefix("I: ")?.trim_end_matches("...");
    LONG.iter().any(|word| stage.starts_with(word)).then_some(stage)
}

/// The kernel's package itself, in the staging folder: the one that is named, or that it depends on.
pub fn kernel_package(name: &str, suite: &str, staging: &Staging, watch: &dyn Watch) -> Result<PathBuf, Trouble> {
    let apt = Apt::begin(suite, staging, watch)?;
    apt.run("apt-get", &["update", "--quiet"], watch)?;
    let depends = apt.run("apt-cache", &["depends", "--important", name], watch)?;
    let package = kernel_of(&depends).unwrap_or_else(|| name.to_owned());
    apt.download(&package, watch)
}

/// The line `  Depends: linux-image-6.1.0-40-cloud-amd64`.
fn kernel_of(depends: &str) -> Option<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// apt with lists of its own, so that neither root nor the host's lists are needed, and nothing of the host changes.
pub struct Apt {
    folder: PathBuf,
    work: PathBuf,
    options: Vec<String>,
}

impl Apt {
    pub fn begin(codename: &str, staging: &Staging, watch: &dyn Watch) -> Result<Apt, Trouble> {
        let folder = staging.file("apt");
        for part in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        let sources = write_sources(codename, staging)?;
        fs::rename(&sources, folder.join("etc/debian.sources"))?;
        let below = |part: &str| folder.join(part).display().to_string();
        let mut options = vec![
            format!("Dir::State={}", below("")),
            format!("Dir::State::lists={}", below("lists")),
            format!("Dir::State::status={}", below("status")),
            format!("Dir::Cache={}", below("cache")),
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={}", below("etc")),
            "Acquire::Languages=none".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            // The user that apt fetches as cannot enter our folder.
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ];
        options.extend(
            fetch_options(watch)?
                .iter()
                .map(|option| option.trim_end_matches(';').replacen(" \"", "=", 1).trim_end_matches('"').to_owned()),
        );
        Ok(Apt { folder, work: staging.path().to_owned(), options })
    }

    pub fn run(&self, program: &'static str, arguments: &[&str], watch: &dyn Watch) -> Result<String, Trouble> {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command.args(arguments).current_dir(&self.work);
        run(program, &mut command, watch, &mut |line| tracing::info!(target: "apt", "{line}"))
    }
}

impl Apt {
    /// The file of a package, in the staging folder; with it apt's own folder is done.
    pub fn download(self, package: &str, watch: &dyn Watch) -> Result<PathBuf, Trouble> {
        self.run("apt-get", &["download", "--quiet", package], watch)?;
        let found = fs::read_dir(&self.work)?.filter_map(|entry| Some(entry.ok()?.path()));
        let found = found.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let found = found.ok_or_else(|| Trouble::NotFound(format!("apt fetched no file of {package}")))?;
        fs::remove_dir_all(&self.folder)?;
        Ok(found)
    }
}

fn write_sources(codename: &str, staging: &Staging) -> Result<PathBuf, Trouble> {
    let path = staging.file("debian.sources");
    fs::write(&path, sources::for_release(codename)?)?;
    Ok(path)
}

/// Lines of `apt-config dump` that say how to fetch: `Acquire::http::Proxy "http://…";`.
fn fetch_options(watch: &dyn Watch) -> Result<Vec<String>, Trouble> {
    let dump = run("apt-config", Command::new("apt-config").arg("dump"), watch, &mut |_| {})?;
    Ok(chosen_options(&dump))
}

fn chosen_options(dump: &str) -> Vec<String> {
    let chosen = |line: &&str| FETCH_OPTIONS.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with("\"\";");
    dump.lines().filter(chosen).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_how_to_fetch_is_taken_over() {
        let dump = "APT::Architecture \"amd64\";\nAcquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://p:1\";\n\
            Acquire::Languages \"none\";\nAcquire::Check-Date \"false\";\n";
        assert_eq!(chosen_options(dump), ["Acquire::http::Proxy \"http://p:1\";", "Acquire::Check-Date \"false\";"]);
    }

    #[test]
    fn only_stages_that_take_long_are_told() {
        assert_eq!(stage_of("I: downloading packages with apt..."), Some("downloading packages with apt"));
        for quiet in ["I: running --customize-hook in shell: sh -c 'x'", "W: something", "I: success in 1 seconds"] {
            assert_eq!(stage_of(quiet), None, "{quiet}");
        }
    }

    #[test]
    fn the_kernel_of_the_day_is_found() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-40-cloud-amd64\n";
        assert_eq!(kernel_of(depends).as_deref(), Some("linux-image-6.1.0-40-cloud-amd64"));
        assert_eq!(kernel_of("x\n  Depends: libc6\n"), None);
    }
}
