//! Questions to the kernel that a runtime does not ask.
//!
//! A runtime asks the kernel only when it believes that there is something to read or room to write. It may
//! be wrong: tokio learns of the readiness of 1024 sockets a turn, and Linux reports room only once a third
//! of the send buffer is free, though it would take more before that.

use std::io;
use std::task::Poll;

/// The socket under a transport.
#[cfg(unix)]
pub(super) struct Kernel<IO> {
    fd: fn(&IO) -> std::os::fd::BorrowedFd<'_>,
}

/// There is none: nothing can be asked.
#[cfg(not(unix))]
pub(super) enum Kernel<IO> {
    Never(core::convert::Infallible, core::marker::PhantomData<fn(IO)>),
}

#[cfg(unix)]
impl<IO: std::os::fd::AsFd> Kernel<IO> {
    pub(super) fn of() -> Self {
        Self { fd: IO::as_fd }
    }
}

#[cfg(unix)]
impl<IO> Kernel<IO> {
    /// Reads what has arrived. `Pending` if nothing has.
    pub(super) fn recv(&self, io: &IO, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        use rustix::net::{RecvFlags, recv};

        if buf.is_empty() {
            return Poll::Pending;
        }
        let received = recv((self.fd)(io), buf, RecvFlags::DONTWAIT);
        unless_it_would_block(received.map(|(_, bytes)| bytes))
    }

    /// Writes what there is room for. `Pending` if there is none.
    pub(super) fn send(&self, io: &IO, buf: &[u8]) -> Poll<io::Result<usize>> {
        use rustix::net::{SendFlags, send};

        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        unless_it_would_block(send((self.fd)(io), buf, flags))
    }

    /// How many bytes have arrived and are not read.
    pub(super) fn unread(&self, io: &IO) -> Option<usize> {
        let bytes = rustix::io::ioctl_fionread((self.fd)(io)).ok()?;
        usize::try_from(bytes).ok()
    }
}

#[cfg(unix)]
fn unless_it_would_block(done: rustix::io::Result<usize>) -> Poll<io::Result<usize>> {
    match done {
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Poll::Pending,
        done => Poll::Ready(done.map_err(io::Error::from)),
    }
}

#[cfg(not(unix))]
impl<IO> Kernel<IO> {
    pub(super) fn recv(&self, _: &IO, _: &mut [u8]) -> Poll<io::Result<usize>> {
        match *self {
            Self::Never(never, _) => match never {},
        }
    }

    pub(super) fn send(&self, _: &IO, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {
            Self::Never(never, _) => match never {},
        }
    }

    pub(super) fn unread(&self, _: &IO) -> Option<usize> {
        match *self {
            Self::Never(never, _) => match never {},
        }
    }
}
