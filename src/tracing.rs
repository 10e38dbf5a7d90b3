//! The observer for tracing. `report.rs` decides the levels, words and fields.
//!
//! [`Tracing`] itself has no state. The [`Link`](crate::socket::Link) of a connection keeps its
//! span, so that connections of several `Timeouts` with equal numbers do not share one. The link
//! closes the span however the connection ends. The last report cannot close it: the program's own
//! observer may not forward every report.

use std::boxed::Box;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::tracing::{Level, Span, event, field, span};

use crate::observer::{Connection, Observer, Report};
use crate::report::{Fields, TARGET, level};

/// An observer that emits spans and events of the crate `tracing`, instead of log lines.
///
/// Each report is an event. The target is `ws_timeout`, the levels are those of
/// [`Log`](crate::Log), and the message is the report's `Display`. The fields have the names and
/// values of the log's key-values: see the [crate's documentation](crate#the-log). Use this
/// observer rather than `tracing-log`, the bridge that turns the log into events: the bridge drops
/// the key-values.
///
/// Each connection has a span named `websocket`, level `INFO`, which contains its events. It begins
/// with the first report and ends with the connection, even if handles remain. Its parent is the
/// span that is current at the first report, so a span around the task that polls the socket shows
/// which request, user or room a connection belongs to. If the subscriber disables the span, for
/// example with the filter `ws_timeout=warn`, an event belongs to the span that is current when it
/// occurs.
///
/// | field of the span | value |
/// |---|---|
/// | `id`, `label` | as in the log, at the first report |
/// | `reason` | recorded at the end: the name of the limit that ended the connection, such as `idle_timeout`, or without a verdict the last event: `closed`, `dropped`, `receive_error` or `handshake_error` |
///
/// Several [`Timeouts`](crate::Timeouts) can share this observer: their connections have separate
/// spans, even if their numbers are equal. To keep spans and events, call it from your own observer;
/// see [`Observer`].
///
/// ```
/// # use tokio_tungstenite::WebSocketStream;
/// # use tungstenite::protocol::Role;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), ws_timeout::Error<tungstenite::Error>> {
/// # let (ours, _peer) = tokio::io::duplex(1024);
/// # let stream = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
/// use ws_timeout::{TimeoutConfig, Timeouts, Tracing, runtime::tokio::wrap};
///
/// let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(Tracing);
/// let mut socket = wrap(&timeouts, stream).with_label("user 7");
/// // In a server: tokio::spawn(serve(socket).instrument(info_span!("chat", room)))
/// assert!(socket.recv().await.is_err());
/// // WARN chat{room=3}:websocket{id=1 label="user 7"}: ws_timeout: closing: idle_timeout:
/// //   received nothing for 60.015 s (limit 60 s); …
/// //   event="verdict" label="user 7" id=1 reason="idle_timeout" limit_ms=60000 age_ms=60015 code=1001
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Observer for Tracing {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        let fields = Fields::new(connection, report);
        match connection.span {
            Some(span) => span.contain(&fields, || emit(&fields, report)),
            None => emit(&fields, report),
        }
    }
}

/// Emits the event of a report.
fn emit(fields: &Fields<'_>, report: &Report<'_>) {
    // The level of an event is a constant.
    macro_rules! emit {
        ($level:ident) => {
            event!(
                target: TARGET,
                Level::$level,
                event = fields.event,
                label = &*fields.label,
                id = fields.id,
                reason = fields.reason,
                limit_ms = fields.limit_ms,
                limit_per_s = fields.limit_per_s,
                age_ms = fields.age_ms,
                code = fields.code,
                rtt_us = fields.rtt_us,
                detection_bound_ms = fields.detection_bound_ms,
                suspended_ms = fields.suspended_ms,
                metered = fields.metered,
                error = fields.error.as_ref().map(field::display),
                "{report}"
            )
        };
    }
    match level(report) {
        log::Level::Error | log::Level::Warn => emit!(WARN),
        log::Level::Info => emit!(INFO),
        log::Level::Debug | log::Level::Trace => emit!(DEBUG),
    }
}

/// The span of a connection, from its first report to its end. Only a pointer and a lock, which is
/// never held while a subscriber is called.
#[derive(Debug, Default)]
pub(crate) struct ConnectionSpan(Mutex<Option<Box<Open>>>);

#[derive(Debug)]
struct Open {
    span: Span,
    /// The reason of the verdict, if there was one.
    reason: Option<&'static str>,
    /// The latest event.
    event: &'static str,
}

impl ConnectionSpan {
    /// Emits an event in the span, which it opens if this is the first.
    ///
    /// Enters the span, rather than naming it as the event's parent: if the span is disabled, the
    /// event stays in the current span, and no subscriber gets the ID of another's span.
    fn contain(&self, fields: &Fields<'_>, emit: impl FnOnce()) {
        // Reports of a connection never overlap, so no other report misses the span meanwhile.
        let open = self.lock().take();
        let mut open = open.unwrap_or_else(|| Box::new(Open::new(fields)));
        open.span.in_scope(emit);
        open.reason = open.reason.or(fields.reason);
        open.event = fields.event;
        let displaced = self.lock().replace(open);
        drop(displaced);
    }

    /// Records why the connection has ended, and closes the span, if there is one.
    pub(crate) fn close(&self) {
        let open = self.lock().take();
        if let Some(open) = open {
            open.span
                .record("reason", open.reason.unwrap_or(open.event));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Open>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(fields: &Fields<'_>) -> Self {
        let span = span!(
            target: TARGET,
            Level::INFO,
            "websocket",
            id = fields.id,
            label = &*fields.label,
            reason = field::Empty,
        );
        Self {
            span,
            reason: None,
            event: fields.event,
        }
    }
}

/// Always equal: a [`Connection`] is compared by its number and its label.
impl PartialEq for ConnectionSpan {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ConnectionSpan {}

impl Hash for ConnectionSpan {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
