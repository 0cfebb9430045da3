//! The version of each conversation. A peer says its version first; a newer minor is fine, a newer major is refused
//! with a sentence naming both.

/// Control API: the `/v1` in every path.
pub const CONTROL: u32 = 1;
/// Guest API: the agent says it in `/healthz` and in its ready event.
pub const GUEST: u32 = 1;
/// Privilege API: part of the varlink interface name.
pub const PRIVILEGE: u32 = 1;
