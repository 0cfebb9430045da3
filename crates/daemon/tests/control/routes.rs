//! Every route answers what `wire::control` says.

use crate::rig::Rig;
use hyper::StatusCode;
use wire::control::*;

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("an answer is a message of the wire")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_what_it_is() {
    let rig = Rig::new().await;
    let status: DaemonStatus = read(rig.get("/v1/daemon").await);
    assert_eq!((status.host.as_str(), status.pid, status.vms), ("sim", std::process::id(), 0));
    assert!(status.memory_bytes > 0 && status.socket.ends_with("bangerd.sock"));
    let doctor: Doctor = read(rig.get("/v1/doctor").await);
    assert!(doctor.backends.iter().any(|row| row.chosen));
    assert!(doctor.defaults.iter().any(|row| row.name == "memory" && row.provenance == "host"));
    assert!(rig.get("/v1/openapi.json").await["paths"]["/v1/vms"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_lives_through_every_verb() {
    let rig = Rig::new().await;
    let events = rig.stream("POST", "/v1/vms", r#"{"name":"web","labels":{"a":"b"},"ports":["0:80"]}"#).await;
    assert_eq!(events[0]["event"], "began");
    assert_eq!(events[0]["vm"], "web");
    let made: Sandbox = read(events.last().unwrap()["value"].clone());
    assert_eq!((made.name.as_str(), made.state.as_str(), made.vmm.as_deref()), ("web", "running", Some("sim")));
    assert!(!made.timing.is_empty(), "every launch leaves its spans");
    for (verb, state) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("restart", "running"),
        ("stop", "stopped"),
        ("reset", "stopped"),
        ("start", "running"),
        ("kill", "stopped"),
    ] {
        let after: Sandbox = read(rig.work("POST", &format!("/v1/vms/web/{verb}"), "").await);
        assert_eq!(after.state, state, "after {verb}");
    }
    let short: Sandbox = read(rig.get(&format!("/v1/vms/{}", &made.id[..6])).await);
    assert_eq!(short.id, made.id);
    rig.work("DELETE", "/v1/vms/web?force=true", "").await;
    assert_eq!(rig.get("/v1/vms").await["vms"], serde_json::json!([]));
    let history: History = read(rig.get("/v1/history?limit=3").await);
    assert_eq!(history.operations.len(), 3);
    assert_eq!(history.operations[0].verb, "delete");
    let audit: Audit = read(rig.get("/v1/audit").await);
    assert!(audit.findings.is_empty(), "{audit:?}");
    let (status, fixed) = rig.json("POST", "/v1/audit/fix", "").await;
    assert_eq!((status, fixed["fixed"].clone()), (StatusCode::OK, true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_sandbox_tells_of_itself() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let health: SandboxHealth = read(rig.get("/v1/vms/web/health").await);
    assert!(health.healthy);
    let stats: Stats = read(rig.get("/v1/vms/web/stats").await);
    assert!(stats.disk_logical_bytes > 0);
    let _: PortsAnswer = read(rig.get("/v1/vms/web/ports").await);
    let (status, _) = rig.ask("GET", "/v1/vms/web/logs?tail=5", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(rig.get("/v1/vms/web").await["vmm_pid"].is_number());
    let (_, metrics) = rig.ask("GET", "/metrics", "").await;
    assert!(String::from_utf8(metrics).unwrap().contains("banger_vms{state=\"running\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_say_when_they_are_in_force() {
    let rig = Rig::new().await;
    rig.create("web").await;
    let (_, answer) =
        rig.json("PATCH", "/v1/vms/web", r#"{"memory_bytes":1073741824,"labels":{"x":"y"},"name":"www"}"#).await;
    let answer: SetAnswer = read(answer);
    assert_eq!(answer.vm.name, "www");
    assert!(answer.live.contains(&"labels".to_owned()) && answer.at_next_start.contains(&"memory".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_answers_the_plan_and_does_nothing() {
    let rig = Rig::new().await;
    let plan: PlanFacts = read(rig.work("POST", "/v1/vms", r#"{"name":"web","dry_run":true}"#).await);
    assert_eq!((plan.verb.as_str(), plan.vm_name.as_str()), ("create", "web"));
    assert!(plan.steps.iter().any(|step| step.starts_with("ensure vmm")));
    assert_eq!(rig.get("/v1/vms").await["vms"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_kernels_are_listed_pulled_and_guarded() {
    let rig = Rig::new().await;
    let _: ImageFacts = read(rig.work("POST", "/v1/images/debian-bookworm/pull", "").await);
    let _: KernelFacts = read(rig.work("POST", "/v1/kernels/debian-cloud/pull", "").await);
    rig.create("web").await;
    let images: ImageList = read(rig.get("/v1/images").await);
    assert_eq!(images.images[0].used_by, ["web"]);
    let _: KernelList = read(rig.get("/v1/kernels").await);
    for path in ["/v1/images/debian-bookworm", "/v1/kernels/debian-cloud"] {
        let (status, fault) = rig.json("DELETE", path, "").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(fault["message"].as_str().unwrap().contains("web uses it"), "{fault}");
    }
    rig.work("DELETE", "/v1/vms/web", "").await;
    for path in ["/v1/images/debian-bookworm", "/v1/kernels/debian-cloud"] {
        assert_eq!(rig.ask("DELETE", path, "").await.0, StatusCode::NO_CONTENT);
    }
    for (method, path, body) in
        [("POST", "/v1/images/mine/import", r#"{"path":"/x.tar"}"#), ("PUT", "/v1/kernels/mine", r#"{"vmlinux":"/x"}"#)]
    {
        assert_eq!(
            rig.ask(method, path, body).await.0,
            StatusCode::SERVICE_UNAVAILABLE,
            "a simulated host imports nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_found_where_none_was_given() {
    let rig = Rig::new().await;
    let made: Sandbox = read(rig.work("POST", "/v1/vms", "").await);
    assert!(made.name.contains('-') && made.state == "running");
}
