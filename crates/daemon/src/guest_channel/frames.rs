//! The frames of `/stream` (`wire::guest`) as bytes: a direction that was ended is an end, a transport that broke off an
//! error, so that no reader takes half an answer for a whole one.
//!
//! Nothing is copied or held back: a frame's length is written first, then its payload straight from the caller's buffer,
//! in as many writes as the transport needs.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use wire::guest::STREAM_FRAME_LIMIT_BYTES;

const HEAD_BYTES: usize = 4;

pub struct Framed<S> {
    transport: S,
    reading: Reading,
    /// The length that is still to be written, and how much of the frame behind it.
    head: ([u8; HEAD_BYTES], usize),
    owed: usize,
    ended: bool,
}

enum Reading {
    Head([u8; HEAD_BYTES], usize),
    Payload(usize),
    Ended,
}

impl<S> Framed<S> {
    pub fn new(transport: S) -> Self {
        let written = ([0; HEAD_BYTES], HEAD_BYTES);
        let reading = Reading::Head([0; HEAD_BYTES], 0);
        Framed { transport, reading, head: written, owed: 0, ended: false }
    }

    fn announce(&mut self, count: usize) {
        self.head = ((count as u32).to_be_bytes(), 0);
        self.owed = count;
    }
}

fn broke_off() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the guest broke off")
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.reading {
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Head(head, got) if *got < HEAD_BYTES => {
                    let mut rest = ReadBuf::new(&mut head[*got..]);
                    ready!(Pin::new(&mut this.transport).poll_read(context, &mut rest))?;
                    match rest.filled().len() {
                        0 => return Poll::Ready(Err(broke_off())),
                        count => *got += count,
                    }
                }
                Reading::Head(head, _) => {
                    this.reading = match u32::from_be_bytes(*head) as usize {
                        0 => Reading::Ended,
                        count if count <= STREAM_FRAME_LIMIT_BYTES => Reading::Payload(count),
                        _ => return Poll::Ready(Err(ErrorKind::InvalidData.into())),
                    }
                }
                Reading::Payload(0) => this.reading = Reading::Head([0; HEAD_BYTES], 0),
                Reading::Payload(left) => {
                    if buffer.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let wanted = buffer.remaining().min(*left);
                    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
                    ready!(Pin::new(&mut this.transport).poll_read(context, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(broke_off()));
                    }
                    buffer.advance(count);
                    *left -= count;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Framed<S> {
    /// Writes what is left of the length, and of `payload` what goes along; answers how much of it did.
    fn poll_frame(&mut self, context: &mut Context, payload: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let (head, written) = &mut self.head;
            let left = HEAD_BYTES - *written;
            if left == 0 && payload.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let parts = [IoSlice::new(&head[*written..]), IoSlice::new(payload)];
            // A transport that knows no vectors would take the empty part first.
            let parts = if left == 0 { &parts[1..] } else { &parts[..] };
            let count = ready!(Pin::new(&mut self.transport).poll_write_vectored(context, parts))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            *written += count.min(left);
            if count > left {
                return Poll::Ready(Ok(count - left));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.owed == 0 {
            let count = bytes.len().min(STREAM_FRAME_LIMIT_BYTES);
            self.announce(count);
        }
        let part = bytes.len().min(self.owed);
        let count = ready!(self.poll_frame(context, &bytes[..part]))?;
        self.owed -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(context)
    }

    /// Ends this direction and no more; the transport goes when both are done and the value is dropped.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        if self.owed > 0 {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if !self.ended {
            self.ended = true;
            self.announce(0);
        }
        ready!(self.poll_frame(context, &[]))?;
        Pin::new(&mut self.transport).poll_flush(context)
    }
}

/// Reads one datagram of `/stream?udp=` into `datagram`; answers how long it is.
pub async fn read_datagram(stream: &mut (impl AsyncRead + Unpin), datagram: &mut [u8]) -> io::Result<usize> {
    let count = stream.read_u32().await? as usize;
    let payload = datagram.get_mut(..count).ok_or(ErrorKind::InvalidData)?;
    stream.read_exact(payload).await?;
    Ok(count)
}

pub async fn write_datagram(stream: &mut (impl AsyncWrite + Unpin), datagram: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + datagram.len());
    frame.extend_from_slice(&(datagram.len() as u32).to_be_bytes());
    frame.extend_from_slice(datagram);
    stream.write_all(&frame).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends of a transport that takes 7 bytes at a time.
    fn pair() -> (Framed<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(7);
        (Framed::new(near), far)
    }

    #[tokio::test]
    async fn what_goes_in_at_one_end_comes_out_at_the_other_and_each_direction_ends_by_itself() {
        let (near, far) = tokio::io::duplex(7);
        let (mut near, mut far) = (Framed::new(near), Framed::new(far));
        let sent: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let expected = sent.clone();
        let there = async {
            near.write_all(&sent).await.expect("written");
            near.shutdown().await.expect("ended");
            assert_eq!(near.write(b"x").await.map_err(|error| error.kind()), Err(ErrorKind::BrokenPipe));
            let mut back = Vec::new();
            near.read_to_end(&mut back).await.expect("read");
            back
        };
        let here = async {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.expect("read");
            far.write_all(b"back").await.expect("written");
            far.shutdown().await.expect("ended");
            heard
        };
        let (back, heard) = tokio::join!(there, here);
        assert!(heard == expected && back == b"back");
    }

    #[tokio::test]
    async fn a_transport_that_ends_without_a_word_is_an_error() {
        for said in [b"".as_slice(), b"\0\0", b"\0\0\0\x05abc"] {
            let (mut near, mut far) = pair();
            far.write_all(said).await.expect("written");
            drop(far);
            let error = near.read_to_end(&mut Vec::new()).await.expect_err("it broke off");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_frame_without_bounds_is_refused() {
        let (mut near, mut far) = pair();
        far.write_all(b"\xff\xff\xff\xff").await.expect("written");
        assert_eq!(near.read_u8().await.map_err(|error| error.kind()), Err(ErrorKind::InvalidData));
    }
}
