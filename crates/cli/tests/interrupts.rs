//! Ctrl-C in every phase of `vm run`: what is cancelled, what is cleared away, and what is said about the rest.

mod support;

use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use support::fake::{Fake, answer_json, answer_stream, signal, wait_for_goodbye};

const BEGAN: &str = r#"{"event":"began","operation":"00000000000000aa","vm":"web"}"#;
const STAGE: &str = r#"{"event":"stage","text":"starting web"}"#;
const HISTORY: &str = r#"{"operations":[
    {"id":"00000000000000bb","verb":"create","vm_id":"2222222222222222","vm_name":"other","began_at_ns":1,"outcome":"done","steps":[]},
    {"id":"00000000000000aa","verb":"create","vm_id":"1111111111111111","vm_name":"web","began_at_ns":2,"outcome":"cancelled","steps":[]}]}"#;

/// Creation never comes to its end; `delete` says what a deletion does.
fn slow_creation(delete: fn(UnixStream)) -> Fake {
    Fake::new(move |request, mut stream| match request {
        "POST /v1/vms" => {
            answer_stream(&mut stream, &[BEGAN, STAGE]);
            wait_for_goodbye(stream);
        }
        "DELETE /v1/vms/1111111111111111?force=true" => delete(stream),
        request if request.starts_with("GET /v1/history") => answer_json(stream, HISTORY),
        other => panic!("unexpected: {other}"),
    })
}

fn gone(mut stream: UnixStream) {
    let gone = r#"{"kind":"not_found","message":"there is no VM"}"#;
    let head = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{gone}", gone.len());
    stream.write_all(head.as_bytes()).expect("the client listens");
}

fn hangs(mut stream: UnixStream) {
    answer_stream(&mut stream, &[r#"{"event":"began","operation":"00000000000000cc"}"#]);
    wait_for_goodbye(stream);
}

/// A `banger` whose first stage is on the screen: its events have been read.
struct Started {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

fn start(mut command: Command) -> Started {
    let mut child = command.stdout(Stdio::null()).spawn().expect("it can be run");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("it says something");
    assert_eq!(line, "starting web\n");
    Started { child, stderr }
}

impl Started {
    fn interrupt(&self) {
        signal(&self.child, Signal::INT);
    }

    /// Presses Ctrl-C until it has ended; two within 100 ms would count as one.
    fn insist(&mut self) {
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(200));
            if self.child.try_wait().expect("it can be asked").is_some() {
                return;
            }
            self.interrupt();
        }
        panic!("it does not end");
    }

    /// Its last words and its exit code.
    fn end(mut self) -> (String, Option<i32>) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("it says something");
        (said, self.child.wait().expect("it ends").code())
    }
}

#[test]
fn ctrl_c_during_creation_leaves_nothing_of_a_passing_sandbox() {
    let fake = slow_creation(gone);
    let banger = start(fake.banger(&["vm", "run", "--rm", "--name", "web", "--", "true"]));
    banger.interrupt();
    fake.wait_for("DELETE /v1/vms/1111111111111111");
    assert_eq!(banger.end(), ("error: cancelled; nothing is left of the sandbox\n".into(), Some(130)));
}

#[test]
fn ctrl_c_during_creation_of_a_lasting_sandbox_deletes_nothing() {
    let fake = slow_creation(gone);
    let banger = start(fake.banger(&["vm", "run", "--name", "web", "--", "true"]));
    fake.wait_for("POST /v1/vms");
    banger.interrupt();
    assert_eq!(banger.end(), ("error: cancelled; bangerd undoes what was begun\n".into(), Some(130)));
    assert!(fake.requests.try_recv().is_err(), "nothing else was asked");
}

#[test]
fn ctrl_c_during_deletion_leaves_it_and_says_what_remains() {
    let fake = slow_creation(hangs);
    let mut banger = start(fake.banger(&["vm", "run", "--rm", "--name", "web", "--", "true"]));
    banger.interrupt();
    fake.wait_for("DELETE");
    banger.insist();
    let expected = "error: left while `web` was being deleted; it may remain\n  hint: `banger vm delete --force web` removes what is left of it\n";
    assert_eq!(banger.end(), (expected.into(), Some(130)));
}

#[test]
fn a_stage_that_lasts_is_shown_and_a_broken_stream_is_an_error() {
    let fake = Fake::new(|_, mut stream| {
        answer_stream(&mut stream, &[BEGAN, STAGE]);
        std::thread::sleep(Duration::from_millis(1500));
    });
    let output = fake.banger(&["vm", "create", "--name", "web"]).output().expect("it can be run");
    assert_eq!(output.status.code(), Some(125));
    let expected = "starting web\nerror: bangerd ended the connection before the work was done\n  hint: `banger daemon status` names its log file\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
}

#[test]
fn an_answer_of_another_daemon_is_quoted() {
    let fake = Fake::new(|_, mut stream| {
        let head = "HTTP/1.1 418 I'm a teapot\r\ncontent-length: 15\r\n\r\nshort and stout";
        stream.write_all(head.as_bytes()).expect("the client listens");
    });
    let output = fake.banger(&["ps"]).output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("418 I'm a teapot") && said.contains("caused by: short and stout"), "{said}");
}
