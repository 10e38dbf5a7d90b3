//! Everything that `ws-timeout` needs to know about a message of tokio-websockets.

use tokio_websockets::CloseCode;
use ws_timeout::MessageKind;

/// A message of tokio-websockets.
#[derive(Clone, Debug)]
pub struct Message(pub tokio_websockets::Message);

impl ws_timeout::Message for Message {
    fn kind(&self) -> MessageKind<'_> {
        if let Some((code, _)) = self.0.as_close() {
            let code = Some(code).filter(|code| *code != CloseCode::NO_STATUS_RECEIVED);
            MessageKind::Close(code.map(u16::from))
        } else if self.0.is_ping() {
            MessageKind::Ping(self.0.as_payload())
        } else if self.0.is_pong() {
            MessageKind::Pong(self.0.as_payload())
        } else {
            MessageKind::Data
        }
    }

    fn payload_len(&self) -> usize {
        self.0.as_payload().len()
    }

    fn text(text: String) -> Self {
        Self(tokio_websockets::Message::text(text))
    }

    fn binary(payload: Vec<u8>) -> Self {
        Self(tokio_websockets::Message::binary(payload))
    }

    fn ping(payload: [u8; 8]) -> Self {
        Self(tokio_websockets::Message::ping(payload.to_vec()))
    }

    /// `ws-timeout` asks only for codes that may be sent and reasons that fit; others would panic.
    fn close(code: Option<u16>, reason: &str) -> Self {
        let code = code.and_then(|code| CloseCode::try_from(code).ok());
        Self(tokio_websockets::Message::close(code, reason))
    }
}

impl From<tokio_websockets::Message> for Message {
    fn from(message: tokio_websockets::Message) -> Self {
        Self(message)
    }
}

impl From<Message> for tokio_websockets::Message {
    fn from(message: Message) -> Self {
        message.0
    }
}
