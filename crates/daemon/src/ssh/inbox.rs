//! What a client sends on one channel, on its way to the task that serves the channel; and the dial that slows a client
//! whose channel is not read.
//!
//! russh tops up a channel's window when data *arrives*, not when it is used, and waits for room in its own queues, during
//! which nothing else moves: a guest that does not read would stop the whole connection, and a `gzip < in > out` would
//! wait for itself. So its queues are not used. Data goes from the callback into an [`Inbox`] at once, and the window is
//! held back through `Handler::adjust_window`, the only dial there is: the size to which russh fills windows from now on.
//!
//! | what is queued here | russh fills windows up to | what the client may send |
//! |---|---|---|
//! | less than [`HIGH_BYTES`] | [`WINDOW_BYTES`] | as much as it likes |
//! | more | [`TRICKLE_BYTES`] | its window, then 2 bytes at a time: each is our chance to open up again |
//!
//! The dial is one for the whole connection. A channel that is read freely turns it up for itself, from which one that
//! is stuck profits too; when that one holds [`LIMIT_BYTES`], all wait for it. So a channel never holds more than
//! [`LIMIT_BYTES`] plus one window. The proof: `a_channel_that_is_not_read_holds_little` in `tests/ssh_server.rs`.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use wire::guest::WindowSize;

/// 2 MiB: enough for any rate over a local socket.
pub const WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// 2 bytes: russh sends a top-up when less than half is left, so with 2 only to a window that is empty, with 1 never.
pub const TRICKLE_BYTES: u32 = 2;
/// 1 MiB queued: from here on the client is held back.
pub const HIGH_BYTES: usize = 1024 * 1024;
/// 16 MiB queued: from here on a stuck channel may hold back the others.
pub const LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// 2 ms: how long a trickling packet waits for room, so that a stuck channel costs 500 small packets a second at most.
const TRICKLE_WAIT: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub enum Inbound {
    Data(Bytes),
    Eof,
    Resize(WindowSize),
    Signal(u8),
}

/// The end in russh's callbacks. Dropped when the channel closes, which tells the task.
pub struct Inbox {
    sender: mpsc::UnboundedSender<Inbound>,
    queue: Arc<Queue>,
}

/// The end in the channel's task.
pub struct Outlet {
    receiver: mpsc::UnboundedReceiver<Inbound>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    taken: Notify,
}

pub fn pair() -> (Inbox, Outlet) {
    // Unbounded by type, bounded by the window.
    let (sender, receiver) = mpsc::unbounded_channel();
    let queue = Arc::new(Queue::default());
    (Inbox { sender, queue: queue.clone() }, Outlet { receiver, queue })
}

impl Inbox {
    pub fn put(&self, inbound: Inbound) {
        if let Inbound::Data(data) = &inbound {
            self.queue.bytes.fetch_add(data.len(), Ordering::AcqRel);
        }
        // A task that has ended reads no more; its client will hear so by the channel's close.
        if self.sender.send(inbound).is_err() {
            self.queue.bytes.store(0, Ordering::Release);
        }
    }

    pub fn queued_bytes(&self) -> usize {
        if self.sender.is_closed() { 0 } else { self.queue.bytes.load(Ordering::Acquire) }
    }

    /// The task has ended.
    pub fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits a moment for room, when there is none.
    pub async fn breathe(&self) {
        if self.queued_bytes() >= HIGH_BYTES {
            let _ = tokio::time::timeout(TRICKLE_WAIT, self.queue.taken.notified()).await;
        }
    }
}

impl Outlet {
    /// Absent once the client has closed the channel or gone.
    pub async fn next(&mut self) -> Option<Inbound> {
        let inbound = self.receiver.recv().await?;
        if let Inbound::Data(data) = &inbound {
            let before = self.queue.bytes.fetch_sub(data.len(), Ordering::AcqRel);
            if before >= HIGH_BYTES && before - data.len() < HIGH_BYTES {
                self.queue.taken.notify_one();
            }
        }
        Some(inbound)
    }
}

/// Where the dial goes when russh has just topped up a channel that holds `own` bytes, the fullest of all `most`.
pub fn dial(own: usize, most: usize) -> u32 {
    match own < HIGH_BYTES && most < LIMIT_BYTES {
        true => WINDOW_BYTES,
        false => TRICKLE_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_slows_itself_and_only_a_stuck_one_the_others() {
        assert_eq!(dial(0, 0), WINDOW_BYTES);
        assert_eq!(dial(HIGH_BYTES, HIGH_BYTES), TRICKLE_BYTES);
        assert_eq!(dial(0, HIGH_BYTES), WINDOW_BYTES);
        assert_eq!(dial(0, LIMIT_BYTES), TRICKLE_BYTES);
    }

    #[tokio::test]
    async fn the_queue_counts_what_was_not_taken() {
        let (inbox, mut outlet) = pair();
        inbox.put(Inbound::Data(Bytes::from(vec![0; 10])));
        inbox.put(Inbound::Eof);
        assert_eq!(inbox.queued_bytes(), 10);
        assert!(matches!(outlet.next().await, Some(Inbound::Data(_))));
        assert_eq!(inbox.queued_bytes(), 0);
        assert!(matches!(outlet.next().await, Some(Inbound::Eof)));
        drop(outlet);
        inbox.put(Inbound::Data(Bytes::from(vec![0; 10])));
        assert_eq!(inbox.queued_bytes(), 0, "nobody will ever take it");
        drop(inbox);
    }
}
