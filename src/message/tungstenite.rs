//! `Message` for tungstenite 0.30, and settings for it.

use tungstenite::protocol::WebSocketConfig;

use super::sizes;

crate::__impl_message_by_tungstenite!(tungstenite::Message, tungstenite);

/// Returns settings for tungstenite that suit this crate's timeouts.
///
/// Pass them to `accept_async_with_config`, `connect_async_with_config` and similar functions.
///
/// | setting | here | tungstenite's default | why |
/// |---|---|---|---|
/// | `read_buffer_size` | 4 KiB | 128 KiB | each connection has one, and zeroes it at each read; a smaller buffer makes large messages slow |
/// | `write_buffer_size` | 4 KiB | 128 KiB | bytes that may wait before they are written to the transport |
/// | `max_write_buffer_size` | 17 MiB | unlimited | a peer that pings and never reads would fill the memory with pongs |
/// | `max_frame_size` | 16 MiB | 16 MiB | fits the write buffer, so you can send back any frame that you can receive |
/// | `max_message_size` | 16 MiB | 64 MiB | a message is sent as one frame |
pub fn tungstenite_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(sizes::BUFFER)
        .write_buffer_size(sizes::BUFFER)
        .max_write_buffer_size(sizes::UNSENT)
        .max_frame_size(Some(sizes::LARGEST))
        .max_message_size(Some(sizes::LARGEST))
}
