//! The messages of tungstenite 0.30, and its settings.

use std::string::String;
use std::vec::Vec;

use tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::{Message, MessageKind, sizes};

impl Message for tungstenite::Message {
    #[inline]
    fn kind(&self) -> MessageKind<'_> {
        match self {
            Self::Text(_) | Self::Binary(_) | Self::Frame(_) => MessageKind::Data,
            Self::Ping(payload) => MessageKind::Ping(payload),
            Self::Pong(payload) => MessageKind::Pong(payload),
            Self::Close(frame) => MessageKind::Close(frame.as_ref().map(|frame| frame.code.into())),
        }
    }

    fn payload_len(&self) -> usize {
        self.len()
    }

    fn text(text: String) -> Self {
        Self::Text(text.into())
    }

    fn binary(payload: Vec<u8>) -> Self {
        Self::Binary(payload.into())
    }

    fn ping(payload: [u8; 8]) -> Self {
        Self::Ping(payload.to_vec().into())
    }

    fn close(code: Option<u16>, reason: &str) -> Self {
        Self::Close(code.map(|code| CloseFrame {
            code: code.into(),
            reason: reason.into(),
        }))
    }
}

/// Settings for tungstenite that fit the timeouts; give them to `accept_async_with_config` and
/// the like.
///
/// | setting | here | tungstenite's own | why |
/// |---|---|---|---|
/// | `read_buffer_size` | 4 KiB | 128 KiB | each connection has one, zeroed at each read; a smaller one makes large messages slow |
/// | `write_buffer_size` | 4 KiB | 128 KiB | what may wait before it goes to the transport |
/// | `max_write_buffer_size` | 17 MiB | unlimited | a peer that pings and never reads would fill the memory with pongs |
/// | `max_frame_size` | 16 MiB | 16 MiB | the largest frame that fits the write buffer, so what can be received can be sent back |
/// | `max_message_size` | 16 MiB | 64 MiB | a message is sent as one frame |
pub fn tungstenite_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(sizes::BUFFER)
        .write_buffer_size(sizes::BUFFER)
        .max_write_buffer_size(sizes::UNSENT)
        .max_frame_size(Some(sizes::LARGEST))
        .max_message_size(Some(sizes::LARGEST))
}
