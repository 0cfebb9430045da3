//! The network seam with the root helper: *bridged* mode. A tap per sandbox on `br-banger`, addresses of our own range,
//! the policy of all sandboxes applied as one value.
//!
//! Where no helper answers, links are in *user* mode. Where one answers and refuses, that is an error and no reason for
//! another mode: a sandbox must not quietly get other rights than the ones it would have had.

use super::HostNetwork;
use super::book::{Book, networks};
use super::helper::{Helper, HelperError};
use engine::host::network::{Attachment, Link, LinkFacts, LinkMode, Network};
use engine::host::{HostError, HostErrorKind, Result};
use model::port::PortForward;
use model::{Change, SandboxId};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use wire::privilege::address::{self, GATEWAY_LINK_LOCAL, Range};
use wire::privilege::facts::Facts;
use wire::privilege::policy::Policy;
use wire::privilege::{ApplyPolicy, EnsureBridge, EnsureTap, Observe, RemoveTap};

/// What the owner's configuration says about it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A certain range; else the helper takes a free one.
    pub range: Option<Range>,
    /// Where our resolver listens on the gateway's address, if it does.
    pub dns_port: Option<u16>,
    /// Whom guests ask otherwise; see [`host_resolvers`].
    pub resolvers: Vec<Ipv4Addr>,
}

pub struct Bridged {
    helper: Helper,
    user: HostNetwork,
    options: Options,
    state: Mutex<State>,
}

struct State {
    book: Book,
    /// Known since the bridge was last made sure of.
    range: Option<Range>,
}

impl Bridged {
    /// `book` is the file of addresses; `user` publishes ports in both modes and serves links when no helper answers.
    pub fn open(helper: Helper, user: HostNetwork, book: &Path, options: Options) -> io::Result<Bridged> {
        let state = Mutex::new(State { book: Book::open(book)?, range: None });
        Ok(Bridged { helper, user, options, state })
    }

    /// For `doctor`: what the helper sees, `None` without a helper.
    pub fn facts(&self) -> Result<Option<Facts>> {
        match self.helper.ask(&Observe {}) {
            Ok(facts) => Ok(Some(facts)),
            Err(HelperError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into_host_error("cannot observe the network".into())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tap, an address and the rules, in that order: a tap without rules is mute.
    fn plug(&self, state: &mut State, wanted: &Link) -> std::result::Result<(Change, Attachment), PlugError> {
        let range = self.ensure_range(state)?;
        let ipv4 = state.book.address(&wanted.id, range).map_err(PlugError::Address)?;
        state.book.set_link(&wanted.id, Some(wanted.egress.clone()));
        state.book.save().map_err(PlugError::Book)?;
        let tap = self.helper.ask(&EnsureTap { id: wanted.id.clone() })?;
        let ruled = self.apply(state, range)?;
        Ok((tap.change.and(ruled), self.attachment(&wanted.id, range, ipv4, tap.device)))
    }

    fn ensure_range(&self, state: &mut State) -> std::result::Result<Range, HelperError> {
        if let Some(range) = state.range {
            return Ok(range);
        }
        let made = self.helper.ask(&EnsureBridge { range: self.options.range })?;
        for obstacle in &made.obstacles {
            tracing::warn!(holder = %obstacle.holder, hint = obstacle.hint, "{} {}", obstacle.holder, obstacle.effect);
        }
        state.range = Some(made.range);
        Ok(made.range)
    }

    fn apply(&self, state: &State, range: Range) -> std::result::Result<Change, PlugError> {
        let guests = state.book.policies(range).map_err(PlugError::Address)?;
        let Options { dns_port, resolvers, .. } = &self.options;
        let policy = Policy { dns_port: *dns_port, resolvers: resolvers.clone(), host_ports: Vec::new(), guests };
        Ok(self.helper.ask(&ApplyPolicy { policy })?.change)
    }

    fn attachment(&self, id: &SandboxId, range: Range, ipv4: Ipv4Addr, device: String) -> Attachment {
        let (name_servers, search) = match self.options.dns_port {
            Some(_) => (vec![IpAddr::V4(range.gateway())], vec!["vm".to_owned()]),
            None => (self.options.resolvers.iter().copied().map(IpAddr::V4).collect(), Vec::new()),
        };
        Attachment {
            mode: LinkMode::Tap { device },
            mac: Some(address::mac(id).to_string()),
            addresses: vec![
                format!("{ipv4}/{}", range.network().prefix_len()),
                format!("{}/128", range.address_v6(id)),
            ],
            gateways: vec![range.gateway().into(), GATEWAY_LINK_LOCAL.into()],
            name_servers,
            search,
            mtu: None,
        }
    }

    /// Once more from the start when the helper refuses: the network may have gone down and up since we knew its range.
    fn plug_again(&self, wanted: &Link) -> std::result::Result<(Change, Attachment), PlugError> {
        let mut state = self.state();
        match self.plug(&mut state, wanted) {
            Err(PlugError::Helper(HelperError::Refused(fault))) => {
                tracing::debug!(%fault, "asking the root helper again, from the bridge on");
                state.range = None;
                self.plug(&mut state, wanted)
            }
            other => other,
        }
    }

    fn unplug(&self, id: &SandboxId) -> std::result::Result<Change, PlugError> {
        let mut state = self.state();
        let linked = state.book.is_linked(id);
        let removed = match self.helper.ask(&RemoveTap { id: id.clone() }) {
            Ok(done) => done.change,
            Err(HelperError::Absent { .. }) if !linked => return Ok(Change::Unchanged),
            Err(error) => return Err(error.into()),
        };
        if !linked {
            return Ok(removed);
        }
        state.book.set_link(id, None);
        state.book.save().map_err(PlugError::Book)?;
        let range = self.ensure_range(&mut state)?;
        self.apply(&state, range).map(|ruled| removed.and(ruled))
    }
}

#[derive(Debug, thiserror::Error)]
enum PlugError {
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error("it has no address")]
    Address(#[source] address::AddressError),
    #[error("cannot write the book of addresses")]
    Book(#[source] io::Error),
}

impl PlugError {
    fn into_host_error(self, attempt: String) -> HostError {
        match self {
            PlugError::Helper(error) => error.into_host_error(attempt),
            error @ PlugError::Address(_) => HostError::new(HostErrorKind::Unfit, attempt).with_source(error),
            error @ PlugError::Book(_) => HostError::new(HostErrorKind::Broken, attempt).with_source(error),
        }
    }
}

impl Network for Bridged {
    fn ensure_link(&self, wanted: &Link) -> Result<(Change, Attachment)> {
        let attempt = || format!("cannot connect {} ({})", wanted.name, wanted.id);
        networks(&wanted.egress)
            .map_err(|error| HostError::new(HostErrorKind::Invalid, attempt()).with_source(error))?;
        match self.plug_again(wanted) {
            Ok((change, attachment)) => {
                Ok((change.and(self.user.record(&wanted.id, attachment.mode.clone())), attachment))
            }
            Err(PlugError::Helper(HelperError::Absent { .. })) => self.user.ensure_link(wanted),
            Err(error) => Err(error.into_host_error(attempt())),
        }
    }

    fn ensure_ports(&self, id: &SandboxId, ports: &[PortForward]) -> Result<(Change, Vec<PortForward>)> {
        self.user.ensure_ports(id, ports)
    }

    fn remove_link(&self, id: &SandboxId) -> Result<Change> {
        let withdrawn = self.user.remove_link(id)?;
        let unplugged = self.unplug(id).map_err(|error| error.into_host_error(format!("cannot disconnect {id}")))?;
        Ok(withdrawn.and(unplugged))
    }

    /// Links of this life of the daemon, of earlier ones, and taps that only the helper knows.
    fn observe(&self) -> Result<Vec<LinkFacts>> {
        let mut links = self.user.observe()?;
        let mut add = |id: &SandboxId| {
            if !links.iter().any(|link| link.id == *id) {
                let mode = LinkMode::Tap { device: address::tap(id) };
                links.push(LinkFacts { id: id.clone(), mode, ports: Vec::new() });
            }
        };
        self.state().book.linked().for_each(&mut add);
        for tap in self.facts()?.map(|facts| facts.taps).unwrap_or_default() {
            add(&tap.id);
        }
        Ok(links)
    }
}

/// Whom the host itself asks, as far as a guest can ask them too: three IPv4 addresses (resolv.conf(5)), none of them
/// loopback. Where systemd-resolved stands between, the file that names its upstreams counts.
pub fn host_resolvers() -> Vec<Ipv4Addr> {
    ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| parse_resolvers(&text))
        .find(|resolvers| !resolvers.is_empty())
        .unwrap_or_default()
}

fn parse_resolvers(text: &str) -> Vec<Ipv4Addr> {
    let addresses = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = addresses.filter_map(|rest| rest.trim().parse::<Ipv4Addr>().ok());
    addresses.filter(|address| !address.is_loopback() && !address.is_unspecified()).take(3).collect()
}

#[cfg(test)]
mod tests;
