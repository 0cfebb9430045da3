//! One HTTP/1.1 call to an agent: an upgrade to a byte stream, or a JSON answer.

use super::{ANSWER_LIMIT_BYTES, Guest, GuestError, GuestStream};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io;
use std::marker::PhantomData;
use wire::guest::STREAM_UPGRADE;
use wire::{Fault, FaultKind};

pub(super) async fn upgrade(guest: &Guest, target: &str) -> Result<GuestStream, GuestError> {
    let request = Request::get(target).header(CONNECTION, "Upgrade").header(UPGRADE, STREAM_UPGRADE);
    let response = send(guest, "stream", request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(guest, "stream", response).await);
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|source| guest.broken("stream", source))?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

pub(super) async fn get<T: DeserializeOwned>(guest: &Guest, call: &'static str, target: &str) -> Result<T, GuestError> {
    let response = send(guest, call, Request::get(target)).await?;
    if !response.status().is_success() {
        return Err(refusal(guest, call, response).await);
    }
    let body = collect(guest, call, response).await?;
    serde_json::from_slice(&body).map_err(|source| guest.broken(call, source))
}

/// An answer of one document a line, for as long as the agent has something to say.
pub struct Lines<T> {
    guest: Guest,
    call: &'static str,
    body: Incoming,
    pending: BytesMut,
    documents: PhantomData<T>,
}

pub(super) async fn lines<T>(guest: &Guest, call: &'static str, target: &str) -> Result<Lines<T>, GuestError> {
    let response = send(guest, call, Request::get(target)).await?;
    if !response.status().is_success() {
        return Err(refusal(guest, call, response).await);
    }
    let (guest, body) = (guest.clone(), response.into_body());
    Ok(Lines { guest, call, body, pending: BytesMut::new(), documents: PhantomData })
}

impl<T: DeserializeOwned> Lines<T> {
    /// Absent at the end.
    pub async fn next(&mut self) -> Result<Option<T>, GuestError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|source| self.guest.broken(self.call, source));
            }
            if self.pending.len() > ANSWER_LIMIT_BYTES {
                return Err(self.guest.broken(self.call, io::Error::other("a line is too long")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(self.guest.broken(self.call, source)),
                Some(Ok(frame)) => self.pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        }
    }
}

/// The connection lives in a task of its own until both sides are done with it or the response is dropped.
async fn send(
    guest: &Guest,
    call: &'static str,
    request: hyper::http::request::Builder,
) -> Result<Response<Incoming>, GuestError> {
    let connection = guest.connect().await?;
    let broken = |source: hyper::Error| guest.broken(call, source);
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await.map_err(broken)?;
    tokio::spawn(driver.with_upgrades());
    let request = request.header(HOST, "guest").body(Empty::<Bytes>::new());
    let request = request.map_err(|source| guest.broken(call, source))?;
    sender.send_request(request).await.map_err(broken)
}

async fn refusal(guest: &Guest, call: &'static str, response: Response<Incoming>) -> GuestError {
    let status = response.status();
    let said = match collect(guest, call, response).await {
        Ok(body) => serde_json::from_slice::<Fault>(&body).ok(),
        Err(_) => None,
    };
    let unsaid = || Fault::new(FaultKind::Internal, format!("the agent answered `{call}` with {status}"));
    GuestError::Refused { fault: said.unwrap_or_else(unsaid) }
}

async fn collect(guest: &Guest, call: &'static str, response: Response<Incoming>) -> Result<Bytes, GuestError> {
    let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
    Ok(body.map_err(|source| guest.broken(call, source))?.to_bytes())
}

#[cfg(test)]
mod tests {
    use crate::guest::percent_encode;

    #[test]
    fn a_query_value_cannot_leave_its_place() {
        assert_eq!(percent_encode("/run/a b&port=1#x?ä"), "/run/a%20b%26port%3D1%23x%3F%C3%A4");
    }
}
