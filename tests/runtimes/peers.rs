//! The building blocks of the peers.

use std::io::Read;
use std::net::TcpStream;

use tungstenite::WebSocket;

/// The opening handshake of a client.
pub fn handshake(tcp: TcpStream) -> WebSocket<TcpStream> {
    tungstenite::client("ws://localhost/", tcp).unwrap().0
}

/// The same, but returns the bare transport: from then on only the peer's own code answers
/// anything.
pub fn bare(tcp: TcpStream) -> TcpStream {
    handshake(tcp).get_ref().try_clone().unwrap()
}

/// The request of a client's opening handshake.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: localhost\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// Returns a short masked frame of a client.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126, "no short frame");
    let mut frame = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

/// Returns the payload of the next frame, which must be short and have this opcode; `None` if the
/// connection has ended.
pub fn payload(tcp: &mut TcpStream, opcode: u8) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    tcp.read_exact(&mut head).ok()?;
    assert_eq!(head[0], 0x80 | opcode, "another frame");
    assert!(head[1] < 126, "no short frame");
    let mut payload = vec![0; head[1].into()];
    tcp.read_exact(&mut payload).ok()?;
    Some(payload)
}

/// Waits until the server has dropped the transport.
pub fn until_dropped(mut tcp: TcpStream) {
    let mut buffer = [0; 4096];
    while tcp.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

/// Large numbers of clients on one thread, which do no more than answer pings.
pub mod crowd {
    use std::io;
    use std::net::SocketAddr;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
    use tokio::net::TcpStream;

    use super::{CLOSE, PING, PONG, REQUEST, frame};

    pub struct Client {
        stream: BufStream<TcpStream>,
        /// Its own port, which identifies it to the server.
        pub port: u16,
        /// Whether the server's Close frame was read.
        pub closed: bool,
    }

    impl Client {
        /// Connects, and runs the opening handshake.
        pub async fn open(address: SocketAddr) -> io::Result<Self> {
            let tcp = TcpStream::connect(address).await?;
            let port = tcp.local_addr()?.port();
            let mut stream = BufStream::with_capacity(256, 256, tcp);
            stream.write_all(REQUEST).await?;
            stream.flush().await?;
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(Self {
                stream,
                port,
                closed: false,
            })
        }

        /// Returns the payload of the next ping; no other frame may arrive.
        pub async fn ping(&mut self) -> io::Result<Vec<u8>> {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await?;
            self.closed = head[0] == 0x80 | CLOSE;
            if head[0] != 0x80 | PING {
                return Err(io::Error::other(format!("no ping but {head:?}")));
            }
            let mut payload = vec![0; head[1].into()];
            self.stream.read_exact(&mut payload).await?;
            Ok(payload)
        }

        pub async fn pong(&mut self, payload: &[u8]) -> io::Result<()> {
            self.stream.write_all(&frame(PONG, payload)).await?;
            self.stream.flush().await
        }
    }
}
