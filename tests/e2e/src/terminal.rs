//! A person at a terminal: a program on a real pseudo-terminal, typed to and read from with deadlines.

use nix::pty::{OpenptyResult, Winsize, openpty};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub struct Terminal {
    master: std::fs::File,
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

nix::ioctl_write_ptr_bad!(set_window, nix::libc::TIOCSWINSZ, Winsize);

impl Terminal {
    /// Starts the command with the terminal as its controlling one.
    pub fn start(command: Command, rows: u16, columns: u16) -> Terminal {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a pseudo-terminal can be opened");
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg("--wait").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let end = || std::process::Stdio::from(slave.try_clone().expect("a descriptor can be duplicated"));
        let child = session.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program starts");
        drop(slave);
        let master = std::fs::File::from(master);
        let mut reader = master.try_clone().expect("a descriptor can be duplicated");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { master, child, output, seen: String::new() }
    }

    pub fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    #[allow(unsafe_code)]
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one Winsize (tty_ioctl(4)); the pointer is to a live one, the descriptor is open.
        unsafe { set_window(self.master.as_raw_fd(), &size) }.expect("the window can be resized");
    }

    /// Waits until the output after the last match contains `wanted`.
    #[track_caller]
    pub fn expect(&mut self, wanted: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen.find(wanted) {
                let rest = self.seen.split_off(at + wanted.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{wanted:?} did not appear ({error}); the terminal shows:\n{}", self.seen),
            }
        }
    }

    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < end, "the program does not end; the terminal shows:\n{}", self.seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
