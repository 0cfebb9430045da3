//! Long work on a terminal: a line that moves, a bar for each part; and none of it where nobody looks.

mod support;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use support::fake::{Fake, SOON, answer_stream};

const EVENTS: &[&str] = &[
    r#"{"event":"stage","text":"pulling r.test/a/three:1"}"#,
    r#"{"event":"part","name":"layer aaaaaaaaaaaa","done":1048576,"total":4194304,"unit":"bytes"}"#,
    r#"{"event":"part","name":"layer bbbbbbbbbbbb","done":2097152,"total":4194304,"unit":"bytes"}"#,
    r#"{"event":"part","name":"layer cccccccccccc","done":3145728,"total":4194304,"unit":"bytes"}"#,
];
const END: &str = r#"{"event":"result","value":{"name":"three-1","present":true,"has_systemd":false,"size_bytes":0,"allocated_bytes":0,"created_at_ns":0,"source":"r.test/a/three:1"}}"#;

/// A pull of three layers that are under way until the test says that they are done.
fn pulling() -> (Fake, Sender<()>) {
    let (done, finished) = channel();
    let finished = Arc::new(Mutex::new(finished));
    let fake = Fake::new(move |request, mut stream| {
        assert!(request.starts_with("POST /v1/images/") && request.ends_with("/pull"), "unexpected: {request}");
        answer_stream(&mut stream, EVENTS);
        finished.lock().expect("no other request waits").recv_timeout(SOON).expect("the test goes on");
        stream.write_all(format!("{END}\n").as_bytes()).expect("the client listens");
    });
    (fake, done)
}

/// A program whose stderr is a terminal of 24 lines and 100 columns.
struct Screen {
    child: Child,
    output: Receiver<Vec<u8>>,
    shown: String,
}

impl Screen {
    fn start(mut command: Command) -> Screen {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal can be opened");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it can be unlocked");
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("it has a size");
        let end = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("it has another end");
        let child = command.env("TERM", "xterm").stderr(Stdio::from(end)).spawn().expect("it can be run");
        // The command keeps the other end open for as long as it lives.
        drop(command);
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let (mut master, mut piece) = (File::from(master), [0; 4096]);
            while let Ok(count @ 1..) = master.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Screen { child, output, shown: String::new() }
    }

    /// Waits until all of these were seen.
    fn expect(&mut self, wanted: &[&str]) {
        let end = Instant::now() + SOON;
        while !wanted.iter().all(|words| self.shown.contains(words)) {
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{wanted:?} did not all appear ({error}): {:?}", self.shown),
            }
        }
    }

    fn finish(mut self) -> String {
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {:?}", self.shown);
        while let Ok(bytes) = self.output.recv_timeout(SOON) {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        self.shown
    }
}

#[test]
fn each_layer_has_a_bar_of_its_own_on_a_terminal() {
    let (fake, done) = pulling();
    let mut screen = Screen::start(fake.banger(&["image", "pull", "r.test/a/three:1"]));
    screen.expect(&[
        "pulling r.test/a/three:1",
        "layer aaaaaaaaaaaa",
        "1.00 MiB/4.00 MiB",
        "layer bbbbbbbbbbbb",
        "2.00 MiB/4.00 MiB",
        "layer cccccccccccc",
        "3.00 MiB/4.00 MiB",
        // Which is what a bar is made of.
        "█",
    ]);
    done.send(()).expect("the daemon waits for it");
    screen.finish();
}

#[test]
fn nobody_who_looks_elsewhere_gets_bars() {
    for how in [&["image", "pull", "r.test/a/three:1"][..], &["image", "pull", "--no-progress", "r.test/a/three:1"]] {
        let (fake, done) = pulling();
        done.send(()).expect("the daemon will wait for it");
        let ran = fake.banger(how).output().expect("it can be run");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && !said.contains("layer") && !said.contains('\x1b'), "{how:?}: {said:?}");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "three-1\n");
    }
    let (fake, done) = pulling();
    done.send(()).expect("the daemon will wait for it");
    let screen = Screen::start(fake.banger(&["image", "pull", "--no-progress", "r.test/a/three:1"]));
    assert_eq!(screen.finish(), "", "whoever wants none gets none on a terminal, too");
}
