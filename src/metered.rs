//! Counts bytes under the WebSocket protocol.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A transport that counts the bytes which pass through it.
///
/// Put it around the TCP or TLS stream *before* the WebSocket handshake, and give its
/// [`meter`](Metered::meter) to [`TimeoutSocket::with_meter`](crate::TimeoutSocket::with_meter). The
/// socket then sees the bytes of a message that is not whole yet, and those that the transport has
/// taken of a large write.
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

    #[cfg(feature = "tokio")]
    fn add_read(&self, bytes: usize) {
        self.counts.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    #[cfg(feature = "tokio")]
    fn add_written(&self, bytes: usize) {
        self.counts
            .written
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(feature = "tokio")]
mod tokio_io {
    use std::io;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::{Metered, Pin};

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
