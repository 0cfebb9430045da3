//! Distributions, as their os-release(5) names them, and which of them can bring systemd to an image that has none.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Also Ubuntu.
    Debian,
    Alpine,
    /// Also those of Red Hat.
    Fedora,
    Arch,
    /// Also those of SUSE.
    Opensuse,
    /// Whatever else it says, or nothing.
    Other,
}

impl Distribution {
    /// By `ID`, else by the first word of `ID_LIKE` that is known.
    pub fn of_os_release(text: &str) -> Distribution {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_ascii_lowercase()
        };
        let (id, like) = (value("ID"), value("ID_LIKE"));
        let known = std::iter::once(id.as_str()).chain(like.split_ascii_whitespace()).find_map(of_id);
        known.unwrap_or(Distribution::Other)
    }

    /// Whether its package manager, which we know how to talk to, has systemd.
    pub fn packages_systemd(self) -> bool {
        match self {
            Distribution::Debian | Distribution::Fedora | Distribution::Arch | Distribution::Opensuse => true,
            // Alpine's C library is musl, for which systemd is not packaged.
            Distribution::Alpine | Distribution::Other => false,
        }
    }
}

fn of_id(id: &str) -> Option<Distribution> {
    match id {
        "debian" | "ubuntu" => Some(Distribution::Debian),
        "alpine" => Some(Distribution::Alpine),
        "fedora" | "rhel" | "centos" => Some(Distribution::Fedora),
        "arch" => Some(Distribution::Arch),
        "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" | "suse" | "sles" => Some(Distribution::Opensuse),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_is_known_by_name_or_by_likeness() {
        for (os_release, expected) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", Distribution::Debian),
            ("NAME=x\nID=ubuntu\nID_LIKE=debian\n", Distribution::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", Distribution::Debian),
            ("ID=alpine\n", Distribution::Alpine),
            ("ID=postmarketos\nID_LIKE=\"alpine\"\n", Distribution::Alpine),
            ("ID=fedora\n", Distribution::Fedora),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Distribution::Fedora),
            ("ID=arch\n", Distribution::Arch),
            ("ID=manjaro\nID_LIKE=arch\n", Distribution::Arch),
            ("ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", Distribution::Opensuse),
            ("ID=nixos\n", Distribution::Other),
            ("PRETTY_NAME=debian\n", Distribution::Other),
            ("", Distribution::Other),
        ] {
            assert_eq!(Distribution::of_os_release(os_release), expected, "{os_release:?}");
        }
    }
}
