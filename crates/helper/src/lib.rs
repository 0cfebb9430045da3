//! `bangerd-root`: does the few things that need root, for one owner, and writes down what it made.
//!
//! ```text
//! serve     the socket: accept, peer credentials, one message in, one message out
//!   caller    who may speak
//!   ops       one function per operation of `wire::privilege`, under one lock
//!     rules     policy → firewall script, pure
//!     ledger    what was made, noted before it is made
//!     netlink   links, addresses, neighbours        external   programs that are run: nft, resolved, manager
//!     generation  whether anybody else changed rules
//!     batch     elements of sets, by netlink
//!     tap       /dev/net/tun                        sysctl  forwarding and what the bridge needs
//! ```
//!
//! It decides nothing: what shall be comes from `bangerd`, how it is named from `wire::privilege::address`.

pub mod args;
pub mod batch;
pub mod caller;
pub mod checkpoint;
pub mod external;
pub mod failure;
pub mod generation;
pub mod ledger;
pub mod manager;
pub mod netlink;
pub mod nft;
pub mod ops;
pub mod passed;
pub mod resolved;
pub mod rules;
pub mod serve;
pub mod sysctl;
pub mod tap;

pub use failure::{Failure, Result};
