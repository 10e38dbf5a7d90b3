//! The heartbeats that `echo` and `line_client` speak.
//!
//! | name | the server | the client |
//! |---|---|---|
//! | `frame` | sends Ping frames | sends Ping frames |
//! | `text` | sends `ping`, expects `pong` | sends `ping`, expects `pong` |
//! | `engine.io` | sends `2`, expects `3` | answers `2` with `3` |
//! | `phoenix` | repeats the reference of each heartbeat | sends numbered heartbeats |

use std::time::Duration;

use futures_util::{Sink, Stream};
use serde_json::{Value, json};
use tungstenite::Message;
use ws_timeout::{TimeoutConfig, TimeoutSocket, Timer};

pub const NAMES: &str = "frame|text|engine.io|phoenix";

#[derive(Clone, Copy)]
pub enum Heartbeat {
    Frame,
    Text,
    EngineIo,
    Phoenix,
}

impl Heartbeat {
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "frame" => Ok(Self::Frame),
            "text" => Ok(Self::Text),
            "engine.io" => Ok(Self::EngineIo),
            "phoenix" => Ok(Self::Phoenix),
            _ => Err(format!("--heartbeat is {name:?}, expected {NAMES}")),
        }
    }

    #[allow(dead_code, reason = "`line_client` has no use for it")]
    pub fn at_server<S, T>(self, socket: TimeoutSocket<S, T>) -> TimeoutSocket<S, T>
    where
        S: Stream<Item = tungstenite::Result<Message>> + Sink<Message, Error = tungstenite::Error>,
        T: Timer,
    {
        match self {
            Self::Frame => socket,
            Self::Text => socket.with_text_heartbeat("ping", "pong"),
            Self::EngineIo => socket.with_text_heartbeat("2", "3"),
            Self::Phoenix => socket.with_heartbeat_replies(|message| {
                let (reference, event) = phoenix(message)?;
                let payload = json!({ "status": "ok", "response": {} });
                let reply = json!([null, reference, "phoenix", "phx_reply", payload]);
                (event == "heartbeat").then(|| Message::text(reply.to_string()))
            }),
        }
    }

    #[allow(dead_code, reason = "`echo` has no use for it")]
    pub fn at_client<S, T>(self, socket: TimeoutSocket<S, T>) -> TimeoutSocket<S, T>
    where
        S: Stream<Item = tungstenite::Result<Message>> + Sink<Message, Error = tungstenite::Error>,
        T: Timer,
    {
        match self {
            Self::Frame => socket,
            Self::Text => socket.with_text_heartbeat("ping", "pong"),
            Self::EngineIo => socket.with_text_heartbeat_replies("2", "3"),
            Self::Phoenix => socket.with_heartbeat(
                |number| Message::text(format!(r#"[null,"{number}","phoenix","heartbeat",{{}}]"#)),
                |message, _| {
                    let (reference, event) = phoenix(message)?;
                    reference
                        .as_str()
                        .filter(|_| event == "phx_reply")?
                        .parse()
                        .ok()
                },
            ),
        }
    }

    /// Returns the first message of a server.
    #[allow(dead_code, reason = "`line_client` has no use for it")]
    pub fn greeting(self, config: &TimeoutConfig) -> Option<Message> {
        let millis = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_millis());
        let handshake = json!({
            "sid": "1",
            "upgrades": [],
            "pingInterval": millis(config.ping_interval()) as u64,
            "pingTimeout": millis(config.pong_timeout()) as u64,
            "maxPayload": 1_000_000,
        });
        matches!(self, Self::EngineIo).then(|| Message::text(format!("0{handshake}")))
    }
}

/// The reference and the event of a message to the topic `phoenix`, which is for heartbeats.
fn phoenix(message: &Message) -> Option<(Value, Value)> {
    let text = message.to_text().ok()?;
    let text = Some(text).filter(|text| text.contains("\"phoenix\""))?;
    let [_, reference, topic, event, _]: [Value; 5] = serde_json::from_str(text).ok()?;
    (topic == "phoenix").then_some((reference, event))
}
