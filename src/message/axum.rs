//! The messages of axum 0.8, and buffer sizes for its upgrade.

use std::string::String;
use std::vec::Vec;

use axum::extract::ws::{CloseFrame, WebSocketUpgrade};

use super::{Message, MessageKind, sizes};

impl Message for axum::extract::ws::Message {
    #[inline]
    fn kind(&self) -> MessageKind<'_> {
        match self {
            Self::Text(_) | Self::Binary(_) => MessageKind::Data,
            Self::Ping(payload) => MessageKind::Ping(payload),
            Self::Pong(payload) => MessageKind::Pong(payload),
            Self::Close(frame) => MessageKind::Close(frame.as_ref().map(|frame| frame.code)),
        }
    }

    fn payload_len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(payload) | Self::Ping(payload) | Self::Pong(payload) => payload.len(),
            Self::Close(frame) => frame.as_ref().map_or(0, |frame| 2 + frame.reason.len()),
        }
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
            code,
            reason: reason.into(),
        }))
    }
}

/// Sets buffer sizes that suit this crate's timeouts.
///
/// They are the sizes of `tungstenite_config`: buffers of 4 KiB, messages and frames of at most 16
/// MiB, and at most 17 MiB waiting to be sent. Without this last limit, a peer that pings and never
/// reads could fill the memory with pongs.
///
/// ```
/// use axum::extract::WebSocketUpgrade;
/// use axum::response::Response;
/// use ws_timeout::message::limit_buffers;
/// use ws_timeout::{TimeoutConfig, runtime};
///
/// async fn handler(upgrade: WebSocketUpgrade) -> Response {
///     limit_buffers(upgrade).on_upgrade(|socket| async {
///         let mut socket = runtime::tokio::wrap(TimeoutConfig::default(), socket);
///         while let Ok(Some(_message)) = socket.recv().await {}
///     })
/// }
/// # let _: axum::Router = axum::Router::new().route("/ws", axum::routing::any(handler));
/// ```
pub fn limit_buffers<F>(upgrade: WebSocketUpgrade<F>) -> WebSocketUpgrade<F> {
    upgrade
        .read_buffer_size(sizes::BUFFER)
        .write_buffer_size(sizes::BUFFER)
        .max_write_buffer_size(sizes::UNSENT)
        .max_frame_size(sizes::LARGEST)
        .max_message_size(sizes::LARGEST)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec;

    use axum::extract::ws::Message as AxumMessage;

    use super::{Message, MessageKind};

    #[test]
    fn created_messages_are_recognised() {
        let ping = AxumMessage::ping([7; 8]);
        assert_eq!(ping.kind(), MessageKind::Ping(&[7; 8]));
        assert_eq!(ping.payload_len(), 8);
        let pong = AxumMessage::Pong(vec![1, 2].into());
        assert_eq!(pong.kind(), MessageKind::Pong(&[1, 2]));
        let close = AxumMessage::close(Some(1012), "back soon");
        assert_eq!(close.kind(), MessageKind::Close(Some(1012)));
        assert_eq!(close.payload_len(), 11);
        assert_eq!(
            AxumMessage::close(None, "").kind(),
            MessageKind::Close(None)
        );
        let text: AxumMessage = Message::text("hé".to_string());
        assert_eq!((text.kind(), text.payload_len()), (MessageKind::Data, 3));
        assert_eq!(text, AxumMessage::Text("hé".into()));
        let binary: AxumMessage = Message::binary(vec![0, 255]);
        assert_eq!(
            (binary.kind(), binary.payload_len()),
            (MessageKind::Data, 2)
        );
        assert_eq!(binary, AxumMessage::Binary(vec![0, 255].into()));
    }
}
