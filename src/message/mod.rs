//! Support for the messages of any WebSocket library: the trait [`Message`], and an adapter.

mod adapter;
#[cfg(feature = "axum")]
mod axum;
mod newtype;
#[cfg(feature = "tungstenite")]
mod tungstenite;

use std::string::String;
use std::vec::Vec;

pub use adapter::Adapter;
#[cfg(feature = "axum")]
pub use axum::limit_buffers;
#[cfg(feature = "tungstenite")]
pub use tungstenite::tungstenite_config;

/// A WebSocket message of any library.
///
/// | library | its messages |
/// |---|---|
/// | tungstenite 0.30: tokio-tungstenite 0.30, async-tungstenite 0.35 | implement it, with the feature `tungstenite` |
/// | axum 0.8 | implement it, with the feature `axum` |
/// | any other version of tungstenite, from 0.21 | get a newtype from [`tungstenite_message!`](crate::tungstenite_message) |
/// | any other | need a newtype that implements this trait; [`Adapter`] converts the socket's messages |
///
/// The inner socket must queue the replies to Ping and Close frames itself, as tungstenite and
/// tokio-websockets do; [`TimeoutSocket`](crate::TimeoutSocket) flushes them. If a library has no
/// such socket, drive a [`TimeoutPolicy`](crate::TimeoutPolicy) instead.
///
/// [`examples/tokio_websockets`][example] implements the trait for a newtype.
///
/// [example]: https://github.com/ws-timeout/ws-timeout/tree/main/examples/tokio_websockets
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `ws_timeout::Message`",
    note = "enable the feature `tungstenite` for tungstenite 0.30 (tokio-tungstenite 0.30, async-tungstenite 0.35), or `axum` for axum 0.8",
    note = "for another version of tungstenite, define the message with `ws_timeout::tungstenite_message!` and wrap the socket in `ws_timeout::message::Adapter`",
    note = "for another library, implement `ws_timeout::Message` for a newtype of its message, and wrap the socket in `ws_timeout::message::Adapter`"
)]
pub trait Message: Clone {
    /// Returns the kind of this message.
    fn kind(&self) -> MessageKind<'_>;

    /// Returns the number of payload bytes, or a lower bound.
    ///
    /// A socket without a meter counts these bytes to limit how long a busy peer can delay a
    /// verdict; see [`TimeoutSocket`](crate::TimeoutSocket#busy-peers). The default is 0: each
    /// message then counts as two bytes.
    fn payload_len(&self) -> usize {
        0
    }

    /// Creates a text message.
    fn text(text: String) -> Self;

    /// Creates a binary message.
    fn binary(payload: Vec<u8>) -> Self;

    /// Creates a Ping frame with this payload.
    fn ping(payload: [u8; 8]) -> Self;

    /// Creates a Close frame, or an empty one if `code` is `None`. `reason` is at most 123 bytes
    /// long.
    fn close(code: Option<u16>, reason: &str) -> Self;
}

/// The kinds of [`Message`] that timeouts distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageKind<'a> {
    /// A whole data message.
    Data,
    /// A Ping frame and its payload.
    Ping(&'a [u8]),
    /// A Pong frame and its payload.
    Pong(&'a [u8]),
    /// A Close frame and its code.
    Close(Option<u16>),
}

/// Creates a Close frame with as much of `reason` as fits. All our Close frames are created here,
/// so a library that panics if the reason is too long never gets such a reason.
pub(crate) fn close_message<M: Message>(code: Option<u16>, reason: &str) -> M {
    M::close(code, cut_to_fit(reason))
}

/// Returns as much of `reason` as a Close frame can hold, cut between two characters.
///
/// "All control frames MUST have a payload length of 125 bytes or less" (RFC 6455, 5.5), of which
/// the code takes two.
fn cut_to_fit(reason: &str) -> &str {
    const MOST: usize = 123;
    let mut end = reason.len().min(MOST);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// Buffer sizes that suit this crate's timeouts. [`tungstenite_config`] documents the reasons.
#[cfg(any(feature = "axum", feature = "tungstenite"))]
mod sizes {
    pub(super) const BUFFER: usize = 4 << 10;
    pub(super) const LARGEST: usize = 16 << 20;
    pub(super) const UNSENT: usize = LARGEST + (1 << 20);
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::{Message, MessageKind, close_message, cut_to_fit};

    /// A library's message that keeps its reason.
    #[derive(Clone)]
    struct Reason(String);

    impl Message for Reason {
        fn kind(&self) -> MessageKind<'_> {
            MessageKind::Close(None)
        }

        fn text(text: String) -> Self {
            Self(text)
        }

        fn binary(_: Vec<u8>) -> Self {
            Self(String::new())
        }

        fn ping(_: [u8; 8]) -> Self {
            Self(String::new())
        }

        fn close(_: Option<u16>, reason: &str) -> Self {
            Self(reason.to_string())
        }
    }

    /// Guards rule 14.
    #[test]
    fn a_reason_is_cut_for_every_library() {
        let Reason(reason) = close_message(Some(1000), &"x".repeat(200));
        assert_eq!(reason.len(), 123);
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        assert_eq!(cut_to_fit("going away"), "going away");
        let long: String = ["x"; 122].concat() + "éé";
        assert_eq!(cut_to_fit(&long), &long[..122]);
        let ascii: String = ["x"; 200].concat();
        assert_eq!(cut_to_fit(&ascii).len(), 123);
    }
}
