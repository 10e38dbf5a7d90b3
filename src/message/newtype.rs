//! `Message` for tungstenite: a single implementation for version 0.30 and for newtypes of any
//! version.

/// Defines a newtype of tungstenite's message that implements [`Message`](crate::Message), for any
/// version of tungstenite from 0.21.
///
/// For tungstenite 0.30, you do not need the macro: enable the feature `tungstenite`. The
/// parentheses contain the path of the crate `tungstenite`. The newtype dereferences to the
/// library's message, converts from and into it, and implements `Clone`, `Debug`, `PartialEq` and
/// `Eq`. Its field has the same visibility as the struct. An [`Adapter`](crate::message::Adapter)
/// converts the socket's messages:
///
/// ```
/// # use tokio_tungstenite::WebSocketStream;
/// # use tokio_tungstenite::tungstenite::protocol::Role;
/// use tokio_tungstenite::tungstenite;
/// use ws_timeout::TimeoutConfig;
/// use ws_timeout::message::Adapter;
/// use ws_timeout::runtime::tokio::wrap;
///
/// ws_timeout::tungstenite_message! {
///     /// A message of this program's version of tungstenite.
///     pub struct Message(tungstenite);
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (ours, peers) = tokio::io::duplex(1024);
/// # let socket = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
/// # let client = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
/// # let mut client = wrap(TimeoutConfig::default(), client);
/// # client.send_text("hello").await?;
/// let mut socket = wrap(TimeoutConfig::default(), Adapter::<Message, _>::new(socket));
/// while let Some(message) = socket.recv().await? {
///     match &message.0 {
///         tungstenite::Message::Text(_) => socket.send(message).await?,
///         _ => socket.send(tungstenite::Message::text("only text").into()).await?,
///     }
/// #   assert_eq!(client.recv().await?, Some(tungstenite::Message::text("hello")));
/// #   break;
/// }
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! tungstenite_message {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident($($tungstenite:tt)+);) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $visibility struct $name($visibility $($tungstenite)+::Message);

        impl ::core::ops::Deref for $name {
            type Target = $($tungstenite)+::Message;

            #[inline]
            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        impl ::core::convert::From<$($tungstenite)+::Message> for $name {
            #[inline]
            fn from(message: $($tungstenite)+::Message) -> Self {
                Self(message)
            }
        }

        impl ::core::convert::From<$name> for $($tungstenite)+::Message {
            #[inline]
            fn from(message: $name) -> Self {
                message.0
            }
        }

        $crate::__impl_message_by_tungstenite!($name, $($tungstenite)+);
    };
}

/// Implements `Message` for the library's message, or for a type that dereferences to it and
/// converts from it.
#[doc(hidden)]
#[macro_export]
macro_rules! __impl_message_by_tungstenite {
    ($type:ty, $($tungstenite:tt)+) => {
        impl $crate::Message for $type {
            #[inline]
            fn kind(&self) -> $crate::MessageKind<'_> {
                use $($tungstenite)+::Message;
                let message: &Message = self;
                match message {
                    Message::Text(_) | Message::Binary(_) | Message::Frame(_) => {
                        $crate::MessageKind::Data
                    }
                    Message::Ping(payload) => $crate::MessageKind::Ping(payload),
                    Message::Pong(payload) => $crate::MessageKind::Pong(payload),
                    Message::Close(frame) => {
                        $crate::MessageKind::Close(frame.as_ref().map(|frame| frame.code.into()))
                    }
                }
            }

            fn payload_len(&self) -> usize {
                let message: &$($tungstenite)+::Message = self;
                message.len()
            }

            fn text(text: ::std::string::String) -> Self {
                $($tungstenite)+::Message::Text(text.into()).into()
            }

            fn binary(payload: ::std::vec::Vec<u8>) -> Self {
                $($tungstenite)+::Message::Binary(payload.into()).into()
            }

            fn ping(payload: [u8; 8]) -> Self {
                $($tungstenite)+::Message::Ping(payload.to_vec().into()).into()
            }

            fn close(code: ::core::option::Option<u16>, reason: &str) -> Self {
                use $($tungstenite)+::protocol::CloseFrame;
                let frame = code.map(|code| CloseFrame {
                    code: code.into(),
                    reason: ::std::string::String::from(reason).into(),
                });
                $($tungstenite)+::Message::Close(frame).into()
            }
        }
    };
}
