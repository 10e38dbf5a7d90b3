//! Counts bytes under the WebSocket protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A transport that counts the bytes which pass through it.
///
/// Put it around the TCP or TLS stream *before* the WebSocket handshake, and give its
/// [`meter`](Metered::meter) to [`TimeoutSocket::with_meter`](crate::TimeoutSocket::with_meter). The
/// socket then sees the bytes of a message that is not whole yet, and those that the transport has
/// taken of a large write.
///
/// TCP takes more only once a good part of its send buffer is free, on Linux a third: of 4 MiB, a peer that
/// reads a megabyte a second needs longer than a second for that. Where large messages go to slow peers, let
/// `message_timeout` be longer or the buffer smaller.
///
/// Control frames are no part of a message: their size is taken off as if they were masked, so on the side
/// of a client each that comes with a message takes four bytes too many.
#[derive(Debug)]
pub struct Metered<IO> {
    io: IO,
    meter: Meter,
}

/// The byte counts of a [`Metered`] transport.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
}

impl<IO> Metered<IO> {
    /// Counts what passes through `io` from now on.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            meter: Meter::default(),
        }
    }

    /// The counts, which go on with the transport.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// The transport underneath.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The transport underneath. Bytes that are read or written through this are not counted.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// The transport underneath, no longer counted.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl Meter {
    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    #[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
    fn add_read(&self, bytes: usize) {
        self.counts.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    #[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
    fn add_written(&self, bytes: usize) {
        self.counts
            .written
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The meter under the socket and what of its counts has been told.
#[derive(Debug)]
pub(crate) struct Metering {
    meter: Meter,
    /// The count of bytes read at which the message that is not whole began.
    began: u64,
    /// The total that the policy was last told.
    partial: u64,
    /// The count of bytes written that the policy was last told.
    written: u64,
}

impl Metering {
    /// Counts from now on.
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            began: meter.read(),
            partial: 0,
            written: meter.written(),
            meter,
        }
    }

    /// A whole data message was handed over: what comes next begins a new one. The transport is read
    /// ahead of the messages, so the first bytes of the next may be missed, which errs on the lenient
    /// side.
    pub(crate) fn whole_message(&mut self) {
        self.began = self.meter.read();
        self.partial = 0;
    }

    /// A control frame was handed over: its wire size is no part of a message. Whether it had a masking key
    /// is not known here: the frames of a client have one, those of a server have none. It is taken for
    /// granted, so a client counts four bytes of a message too few for each control frame that comes with
    /// it. Without, a server would take the keys of pings for a message that has begun, and never goes on.
    pub(crate) fn control_frame(&mut self, payload: usize) {
        const HEADER_AND_MASK: u64 = 6;
        let wire = HEADER_AND_MASK.saturating_add(payload as u64);
        self.began = self.began.saturating_add(wire).min(self.meter.read());
    }

    /// Whether the bytes of what is not whole yet have changed.
    #[inline]
    pub(crate) fn has_moved(&self) -> bool {
        self.total() != self.partial
    }

    /// Those bytes, if they have changed.
    pub(crate) fn partial_total(&mut self) -> Option<u64> {
        self.has_moved().then(|| {
            self.partial = self.total();
            self.partial
        })
    }

    fn total(&self) -> u64 {
        self.meter.read().saturating_sub(self.began)
    }

    /// Bytes read in all.
    pub(crate) fn read(&self) -> u64 {
        self.meter.read()
    }

    /// The bytes written since the last call.
    pub(crate) fn progress(&mut self) -> u64 {
        let written = self.meter.written();
        written.saturating_sub(std::mem::replace(&mut self.written, written))
    }
}

#[cfg(feature = "tokio")]
mod tokio_io {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Metered;

    impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            self.meter
                .add_read(buf.filled().len().saturating_sub(before));
            Poll::Ready(Ok(()))
        }
    }

    impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
            self.meter.add_written(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
            self.meter.add_written(taken);
            Poll::Ready(Ok(taken))
        }

        fn is_write_vectored(&self) -> bool {
            self.io.is_write_vectored()
        }
    }
}

#[cfg(any(feature = "smol", feature = "async-std"))]
mod futures_io_traits {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use futures_io::{AsyncRead, AsyncWrite};

    use super::Metered;

    impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            self.meter.add_read(read);
            Poll::Ready(Ok(read))
        }
    }

    impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
            self.meter.add_written(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_close(cx)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
            self.meter.add_written(taken);
            Poll::Ready(Ok(taken))
        }
    }
}
