//! How much input of a command may be on its way at once. The host says it in WebSocket pings, which every agent answers in
//! their order: what came before a ping has been read when its pong comes back.
//!
//! Why: a guest's socket holds 256 KiB (VIRTIO_VSOCK_DEFAULT_BUF_SIZE). While it is full and the host has more to say,
//! vhost-device-vsock passes on nothing of what the guest says on that connection, and a command like `cat`, whose output must
//! move before it reads on, stands still for ever.

/// 128 KiB; with one frame more than it, still less than the guest's socket holds.
const WINDOW_BYTES: u64 = 128 * 1024;
/// 32 KiB between two pings: a person at a keyboard causes none.
const ASK_BYTES: u64 = 32 * 1024;

// A frame is a chunk and its channel.
const _: () = assert!(WINDOW_BYTES + (super::EXEC_CHUNK_BYTES as u64) < 256 * 1024);

/// The sender's count.
#[derive(Debug, Default)]
pub struct InputWindow {
    sent: u64,
    asked: u64,
    read: u64,
}

impl InputWindow {
    /// Whether one more frame may go.
    pub fn has_room(&self) -> bool {
        self.sent - self.read < WINDOW_BYTES
    }

    /// A frame has gone. Answers the payload of a ping that has to follow it, when it is time for one.
    pub fn note_sent(&mut self, bytes: usize) -> Option<[u8; 8]> {
        self.sent += bytes as u64;
        let due = self.sent - self.asked >= ASK_BYTES;
        due.then(|| {
            self.asked = self.sent;
            self.sent.to_be_bytes()
        })
    }

    /// The guest has read so much; what [`read_bytes`] finds in a pong.
    pub fn note_read(&mut self, bytes: u64) {
        self.read = self.read.max(bytes.min(self.sent));
    }
}

/// What a pong says; 0 for one that answers no ping of ours.
pub fn read_bytes(pong: &[u8]) -> u64 {
    pong.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_does_not_read_gets_a_window_and_no_more() {
        let mut window = InputWindow::default();
        assert_eq!(window.note_sent(10), None, "a keyboard");
        let mut pings = Vec::new();
        while window.has_room() {
            pings.extend(window.note_sent(20_000));
        }
        assert!(window.sent < WINDOW_BYTES + 20_000 && pings.len() >= 3, "{window:?}");
        window.note_read(read_bytes(&pings[0]));
        assert!(window.has_room(), "{window:?}");
    }

    #[test]
    fn a_guest_that_claims_more_than_it_was_sent_gains_nothing() {
        let mut window = InputWindow::default();
        window.note_sent(1000);
        window.note_read(u64::MAX);
        window.note_read(read_bytes(b"odd"));
        assert_eq!(window.read, 1000);
    }
}
