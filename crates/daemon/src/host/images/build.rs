//! `kernel build`: the generic guest kernel from source. A source that is fetched is verified before it is unpacked, the
//! configuration is proven to hold what was wanted, and only then the compiler runs.
//!
//! ```text
//! linux-source-* package (apt verifies) ─┐
//! archive + signature (gpgv, own keyring) ┴─► src/ ─► allnoconfig + wanted ─► proof ─► make vmlinux ─► checked, stored
//! ```
//! All of it happens in the staging folder, which goes when the work ends or nobody wants it any more.

use super::packages::Apt;
use super::program::run;
use super::staging::Staging;
use super::{Trouble, kernel};
use ::images::kernel::wanted::Wanted;
use engine::host::{Report, Unit, Watch};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a kernel's source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Debian's `linux-source-6.1` of a release; its newest where the name is `linux-source`.
    Package {
        name: String,
        suite: String,
    },
    Archive {
        path: PathBuf,
        trust: Trust,
    },
}

/// Why an archive may be built: making a kernel runs what its makefiles say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A detached signature by a key of this keyring. kernel.org signs the archive as it is before it is packed.
    Signed {
        signature: PathBuf,
        keyring: PathBuf,
    },
    Unverified,
}

/// How a kernel is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    pub source: Source,
    /// Compilers at once.
    pub jobs: usize,
}

/// The release whose `linux-source-*` is taken where nobody names another.
pub const SUITE: &str = "bookworm";
/// Programs that a build of Linux asks for, and the package each comes with.
const TOOLS: [(&str, &str); 10] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("nice", "coreutils"),
];
/// objtool, a part of the build, reads ELF files through it.
const LIBELF: &str = "/usr/include/libelf.h";
/// A build says a line for each file that it compiles, some three thousand; it is told once in so many.
const TOLD_EVERY: u64 = 25;

/// Builds into the staging folder: `vmlinux`, `manifest.json` and `config`.
pub fn build(options: &BuildOptions, staging: &Staging, watch: &dyn Watch) -> Result<(), Trouble> {
    check_tools()?;
    let archive = match &options.source {
        Source::Package { name, suite } => from_package(name, suite, staging, watch)?,
        Source::Archive { path, trust } => {
            verify(path, trust, staging, watch)?;
            path.clone()
        }
    };
    let tree = unpack(&archive, staging, watch)?;
    let config = configure(&tree, staging, watch)?;
    compile(&tree, options.jobs, watch)?;
    let source = match &options.source {
        Source::Package { name, .. } => format!("built from debian package {name}"),
        Source::Archive { path, .. } => format!("built from {}", path.display()),
    };
    kernel::from_build(&tree.join("vmlinux"), &source, staging)?;
    fs::write(staging.file("config"), config)?;
    for folder in ["src", "package", "gnupg"] {
        let _ = fs::remove_dir_all(staging.file(folder));
    }
    Ok(())
}

/// Compilers for as many CPUs as there are.
pub fn all_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn check_tools() -> Result<(), Trouble> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_here = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let mut missing: Vec<&str> = TOOLS.iter().filter(|(program, _)| !is_here(program)).map(|(_, name)| *name).collect();
    if !Path::new(LIBELF).is_file() {
        missing.push("libelf-dev");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let sentence = format!("a kernel cannot be built without {}", missing.join(", "));
    Err(Trouble::Unfit { sentence, hint: Some(format!("`apt install {}`", missing.join(" "))) })
}

/// apt verifies the package by the archive's signature; in it lies one packed archive.
fn from_package(name: &str, suite: &str, staging: &Staging, watch: &dyn Watch) -> Result<PathBuf, Trouble> {
    watch.report(Report::Stage { text: format!("fetching {name}") });
    let package = packages_file(name, suite, staging, watch)?;
    let folder = staging.file("package");
    fs::create_dir(&folder)?;
    let mut open = Command::new("dpkg-deb");
    open.arg("--extract").arg(&package).arg(&folder);
    run("dpkg-deb", &mut open, watch, &mut |_| {})?;
    fs::remove_file(&package)?;
    let sources = fs::read_dir(folder.join("usr/src"))?.flatten().map(|entry| entry.path());
    let is_source = |path: &PathBuf| path.to_string_lossy().contains(".tar.") && path.is_file();
    sources.into_iter().find(is_source).ok_or_else(|| Trouble::NotFound(format!("{name} holds no kernel source")))
}

fn packages_file(name: &str, suite: &str, staging: &Staging, watch: &dyn Watch) -> Result<PathBuf, Trouble> {
    let apt = Apt::begin(suite, staging, watch)?;
    apt.run("apt-get", &["update", "--quiet"], watch)?;
    let name = match name {
        "linux-source" => {
            let depends = apt.run("apt-cache", &["depends", "--important", name], watch)?;
            let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
            let newest = names.map(str::trim).find(|name| name.starts_with("linux-source-"));
            newest
                .map(str::to_owned)
                .ok_or_else(|| Trouble::NotFound("linux-source depends on no source".to_owned()))?
        }
        given => given.to_owned(),
    };
    apt.download(&name, watch)
}

/// gpgv looks at no keyring but the one that it is given, and at nobody's configuration.
fn verify(archive: &Path, trust: &Trust, staging: &Staging, watch: &dyn Watch) -> Result<(), Trouble> {
    let Trust::Signed { signature, keyring } = trust else { return Ok(()) };
    watch.report(Report::Stage { text: format!("verifying {}", archive.display()) });
    let home = staging.file("gnupg");
    fs::create_dir_all(&home)?;
    let unpacked = staging.file("signed");
    let mut last = None;
    for unpack in [false, true] {
        // Signed as it is, or, as kernel.org does it, before it was packed.
        let signed = if unpack {
            unpack_whole(archive, &unpacked, watch)?;
            &unpacked
        } else {
            archive
        };
        let mut gpgv = Command::new("gpgv");
        gpgv.arg("--homedir")
            .arg(&home)
            .args(["--status-fd", "1", "--keyring"])
            .arg(keyring)
            .arg(signature)
            .arg(signed);
        match run("gpgv", &mut gpgv, watch, &mut |line| tracing::info!(target: "gpgv", "{line}")) {
            Ok(said) => {
                let _ = fs::remove_file(&unpacked);
                return valid(&said).map(|key| tracing::info!(key, "the archive's signature is good"));
            }
            Err(Trouble::Program { said, .. }) => last = Some(said),
            Err(other) => return Err(other),
        }
    }
    let _ = fs::remove_file(&unpacked);
    let sentence = format!("the signature of {} is not good: {}", archive.display(), last.unwrap_or_default());
    Err(Trouble::Unfit { sentence, hint: Some("fetch archive, signature and keyring anew".to_owned()) })
}

/// The key's fingerprint. gpgv's status lines say VALIDSIG also of expired and revoked keys, so GOODSIG must be there, too.
fn valid(status: &str) -> Result<String, Trouble> {
    let words =
        |name: &str| status.lines().find_map(|line| line.strip_prefix("[GNUPG:] ")?.strip_prefix(name)).map(str::trim);
    match (words("GOODSIG "), words("VALIDSIG ")) {
        (Some(_), Some(rest)) => Ok(rest.split(' ').next().unwrap_or_default().to_owned()),
        _ => Err(Trouble::Unfit {
            sentence: "the signature's key is expired, revoked or unknown".to_owned(),
            hint: None,
        }),
    }
}

fn unpack_whole(archive: &Path, to: &Path, watch: &dyn Watch) -> Result<(), Trouble> {
    let program = match archive.extension().and_then(|extension| extension.to_str()) {
        Some("gz" | "tgz") => "gzip",
        Some("zst") => "zstd",
        _ => "xz",
    };
    let mut unpack = Command::new("sh");
    unpack.args(["-c", "exec \"$0\" -dc -- \"$1\" > \"$2\"", program]).arg(archive).arg(to);
    run("sh", &mut unpack, watch, &mut |_| {}).map(drop)
}

/// tar refuses names that leave the folder; owners and odd modes stay outside.
fn unpack(archive: &Path, staging: &Staging, watch: &dyn Watch) -> Result<PathBuf, Trouble> {
    watch.report(Report::Stage { text: "unpacking the kernel's source".to_owned() });
    let tree = staging.file("src");
    fs::create_dir(&tree)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--no-same-permissions", "--strip-components=1", "--directory"]);
    tar.arg(&tree).arg("--file").arg(archive);
    run("tar", &mut tar, watch, &mut |_| {})?;
    if !tree.join("Kconfig").is_file() || !tree.join("Makefile").is_file() {
        return Err(Trouble::NotFound(format!("{} holds no kernel source", archive.display())));
    }
    Ok(tree)
}

/// The finished configuration, which has everything that was wanted.
fn configure(tree: &Path, staging: &Staging, watch: &dyn Watch) -> Result<String, Trouble> {
    watch.report(Report::Stage { text: "configuring the kernel".to_owned() });
    let wanted = Wanted::generic();
    let fragment = staging.file("fragment");
    fs::write(&fragment, wanted.fragment())?;
    let mut all_config = std::ffi::OsString::from("KCONFIG_ALLCONFIG=");
    all_config.push(&fragment);
    let mut make = make(tree);
    make.arg(all_config).arg("allnoconfig");
    run("make", &mut make, watch, &mut |_| {})?;
    fs::remove_file(&fragment)?;
    let config = fs::read_to_string(tree.join(".config"))?;
    let missing = wanted.missing(&config);
    if !missing.is_empty() {
        let sentence = format!("this source drops {} of the wanted options: {}", missing.len(), missing.join(", "));
        let hint = "another version of Linux may have them, or they need an option that is not on the list";
        return Err(Trouble::Unfit { sentence, hint: Some(hint.to_owned()) });
    }
    watch.report(Report::Note { text: format!("all {} wanted options are in the configuration", wanted.count()) });
    Ok(config)
}

fn compile(tree: &Path, jobs: usize, watch: &dyn Watch) -> Result<(), Trouble> {
    watch.report(Report::Stage { text: format!("compiling the kernel with {jobs} jobs") });
    let mut make = make(tree);
    make.arg(format!("-j{jobs}")).arg("vmlinux");
    let mut lines: u64 = 0;
    let mut heard = |line: &str| {
        tracing::debug!(target: "make", "{line}");
        lines += 1;
        if lines.is_multiple_of(TOLD_EVERY) {
            watch.report(Report::Progress { done: lines, total: None, unit: Unit::Items });
        }
    };
    run("make", &mut make, watch, &mut heard).map(drop)
}

/// Polite to whoever works on the machine, and the same bytes whoever builds where and when. What make says goes to
/// stderr, whose lines are heard.
fn make(tree: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec nice -n 15 make \"$@\" >&2", "make"]).current_dir(tree);
    for name in ["MAKEFLAGS", "MFLAGS", "ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT"] {
        command.env_remove(name);
    }
    command.env("KBUILD_BUILD_USER", "banger").env("KBUILD_BUILD_HOST", "generic");
    command.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970").env("KBUILD_BUILD_VERSION", "1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::host::Unwatched;

    #[test]
    fn only_a_good_signature_of_a_good_key_counts() {
        let good = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 38DB A Person\n[GNUPG:] VALIDSIG 647F28 2023-01-01 0\n";
        assert_eq!(valid(good).unwrap(), "647F28");
        let expired = "[GNUPG:] EXPKEYSIG 38DB A\n[GNUPG:] VALIDSIG 647F28 2023\n";
        for bad in [expired, "[GNUPG:] GOODSIG 38DB A\n", "", "VALIDSIG x\nGOODSIG y\n"] {
            assert!(valid(bad).is_err(), "{bad:?}");
        }
    }

    /// A key, a packed archive and a signature of what is in it, as kernel.org makes them; `None` without gpg.
    fn signed(folder: &Path) -> Option<(PathBuf, PathBuf, PathBuf)> {
        let home = folder.join("home");
        fs::create_dir(&home).ok()?;
        let script = "set -e; cd \"$0\"; export GNUPGHOME=\"$0/home\"; chmod 700 home; echo source > linux.tar; \
            gpg --batch --quiet --passphrase '' --quick-generate-key tester@example.org ed25519 sign never; \
            gpg --batch --quiet --detach-sign linux.tar; gpg --batch --quiet --export > keyring.gpg; xz linux.tar; \
            gpgconf --kill gpg-agent || true";
        let made = Command::new("sh").args(["-c", script]).arg(folder).status();
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        Some((folder.join("linux.tar.xz"), folder.join("linux.tar.sig"), folder.join("keyring.gpg")))
    }

    #[test]
    fn an_archive_is_held_to_its_signature_and_to_the_given_keyring() {
        let folder = tempfile::tempdir().unwrap();
        let Some((archive, signature, keyring)) = signed(folder.path()) else {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: gpg is not installed\n");
            return;
        };
        let staging = Staging::begin(folder.path()).unwrap();
        let check = |archive: &Path, keyring: &Path| {
            let trust = Trust::Signed { signature: signature.clone(), keyring: keyring.to_owned() };
            verify(archive, &trust, &staging, &Unwatched)
        };
        check(&archive, &keyring).unwrap();
        let empty = folder.path().join("empty.gpg");
        fs::write(&empty, "").unwrap();
        assert!(matches!(check(&archive, &empty), Err(Trouble::Unfit { .. })), "the key is not in the keyring");
        let other = folder.path().join("other.tar.xz");
        let forge = Command::new("sh").args(["-c", "echo evil | xz > \"$0\""]).arg(&other).status();
        assert!(forge.unwrap().success());
        let error = check(&other, &keyring).unwrap_err().to_string();
        assert!(error.contains("is not good"), "{error}");
    }

    #[test]
    fn an_archive_without_a_kernel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("x.tar");
        let made =
            Command::new("tar").args(["--create", "--file"]).arg(&archive).args(["-C", "/etc", "hostname"]).status();
        assert!(made.unwrap().success());
        let staging = Staging::begin(folder.path()).unwrap();
        assert!(matches!(unpack(&archive, &staging, &Unwatched), Err(Trouble::NotFound(_))));
    }
}
