//! How a call and its reply look on the socket: one JSON object each, ended by a NUL byte (varlink.org). Only what a
//! helper with short answers needs: no streams of replies (`more`), no `upgrade`, `oneway` answers nothing.

use crate::{Fault, FaultKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::{self, Read, Write};

/// 4 MiB: the largest policy (4093 sandboxes with their lists) stays below it; more is no request of ours.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The interface that every varlink service has.
pub const SERVICE: &str = "org.varlink.service";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub method: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    #[serde(default)]
    pub parameters: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Call {
    pub fn of<A: super::Ask>(ask: &A) -> Call {
        let parameters = match serde_json::to_value(ask).expect("a request is plain data") {
            Value::Object(parameters) => parameters,
            other => unreachable!("a request is an object, not {other}"),
        };
        Call { method: A::METHOD.to_owned(), parameters, oneway: false, more: false, upgrade: false }
    }
}

impl Reply {
    pub fn answer(parameters: &impl Serialize) -> Reply {
        let parameters = serde_json::to_value(parameters).expect("an answer is plain data");
        Reply { parameters, ..Reply::default() }
    }

    pub fn fault(fault: &Fault) -> Reply {
        Reply { error: Some(super::FAULT.to_owned()), ..Reply::answer(fault) }
    }

    /// One of varlink's own errors: `MethodNotFound`, `InvalidParameter`, `InterfaceNotFound`, `MethodNotImplemented`.
    pub fn protocol_error(name: &str, field: &str, value: &str) -> Reply {
        Reply { parameters: json!({ field: value }), error: Some(format!("{SERVICE}.{name}")), continues: false }
    }

    /// What the peer said, as the type it promised or as a fault.
    pub fn open<A: super::Ask>(self) -> Result<A::Reply, Fault> {
        match self.error.as_deref() {
            None => serde_json::from_value(self.parameters).map_err(|error| {
                Fault::new(FaultKind::Internal, format!("cannot read the root helper's answer to {}", A::METHOD))
                    .with_cause(error.to_string())
            }),
            Some(super::FAULT) => Err(serde_json::from_value(self.parameters).unwrap_or_else(|error| {
                Fault::new(FaultKind::Internal, "cannot read the root helper's fault").with_cause(error.to_string())
            })),
            Some(other) => Err(Fault::new(FaultKind::Invalid, format!("the root helper refused {}", A::METHOD))
                .with_cause(format!("{other} {}", self.parameters))
                .with_hint("check that `bangerd` and `bangerd-root` have the same version")),
        }
    }
}

/// Asks and waits for the answer, on a stream whose owner has set its deadlines. The outer error says that the
/// conversation broke and the stream is of no more use; the inner one is the helper's own answer.
pub fn converse<A: super::Ask>(stream: &mut (impl Read + Write), ask: &A) -> io::Result<Result<A::Reply, Fault>> {
    stream.write_all(&encode(&Call::of(ask)))?;
    let mut inbox = Inbox::default();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(message) = inbox.take().map_err(io::Error::other)? {
            let reply: Reply = serde_json::from_slice(&message)?;
            return Ok(reply.open::<A>());
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => inbox.push(&buffer[..count]),
        }
    }
}

/// The bytes of a message, with the NUL that ends it.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(message).expect("a message is plain data");
    bytes.push(0);
    bytes
}

/// Collects bytes and hands out whole messages.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Everything before it holds no NUL.
    searched: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message is larger than {MAX_MESSAGE_BYTES} bytes")]
pub struct TooLarge;

impl Inbox {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message without its NUL, if it has arrived.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, TooLarge> {
        let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == 0) else {
            self.searched = self.bytes.len();
            return if self.bytes.len() > MAX_MESSAGE_BYTES { Err(TooLarge) } else { Ok(None) };
        };
        let rest = self.bytes.split_off(self.searched + end + 1);
        let mut message = std::mem::replace(&mut self.bytes, rest);
        message.pop();
        self.searched = 0;
        if message.len() > MAX_MESSAGE_BYTES { Err(TooLarge) } else { Ok(Some(message)) }
    }

    /// True between two messages: a peer that goes away now broke nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_may_leave_out_what_is_usual() {
        let call: Call = serde_json::from_str(r#"{"method":"org.varlink.service.GetInfo"}"#).unwrap();
        assert!(call.parameters.is_empty() && !call.oneway && !call.more && !call.upgrade);
        assert_eq!(encode(&call), b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
    }

    #[test]
    fn a_flood_without_an_end_is_cut_off() {
        let mut inbox = Inbox::default();
        inbox.push(&vec![b'x'; MAX_MESSAGE_BYTES + 1]);
        assert_eq!(inbox.take(), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_they_are_cut(
            messages in proptest::collection::vec("[a-z]{0,20}", 0..8), cut in 1usize..7
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
            let mut inbox = Inbox::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                inbox.push(piece);
                while let Some(message) = inbox.take().unwrap() {
                    seen.push(String::from_utf8(message).unwrap());
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(inbox.is_empty());
        }
    }
}
