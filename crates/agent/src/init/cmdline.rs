//! The kernel's command line as the agent understands it: words of [`wire::guest::cmdline`], all else ignored.

use wire::guest::cmdline as word;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    Overlay,
    Plain,
    Initramfs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitChoice {
    Auto,
    Agent,
    Systemd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkDisk {
    Attached,
    Absent,
}

/// How the machine is ended so that its VMM exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOff {
    Acpi,
    Reboot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cmdline {
    pub root: RootKind,
    pub init: InitChoice,
    pub work: WorkDisk,
    pub power_off: PowerOff,
}

impl Cmdline {
    /// What /proc/cmdline says; the defaults where it cannot be read.
    pub fn read() -> Cmdline {
        Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// Later words win, as they do in the kernel. An unknown value leaves the default in place.
    pub fn parse(text: &str) -> Cmdline {
        let mut line = Cmdline {
            root: RootKind::Overlay,
            init: InitChoice::Auto,
            work: WorkDisk::Absent,
            power_off: PowerOff::Acpi,
        };
        for (name, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            match (name, value) {
                (word::ROOT, word::ROOT_OVERLAY) => line.root = RootKind::Overlay,
                (word::ROOT, word::ROOT_PLAIN) => line.root = RootKind::Plain,
                (word::ROOT, word::ROOT_INITRAMFS) => line.root = RootKind::Initramfs,
                (word::INIT, word::INIT_AUTO) => line.init = InitChoice::Auto,
                (word::INIT, word::INIT_AGENT) => line.init = InitChoice::Agent,
                (word::INIT, word::INIT_SYSTEMD) => line.init = InitChoice::Systemd,
                (word::WORK, "1") => line.work = WorkDisk::Attached,
                (word::WORK, "0") => line.work = WorkDisk::Absent,
                (word::POWER_OFF, word::POWER_OFF_ACPI) => line.power_off = PowerOff::Acpi,
                (word::POWER_OFF, word::POWER_OFF_REBOOT) => line.power_off = PowerOff::Reboot,
                _ => {}
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_is_an_overlay_with_whatever_init_the_image_has() {
        let line = Cmdline::parse("console=ttyS0 quiet");
        assert_eq!(
            line,
            Cmdline {
                root: RootKind::Overlay,
                init: InitChoice::Auto,
                work: WorkDisk::Absent,
                power_off: PowerOff::Acpi
            }
        );
    }

    #[test]
    fn the_hosts_words_are_taken_and_the_last_one_wins() {
        let line = Cmdline::parse(
            "banger.root=overlay banger.root=plain banger.init=agent banger.work=1 banger.poweroff=reboot banger.new=x",
        );
        assert_eq!(line.root, RootKind::Plain);
        assert_eq!(line.init, InitChoice::Agent);
        assert_eq!(line.work, WorkDisk::Attached);
        assert_eq!(line.power_off, PowerOff::Reboot);
    }

    #[test]
    fn an_unknown_value_leaves_the_default() {
        assert_eq!(Cmdline::parse("banger.root=btrfs banger.work=yes"), Cmdline::parse(""));
    }
}
