//! The privilege API: what `bangerd` may ask of its root helper, and nothing else.
//!
//! The list of operations below is closed. A request carries ids, validated names and values; root derives every
//! device name, hardware address and path itself ([`address`]) and writes down what it made. The doc text of an
//! operation is its paragraph in `docs/privileges.md` ([`page`] renders it, a test compares).
//!
//! | module | owns |
//! |---|---|
//! | [`address`] | the address plan: range, gateway, what follows from a sandbox's id |
//! | [`policy`] | who may reach what, as one value |
//! | [`facts`] | what the helper answers |
//! | [`varlink`] | how a call and its reply look on the socket (JSON, ended by a NUL byte) |
//! | [`page`] | `docs/privileges.md` |
//!
//! Requests refuse unknown fields, unlike every other message here: a restriction that an older helper would skip
//! must fail, not vanish. Replies ignore what they do not know.

pub mod address;
pub mod facts;
pub mod page;
pub mod policy;
pub mod varlink;

use address::Range;
use facts::{BridgeMade, Done, Down, Facts, RefusedLog, TapMade, Version};
use model::SandboxId;
use policy::Policy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The varlink interface; its last letter is [`crate::version::PRIVILEGE`].
pub const INTERFACE: &str = "dev.banger.Root1";
/// The error that carries a [`crate::Fault`].
pub const FAULT: &str = "dev.banger.Root1.Fault";
/// The interface in varlink's own description language, as `GetInterfaceDescription` answers it.
pub const DESCRIPTION: &str = include_str!("privilege/dev.banger.Root1.varlink");

/// One operation as a type: what it carries, what it answers.
pub trait Ask: Serialize {
    const METHOD: &'static str;
    type Reply: Serialize + DeserializeOwned;
}

/// What the generated page tells of an operation.
#[derive(Debug)]
pub struct Operation {
    pub name: &'static str,
    pub paragraph: &'static str,
    /// The fields of the request, each with its type as it stands in the source.
    pub fields: &'static [(&'static str, &'static str)],
    pub reply: &'static str,
}

/// Why bytes are no request: the three answers that varlink itself defines for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("`{method}` belongs to no interface of this helper")]
    UnknownInterface { method: String },
    #[error("`{method}` is none of its operations")]
    UnknownMethod { method: String },
    #[error("the parameters of `{method}` are not what it takes: {reason}")]
    Parameters { method: String, reason: String },
}

macro_rules! operations {
    ($(
        $(#[doc = $text:literal])+
        $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? } -> $reply:ty;
    )+) => {
        $(
            $(#[doc = $text])+
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name { $($(#[$attribute])* pub $field: $type),* }

            impl Ask for $name {
                const METHOD: &'static str = concat!("dev.banger.Root1.", stringify!($name));
                type Reply = $reply;
            }
        )+

        /// Every operation there is.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request { $($name($name)),+ }

        pub const OPERATIONS: &[Operation] = &[$(
            Operation {
                name: stringify!($name),
                paragraph: concat!($($text, "\n"),+),
                fields: &[$((stringify!($field), stringify!($type))),*],
                reply: stringify!($reply),
            },
        )+];

        impl Request {
            /// Proves a call to be one of the operations with valid values.
            pub fn parse(method: &str, parameters: serde_json::Value) -> Result<Request, RequestError> {
                let invalid = |error: serde_json::Error| {
                    RequestError::Parameters { method: method.to_owned(), reason: error.to_string() }
                };
                match method {
                    $(<$name as Ask>::METHOD => serde_json::from_value(parameters).map(Request::$name).map_err(invalid),)+
                    _ if method.starts_with("dev.banger.Root1.") => {
                        Err(RequestError::UnknownMethod { method: shorten(method) })
                    }
                    _ => Err(RequestError::UnknownInterface { method: shorten(method) }),
                }
            }

            pub fn name(&self) -> &'static str {
                match self { $(Request::$name(_) => stringify!($name)),+ }
            }
        }

        $(impl From<$name> for Request {
            fn from(request: $name) -> Request { Request::$name(request) }
        })+
    };
}

operations! {
    /// Answers the helper's version and the version of this interface. Changes nothing.
    Ping {} -> Version;

    /// Makes the bridge `br-banger` with the gateway's addresses, the firewall tables with an empty policy before
    /// it goes up, and turns IPv4 forwarding on, remembering how it was. Without a range the helper takes the first
    /// of its own candidates that no route and no address of this host overlaps. A given range that overlaps is
    /// refused with the name of the link that holds it; so is a `br-banger` that the ledger does not know, and a range
    /// other than that of a bridge that is already up.
    EnsureBridge { #[serde(default, skip_serializing_if = "Option::is_none")] range: Option<Range> } -> BridgeMade;

    /// Makes the tap of one sandbox, as an isolated port of the bridge, belonging to the owner's user, so that an
    /// unprivileged VMM can open it by name. The name follows from the id (`bgr-` and 11 digits of it). A device of
    /// that name which the ledger does not know is refused. Until a policy names the sandbox, every frame from its
    /// tap is dropped.
    EnsureTap { id: SandboxId } -> TapMade;

    /// Removes the tap of one sandbox, if the ledger knows it.
    RemoveTap { id: SandboxId } -> Done;

    /// Replaces the content of the tables `inet banger` and `bridge banger` with the rules for this policy, in one
    /// transaction: either all of it holds or nothing changed. No other table is read or written. Host and hardware
    /// addresses are checked against the address plan before.
    ApplyPolicy { policy: Policy } -> Done;

    /// Tells this host's resolver that names below `.vm`, and no others, are answered on that port of 127.0.0.1; without a
    /// port, that they are no longer. systemd-resolved is told for the link `br-banger` alone, and what it was told goes with
    /// the bridge. Where it does not run and NetworkManager has a dnsmasq of its own, that gets the file
    /// `/etc/NetworkManager/dnsmasq.d/banger.conf`, which is noted and goes with `NetworkDown` at the latest; a file of that
    /// name that banger did not write stays, and is refused. Refused where neither looks names up for this host.
    EnsureNames { #[serde(default, skip_serializing_if = "Option::is_none")] port: Option<u16> } -> Done;

    /// Tells what is there: bridge, taps, whether the rules are still those that were applied, forwarding, and what
    /// other firewalls of this host do to our traffic. Changes nothing.
    Observe {} -> Facts;

    /// Tells which connections of one sandbox were refused during the last hour, at most 4096 over all sandboxes.
    /// Changes nothing.
    ReadRefused { id: SandboxId } -> RefusedLog;

    /// Removes exactly what the ledger says was made: taps, bridge, tables, and sets forwarding back to what it was,
    /// unless other software that needs it came up in the meantime. Goes on past a failure and reports all of them.
    NetworkDown {} -> Down;
}

/// At most 80 characters of what a stranger sent come back in an error.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_reads_back_from_its_own_bytes() {
        let ask = EnsureTap { id: SandboxId::from_bits(7) };
        let parameters = serde_json::to_value(&ask).unwrap();
        assert_eq!(Request::parse(EnsureTap::METHOD, parameters), Ok(Request::EnsureTap(ask)));
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_reason() {
        let check = |method: &str, parameters: serde_json::Value, wanted: &str| {
            let error = Request::parse(method, parameters).unwrap_err();
            assert!(error.to_string().contains(wanted), "{method}: {error}");
        };
        check("dev.banger.Root1.EnsureTap", json!({}), "missing field `id`");
        check("dev.banger.Root1.EnsureTap", json!({"id": "../../etc"}), "is no sandbox id");
        check("dev.banger.Root1.EnsureTap", json!({"id": "0000000000000001", "path": "/etc"}), "unknown field `path`");
        check("dev.banger.Root1.EnsureTap", json!([1]), "EnsureTap");
        check("dev.banger.Root1.EnsureBridge", json!({"range": "8.8.8.0/24"}), "private");
        check("dev.banger.Root1.RunAnything", json!({}), "none of its operations");
        check("org.example.Other", json!({}), "no interface");
    }

    #[test]
    fn the_interface_carries_its_version() {
        assert!(INTERFACE.ends_with(&crate::version::PRIVILEGE.to_string()));
        assert!(FAULT.starts_with(INTERFACE));
    }

    #[test]
    fn the_description_names_every_operation_and_field() {
        for operation in OPERATIONS {
            let method = DESCRIPTION
                .lines()
                .find(|line| line.starts_with(&format!("method {}(", operation.name)))
                .unwrap_or_else(|| panic!("{} is missing", operation.name));
            for (field, _) in operation.fields {
                assert!(method.contains(&format!("{field}:")), "{method}: {field}");
            }
        }
        let described = DESCRIPTION.lines().filter(|line| line.starts_with("method ")).count();
        assert_eq!(described, OPERATIONS.len());
    }
}
