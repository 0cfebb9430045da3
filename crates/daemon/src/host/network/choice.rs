//! Which of the two network modes new sandboxes get, and why: [`look`] looks at the host, [`choose`] decides.
//!
//! | wanted | the host | mode |
//! |---|---|---|
//! | `user` | any | user |
//! | `bridged` | any | bridged; what is missing is an error of the first start |
//! | `auto` | a root helper is installed and answers | bridged, unless something stands in the way |
//! | `auto` | root, on a machine that systemd runs | bridged likewise; `bangerd` starts the helper itself |
//! | `auto` | root in a container, or no root helper | user |
//!
//! `auto` never changes the network of a host where another firewall would drop our packets anyway (docker, firewalld),
//! nor that of a container: there nobody expects a program to make bridges, and rules that others keep would break.

use super::helper::{Helper, HelperError, Starter};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use wire::privilege::Observe;
use wire::privilege::facts::Facts;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    #[default]
    Auto,
    Bridged,
    User,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no network mode: it is one of `auto`, `bridged`, `user`")]
pub struct WantedError {
    given: String,
}

impl Wanted {
    pub const fn word(self) -> &'static str {
        match self {
            Wanted::Auto => "auto",
            Wanted::Bridged => "bridged",
            Wanted::User => "user",
        }
    }
}

impl FromStr for Wanted {
    type Err = WantedError;
    fn from_str(given: &str) -> Result<Self, WantedError> {
        let all = [Wanted::Auto, Wanted::Bridged, Wanted::User];
        let found = all.into_iter().find(|wanted| wanted.word() == given);
        found.ok_or_else(|| WantedError { given: given.chars().take(40).collect() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Bridged,
    User,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Bridged => "bridged",
            Mode::User => "user",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub wanted: Wanted,
    pub mode: Mode,
    /// One sentence.
    pub reason: String,
}

/// What of the host decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub root: bool,
    /// systemd is process 1 (sd_booted(3)): a whole machine, not a container.
    pub whole_machine: bool,
    /// A helper that somebody else started answers.
    pub installed: bool,
    /// What `bangerd` could not do without, when it would start the helper itself.
    pub missing: Option<&'static str>,
    /// What the helper sees, where one was asked.
    pub facts: Option<Facts>,
}

pub fn choose(wanted: Wanted, host: &Surroundings) -> Choice {
    let (mode, reason) = match wanted {
        Wanted::User => (Mode::User, "the configuration says so".to_owned()),
        Wanted::Bridged => (Mode::Bridged, "the configuration says so".to_owned()),
        Wanted::Auto => automatic(host),
    };
    Choice { wanted, mode, reason }
}

fn automatic(host: &Surroundings) -> (Mode, String) {
    let user = |reason: &str| (Mode::User, reason.to_owned());
    match host {
        Surroundings { installed: false, root: false, .. } => user("no root helper answers"),
        Surroundings { installed: false, whole_machine: false, .. } => user(
            "systemd does not run this machine, so it may be a container whose network is others' business; \
             `network = \"bridged\"` takes it",
        ),
        Surroundings { installed: false, missing: Some(missing), .. } => user(missing),
        Surroundings { facts: Some(facts), .. } if !facts.tun_open => user("/dev/net/tun is closed to this user"),
        Surroundings { facts: Some(Facts { obstacles, .. }), .. } if !obstacles.is_empty() => {
            let all: Vec<_> = obstacles.iter().map(|one| format!("{} {}", one.holder, one.effect)).collect();
            (Mode::User, format!("others would block bridged guests: {}", all.join("; ")))
        }
        Surroundings { installed: true, .. } => (Mode::Bridged, "the root helper answers".to_owned()),
        Surroundings { .. } => (Mode::Bridged, "bangerd runs as root and starts the root helper itself".to_owned()),
    }
}

/// Looks at the host as far as the choice needs it; asks a helper nothing but what is there.
pub fn look(wanted: Wanted, helper: &Helper, starter: Option<&Starter>) -> Surroundings {
    let mut host = Surroundings {
        root: rustix::process::geteuid().is_root(),
        whole_machine: Path::new("/run/systemd/system").is_dir(),
        installed: starter.is_none() && helper.answers(),
        missing: starter.and_then(missing),
        facts: None,
    };
    if wanted == Wanted::Auto && automatic(&host).0 == Mode::Bridged {
        match helper.ask(&Observe {}) {
            Ok(facts) => host.facts = Some(facts),
            Err(HelperError::Absent { .. }) => host.installed = false,
            Err(error) => {
                tracing::warn!(%error, "the root helper does not help");
                host.installed = false;
                host.missing = Some("the root helper does not start; bangerd.log tells why");
            }
        }
    }
    host
}

fn missing(starter: &Starter) -> Option<&'static str> {
    let nft = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
    match () {
        () if !starter.program.is_file() => Some("bangerd-root is not installed beside bangerd"),
        () if !nft.iter().any(|path| Path::new(path).is_file()) => Some("nftables (`nft`) is not installed"),
        () if !Path::new("/dev/net/tun").exists() => Some("this machine has no /dev/net/tun"),
        () => None,
    }
}

/// The helper's program: beside `bangerd`, or where packages put it.
pub fn helper_program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("bangerd-root")));
    let packaged = PathBuf::from("/usr/libexec/banger/bangerd-root");
    beside.filter(|path| path.is_file()).unwrap_or(packaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::privilege::facts::{Forwarding, Obstacle, RulesState, Version};

    fn facts(tun_open: bool, obstacles: &[&str]) -> Facts {
        let obstacle = |holder: &&str| Obstacle {
            holder: (*holder).to_owned(),
            effect: "drops forwarded packets".into(),
            hint: None,
        };
        Facts {
            version: Version { helper: "0".into(), interface: 1, pid: 1 },
            bridge: None,
            taps: Vec::new(),
            rules: RulesState::None,
            forwarding: Forwarding { ipv4: false, ipv4_ours: false, ipv6: false },
            obstacles: obstacles.iter().map(obstacle).collect(),
            strangers: Vec::new(),
            names_file: None,
            tun_open,
        }
    }

    fn check(host: &Surroundings, mode: Mode, reason: &str) {
        let choice = choose(Wanted::Auto, host);
        assert!(choice.mode == mode && choice.reason.contains(reason), "{choice:?}");
        assert_eq!(choose(Wanted::User, host).mode, Mode::User);
        assert_eq!(choose(Wanted::Bridged, host).mode, Mode::Bridged);
    }

    #[test]
    fn the_mode_follows_the_host() {
        let nobody = Surroundings::default();
        check(&nobody, Mode::User, "no root helper answers");
        let installed = Surroundings { installed: true, facts: Some(facts(true, &[])), ..nobody.clone() };
        check(&installed, Mode::Bridged, "the root helper answers");
        let closed = Surroundings { facts: Some(facts(false, &[])), ..installed.clone() };
        check(&closed, Mode::User, "/dev/net/tun");
        let docker = Surroundings { facts: Some(facts(true, &["docker"])), ..installed };
        check(&docker, Mode::User, "docker drops forwarded packets");

        let container = Surroundings { root: true, ..nobody };
        check(&container, Mode::User, "may be a container");
        let root = Surroundings { whole_machine: true, ..container };
        check(&root, Mode::Bridged, "starts the root helper itself");
        let bare = Surroundings { missing: Some("nftables (`nft`) is not installed"), ..root.clone() };
        check(&bare, Mode::User, "nft");
        let docker = Surroundings { facts: Some(facts(true, &["firewalld"])), ..root };
        check(&docker, Mode::User, "firewalld");
    }

    #[test]
    fn the_words_read_back() {
        for wanted in [Wanted::Auto, Wanted::Bridged, Wanted::User] {
            assert_eq!(wanted.word().parse(), Ok(wanted));
        }
        assert!("host".parse::<Wanted>().is_err());
    }
}
