//! A minimal WebSocket client that can misbehave.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use crate::{Narrator, now};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Represents the code of a Close frame without one (RFC 6455, 7.1.5).
pub const NO_CODE: u16 = 1005;

/// A client's request for a WebSocket.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: localhost\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    \r\n";

/// Connects, without a WebSocket handshake. `window` is the size of the receive buffer.
pub async fn connect(address: SocketAddr, window: Option<u32>) -> io::Result<(Reader, Writer)> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = window {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((Reader(BufReader::new(read)), Writer(write)))
}

/// Connects and completes the handshake.
pub async fn open(address: SocketAddr, window: Option<u32>) -> io::Result<(Reader, Writer)> {
    let (mut reader, mut writer) = connect(address, window).await?;
    writer.0.write_all(REQUEST).await?;
    let mut line = String::new();
    reader.0.read_line(&mut line).await?;
    if !line.starts_with("HTTP/1.1 101 ") {
        return Err(io::Error::other(format!(
            "the handshake was answered with {line:?}"
        )));
    }
    while line != "\r\n" {
        line.clear();
        if reader.0.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((reader, writer))
}

/// The receiving half of a connection.
pub struct Reader(BufReader<OwnedReadHalf>);

/// A frame from the server.
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// How a connection ended, as a client sees it.
pub struct End {
    /// The code of the Close frame, and when it came.
    pub close: Option<(u16, Instant)>,
    /// When the connection was gone.
    pub gone: Instant,
}

impl Reader {
    pub async fn frame(&mut self) -> io::Result<Frame> {
        let opcode = self.0.read_u8().await? & 0x0F;
        let length = match self.0.read_u8().await? {
            126 => self.0.read_u16().await?.into(),
            127 => self.0.read_u64().await?,
            length => length.into(),
        };
        let mut payload = Vec::new();
        let read = (&mut self.0).take(length).read_to_end(&mut payload).await?;
        if (read as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Frame { opcode, payload })
    }

    /// Reads until the connection is gone, without answering.
    pub async fn until_gone(&mut self, narrator: Narrator) -> End {
        let mut close = None;
        loop {
            match self.frame().await {
                Ok(frame) if frame.opcode == CLOSE => {
                    let code = frame
                        .payload
                        .first_chunk()
                        .map_or(NO_CODE, |&code| u16::from_be_bytes(code));
                    narrator.say(format_args!("client: a Close with code {code}"));
                    close = Some((code, now()));
                }
                Ok(_) => {}
                Err(error) => {
                    narrator.say(format_args!("client: gone ({error})"));
                    return End { close, gone: now() };
                }
            }
        }
    }
}

/// The sending half of a connection.
pub struct Writer(OwnedWriteHalf);

impl Writer {
    pub async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    pub async fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(opcode, payload)).await
    }
}

/// Returns a complete client frame, masked with a fixed mask.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

    let mut frame = vec![FIN | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(MASKED | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(MASKED | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(MASKED | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}
