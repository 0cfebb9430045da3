//! The network seam with the root helper: *bridged* mode. A tap per sandbox on `br-banger`, addresses of our own range,
//! the policy of all sandboxes applied as one value.
//!
//! Which mode a new link gets was chosen when `bangerd` started ([`super::choice`]); a link that is there keeps its own.
//! Where `auto` chose bridges and this host turns out to be unfit for the first one, links are in *user* mode from then
//! on. Where the helper refuses for any other reason, that is an error and no reason for another mode.

use super::HostNetwork;
use super::book::{Book, networks};
use super::choice::{Choice, Mode, Wanted};
use super::helper::{Helper, HelperError};
use engine::host::network::{Attachment, Link, LinkFacts, LinkMode, Network};
use engine::host::{HostError, HostErrorKind, Result};
use model::egress::{Egress, Outbound};
use model::port::PortForward;
use model::{Change, SandboxId};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wire::FaultKind;
use wire::privilege::address::{self, GATEWAY_LINK_LOCAL, Range};
use wire::privilege::facts::{Down, Facts, RefusedEntry, RulesState};
use wire::privilege::policy::Policy;
use wire::privilege::{
    ApplyPolicy, EnsureBridge, EnsureNames, EnsureTap, NetworkDown, Observe, ReadRefused, RemoveTap,
};

/// Who answers the guests' questions for names on the gateway's address.
pub trait GuestNames: Send + Sync {
    /// Listens there, if nobody does yet, and tells on which port; the firewall leads port 53 to it.
    fn listen(&self, gateway: Ipv4Addr) -> io::Result<u16>;
    /// The guests that there are, and which of them may ask for names of the world.
    fn admit(&self, guests: &[(Ipv4Addr, Outbound)]);
}

/// What the owner's configuration says about it.
#[derive(Clone)]
pub struct Options {
    pub choice: Choice,
    /// A certain range; else the helper takes a free one.
    pub range: Option<Range>,
    /// Who answers the guests' questions, if somebody does.
    pub names: Option<Arc<dyn GuestNames>>,
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
    choice: Choice,
    /// Known since the bridge was last made sure of.
    range: Option<Range>,
    /// Where the guests' names are answered, on the gateway's address.
    dns_port: Option<u16>,
    /// Where the host's are, on its loopback, once they are.
    host_names: Option<u16>,
    /// What became of telling the host's resolver so; `None` while there is no bridge to tell it for.
    told: Option<std::result::Result<(), String>>,
}

impl Bridged {
    /// `book` is the file of addresses; `user` publishes ports in both modes and serves links when no helper answers.
    pub fn open(helper: Helper, user: HostNetwork, book: &Path, options: Options) -> io::Result<Bridged> {
        let choice = options.choice.clone();
        let book = Book::open(book)?;
        let state = State { book, choice, range: None, dns_port: None, host_names: None, told: None };
        let state = Mutex::new(state);
        Ok(Bridged { helper, user, options, state })
    }

    /// What new links get now, and why.
    pub fn choice(&self) -> Choice {
        self.state().choice.clone()
    }

    /// What the helper sees, `None` without a helper. Starts none where there is nothing to see.
    pub fn facts(&self) -> Result<Option<Facts>> {
        if !self.helper.may_know_something() {
            return Ok(None);
        }
        match self.helper.ask(&Observe {}) {
            Ok(facts) => Ok(Some(facts)),
            Err(HelperError::Absent { .. }) => Ok(None),
            Err(error) => Err(error.into_host_error("cannot observe the network".into())),
        }
    }

    /// Makes the bridge before anybody needs it; also where new links are in user mode.
    pub fn up(&self, range: Option<Range>) -> Result<()> {
        let mut state = self.state();
        state.range = None;
        let up = self.ensure_range(&mut state, range.or(self.options.range)).map_err(PlugError::from);
        let up = up.and_then(|range| self.apply(&state, range));
        up.map(drop).map_err(|error| error.into_host_error("cannot bring the network up".into()))
    }

    /// Everything that the helper made is gone; who forces it takes links of running sandboxes along.
    pub fn down(&self) -> Result<Down> {
        let attempt = || "cannot take the network down".to_owned();
        let mut state = self.state();
        if !self.helper.may_know_something() {
            return Ok(Down { change: Change::Unchanged, kept: Vec::new() });
        }
        let down = self.helper.ask(&NetworkDown {}).map_err(|error| error.into_host_error(attempt()))?;
        (state.range, state.told) = (None, None);
        state.book.unlink_all();
        state.book.save().map_err(|error| PlugError::Book(error).into_host_error(attempt()))?;
        Ok(down)
    }

    /// Connections that were refused to this sandbox lately, the newest first.
    pub fn refused(&self, id: &SandboxId) -> Result<Vec<RefusedEntry>> {
        if self.user.is_live(id) {
            return self.user.refused(id);
        }
        if !self.state().book.is_linked(id) {
            return Ok(Vec::new());
        }
        let log = self.helper.ask(&ReadRefused { id: id.clone() });
        let attempt = || format!("cannot read what was refused to {id}");
        log.map(|log| log.entries).map_err(|error| error.into_host_error(attempt()))
    }

    /// Applies the policy again where somebody else has changed the rules (a firewall that was reloaded), and the bridge
    /// where it is gone; tells whether it had to. Asks nobody while no sandbox is linked.
    pub fn mend(&self) -> Result<Change> {
        let mut state = self.state();
        if state.book.linked().next().is_none() {
            return Ok(Change::Unchanged);
        }
        let attempt = |error: PlugError| error.into_host_error("cannot mend the network".into());
        let facts = self.helper.ask(&Observe {}).map_err(|error| attempt(error.into()))?;
        if facts.rules == RulesState::InSync && facts.bridge.is_some_and(|bridge| bridge.up) {
            return Ok(Change::Unchanged);
        }
        tracing::warn!(rules = ?facts.rules, "somebody changed the bridge or its rules; both are made anew");
        state.range = None;
        let range = self.ensure_range(&mut state, self.options.range).map_err(|error| attempt(error.into()))?;
        self.apply(&state, range).map_err(attempt)
    }

    /// Guests in user mode ask here for names below `.vm` from now on.
    pub fn name_server_is(&self, address: std::net::SocketAddr) {
        self.user.name_server_is(address);
    }

    /// Writes the policy of a sandbox behind a gateway again, because what it depends on has changed.
    pub fn refresh(&self, id: &SandboxId, egress: &Egress) {
        self.user.refresh(id, egress);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tap, an address and the rules, in that order: a tap without rules is mute.
    fn plug(&self, state: &mut State, wanted: &Link) -> std::result::Result<(Change, Attachment), PlugError> {
        let range = self.ensure_range(state, self.options.range)?;
        let ipv4 = state.book.address(&wanted.id, range).map_err(PlugError::Address)?;
        state.book.set_link(&wanted.id, Some(wanted.egress.clone()));
        state.book.save().map_err(PlugError::Book)?;
        let tap = self.helper.ask(&EnsureTap { id: wanted.id.clone() })?;
        let ruled = self.apply(state, range)?;
        Ok((tap.change.and(ruled), self.attachment(state, &wanted.id, range, ipv4, tap.device)))
    }

    fn ensure_range(&self, state: &mut State, wanted: Option<Range>) -> std::result::Result<Range, HelperError> {
        if let Some(range) = state.range {
            return Ok(range);
        }
        let made = self.helper.ask(&EnsureBridge { range: wanted })?;
        for obstacle in &made.obstacles {
            tracing::warn!(holder = %obstacle.holder, hint = obstacle.hint, "{} {}", obstacle.holder, obstacle.effect);
        }
        state.dns_port = self.options.names.as_ref().and_then(|names| {
            let listening = names.listen(made.range.gateway());
            listening.inspect_err(|error| tracing::warn!(%error, "guests cannot ask us for names")).ok()
        });
        state.range = Some(made.range);
        self.tell_host(state);
        Ok(made.range)
    }

    /// Tells the host's own resolver where names below `.vm` are answered. Names are a convenience: what fails here is
    /// `doctor`'s to tell.
    fn tell_host(&self, state: &mut State) {
        let Some(port) = state.host_names else { return };
        let told = self.helper.ask(&EnsureNames { port: Some(port) });
        state.told = Some(told.map(drop).map_err(|error| chain(&error)));
    }

    /// The host's names are answered on that port of its loopback from now on.
    pub fn host_names_are(&self, port: u16) {
        let mut state = self.state();
        state.host_names = Some(port);
        // A bridge of an earlier life is there already; nobody is started to learn that there is none.
        if state.range.is_some() || state.book.linked().next().is_some() {
            self.tell_host(&mut state);
        }
    }

    /// They are not answered any more.
    pub fn host_names_are_gone(&self) {
        let mut state = self.state();
        if let Some(Ok(())) = state.told.take()
            && let Err(error) = self.helper.ask(&EnsureNames { port: None })
        {
            tracing::warn!(error = chain(&error), "the host's resolver still asks us");
        }
    }

    /// Whatever the host's resolver was told by an earlier life is taken back.
    pub fn take_names_back(&self) -> Result<()> {
        let mut state = self.state();
        state.told = None;
        let taken = self.helper.ask(&EnsureNames { port: None }).map(drop);
        taken.map_err(|error| error.into_host_error("cannot take back what the host's resolver was told".into()))
    }

    /// What became of telling the host's resolver where names are; `None` while nobody was told.
    pub fn told_host(&self) -> Option<std::result::Result<(), String>> {
        self.state().told.clone()
    }

    fn apply(&self, state: &State, range: Range) -> std::result::Result<Change, PlugError> {
        let guests = state.book.policies(range).map_err(PlugError::Address)?;
        if let Some(names) = &self.options.names {
            let admitted: Vec<_> = guests.iter().map(|guest| (guest.ipv4, guest.outbound)).collect();
            names.admit(&admitted);
        }
        let resolvers = self.options.resolvers.clone();
        let policy = Policy { dns_port: state.dns_port, resolvers, host_ports: Vec::new(), guests };
        Ok(self.helper.ask(&ApplyPolicy { policy })?.change)
    }

    fn attachment(&self, state: &State, id: &SandboxId, range: Range, ipv4: Ipv4Addr, device: String) -> Attachment {
        let (name_servers, search) = match state.dns_port {
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
        let range = self.ensure_range(&mut state, self.options.range)?;
        self.apply(&state, range).map(|ruled| removed.and(ruled))
    }

    /// A link that is there keeps its mode.
    fn is_user(&self, id: &SandboxId) -> bool {
        if self.user.is_live(id) {
            return true;
        }
        let state = self.state();
        state.choice.mode == Mode::User && !state.book.is_linked(id)
    }

    /// `auto` chose bridges, and this host cannot have a first one: then it is user mode from now on.
    fn give_way(&self, error: &PlugError) -> bool {
        let mut state = self.state();
        let unfit = match error {
            PlugError::Helper(HelperError::Absent { .. }) => true,
            PlugError::Helper(HelperError::Refused(fault)) => fault.kind == FaultKind::HostUnfit,
            _ => false,
        };
        if !unfit || state.choice.wanted != Wanted::Auto || state.range.is_some() {
            return false;
        }
        let reason = format!("this host cannot have bridges: {}", chain(error));
        tracing::warn!("{reason}");
        state.choice = Choice { wanted: Wanted::Auto, mode: Mode::User, reason };
        true
    }

    fn unlinked(&self, id: &SandboxId) -> Result<(Change, Attachment)> {
        let _unplugged = self.unplug(id).map_err(|error| error.into_host_error(format!("cannot disconnect {id}")))?;
        Ok((self.user.record(id, LinkMode::None), Attachment::default()))
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
        if !wanted.egress.outbound.has_link() {
            return self.unlinked(&wanted.id);
        }
        if self.is_user(&wanted.id) {
            return self.user.ensure_link(wanted);
        }
        match self.plug_again(wanted) {
            Ok((change, attachment)) => {
                Ok((change.and(self.user.record(&wanted.id, attachment.mode.clone())), attachment))
            }
            Err(error) if self.give_way(&error) => self.user.ensure_link(wanted),
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

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
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
