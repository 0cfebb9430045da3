//! Long work as NDJSON: the engine works on a blocking thread and reports through a bounded channel to the response.
//!
//! A client that closes its connection drops the response's body, which closes the channel, which the engine sees as
//! [`Watch::cancelled`]. A slow reader never holds the work up: progress it has no room for is dropped, the last line
//! (result or fault) waits for it, with a deadline.

use super::fault::{Refusal, fault};
use crate::app::App;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use engine::host::{Report, Unit, Watch};
use futures_util::stream::unfold;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::control::Event;
use wire::{Fault, FaultKind};

/// Events that wait for a slow reader before further progress is dropped.
const QUEUE: usize = 256;
/// 30 s for a client to read its result.
const RESULT_WITHIN: Duration = Duration::from_secs(30);

/// Runs `work` on a blocking thread and answers with its events.
/// `vm` names the sandbox it is about in the first event.
pub fn respond<T, F>(app: Arc<App>, vm: Option<String>, work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce(&App, &dyn Watch) -> Result<T, Fault> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let watch = Arc::new(Reporter { sender: sender.clone(), app: app.clone(), vm });
        let last = match app.work(move |app| work(app, watch.as_ref())).await {
            Ok(value) => Event::Result { value },
            Err(fault) => {
                tracing::warn!(operation = fault.operation, "failed: {fault}");
                Event::Fault { fault }
            }
        };
        let _ = sender.send_timeout(line(&last), RESULT_WITHIN).await;
    });
    body(receiver)
}

/// The stream of whatever is sent; it ends when the senders are gone.
pub fn body(receiver: mpsc::Receiver<Bytes>) -> Response {
    let lines = unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), receiver))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

pub fn line<T: Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("the types of wire::control are always valid JSON");
    line.push(b'\n');
    line.into()
}

struct Reporter {
    sender: mpsc::Sender<Bytes>,
    app: Arc<App>,
    vm: Option<String>,
}

impl Watch for Reporter {
    fn report(&self, report: Report) {
        // Full: the reader is slow, and progress is only progress. Closed: `cancelled` tells.
        let _ = self.sender.try_send(line(&self.event(report)));
    }

    fn cancelled(&self) -> bool {
        self.sender.is_closed() || self.app.is_stopping()
    }
}

impl Reporter {
    fn event(&self, report: Report) -> Event<()> {
        match report {
            Report::Began { operation } => {
                tracing::info!(%operation, vm = self.vm, "began");
                Event::Began { operation: operation.to_string(), vm: self.vm.clone() }
            }
            Report::Stage { text } => Event::Stage { text },
            Report::Progress { done, total, unit } => Event::Progress { done, total, unit: word(unit).to_owned() },
            Report::Part { name, done, total, unit } => Event::Part { name, done, total, unit: word(unit).to_owned() },
            Report::Note { text } => Event::Note { text },
        }
    }
}

const fn word(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Items => "items",
    }
}

impl App {
    /// Long work of the engine, on a blocking thread, a bounded number at once.
    pub async fn work<T, E, F>(self: &Arc<Self>, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        E: Into<Fault> + Send + 'static,
        F: FnOnce(&App) -> Result<T, E> + Send + 'static,
    {
        let _seat = self.long_work.acquire().await.expect("nobody closes the semaphore");
        self.ask(|app| work(app).map_err(Into::into)).await
    }

    /// A short question that may touch the disk or a socket, on a blocking thread.
    pub async fn ask<T, F>(self: &Arc<Self>, question: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&App) -> Result<T, Fault> + Send + 'static,
    {
        let app = self.clone();
        match tokio::task::spawn_blocking(move || question(&app)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "a request's thread ended");
                Err(Fault::new(FaultKind::Internal, "bangerd failed while it worked on this")
                    .with_hint("its log has the details: `banger daemon status` names it"))
            }
        }
    }

    /// A question to the engine alone.
    pub async fn ask_engine<T, F>(self: &Arc<Self>, question: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&engine::Engine) -> engine::Result<T> + Send + 'static,
    {
        self.ask(move |app| question(&app.engine).map_err(fault)).await.map_err(Refusal)
    }
}
