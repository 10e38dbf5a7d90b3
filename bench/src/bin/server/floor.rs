//! The least that any server can do: one thread, which writes bytes when they are due and reads
//! them when they arrive. The rest of the cost is the kernel's.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::Outcome;

const LISTENER: Token = Token(usize::MAX);
const PING: &[u8] = b"\x89\0";
/// The answer to any key: these clients do not check it.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub fn serve(ping: Duration) -> Outcome {
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    println!("listening on {}", listener.local_addr()?.port());
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = [0; 4096];
    let mut streams: Vec<TcpStream> = Vec::new();
    // All intervals are the same, so the next deadline is always in front.
    let mut due: VecDeque<(Instant, usize)> = VecDeque::new();
    loop {
        let wait = due
            .front()
            .map(|(at, _)| at.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() != LISTENER {
                let stream = &mut streams[event.token().0];
                let read = stream.read(&mut buffer)?;
                // A client sends its request, and after the upgrade only pongs.
                if buffer[..read].starts_with(b"GET") {
                    stream.write_all(UPGRADED)?;
                }
                continue;
            }
            loop {
                let mut stream = match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                let token = Token(streams.len());
                poll.registry()
                    .register(&mut stream, token, Interest::READABLE)?;
                due.push_back((Instant::now() + ping, streams.len()));
                streams.push(stream);
            }
        }
        let now = Instant::now();
        while let Some((at, stream)) = due.pop_front_if(|(at, _)| *at <= now) {
            streams[stream].write_all(PING)?;
            due.push_back((at + ping, stream));
        }
    }
}
