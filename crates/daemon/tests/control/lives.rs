//! Long work, and what happens beside it.

use crate::rig::{PATIENCE, Rig, connect};
use bytes::Bytes;
use engine::sim::Boot;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use serde_json::Value;

async fn next_line(body: &mut Incoming) -> Value {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time").expect("not over").expect("whole");
    let data = frame.into_data().expect("data");
    let line = data.split(|&byte| byte == b'\n').next().expect("a line");
    serde_json::from_slice(line).expect("a line is JSON")
}

fn create(name: &str) -> Request<Full<Bytes>> {
    Request::post("/v1/vms").header("host", "x").body(Full::new(format!("{{\"name\":\"{name}\"}}").into())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_cancels_its_work() {
    let rig = Rig::new().await;
    rig.world.set_boot(Boot::Held);
    let mut sender = connect(rig.raw().await).await;
    let mut response = sender.send_request(create("web")).await.unwrap();
    assert_eq!(next_line(response.body_mut()).await["event"], "began");
    rig.until("starting", |vms| vms[0]["state"] == "starting").await;
    drop(response);
    drop(sender);
    rig.until("nothing left of it", |vms| vms.as_array().is_some_and(Vec::is_empty)).await;
    let history = rig.get("/v1/history").await;
    assert_eq!(history["operations"][0]["outcome"], "cancelled", "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_wait_for_boots_and_a_stop_does_not_either() {
    let rig = Rig::new().await;
    rig.world.set_boot(Boot::Held);
    let mut boots = Vec::new();
    for n in 0..12 {
        let mut sender = connect(rig.raw().await).await;
        boots.push((sender.send_request(create(&format!("web-{n}"))).await.unwrap(), sender));
    }
    rig.until("twelve starting", |vms| vms.as_array().is_some_and(|vms| vms.len() == 12)).await;
    let stopped = rig.work("POST", "/v1/vms/web-3/stop", "").await;
    assert_eq!(stopped["state"], "stopped");
    rig.world.set_boot(Boot::Ready);
    rig.until("all others running", |vms| {
        vms.as_array().unwrap().iter().filter(|vm| vm["state"] == "running").count() == 11
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_creates_of_one_name_make_one_sandbox() {
    let rig = Rig::new().await;
    let both = tokio::join!(
        rig.stream("POST", "/v1/vms", r#"{"name":"web"}"#),
        rig.stream("POST", "/v1/vms", r#"{"name":"web"}"#)
    );
    let mut ends = [both.0.last().unwrap().clone(), both.1.last().unwrap().clone()];
    ends.sort_by_key(|end| end["event"].to_string());
    assert_eq!((ends[0]["event"].as_str(), ends[1]["event"].as_str()), (Some("fault"), Some("result")));
    assert_eq!(ends[0]["fault"]["kind"], "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_every_change_of_state() {
    let rig = Rig::new().await;
    let mut response = rig.send("GET", "/v1/events", "").await;
    rig.create("web").await;
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("running") {
        let change = next_line(response.body_mut()).await;
        assert_eq!(change["vm_name"], "web");
        seen.push(change["to"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["starting", "running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_speaks_is_a_fault_with_its_kind() {
    let rig = Rig::new().await;
    rig.world.set_boot(Boot::Silent);
    let events = rig.stream("POST", "/v1/vms", r#"{"name":"web"}"#).await;
    let last = events.last().unwrap();
    assert_eq!(last["event"], "fault", "{last}");
    assert_eq!(last["fault"]["kind"], "timed_out");
    assert!(last["fault"]["operation"].is_string(), "an error carries its operation's id: {last}");
    assert_eq!(rig.get("/v1/vms/web").await["state"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_outlive_their_daemon() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let (world, folder) = rig.stop().await;
    let rig = Rig::over(world, folder).await;
    let web = rig.get("/v1/vms/web").await;
    assert_eq!(web["state"], "running");
    assert!(rig.world.doubled().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_through_the_api_ends_the_daemon_and_its_streams() {
    let rig = Rig::new().await;
    let events = rig.send("GET", "/v1/events", "").await;
    let (status, _) = rig.ask("POST", "/v1/daemon/stop", "").await;
    assert_eq!(status, 202);
    tokio::time::timeout(PATIENCE, events.into_body().collect()).await.expect("the stream ends").ok();
    assert!(rig.has_ended().await);
}
