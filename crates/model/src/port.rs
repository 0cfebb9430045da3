//! Published ports: `8080:80`, `127.0.0.1:8080:80/tcp`, `0:80` (any free host port).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortForward {
    /// Where the host listens; loopback unless the person says otherwise.
    pub host_address: IpAddr,
    /// 0 asks for any free port.
    pub host_port: u16,
    pub guest_port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no port to publish: {reason}")]
pub struct PortError {
    pub given: String,
    pub reason: String,
}

/// Which published ports are meant: `80` (the guest's port, else the host's), `80/udp`, or a whole one, `8080:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortSelector {
    Port { number: u16, protocol: Protocol },
    Exactly(PortForward),
}

impl PortSelector {
    /// The places in the list of ports that are meant; `bound` is the same list with real host ports, where it is known.
    pub fn select(&self, wanted: &[PortForward], bound: &[PortForward]) -> Vec<usize> {
        let places = |test: &dyn Fn(&PortForward) -> bool| -> Vec<usize> {
            let at = |index: &usize| test(&wanted[*index]) || bound.get(*index).is_some_and(test);
            (0..wanted.len()).filter(at).collect()
        };
        match *self {
            PortSelector::Exactly(port) => places(&|other| *other == port),
            PortSelector::Port { number, protocol } => {
                let guests = places(&|port| port.protocol == protocol && port.guest_port == number);
                let hosts = || places(&|port| port.protocol == protocol && port.host_port == number);
                if guests.is_empty() { hosts() } else { guests }
            }
        }
    }
}

impl FromStr for PortSelector {
    type Err = PortError;
    fn from_str(given: &str) -> Result<Self, PortError> {
        let port: PortForward = given.parse()?;
        Ok(match given.contains(':') {
            true => PortSelector::Exactly(port),
            false => PortSelector::Port { number: port.guest_port, protocol: port.protocol },
        })
    }
}

impl fmt::Display for PortSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortSelector::Exactly(port) => port.fmt(f),
            PortSelector::Port { number, protocol } => write!(f, "{number}/{}", protocol.word()),
        }
    }
}

impl FromStr for PortForward {
    type Err = PortError;
    fn from_str(given: &str) -> Result<Self, PortError> {
        let refuse = |reason: &str| PortError { given: given.chars().take(80).collect(), reason: reason.to_owned() };
        let (ports, protocol) = match given.rsplit_once('/') {
            None => (given, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(refuse("the protocol is `tcp` or `udp`")),
        };
        let number = |text: &str| text.parse::<u16>().map_err(|_| refuse("a port is a number from 0 to 65535"));
        let (host, guest_port) = match ports.rsplit_once(':') {
            None => (ports, number(ports)?),
            Some((host, guest)) => (host, number(guest)?),
        };
        let (host_address, host_port) = match host.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), number(host)?),
            Some((address, port)) => {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                let address = address.parse().map_err(|_| refuse("the host address is no IP address"))?;
                (address, number(port)?)
            }
        };
        if guest_port == 0 {
            return Err(refuse("the guest port cannot be 0"));
        }
        Ok(PortForward { host_address, host_port, guest_port, protocol })
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            IpAddr::V4(address) => write!(f, "{address}:{}:{}", self.host_port, self.guest_port)?,
            IpAddr::V6(address) => write!(f, "[{address}]:{}:{}", self.host_port, self.guest_port)?,
        }
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => write!(f, "/udp"),
        }
    }
}

impl TryFrom<String> for PortForward {
    type Error = PortError;
    fn try_from(given: String) -> Result<Self, PortError> {
        given.parse()
    }
}

impl From<PortForward> for String {
    fn from(port: PortForward) -> String {
        port.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: Option<&str>) {
        assert_eq!(given.parse::<PortForward>().ok().map(|p| p.to_string()).as_deref(), expected, "{given:?}");
    }

    #[test]
    fn ports_are_bound_to_loopback_unless_told_otherwise() {
        check("8080:80", Some("127.0.0.1:8080:80"));
        check("80", Some("127.0.0.1:80:80"));
        check("0:80", Some("127.0.0.1:0:80"));
        check("0.0.0.0:8080:80", Some("0.0.0.0:8080:80"));
        check("[::1]:8080:80/tcp", Some("[::1]:8080:80"));
        check("5353:53/udp", Some("127.0.0.1:5353:53/udp"));
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in ["", ":", "80:", "a:b", "8080:0", "70000:80", "host:1:2", "1:2/sctp", "1:2:3:4"] {
            check(bad, None);
        }
    }

    #[test]
    fn a_port_is_selected_by_the_guests_number_else_the_hosts_else_as_a_whole() {
        let ports =
            |words: &[&str]| words.iter().map(|word| word.parse().expect("a port")).collect::<Vec<PortForward>>();
        let wanted = ports(&["8080:80", "0:443", "5353:53/udp", "80:8080"]);
        let bound = ports(&["8080:80", "40001:443", "5353:53/udp", "80:8080"]);
        let check = |given: &str, expected: &[usize]| {
            let selector: PortSelector = given.parse().expect("a selector");
            assert_eq!(selector.select(&wanted, &bound), expected, "{given}");
        };
        check("80", &[0]);
        check("8080", &[3]);
        check("40001", &[1]);
        check("0:443", &[1]);
        check("40001:443", &[1]);
        check("53", &[]);
        check("53/udp", &[2]);
        check("127.0.0.1:8080:80", &[0]);
        check("8081:80", &[]);
    }
}
