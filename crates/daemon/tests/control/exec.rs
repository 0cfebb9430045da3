//! `exec` through the control API, to the simulated guest: the protocol as a client of `wire::guest` speaks it.

use crate::rig::Rig;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use wire::guest::*;

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn upgrade(reference: &str) -> Request<Full<Bytes>> {
    Request::get(format!("/v1/vms/{reference}/exec"))
        .header("host", "bangerd")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .body(Full::default())
        .unwrap()
}

async fn exec(rig: &Rig, request: &ExecRequest) -> Socket {
    let response = rig.send_request(upgrade("web")).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["sec-websocket-accept"], derive_accept_key(KEY.as_bytes()));
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    socket.send(Message::Text(serde_json::to_string(request).unwrap().into())).await.unwrap();
    socket
}

fn command(words: &[&str]) -> ExecRequest {
    ExecRequest { argv: words.iter().map(|word| (*word).to_owned()).collect(), ..ExecRequest::default() }
}

/// Output, error output and status.
async fn finish(mut socket: Socket) -> (String, String, Option<ExecStatus>) {
    let (mut out, mut err, mut status) = (Vec::new(), Vec::new(), None);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(frame) = message else { continue };
        match frame[0] {
            CHANNEL_STDOUT => out.extend_from_slice(&frame[1..]),
            CHANNEL_STDERR => err.extend_from_slice(&frame[1..]),
            CHANNEL_STATUS => status = Some(serde_json::from_slice(&frame[1..]).unwrap()),
            other => panic!("channel {other}"),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_stay_apart_and_the_status_comes_back() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let socket = exec(&rig, &command(&["sh", "-c", "echo out; echo err >&2; exit 42"])).await;
    let (out, err, status) = finish(socket).await;
    assert_eq!((out.as_str(), err.as_str(), status), ("out\n", "err\n", Some(ExecStatus::Exited { code: 42 })));
}

/// What the answer to `exec` tells of a workspace.
async fn told(rig: &Rig, query: &str) -> Option<wire::control::WorkspaceStatus> {
    let mut request = upgrade("web");
    *request.uri_mut() = format!("/v1/vms/web/exec{query}").parse().unwrap();
    let response = rig.send_request(request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let header = response.headers().get(wire::control::WORKSPACE_HEADER)?;
    Some(serde_json::from_slice(header.as_bytes()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_a_command_tells_of_its_workspace() {
    let rig = Rig::new().await;
    let made = rig.create("web").await;
    let id = made["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(told(&rig, "?workspace=first&host=true").await, None, "it has none");
    let shipped = |guest_path: &str| {
        // A name that no header could hold as it is.
        let env = serde_json::json!({ "ODD": "a\u{7f}ä\n" });
        let facts = serde_json::json!({ "guest_path": guest_path, "host_path": "/gone/from/here", "head_commit": null, "env": env });
        serde_json::from_value(facts).unwrap()
    };
    for guest_path in ["/root/one", "/root/two"] {
        rig.app.engine.record_workspace(&id, shipped(guest_path)).unwrap();
    }
    let first = told(&rig, "?workspace=first").await.unwrap();
    assert_eq!((first.workspace.guest_path.as_str(), first.host.as_str()), ("/root/one", ""), "nobody looked");
    assert_eq!(first.workspace.env["ODD"], "a\u{7f}ä\n");
    let second = told(&rig, "?workspace=%2Froot%2Ftwo&host=true").await.unwrap();
    assert_eq!((second.workspace.guest_path.as_str(), second.host.as_str()), ("/root/two", "gone"));
    assert_eq!(told(&rig, "?workspace=%2Froot%2Fthree").await, None);
    assert_eq!(told(&rig, "").await, None, "who asks for none hears of none");
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_reaches_the_command_until_its_end() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let mut socket = exec(&rig, &ExecRequest { stdin: true, ..command(&["wc", "-l"]) }).await;
    socket.send(Message::Binary(b"\x00a\nb\n".to_vec().into())).await.unwrap();
    socket.send(Message::Binary(vec![CHANNEL_CLOSE, CHANNEL_STDIN].into())).await.unwrap();
    assert_eq!(finish(socket).await.0, "2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_command() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let mut socket = exec(&rig, &command(&["sleep", "1000"])).await;
    socket.send(Message::Binary(vec![CHANNEL_SIGNAL, 15].into())).await.unwrap();
    assert_eq!(finish(socket).await.2, Some(ExecStatus::Signalled { signal: 15 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_never_starts() {
    let rig = Rig::new().await;
    rig.create("web").await;
    match finish(exec(&rig, &command(&["gcc"])).await).await.2 {
        Some(ExecStatus::NotStarted { fault }) => assert_eq!(fault.kind, wire::FaultKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_machine() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let socket = exec(&rig, &command(&["sleep", "1000"])).await;
    rig.work("POST", "/v1/vms/web/kill", "").await;
    assert_eq!(finish(socket).await.2, None, "no status comes from a machine that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_off_runs_nothing() {
    let rig = Rig::new().await;
    rig.work("POST", "/v1/vms", r#"{"name":"web","no_start":true}"#).await;
    let response = rig.send_request(upgrade("web")).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let fault: wire::Fault = serde_json::from_slice(&body).unwrap();
    assert_eq!(fault.message, "cannot exec in web: it is not running");
    assert_eq!(fault.hint.as_deref(), Some("start it with `banger vm start web`"));
}
