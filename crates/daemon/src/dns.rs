//! Owns the name server: sandboxes are `<name>.vm` for every program on this host that asks it.
//!
//! ```text
//!  published snapshot of sandboxes ─► Zone (a table of records) ─► publish ─► NameServer ─┬─ UDP 127.0.0.1:42069
//!                                                                  answer(zone, bytes) ◄──┴─ TCP, the same port
//! ```
//! [`answer`] is pure: bytes in, bytes out, which is where the tests hold it. It is authoritative for `vm.` and for the
//! reverse names of exactly the addresses it gave out; everything else is refused, so that a resolver asks elsewhere.
//! Nothing is looked up for anybody, so it can amplify nothing worth the trouble, and it listens on loopback only.
//! Guests ask [`GuestResolver`], which does look up, for them alone.

mod answer;
mod guests;
mod server;
mod zone;

pub use answer::{Transport, answer};
pub use guests::GuestResolver;
pub use server::{DnsError, NameServer};
pub use zone::{Host, Service, Zone};

/// Where the server listens unless told otherwise; a neighbour of no registered service.
pub const DEFAULT_PORT: u16 = 42069;
