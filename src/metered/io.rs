//! The runtimes' I/O traits for `Metered`.

#[cfg(feature = "tokio")]
mod tokio_io {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::super::Metered;

    impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = &mut *self;
            ready!(this.poll_may_read(cx));
            let before = buf.filled().len();
            let read = match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Pending if this.meter.is_asking() => this
                    .retry_read(buf.initialize_unfilled())
                    .map_ok(|bytes| buf.advance(bytes)),
                Poll::Pending => {
                    this.reads_in_a_row = 0;
                    Poll::Pending
                }
                read => read,
            };
            ready!(read)?;
            this.on_read(buf.filled().get(before..).unwrap_or_default());
            Poll::Ready(Ok(()))
        }
    }

    impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let this = &mut *self;
            let taken = match Pin::new(&mut this.io).poll_write(cx, buf) {
                Poll::Pending => this.retry_write(buf),
                taken => taken,
            };
            let taken = ready!(taken)?;
            this.on_written(taken);
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
            let this = &mut *self;
            let taken = match Pin::new(&mut this.io).poll_write_vectored(cx, bufs) {
                Poll::Pending => this.retry_write(Self::first_of(bufs)),
                taken => taken,
            };
            let taken = ready!(taken)?;
            this.on_written(taken);
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

    use super::super::Metered;

    impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let this = &mut *self;
            ready!(this.poll_may_read(cx));
            let read = match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Pending => this.retry_read(buf),
                read => read,
            };
            let read = ready!(read)?;
            this.on_read(buf.get(..read).unwrap_or_default());
            Poll::Ready(Ok(read))
        }
    }

    impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let this = &mut *self;
            let taken = match Pin::new(&mut this.io).poll_write(cx, buf) {
                Poll::Pending => this.retry_write(buf),
                taken => taken,
            };
            let taken = ready!(taken)?;
            this.on_written(taken);
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
            let this = &mut *self;
            let taken = match Pin::new(&mut this.io).poll_write_vectored(cx, bufs) {
                Poll::Pending => this.retry_write(Self::first_of(bufs)),
                taken => taken,
            };
            let taken = ready!(taken)?;
            this.on_written(taken);
            Poll::Ready(Ok(taken))
        }
    }
}
