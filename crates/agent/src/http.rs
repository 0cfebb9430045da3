//! Requests and answers as the routes see them: bodies, JSON and faults.

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use wire::{Fault, FaultKind};

pub type Request = hyper::Request<Incoming>;
pub type Body = BoxBody<Bytes, io::Error>;
pub type Answer = Result<Response<Body>, Fault>;

/// 1 MiB: the largest JSON body taken; the real ones are a few KiB.
const JSON_LIMIT_BYTES: usize = 1024 * 1024;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn json<T: Serialize>(value: &T) -> Answer {
    let text = serde_json::to_vec(value)
        .map_err(|error| Fault::new(FaultKind::Internal, "cannot write an answer").with_cause(error.to_string()))?;
    Ok(with_json(StatusCode::OK, text))
}

fn with_json(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// An answer that says all in its status.
pub fn status(status: StatusCode) -> Answer {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    Ok(response)
}

pub fn fault(fault: &Fault) -> Response<Body> {
    let status = StatusCode::from_u16(fault.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_json(status, serde_json::to_vec(fault).unwrap_or_default())
}

/// The request's body as a message of the guest API.
pub async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, Fault> {
    let path = request.uri().path().to_owned();
    let refused =
        |error: String| Fault::new(FaultKind::Invalid, format!("cannot read the request to {path}")).with_cause(error);
    let body = Limited::new(request.into_body(), JSON_LIMIT_BYTES).collect().await;
    let bytes = body.map_err(|error| refused(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))
}

/// A value of the query that the route cannot do without.
pub fn required(request: &Request, name: &str) -> Result<String, Fault> {
    optional(request, name)
        .ok_or_else(|| Fault::new(FaultKind::Invalid, format!("{} needs ?{name}=", request.uri().path())))
}

pub fn optional(request: &Request, name: &str) -> Option<String> {
    crate::text::query_value(request.uri().query()?, name)
}

/// For `map_err`: an I/O failure as a fault whose kind follows from the kernel's answer.
pub fn io_fault(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Fault {
    let attempt = attempt.into();
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FaultKind::NotFound,
            io::ErrorKind::PermissionDenied => FaultKind::Refused,
            io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory => FaultKind::Invalid,
            _ => FaultKind::Internal,
        };
        Fault::new(kind, format!("cannot {attempt}")).with_cause(error.to_string()).with_sources(&error)
    }
}
