//! The options that the generic guest kernel must have: a list with a reason for each group, the fragment that asks for
//! them, and the proof that a finished `.config` has them all.
//!
//! kconfig drops an option silently when something it depends on is off, or its name is of another version. So nothing is
//! believed: after the configuration every wanted option is looked up again ([`Wanted::missing`]).

/// The list for x86-64, as it is checked in.
pub const GENERIC_X86_64: &str = include_str!("../../kernel/generic-x86_64.config");

/// The whole list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub groups: Vec<Group>,
}

/// Options that one need has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `nftables`.
    pub name: String,
    pub why: String,
    pub options: Vec<WantedOption>,
}

/// One option, by all the names that it had: one of them has to have its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOption {
    /// `CONFIG_NET=y`.
    pub settings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the list of kernel options is neither `[group] why` nor `CONFIG_NAME=value`")]
pub struct WantedError {
    pub line: usize,
}

impl Wanted {
    /// The checked-in list.
    pub fn generic() -> Wanted {
        Wanted::parse(GENERIC_X86_64).expect("a test reads the checked-in list")
    }

    pub fn parse(text: &str) -> Result<Wanted, WantedError> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = WantedError { line: index + 1 };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let (name, why) = rest.split_once(']').ok_or(wrong)?;
                groups.push(Group { name: name.to_owned(), why: why.trim().to_owned(), options: Vec::new() });
                continue;
            }
            let settings: Vec<String> = line.split(" | ").map(str::to_owned).collect();
            let group = groups.last_mut().filter(|_| settings.iter().all(|setting| is_setting(setting)));
            group.ok_or(wrong)?.options.push(WantedOption { settings });
        }
        Ok(Wanted { groups })
    }

    pub fn count(&self) -> usize {
        self.groups.iter().map(|group| group.options.len()).sum()
    }

    /// What `make KCONFIG_ALLCONFIG=FILE allnoconfig` reads; names that a version does not know are passed over by it.
    pub fn fragment(&self) -> String {
        let settings = self.groups.iter().flat_map(|group| &group.options).flat_map(|option| &option.settings);
        settings.map(|setting| format!("{setting}\n")).collect()
    }

    /// The options that a finished `.config` does not have, with the group that wants them: `nftables: CONFIG_NFT_NAT=y`.
    pub fn missing(&self, config: &str) -> Vec<String> {
        let lines: std::collections::BTreeSet<&str> = config.lines().map(str::trim_end).collect();
        let lacks = |option: &&WantedOption| !option.settings.iter().any(|setting| lines.contains(setting.as_str()));
        let of_group = |group: &Group| {
            let missing = group.options.iter().filter(lacks);
            missing.map(|option| format!("{}: {}", group.name, option.settings.join(" or "))).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of_group).collect()
    }
}

fn is_setting(text: &str) -> bool {
    let Some((name, value)) = text.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')) else { return false };
    let name_is_good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    name_is_good && !value.is_empty() && !value.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_checked_in_list_is_whole_and_names_nothing_twice() {
        let wanted = Wanted::generic();
        let settings: Vec<&String> =
            wanted.groups.iter().flat_map(|group| &group.options).flat_map(|option| &option.settings).collect();
        let unique: BTreeSet<_> = settings.iter().collect();
        assert_eq!(unique.len(), settings.len(), "an option is named twice");
        assert!(wanted.groups.iter().all(|group| !group.why.is_empty() && !group.options.is_empty()));
        // What the issue of this kernel names, one option each.
        for needed in [
            "VIRTIO_MMIO",
            "VIRTIO_PCI",
            "VIRTIO_BLK",
            "VIRTIO_NET",
            "VIRTIO_VSOCKETS",
            "VIRTIO_BALLOON",
            "HW_RANDOM_VIRTIO",
            "EXT4_FS",
            "OVERLAY_FS",
            "EROFS_FS",
            "VFAT_FS",
            "NF_TABLES",
            "IP_NF_IPTABLES",
            "BRIDGE",
            "VETH",
            "TUN",
            "WIREGUARD",
            "USER_NS",
            "NET_NS",
            "MEMCG",
            "CGROUP_BPF",
            "BPF_SYSCALL",
            "IO_URING",
            "VMGENID",
            "PTP_1588_CLOCK_KVM",
            "KVM_GUEST",
        ] {
            assert!(settings.iter().any(|setting| **setting == format!("CONFIG_{needed}=y")), "{needed}");
        }
    }

    const LIST: &str = "# why\n[net] links\nCONFIG_NET=y\nCONFIG_OLD=y | CONFIG_NEW=y\n";

    #[test]
    fn a_dropped_option_is_named_and_one_of_two_names_is_enough() {
        let wanted = Wanted::parse(LIST).unwrap();
        assert_eq!((wanted.count(), wanted.fragment().as_str()), (2, "CONFIG_NET=y\nCONFIG_OLD=y\nCONFIG_NEW=y\n"));
        assert!(wanted.missing("CONFIG_NET=y\nCONFIG_NEW=y\n").is_empty());
        assert_eq!(wanted.missing("# CONFIG_NET is not set\nCONFIG_OLD=y\n"), ["net: CONFIG_NET=y"]);
        assert_eq!(wanted.missing("CONFIG_NET=m\n"), ["net: CONFIG_NET=y", "net: CONFIG_OLD=y or CONFIG_NEW=y"]);
    }

    #[test]
    fn a_line_that_means_nothing_is_named() {
        for (text, line) in
            [("CONFIG_NET=y\n", 1), ("[a] b\nNET=y\n", 2), ("[a\n", 1), ("[a] b\n\nCONFIG_A=y|CONFIG_B=y x\n", 3)]
        {
            assert_eq!(Wanted::parse(text), Err(WantedError { line }), "{text:?}");
        }
    }
}
