//! Which proxy leads to a host, as `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say it; either case will do, as
//! with curl and Docker. What is said is what counts: a value that cannot be used is an error, not a way around the proxy.
//!
//! `NO_PROXY` is a list of names (`example.org`, also for everything below it; `.example.org`, only for that), addresses,
//! networks (`10.0.0.0/8`), each perhaps with a port, or `*`. This machine's own addresses need no entry.

use super::error::shown;
use super::transport::is_loopback;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use std::net::IpAddr;

/// Entries of `NO_PROXY` that are read.
const MAX_ENTRIES: usize = 1000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    exempt: Vec<Exempt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Setting {
    Proxy(Proxy),
    /// What cannot be used, without the login in it.
    Useless(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub authorization: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exempt {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Everything,
    Name(String),
    /// `.example.org`, without the name itself.
    Below(String),
    Network(IpAddr, u8),
}

impl Proxies {
    pub fn discover() -> Proxies {
        Proxies::read(|name| std::env::var(name).ok())
    }

    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let value = |name: &str| {
            let either = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
            either.filter(|value| !value.trim().is_empty())
        };
        let setting = |name: &str| value(name).or_else(|| value("ALL_PROXY")).map(|value| parse(value.trim()));
        let list = value("NO_PROXY").unwrap_or_default();
        let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).take(MAX_ENTRIES);
        Proxies {
            http: setting("HTTP_PROXY"),
            https: setting("HTTPS_PROXY"),
            exempt: entries.filter_map(parse_exempt).collect(),
        }
    }

    /// The proxy that leads there, none, or what is wrong with the one that should.
    pub fn of(&self, tls: bool, host: &str, port: u16) -> Result<Option<&Proxy>, &str> {
        match if tls { &self.https } else { &self.http } {
            Some(_) if is_loopback(host) || self.is_exempt(host, port) => Ok(None),
            Some(Setting::Proxy(proxy)) => Ok(Some(proxy)),
            Some(Setting::Useless(value)) => Err(value),
            None => Ok(None),
        }
    }

    fn is_exempt(&self, host: &str, port: u16) -> bool {
        let host = bare(host).trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        self.exempt.iter().any(|exempt| {
            let holds = match &exempt.what {
                What::Everything => true,
                What::Name(name) => host == *name || is_below(&host, name),
                What::Below(name) => is_below(&host, name),
                What::Network(network, bits) => address.is_some_and(|address| is_within(address, *network, *bits)),
            };
            holds && exempt.port.is_none_or(|wanted| wanted == port)
        })
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(u32::from(a)), u128::from(u32::from(n)), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (u128::from(a), u128::from(n), 128),
        _ => return false,
    };
    // A shift by all bits is none at all.
    (address ^ network).checked_shr(width - u32::from(bits)).unwrap_or(0) == 0
}

/// `http://user:password@host:3128`; without a scheme it is an HTTP proxy, as curl has it.
fn parse(value: &str) -> Setting {
    let useless = || Setting::Useless(shown(value.rsplit('@').next().unwrap_or_default()));
    let whole = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let Ok(uri) = whole.parse::<Uri>() else { return useless() };
    let (tls, standard) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return useless(),
    };
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else { return useless() };
    let authorization = match authority.as_str().rsplit_once('@') {
        None => None,
        Some((login, _)) => match basic(login) {
            Some(value) => Some(value),
            None => return useless(),
        },
    };
    let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(standard));
    Setting::Proxy(Proxy { host, port, tls, authorization })
}

/// The login of an address, whose odd characters are written as `%40`.
fn basic(login: &str) -> Option<HeaderValue> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let mut plain = decode(user)?;
    plain.push(b':');
    plain.extend(decode(password)?);
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(bytes.next()?)? * 16 + digit(bytes.next()?)?) as u8
            }
            plain => plain,
        });
    }
    Some(decoded)
}

fn parse_exempt(entry: &str) -> Option<Exempt> {
    let entry = entry.to_ascii_lowercase();
    if entry == "*" {
        return Some(Exempt { what: What::Everything, port: None });
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let network: IpAddr = bare(network).parse().ok()?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= width)?;
        return Some(Exempt { what: What::Network(network, bits), port: None });
    }
    if let Ok(address) = bare(&entry).parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(Exempt { what: What::Network(address, bits), port: None });
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (entry.as_str(), None),
    };
    let what = match (bare(name).parse::<IpAddr>(), name.trim_start_matches('*').strip_prefix('.')) {
        (Ok(address), _) => What::Network(address, if address.is_ipv4() { 32 } else { 128 }),
        (Err(_), Some(below)) => What::Below(below.to_owned()),
        (Err(_), None) => What::Name(name.trim_end_matches('.').to_owned()),
    };
    Some(Exempt { what, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let known: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Proxies::read(|wanted| known.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()))
    }

    fn way(proxies: &Proxies, tls: bool, host: &str, port: u16) -> String {
        match proxies.of(tls, host, port) {
            Ok(None) => "direct".to_owned(),
            Ok(Some(proxy)) => format!("{}:{}", proxy.host, proxy.port),
            Err(value) => format!("useless {value}"),
        }
    }

    #[test]
    fn each_scheme_has_its_proxy_and_either_case_will_do() {
        let both = proxies(&[("HTTPS_PROXY", "http://s.test:3128"), ("http_proxy", "h.test")]);
        assert_eq!(way(&both, true, "r.test", 443), "s.test:3128");
        assert_eq!(way(&both, false, "r.test", 80), "h.test:80");
        let all = proxies(&[("all_proxy", "https://a.test"), ("HTTP_PROXY", "")]);
        assert_eq!(way(&all, true, "r.test", 443), "a.test:443");
        assert_eq!(way(&all, false, "r.test", 80), "a.test:443");
        assert_eq!(way(&proxies(&[]), true, "r.test", 443), "direct");
    }

    #[test]
    fn what_cannot_be_used_is_said_without_its_login() {
        for (value, expected) in [
            ("socks5://u:secret@p.test:1080", "useless p.test:1080"),
            ("http://", "useless http://"),
            ("http://a b", "useless http://a b"),
            ("http://u:%4@p.test", "useless p.test"),
        ] {
            assert_eq!(way(&proxies(&[("HTTPS_PROXY", value)]), true, "r.test", 443), expected, "{value}");
        }
    }

    #[test]
    fn a_login_is_decoded() {
        let Setting::Proxy(proxy) = parse("http://us%40er:p%3aw@p.test:3128") else { panic!("it is one") };
        // `us@er:p:w`
        assert_eq!(proxy.authorization.as_ref().map(HeaderValue::as_bytes), Some(&b"Basic dXNAZXI6cDp3"[..]));
        assert!(!format!("{proxy:?}").contains("dXNAZXI6cDp3"), "it is for nobody's log");
    }

    #[test]
    fn no_proxy_names_hosts_domains_networks_and_ports() {
        let list = "a.test, .b.test,*.c.test,d.test:5000 10.0.0.0/8,192.0.2.7,2001:db8::/32,[2001:db9::1],192.0.2.8:80";
        let all = proxies(&[("HTTPS_PROXY", "http://p.test:1"), ("no_proxy", list)]);
        for (host, port, direct) in [
            ("a.test", 443, true),
            ("A.TEST.", 443, true),
            ("x.a.test", 443, true),
            ("xa.test", 443, false),
            ("b.test", 443, false),
            ("x.b.test", 443, true),
            ("c.test", 443, false),
            ("x.c.test", 443, true),
            ("d.test", 5000, true),
            ("d.test", 443, false),
            ("10.200.3.4", 443, true),
            ("11.0.0.1", 443, false),
            ("192.0.2.7", 443, true),
            ("192.0.2.8", 80, true),
            ("192.0.2.8", 443, false),
            ("[2001:db8::9]", 443, true),
            ("[2001:db9::1]", 443, true),
            ("[2001:db9::2]", 443, false),
            ("localhost", 443, true),
            ("127.0.0.1", 443, true),
        ] {
            let expected = if direct { "direct" } else { "p.test:1" };
            assert_eq!(way(&all, true, host, port), expected, "{host}:{port}");
        }
        let nothing = proxies(&[("HTTPS_PROXY", "http://p.test:1"), ("NO_PROXY", "*")]);
        assert_eq!(way(&nothing, true, "r.test", 443), "direct");
        let world = proxies(&[("HTTPS_PROXY", "http://p.test:1"), ("NO_PROXY", "0.0.0.0/0")]);
        assert_eq!(way(&world, true, "192.0.2.1", 443), "direct");
        assert_eq!(way(&world, true, "r.test", 443), "p.test:1");
    }
}
