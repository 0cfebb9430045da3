//! One function per operation, each repeatable, each noting before it does. All run under one lock, one after another.
//!
//! | module | operations |
//! |---|---|
//! | [`bridge`] | `EnsureBridge` |
//! | [`tap`] | `EnsureTap`, `RemoveTap` |
//! | [`rules`] | `ApplyPolicy`, `ReadRefused` |
//! | [`names`] | `EnsureNames` |
//! | [`forwarding`] | part of `EnsureBridge` and `NetworkDown` |
//! | [`observe`] | `Observe`, `Ping` |
//! | [`down`] | `NetworkDown` |

pub mod bridge;
pub mod down;
pub mod forwarding;
pub mod names;
pub mod observe;
pub mod rules;
pub mod tap;

use crate::failure::{Attempt, Result};
use crate::generation::Generations;
use crate::ledger::{Applied, Ledger};
use crate::netlink::Netlink;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use wire::privilege::Request;

/// Everything an operation works with.
pub struct Root {
    pub ledger: Ledger,
    pub netlink: Netlink,
    pub generations: Generations,
    /// The user who owns the taps.
    pub owner: u32,
    /// The policy that is known to hold; what `applied.json` says.
    pub applied: Option<Applied>,
}

impl Root {
    pub fn open(ledger: &Path, owner: u32) -> Result<Root> {
        let ledger = Ledger::open(ledger)?;
        let netlink = Netlink::open().attempt(|| "cannot open a netlink socket")?;
        let generations = Generations::open().attempt(|| "cannot open a netfilter socket")?;
        Ok(Root { generations, applied: ledger.applied(), ledger, netlink, owner })
    }

    pub fn answer(&mut self, request: Request) -> Result<Value> {
        match request {
            Request::Ping(_) => Ok(value(observe::version())),
            Request::EnsureBridge(ask) => bridge::ensure(self, ask.range).map(value),
            Request::EnsureTap(ask) => tap::ensure(self, &ask.id).map(value),
            Request::RemoveTap(ask) => tap::remove(self, &ask.id).map(value),
            Request::ApplyPolicy(ask) => rules::apply(self, &ask.policy).map(value),
            Request::EnsureNames(ask) => names::ensure(self, ask.port).map(value),
            Request::Observe(_) => observe::facts(self).map(value),
            Request::ReadRefused(ask) => rules::refused(self, &ask.id).map(value),
            Request::NetworkDown(_) => down::all(self).map(value),
        }
    }
}

fn value(answer: impl Serialize) -> Value {
    serde_json::to_value(answer).expect("an answer is plain data")
}
