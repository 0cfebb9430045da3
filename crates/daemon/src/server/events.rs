//! `GET /v1/events`: every change of a sandbox's state, as it happens, until the client goes.

use super::convert;
use super::stream;
use crate::app::App;
use axum::extract::State;
use axum::response::Response;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use wire::control::StateChange;

/// Follows the states of all sandboxes
#[utoipa::path(get, path = "/v1/events", tag = "vms",
    responses((status = 200, description = "One state change a line, without end", content_type = "application/x-ndjson", body = StateChange)))]
pub async fn events(State(app): State<Arc<App>>) -> Response {
    let (sender, receiver) = mpsc::channel(64);
    // Subscribed before the answer begins, so that nothing is missed after its first byte.
    let mut changes = app.events();
    tokio::spawn(async move {
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = sender.closed() => return,
                () = app.stopped() => return,
            };
            match change {
                Ok(change) => {
                    if sender.send(stream::line(&convert::state_change(&change))).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "a reader of events is too slow"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    stream::body(receiver)
}
