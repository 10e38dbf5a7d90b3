//! A transport wrapper that counts bytes below the WebSocket protocol, and bypasses the runtime to
//! ask the kernel.

mod io;
mod kernel;
mod metering;
mod records;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use kernel::Kernel;
pub(crate) use metering::Metering;
use records::Records;

/// A transport wrapper that counts the bytes that pass through it and, before a verdict that blames
/// the peer, asks the kernel whether there is input or room.
///
/// Wrap the TCP stream with [`socket`](Self::socket) *before* the WebSocket handshake, and give its
/// [`meter`](Self::meter) to [`TimeoutSocket::with_meter`](crate::TimeoutSocket::with_meter). The
/// `TimeoutSocket` then sees the bytes of an incomplete message, and how much of a large write the
/// transport has accepted.
///
/// # TLS
///
/// With TLS, also wrap the TLS stream, with [`plaintext`](Self::plaintext). The wrapper below TLS
/// sees every byte from the peer and asks the kernel; the wrapper above TLS sees where a message
/// begins.
///
/// ```
/// # use std::io;
/// # use tokio::io::{AsyncRead, AsyncWrite};
/// # use ws_timeout::{Meter, Metered};
/// # async fn accept<IO: AsyncRead + AsyncWrite>(io: IO) -> io::Result<IO> { Ok(io) }
/// # async fn example(tcp: tokio::net::TcpStream) -> io::Result<()> {
/// let tcp = Metered::socket(tcp);
/// let meter = tcp.meter();
/// let tls = accept(tcp).await?; // the TLS handshake
/// let transport = Metered::plaintext(tls, &meter);
/// # drop(transport);
/// // The WebSocket handshake over `transport`, then `with_meter(meter)`.
/// # Ok(())
/// # }
/// ```
///
/// If you cannot wrap the TLS stream, for example because a `connect` function sets up TLS itself,
/// one wrapper below TLS supports everything except `min_data_rate` for inbound messages, since a
/// TLS record need not be part of a message. The wrapper detects TLS by the connection's first
/// byte. Bytes that pass before TLS, such as the answer to `CONNECT` or a proxy's header, must
/// arrive in a separate read.
///
/// Do not wrap the TLS stream alone: that wrapper sees a record, of up to 16 KiB, only when it is
/// complete, so a peer that needs half a minute for a record would be disconnected.
///
/// # Accuracy
///
/// Control frames are not part of a message, so the socket subtracts their size, as if they were
/// masked. A client receives unmasked frames, and so undercounts a message by four bytes for each
/// control frame within it.
pub struct Metered<IO> {
    io: IO,
    meter: Meter,
    /// `None` if the transport is not a socket.
    kernel: Option<Kernel<IO>>,
    layer: Layer,
    /// The value that `Counts::read` has once the backlog that was last measured has been read.
    backlog_end: usize,
    /// The number of reads since one last returned `Pending` or yielded.
    reads_in_a_row: u8,
}

/// How many reads may complete without waiting before the task yields to others. Not every runtime
/// makes tasks yield.
const MAX_READS_PER_TURN: u8 = 4;

/// The layer at which a transport counts.
#[derive(Debug)]
enum Layer {
    /// All bytes of the connection.
    Transport(Records),
    /// The plaintext of a TLS stream that is metered below.
    Plaintext,
}

/// The byte counts of a [`Metered`] transport. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    counts: Arc<Counts>,
}

/// Only the transport writes the counts, which wrap around. The `TimeoutSocket` also writes the
/// flags, and so does an opening handshake, whose transport may be in another task, so the flags
/// change atomically.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicUsize,
    written: AtomicUsize,
    /// Bytes of plaintext read, if that is metered.
    plaintext: AtomicUsize,
    /// Bytes read of the incomplete TLS record.
    incomplete: AtomicUsize,
    /// See [`flag`].
    flags: AtomicU16,
}

/// The kernel's answers since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Everything that had arrived by then has been read.
    pub(crate) no_input: bool,
    /// The send buffer is full.
    pub(crate) no_room: bool,
}

/// The flags through which a `TimeoutSocket` and its transport inform each other.
mod flag {
    /// The transport is a socket.
    pub(super) const CAN_ASK: u16 = 1;
    /// When the runtime returns `Pending`, ask the kernel.
    pub(super) const ASKING: u16 = 1 << 1;
    /// Everything that had arrived when the kernel was asked has been read.
    pub(super) const NO_INPUT: u16 = 1 << 2;
    /// The send buffer is full.
    pub(super) const NO_ROOM: u16 = 1 << 3;
    /// `Metered::backlog_end` is known.
    pub(super) const BACKLOG: u16 = 1 << 4;
    /// The connection is a TLS connection.
    pub(super) const TLS: u16 = 1 << 5;
    /// The plaintext of the TLS connection is metered.
    pub(super) const PLAINTEXT: u16 = 1 << 6;
    /// The last read yielded to other tasks.
    pub(super) const YIELDED: u16 = 1 << 7;
    /// A `TimeoutSocket` uses this meter, so the handshakes are over and the transport may yield.
    pub(super) const ATTACHED: u16 = 1 << 8;
}

impl<IO> Metered<IO> {
    /// Wraps `io`, and counts the bytes that pass through it from now on.
    ///
    /// Prefer [`socket`](Self::socket) if `io` is a socket.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            meter: Meter::default(),
            kernel: None,
            layer: Layer::Transport(Records::default()),
            backlog_end: 0,
            reads_in_a_row: 0,
        }
    }

    /// Wraps `io`, which must be a TCP or Unix stream socket, not a TLS stream.
    ///
    /// Before a verdict that blames the peer, reads and writes bypass the runtime and ask the
    /// kernel: the runtime may not know yet of bytes that have arrived, or of free space in the
    /// send buffer. The verdict then need not wait for further turns of the reactor. On Linux,
    /// tokio learns of free space only once a third of the send buffer is free: if the socket did
    /// not ask the kernel, a peer that reads a megabyte per second could seem to read nothing for
    /// seconds.
    ///
    /// On systems other than Unix this is the same as [`new`](Self::new).
    #[cfg(unix)]
    pub fn socket(io: IO) -> Self
    where
        IO: std::os::fd::AsFd,
    {
        let this = Self {
            kernel: Some(Kernel::new()),
            ..Self::new(io)
        };
        this.meter.set(flag::CAN_ASK);
        this
    }

    /// Wraps `io`, and counts the bytes that pass through it from now on.
    ///
    /// On Unix, reads and writes also bypass the runtime and ask the kernel before a verdict on the
    /// peer.
    #[cfg(not(unix))]
    pub fn socket(io: IO) -> Self {
        Self::new(io)
    }

    /// Wraps `tls`, a TLS stream over the transport that `meter` counts, and counts its plaintext
    /// in `meter` too.
    pub fn plaintext(tls: IO, meter: &Meter) -> Self {
        meter.set(flag::PLAINTEXT);
        Self {
            meter: meter.clone(),
            layer: Layer::Plaintext,
            ..Self::new(tls)
        }
    }

    /// Uses `meter` for the counts. Create a new one for each connection. Call this right after
    /// [`new`](Self::new) or [`socket`](Self::socket), before any bytes pass.
    ///
    /// A client can then pass the meter to [`Opening::with_meter`](crate::Opening::with_meter)
    /// before it has connected:
    ///
    /// ```
    /// # use tokio::net::TcpStream;
    /// # use ws_timeout::message::tungstenite_config;
    /// # use ws_timeout::{Meter, Metered, TimeoutConfig, runtime::tokio::open};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let meter = Meter::default();
    /// let handshake = async {
    ///     let tcp = TcpStream::connect("localhost:8080").await?;
    ///     let transport = Metered::socket(tcp).with_meter(&meter);
    ///     let settings = Some(tungstenite_config());
    ///     tokio_tungstenite::client_async_with_config("ws://localhost/", transport, settings)
    ///         .await
    ///         .map(|(socket, _)| socket)
    /// };
    /// let socket = open(TimeoutConfig::default(), handshake).with_meter(meter.clone()).await?;
    /// # drop(socket);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_meter(mut self, meter: &Meter) -> Self {
        if self.meter.can_ask() {
            meter.set(flag::CAN_ASK);
        }
        self.meter = meter.clone();
        self
    }

    /// Returns the meter, whose counts the transport keeps updating.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Returns a reference to the transport.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Returns a mutable reference to the transport. Bytes that you read or write through it are
    /// not counted.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Stops counting, and returns the transport.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO> Metered<IO> {
    /// Returns `Ready` if the transport may read. `Pending` is a yield: the task has been woken, to
    /// be polled again.
    #[inline]
    fn poll_may_read(&mut self, cx: &Context<'_>) -> Poll<()> {
        const SIZED: u16 = flag::ASKING | flag::BACKLOG;
        let flags = self.meter.flags();
        if let Layer::Plaintext = self.layer {
            return Poll::Ready(());
        }
        // The library above reads again only after it has returned everything that it read before.
        if flags & SIZED == SIZED && self.meter.counts.has_read(self.backlog_end) {
            self.meter.set(flag::NO_INPUT);
        }
        if self.reads_in_a_row >= MAX_READS_PER_TURN && flags & flag::ATTACHED != 0 {
            self.reads_in_a_row = 0;
            self.meter.set(flag::YIELDED);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if flags & flag::YIELDED != 0 {
            self.meter.clear(flag::YIELDED);
        }
        Poll::Ready(())
    }

    #[inline]
    fn on_read(&mut self, bytes: &[u8]) {
        let counts = &self.meter.counts;
        match &mut self.layer {
            Layer::Plaintext => add(&counts.plaintext, bytes.len()),
            Layer::Transport(records) => {
                self.reads_in_a_row = self.reads_in_a_row.saturating_add(1);
                add(&counts.read, bytes.len());
                let begins = self.meter.flags() & flag::ATTACHED == 0;
                records.pass(bytes, begins);
                if let Some(incomplete) = records.incomplete() {
                    counts.incomplete.store(incomplete, Ordering::Relaxed);
                    self.meter.set(flag::TLS);
                }
            }
        }
        if self.meter.flags() & (flag::ASKING | flag::BACKLOG) == flag::ASKING {
            self.measure_backlog();
        }
    }

    #[cold]
    fn measure_backlog(&mut self) {
        let kernel = self.kernel.as_ref();
        if let Some(unread) = kernel.and_then(|kernel| kernel.unread(&self.io)) {
            let read = self.meter.counts.read.load(Ordering::Relaxed);
            self.backlog_end = read.wrapping_add(unread);
            self.meter.set(flag::BACKLOG);
        }
    }

    #[inline]
    fn on_written(&self, bytes: usize) {
        if let Layer::Transport(_) = self.layer {
            add(&self.meter.counts.written, bytes);
        }
    }

    /// Retries a read on the socket itself, after the runtime returned `Pending`.
    fn retry_read(&mut self, buf: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let read = match &self.kernel {
            Some(kernel) if self.meter.is_asking() && !buf.is_empty() => {
                let read = kernel.recv(&self.io, buf);
                if read.is_pending() {
                    self.meter.set(flag::NO_INPUT);
                }
                read
            }
            _ => Poll::Pending,
        };
        if read.is_pending() {
            self.reads_in_a_row = 0;
        }
        read
    }

    /// Retries a write on the socket itself, after the runtime returned `Pending`.
    fn retry_write(&self, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match &self.kernel {
            Some(kernel) if self.meter.is_asking() => {
                let written = kernel.send(&self.io, buf);
                if written.is_pending() {
                    self.meter.set(flag::NO_ROOM);
                }
                written
            }
            _ => Poll::Pending,
        }
    }

    fn first_of<'a>(bufs: &'a [std::io::IoSlice<'_>]) -> &'a [u8] {
        bufs.iter()
            .find(|buf| !buf.is_empty())
            .map_or(&[], |buf| buf)
    }
}

impl<IO: fmt::Debug> fmt::Debug for Metered<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered")
            .field("io", &self.io)
            .field("meter", &self.meter)
            .finish_non_exhaustive()
    }
}

impl Meter {
    /// Returns the number of bytes read. It wraps around at [`usize::MAX`].
    pub fn read(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed) as u64
    }

    /// Returns the number of bytes written. It wraps around at [`usize::MAX`].
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed) as u64
    }

    #[inline]
    fn flags(&self) -> u16 {
        self.counts.flags.load(Ordering::Relaxed)
    }

    #[inline]
    fn has(&self, flag: u16) -> bool {
        self.flags() & flag != 0
    }

    fn set(&self, flag: u16) {
        if self.flags() & flag != flag {
            self.counts.flags.fetch_or(flag, Ordering::Relaxed);
        }
    }

    fn clear(&self, flag: u16) {
        self.counts.flags.fetch_and(!flag, Ordering::Relaxed);
    }

    #[inline]
    fn is_asking(&self) -> bool {
        self.has(flag::ASKING)
    }

    /// Returns whether reads and writes can ask the kernel.
    pub(crate) fn can_ask(&self) -> bool {
        self.has(flag::CAN_ASK)
    }

    /// Sets whether reads and writes ask the kernel from now on. Clears the answers.
    pub(crate) fn ask(&self, asks: bool) {
        const LASTING: u16 =
            flag::CAN_ASK | flag::TLS | flag::PLAINTEXT | flag::YIELDED | flag::ATTACHED;
        if self.flags() & !LASTING != 0 {
            self.clear(!LASTING);
        }
        if asks {
            self.set(flag::ASKING);
        }
    }

    pub(crate) fn answers(&self) -> Answers {
        Answers {
            no_input: self.has(flag::NO_INPUT),
            no_room: self.has(flag::NO_ROOM),
        }
    }
}

impl Counts {
    /// Returns whether the count of bytes read has reached `count`.
    fn has_read(&self, count: usize) -> bool {
        const HALF: usize = usize::MAX / 2;
        let read = self.read.load(Ordering::Relaxed);
        read.wrapping_sub(count) <= HALF
    }
}

/// Adds to a count that has a single writer.
#[inline]
fn add(count: &AtomicUsize, bytes: usize) {
    let sum = count.load(Ordering::Relaxed).wrapping_add(bytes);
    count.store(sum, Ordering::Relaxed);
}
