//! The observer for tracing. `report.rs` decides the levels, words and fields.

use ::tracing::event;

use crate::observer::{Connection, Observer, Report};
use crate::report::{Fields, TARGET, level};

/// An observer that emits an event of the crate `tracing` for each report, instead of a log line.
///
/// The target is `ws_timeout`, the levels are those of [`Log`](crate::Log), and the message is the
/// report's `Display`. The fields have the names and values of the log's key-values: see the
/// [crate's documentation](crate#the-log). Use this observer rather than `tracing-log`, the bridge
/// that turns the log into events: the bridge drops the key-values.
///
/// Events belong to the span of the task that polls the socket, so a span around that task shows
/// which request, user or room a connection belongs to. This observer opens no span.
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
/// // WARN ws_timeout: closing: idle_timeout: received nothing for 60.015 s (limit 60 s); …
/// //   event="verdict" label="user 7" id=1 limit="idle_timeout" allowed_ms=60000 age_ms=60015 code=1001
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Observer for Tracing {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        let fields = Fields::new(connection, report);
        // The level of an event is a constant.
        macro_rules! emit {
            ($level:ident) => {
                event!(
                    target: TARGET,
                    ::tracing::Level::$level,
                    event = fields.event,
                    label = &*fields.label,
                    id = fields.id,
                    limit = fields.limit,
                    allowed_ms = fields.allowed_ms,
                    age_ms = fields.age_ms,
                    code = fields.code,
                    rtt_us = fields.rtt_us,
                    bound_ms = fields.bound_ms,
                    asleep_ms = fields.asleep_ms,
                    metered = fields.metered,
                    error = fields.error.as_ref().map(::tracing::field::display),
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
}
