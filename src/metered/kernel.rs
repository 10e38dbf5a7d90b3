//! Reads and writes on the socket itself, bypassing the runtime.
//!
//! A runtime tries a read or a write only when it believes that there is something to read or room
//! to write. It may be wrong: tokio learns of the readiness of 1024 sockets per turn, and Linux
//! reports room only once a third of the send buffer is free, although it would accept bytes before
//! that.

use std::io;
use std::task::Poll;

#[cfg(unix)]
use rustix::net::{RecvFlags, SendFlags};

/// The socket under a transport.
#[cfg(unix)]
pub(super) struct Kernel<IO> {
    fd: fn(&IO) -> std::os::fd::BorrowedFd<'_>,
}

/// The socket under a transport, which cannot exist: other systems have no way to ask.
#[cfg(not(unix))]
#[expect(
    dead_code,
    reason = "these systems have no way to ask, so no value exists"
)]
pub(super) enum Kernel<IO> {
    Never(core::convert::Infallible, core::marker::PhantomData<fn(IO)>),
}

#[cfg(unix)]
impl<IO: std::os::fd::AsFd> Kernel<IO> {
    pub(super) fn new() -> Self {
        Self { fd: IO::as_fd }
    }
}

#[cfg(unix)]
impl<IO> Kernel<IO> {
    /// Reads without waiting. Returns `Pending` if nothing has arrived.
    pub(super) fn recv(&self, io: &IO, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        unless_it_would_block(|| {
            let received = rustix::net::recv((self.fd)(io), &mut *buf, RecvFlags::DONTWAIT);
            received.map(|(_, bytes)| bytes)
        })
    }

    /// Writes without waiting. Returns `Pending` if there is no room.
    pub(super) fn send(&self, io: &IO, buf: &[u8]) -> Poll<io::Result<usize>> {
        unless_it_would_block(|| rustix::net::send((self.fd)(io), buf, SEND))
    }

    /// Returns how many bytes have arrived that were not read.
    pub(super) fn unread(&self, io: &IO) -> Option<usize> {
        let bytes = rustix::io::ioctl_fionread((self.fd)(io)).ok()?;
        usize::try_from(bytes).ok()
    }
}

/// The flags of a write. A write to a disconnected peer must return an error instead of raising a
/// signal. On systems without this flag, std and the runtimes configure their sockets accordingly.
#[cfg(all(
    unix,
    not(any(target_vendor = "apple", target_os = "redox", target_os = "vita"))
))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(any(target_vendor = "apple", target_os = "redox", target_os = "vita"))]
const SEND: SendFlags = SendFlags::DONTWAIT;

#[cfg(unix)]
fn unless_it_would_block(
    mut call: impl FnMut() -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    match rustix::io::retry_on_intr(&mut call) {
        Err(rustix::io::Errno::WOULDBLOCK) => Poll::Pending,
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
