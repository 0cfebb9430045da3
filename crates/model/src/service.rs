//! The command that an image brings, as a service of the guest: what the image says, what a person replaced, and what
//! comes of both.
//!
//! [`ServiceChoice`] stands in the spec, [`ImageCommand`] in the image's manifest; [`ServiceChoice::resolve`] joins them
//! at every start as Docker joins an image's configuration with the words of `docker run`. The agent in the guest carries
//! out the [`Service`] that results.

use crate::spec::RestartPolicy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What an image says of its own command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageCommand {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// A name or number, with an optional `:group`; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub working_folder: String,
    pub stop_signal: StopSignal,
}

/// What a person wants other than the image says; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceChoice {
    /// Replaces the image's entrypoint, and with it the image's command.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_folder: Option<String>,
    pub start: ServiceStart,
    pub restart: ServiceRestart,
}

/// The command that a guest shall run, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_folder: Option<String>,
    pub stop_signal: StopSignal,
    /// False: only who asks for it runs it, attached.
    pub starts: bool,
    pub restart: RestartPolicy,
}

/// Is the command started when the guest is?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStart {
    /// Yes, unless it is a shell or an init: a machine has both already.
    #[default]
    Auto,
    Never,
}

/// When a command that ended is started again. Docker's default is `no`; a machine's services come back when they fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceRestart(pub RestartPolicy);

impl Default for ServiceRestart {
    fn default() -> Self {
        ServiceRestart(RestartPolicy::OnFailure)
    }
}

/// The signal that asks the command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StopSignal(u8);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no signal: it is a name such as `SIGQUIT`, `SIGRTMIN+3`, or a number from 1 to 64")]
pub struct StopSignalError {
    pub given: String,
}

/// signal(7), x86-64 and arm64.
const SIGNALS: [(&str, u8); 16] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
    ("PWR", 30),
];
/// glibc keeps the first two of the kernel's real-time signals (32, 33) for itself.
const RTMIN: u8 = 34;
const LAST: u8 = 64;

impl StopSignal {
    pub const TERM: StopSignal = StopSignal(15);

    pub fn number(self) -> u8 {
        self.0
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        StopSignal::TERM
    }
}

impl FromStr for StopSignal {
    type Err = StopSignalError;

    fn from_str(given: &str) -> Result<Self, StopSignalError> {
        let word = given.trim().to_ascii_uppercase();
        let word = word.strip_prefix("SIG").unwrap_or(&word);
        let number = match (word.parse::<u8>(), word.strip_prefix("RTMIN"), word.strip_prefix("RTMAX")) {
            (Ok(number), _, _) => Some(number),
            (_, Some(more), _) => offset(more, '+').and_then(|more| RTMIN.checked_add(more)),
            (_, _, Some(less)) => offset(less, '-').and_then(|less| LAST.checked_sub(less)),
            _ => SIGNALS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number),
        };
        match number {
            Some(number) if (1..=LAST).contains(&number) => Ok(StopSignal(number)),
            _ => Err(StopSignalError { given: given.chars().take(40).collect() }),
        }
    }
}

/// Nothing, or a sign and a number.
fn offset(text: &str, sign: char) -> Option<u8> {
    if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse().ok() }
}

impl ServiceChoice {
    /// Nothing where neither the image nor the person names a command.
    pub fn resolve(&self, image: Option<&ImageCommand>) -> Option<Service> {
        let image = image.cloned().unwrap_or_default();
        let command = match (&self.command, &self.entrypoint) {
            (Some(command), _) => command.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => image.command,
        };
        let entrypoint = self.entrypoint.clone().unwrap_or(image.entrypoint);
        let words: Vec<&str> = entrypoint.iter().chain(&command).map(String::as_str).collect();
        let starts = self.start == ServiceStart::Auto && !words.is_empty() && !is_shell(&words) && !is_init(words[0]);
        let mut env: BTreeMap<String, String> = image.env.iter().filter_map(|pair| split(pair)).collect();
        env.extend(self.env.clone());
        if words.is_empty() && env.is_empty() && image.user.is_empty() && image.working_folder.is_empty() {
            return None;
        }
        Some(Service {
            starts,
            entrypoint,
            command,
            env,
            user: self.user.clone().or_else(|| filled(image.user)),
            working_folder: self.working_folder.clone().or_else(|| filled(image.working_folder)),
            stop_signal: image.stop_signal,
            restart: self.restart.0,
        })
    }
}

fn split(pair: &str) -> Option<(String, String)> {
    let (name, value) = pair.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A shell without anything to do: it would read an end of file and be gone.
fn is_shell(words: &[&str]) -> bool {
    const SHELLS: [&str; 8] = ["sh", "bash", "ash", "dash", "zsh", "fish", "ksh", "tcsh"];
    let name = words[0].rsplit('/').next().unwrap_or_default();
    SHELLS.contains(&name) && words[1..].iter().all(|word| matches!(*word, "-l" | "-i" | "-il" | "-li" | "--login"))
}

/// What is PID 1 or nothing.
fn is_init(program: &str) -> bool {
    const INITS: [&str; 6] = ["init", "systemd", "openrc-init", "runit-init", "s6-svscan", "linuxrc"];
    INITS.contains(&program.rsplit('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image() -> ImageCommand {
        ImageCommand {
            entrypoint: words("/entry --flag"),
            command: words("serve"),
            env: words("PATH=/app A=1 broken"),
            user: "web:www".to_owned(),
            working_folder: "/srv".to_owned(),
            stop_signal: "SIGQUIT".parse().unwrap(),
        }
    }

    fn argv(choice: &ServiceChoice) -> String {
        let service = choice.resolve(Some(&image())).expect("there is one");
        [service.entrypoint, service.command].concat().join(" ")
    }

    #[test]
    fn a_command_and_an_entrypoint_are_replaced_as_docker_does() {
        let choice = ServiceChoice::default();
        assert_eq!(argv(&choice), "/entry --flag serve");
        let command = ServiceChoice { command: Some(words("other x")), ..ServiceChoice::default() };
        assert_eq!(argv(&command), "/entry --flag other x");
        let entrypoint = ServiceChoice { entrypoint: Some(words("/bin/x")), ..ServiceChoice::default() };
        assert_eq!(argv(&entrypoint), "/bin/x");
        let both = ServiceChoice { entrypoint: Some(words("/bin/x")), command: Some(words("y")), ..choice };
        assert_eq!(argv(&both), "/bin/x y");
    }

    #[test]
    fn a_persons_word_wins_over_the_images_and_the_rest_is_taken_over() {
        let choice = ServiceChoice { env: [("A".to_owned(), "2".to_owned())].into(), ..ServiceChoice::default() };
        let service = choice.resolve(Some(&image())).expect("there is one");
        let env: Vec<_> = service.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["A=2", "PATH=/app"]);
        assert_eq!((service.user.as_deref(), service.working_folder.as_deref()), (Some("web:www"), Some("/srv")));
        assert_eq!(
            (service.stop_signal.number(), service.starts, service.restart),
            (3, true, RestartPolicy::OnFailure)
        );
    }

    #[test]
    fn shells_and_inits_are_not_started() {
        let starts = |command: &str| {
            let image = ImageCommand { command: words(command), ..ImageCommand::default() };
            ServiceChoice::default().resolve(Some(&image)).expect("there is one").starts
        };
        for quiet in ["bash", "/bin/sh -l", "/sbin/init", "/lib/systemd/systemd --x"] {
            assert!(!starts(quiet), "{quiet}");
        }
        for loud in ["sh -c x", "nginx", "/usr/bin/busybox httpd"] {
            assert!(starts(loud), "{loud}");
        }
        let never = ServiceChoice { start: ServiceStart::Never, ..ServiceChoice::default() };
        assert!(!never.resolve(Some(&image())).expect("there is one").starts);
        assert_eq!(ServiceChoice::default().resolve(None), None);
        assert_eq!(ServiceChoice::default().resolve(Some(&ImageCommand::default())), None);
    }

    #[test]
    fn signals_are_names_and_numbers() {
        for (given, number) in
            [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(given.parse::<StopSignal>().map(StopSignal::number), Ok(number), "{given}");
        }
        for wrong in ["", "SIG", "0", "65", "SIGRTMIN+40", "RTMIN3", "SIGNOTHING"] {
            assert!(wrong.parse::<StopSignal>().is_err(), "{wrong}");
        }
    }
}
