//! Input that is wrong, and clients that mean harm: one sentence each, and the daemon goes on.

use crate::rig::{PATIENCE, Rig};
use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn check(rig: &Rig, method: &str, path: &str, body: &str, status: u16, expected: &str) {
    let (found, fault) = rig.json(method, path, body).await;
    let message = fault["message"].as_str().unwrap_or_default();
    assert_eq!(found.as_u16(), status, "{method} {path} {body}: {fault}");
    assert!(message.contains(expected), "{method} {path}: {message:?} does not say {expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_refused_with_a_sentence() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let create = |body: &'static str| ("POST", "/v1/vms", body);
    for ((method, path, body), status, expected) in [
        (create("{"), 400, "cannot read the request's body"),
        (create("[]"), 400, "cannot read the request's body"),
        (create(r#"{"name":5}"#), 400, "cannot read the request's body"),
        (create("\u{0}\u{1}"), 400, "cannot read the request's body"),
        (create(r#"{"name":"Web"}"#), 400, "`Web` is no sandbox name"),
        (create(r#"{"name":""}"#), 400, "it is empty"),
        (create(r#"{"name":"../x"}"#), 400, "is no sandbox name"),
        (create(r#"{"image":"../../etc"}"#), 400, "is no image reference"),
        (create(r#"{"image":"registry.test/a/b"}"#), 503, "the simulated host imports nothing"),
        (create(r#"{"vcpus":0}"#), 400, "`0` is no number of CPUs"),
        (create(r#"{"vcpus":33}"#), 400, "`33` is no number of CPUs"),
        (create(r#"{"vcpus":-1}"#), 400, "cannot read the request's body"),
        (create(r#"{"memory_bytes":1}"#), 400, "memory of 1B is too small"),
        (create(r#"{"memory_bytes":18446744073709551615}"#), 400, "too large"),
        (create(r#"{"disk_bytes":1}"#), 400, "disk size of 1B is too small"),
        (create(r#"{"vmm":"xen"}"#), 400, "`xen` is no VMM"),
        (create(r#"{"init":"runit"}"#), 400, "is no init mode"),
        (create(r#"{"restart":"maybe"}"#), 400, "is no restart policy"),
        (create(r#"{"outbound":"tor"}"#), 400, "`tor` is no outbound policy"),
        (create(r#"{"ports":["99999:1"]}"#), 400, "is no port to publish"),
        (create(r#"{"labels":{"":"x"}}"#), 400, "label"),
        (("POST", "/v1/vms/web/kill", r#"{"signal":"STOP"}"#), 400, "`STOP` is no signal to kill with"),
        (("PATCH", "/v1/vms/web", r#"{"disk_bytes":67108864}"#), 400, "cannot shrink the disk"),
        (("GET", "/v1/vms/nothing", ""), 404, "there is no VM `nothing`"),
        (("DELETE", "/v1/vms/nothing", ""), 404, "there is no VM `nothing`"),
        (("GET", "/v1/vms/%ff", ""), 400, "cannot read the request's path"),
        (("GET", "/v1/history?limit=many", ""), 400, "cannot read the request's query"),
        (("GET", "/v1/vms/web/logs?source=guest", ""), 400, "`guest` is no log"),
        (("POST", "/v1/images/..%2fx/pull", ""), 400, "is no image reference"),
        (("POST", "/v1/images/unknown/import", r#"{"path":"relative"}"#), 503, "imports nothing"),
        (("GET", "/v2/vms", ""), 404, "no such path"),
        (("PUT", "/v1/vms", ""), 400, "no such method"),
        (("GET", "/v1/vms/web/exec", ""), 400, "exec is a WebSocket"),
    ] {
        check(&rig, method, path, body, status, expected).await;
    }
    assert_eq!(rig.get("/v1/vms").await["vms"].as_array().unwrap().len(), 1, "nothing else was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused() {
    let rig = Rig::new().await;
    let labels: Vec<_> = (0..300).map(|n| format!("\"l{n}\":\"x\"")).collect();
    check(&rig, "POST", "/v1/vms", &format!("{{\"labels\":{{{}}}}}", labels.join(",")), 400, "300 labels are too many")
        .await;
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(300 * 1024));
    check(&rig, "POST", "/v1/vms", &long, 400, "length limit exceeded").await;
    check(&rig, "GET", &format!("/v1/vms/{}", "x".repeat(4000)), "", 404, "there is no VM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_end_their_own_connection_alone() {
    let rig = Rig::new().await;
    let many_headers = format!("GET /v1/vms HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    let long_header = format!("GET /v1/vms HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1024 * 1024));
    for bytes in ["\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\r\n\r\nnonsense\r\n\r\n", &many_headers, &long_header]
    {
        let mut stream = rig.raw().await;
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection must end");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    rig.get("/v1/daemon").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_connect_and_say_nothing_hold_nobody_up() {
    let rig = Rig::new().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(rig.raw().await);
    }
    let (status, _) = rig.ask("GET", "/v1/vms", "").await;
    assert_eq!(status, StatusCode::OK);
}
