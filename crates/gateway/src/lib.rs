//! `banger-gateway`: the network of one sandbox, without any privilege. It speaks Ethernet with the guest and sockets
//! with the world, so that what a guest reaches is what this process lets it reach.
//!
//! ```text
//!  guest ══ frames ══► link ─► frame ─┬─ ARP, neighbours answered here
//!                                     ├─ TCP ─► tcp ────┤ smoltcp's end of the guest's connection ⇄ a socket of ours
//!                                     ├─ UDP ─► udp ────┤ a socket of ours per port of the guest; names ─► names
//!                                     └─ ping ─────────── the gateway's own addresses only
//!                                               every new destination: policy ─► refused (the log)
//!  bangerd ── control: reload the policy, read the log
//! ```
//! It decides by the policy in its file ([`wire::gateway`]), holds no other state, and ends when its VMM does: the link's
//! other end is closed then. For a VMM that wants a tap, [`tap`] makes one in a namespace where there is nothing else. Everything a guest controls is bounded: connections, ports, peers, what waits to be sent.

pub mod control;
pub mod frame;
pub mod fuzzing;
pub mod gateway;
pub mod host;
pub mod link;
pub mod names;
pub mod policy;
pub mod refused;
pub mod tap;
pub mod tcp;
pub mod udp;
