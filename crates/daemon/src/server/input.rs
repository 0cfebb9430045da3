//! What a client sent, read into a type or refused with a [`Refusal`]: bodies, queries, parts of the path.

use super::fault::Refusal;
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// 10 s: a client on the same machine needs milliseconds.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// A JSON body; an empty one is the default of its type.
pub struct Json<T>(pub T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned + Default,
    S: Send + Sync,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if request.body().is_end_stream() {
            return Ok(Json(T::default()));
        }
        let body = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state))
            .await
            .map_err(|_| {
                Refusal::invalid(format!("the request's body did not arrive within {} s", BODY_WITHIN.as_secs()))
            })?
            .map_err(|rejection| Refusal::invalid(format!("cannot read the request's body: {rejection}")))?;
        if body.is_empty() {
            return Ok(Json(T::default()));
        }
        // serde would take `[]` for an object whose fields are all absent.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refusal::invalid("cannot read the request's body: it is no JSON object"));
        }
        serde_json::from_slice(&body)
            .map(Json)
            .map_err(|error| Refusal::invalid(format!("cannot read the request's body: {error}")))
    }
}

pub struct Query<T>(pub T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Query(query.0)).map_err(|rejection| {
            Refusal::invalid(format!("cannot read the request's query: {}", rejection.body_text()))
        })
    }
}

/// The one variable part of a path: a reference to a sandbox, the name of an image.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Path::<String>::from_request_parts(parts, state)
            .await
            .map(|path| Named(path.0))
            .map_err(|rejection| Refusal::invalid(format!("cannot read the request's path: {}", rejection.body_text())))
    }
}

impl Named {
    /// As a validated name of `model`.
    pub fn parse<T: std::str::FromStr>(&self) -> Result<T, Refusal>
    where
        T::Err: std::fmt::Display,
    {
        self.0.parse().map_err(|error: T::Err| Refusal::invalid(error.to_string()))
    }
}
