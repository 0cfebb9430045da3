//! The image's own command under the real supervisor: started, restarted, replaced, ended by its own signal, and all the
//! while known to a server that may come and go.

use crate::client::{Agent, DEADLINE};
use std::time::{Duration, Instant};
use wire::guest::{ExecRequest, ExecStatus, Service, ServiceFacts, ServicePhase};

fn service(script: &str, restart: &str) -> Service {
    Service {
        entrypoint: ["sh", "-c"].map(str::to_owned).to_vec(),
        command: vec![script.to_owned()],
        env: [("WORD".to_owned(), "kept".to_owned())].into(),
        stop_signal: 3,
        starts: true,
        restart: restart.to_owned(),
        ..Service::default()
    }
}

async fn bring(agent: &Agent, service: &Service) {
    let (status, body) = agent.call("POST", "/service", serde_json::to_vec(service).expect("a message")).await;
    assert_eq!(status, 204, "{body:?}");
}

async fn facts(agent: &Agent) -> ServiceFacts {
    let (status, body) = agent.call("GET", "/service", "").await;
    assert_eq!(status, 200, "{body:?}");
    serde_json::from_slice(&body).expect("facts")
}

async fn await_facts(agent: &Agent, wanted: impl Fn(&ServiceFacts) -> bool) -> ServiceFacts {
    let end = Instant::now() + DEADLINE;
    loop {
        let facts = facts(agent).await;
        if wanted(&facts) {
            return facts;
        }
        assert!(Instant::now() < end, "{facts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn log(agent: &Agent, query: &str) -> String {
    String::from_utf8_lossy(&agent.call("GET", &format!("/service/log?{query}"), "").await.1).into_owned()
}

/// A supervisor outlives its server: the last deed of a test is to want nothing.
async fn put_away(agent: &Agent) {
    bring(agent, &Service::default()).await;
}

#[tokio::test]
async fn a_command_that_ends_well_has_ended_and_its_log_is_whole() {
    let agent = Agent::start().await;
    let (status, _) = agent.call("GET", "/service", "").await;
    assert_eq!(status, 404, "nothing was brought yet");
    let wanted = service("echo out $WORD; echo err >&2; exit 0", "on-failure");
    bring(&agent, &wanted).await;
    // Following ends by itself, with the command.
    let followed = log(&agent, "follow=true").await;
    let mut lines: Vec<&str> = followed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out kept"]);
    let ended = await_facts(&agent, |facts| facts.phase == ServicePhase::Ended).await;
    assert_eq!((ended.ended, ended.restarts, ended.pid), (Some(ExecStatus::Exited { code: 0 }), 0, None));
    // Said again, as after a restart of the host's daemon, it stays ended.
    bring(&agent, &wanted).await;
    assert_eq!(log(&agent, "").await.lines().count(), 2);
    put_away(&agent).await;
}

#[tokio::test]
async fn a_command_that_fails_comes_back_and_one_that_is_not_there_does_not() {
    let agent = Agent::start().await;
    bring(&agent, &service("echo try; exit 3", "on-failure")).await;
    let again = await_facts(&agent, |facts| facts.restarts >= 2).await;
    assert_eq!(again.ended, Some(ExecStatus::Exited { code: 3 }));
    let missing = Service { entrypoint: vec!["/nonexistent".to_owned()], ..service("", "always") };
    bring(&agent, &missing).await;
    let ended = await_facts(&agent, |facts| facts.phase == ServicePhase::Ended).await;
    assert!(matches!(ended.ended, Some(ExecStatus::NotStarted { .. })), "{ended:?}");
    assert_eq!(ended.restarts, 0);
    put_away(&agent).await;
}

#[tokio::test]
async fn a_command_is_replaced_after_its_own_stop_signal() {
    let agent = Agent::start().await;
    let script = "trap 'echo told; exit 0' QUIT; trap 'echo wrong' TERM; echo up; while :; do sleep 0.05; done";
    let wanted = service(script, "always");
    bring(&agent, &wanted).await;
    let running = await_facts(&agent, |facts| facts.phase == ServicePhase::Running).await;
    let end = Instant::now() + DEADLINE;
    while !log(&agent, "tail=1").await.contains("up") && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The same word changes nothing.
    bring(&agent, &wanted).await;
    assert_eq!(facts(&agent).await.pid, running.pid);
    bring(&agent, &service("echo other", "no")).await;
    await_facts(&agent, |facts| facts.phase == ServicePhase::Ended).await;
    assert_eq!(log(&agent, "").await, "up\ntold\nother\n");
    put_away(&agent).await;
}

#[tokio::test]
async fn commands_get_the_images_environment_and_as_the_image_its_command() {
    let agent = Agent::start().await;
    bring(&agent, &Service { starts: false, ..service("echo $WORD from $PWD", "no") }).await;
    let plain = agent.shell("echo $WORD").await;
    assert_eq!(plain.stdout, "kept\n");
    let request = ExecRequest { as_image: true, cwd: Some("/".to_owned()), ..ExecRequest::default() };
    let own = agent.exec(&request).await.finish().await;
    assert_eq!(own.stdout, "kept from /\n");
    let replaced = ExecRequest { argv: vec!["echo other".to_owned()], ..request };
    assert_eq!(agent.exec(&replaced).await.finish().await.stdout, "other\n");
    assert_eq!(facts(&agent).await.phase, ServicePhase::Waiting);
}
