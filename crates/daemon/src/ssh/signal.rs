//! Signals as SSH names them (RFC 4254, 6.10) and as Linux numbers them.

use russh::Sig;

/// name → number on every architecture that we run on.
const NAMES: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("ABRT", 6),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
];

/// Absent: a signal that SSH does not name.
pub fn number(signal: &Sig) -> Option<u8> {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name.as_str(),
    };
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// What OpenSSH's server says of a signal without a name is `SIG@openssh.com`.
pub fn name(number: u8) -> Sig {
    match NAMES.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => Sig::Custom((*name).to_owned()),
        None => Sig::Custom("SIG@openssh.com".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_number_and_back() {
        for (_, expected) in NAMES {
            assert_eq!(number(&name(*expected)), Some(*expected));
        }
        assert_eq!(number(&Sig::TERM), Some(15));
        assert_eq!(number(&Sig::Custom("WINCH".into())), None);
        assert!(matches!(name(63), Sig::Custom(name) if name == "SIG@openssh.com"));
    }
}
