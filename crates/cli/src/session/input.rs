//! Our stdin on its way to the guest, read by a thread of its own. The thread may outlive the session, blocked in a
//! read that nobody needs any more; it ends with the process.

use super::escape::{Escape, Step};
use super::socket::Outgoing;
use std::io::Read;
use tokio::sync::oneshot;
use wire::guest::EXEC_CHUNK_BYTES;

/// Resolves when the person typed the way out; fails when the thread ended otherwise.
pub type Left = oneshot::Receiver<()>;

pub fn pump(outgoing: Outgoing, is_terminal: bool) -> Left {
    let (leave, left) = oneshot::channel();
    std::thread::spawn(move || {
        if copy(&outgoing, is_terminal) == End::Left {
            // The session may have ended at the same moment.
            let _ = leave.send(());
        } else {
            outgoing.stdin_ended();
        }
    });
    left
}

/// Never resolves unless the person left.
pub async fn wait(left: Option<Left>) {
    if let Some(left) = left
        && left.await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[derive(PartialEq, Eq)]
enum End {
    OfInput,
    Left,
}

fn copy(outgoing: &Outgoing, is_terminal: bool) -> End {
    let mut stdin = std::io::stdin().lock();
    let mut chunk = vec![0; EXEC_CHUNK_BYTES];
    let mut escape = Escape::new();
    loop {
        let count = match stdin.read(&mut chunk) {
            Ok(0) => return End::OfInput,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // A terminal that went away answers with EIO.
            Err(_) => return End::OfInput,
        };
        let typed = &chunk[..count];
        let going_on = if is_terminal {
            match escape.step(typed) {
                Step::Leave => return End::Left,
                Step::Pass(bytes) => bytes.is_empty() || outgoing.stdin(&bytes),
            }
        } else {
            outgoing.stdin(typed)
        };
        if !going_on {
            return End::OfInput;
        }
    }
}
