//! The clients: first those that behave, then those that misbehave.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_tungstenite::{WebSocketStream, client_async};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use ws_timeout::TimeoutConfig;

use crate::raw::{self, End};
use crate::server::Serves;
use crate::{Failure, Narrator, Stage, now};

/// The kinds of clients.
#[derive(Clone, Copy)]
pub enum Client {
    /// Sends messages, then only answers pings for longer than `idle_timeout`, then sends again.
    Healthy,
    /// Completes its handshake and reads, but sends nothing and answers no pings.
    Silent,
    /// Completes its handshake, then reads nothing that the server pushes.
    Frozen,
    /// Connects, and waits.
    SendsNoHandshake,
    /// Sends its handshake byte by byte.
    TricklesHandshake,
    /// Sends a frame byte by byte.
    TricklesFrame,
    /// Sends messages without pause, and reads the echoes.
    Talks,
    /// Falls silent, and does not answer the Close frame that follows.
    IgnoresClose,
    /// Breaks the connection.
    Resets,
    /// Answers each ping after half of `pong_timeout`.
    AnswersLate,
    /// Sends one large message, slowly but steadily, for longer than `idle_timeout`.
    Uploads,
}

/// A client's account of its connection.
pub struct Seen {
    /// When the limit under test began to count for this client, or shortly before.
    pub start: Instant,
    /// The code of the Close frame that it received, and when.
    pub close: Option<(u16, Instant)>,
    /// When the connection was gone; `None` if the client did not observe that.
    pub gone: Option<Instant>,
    /// How much the bytes that it sent extended the limit.
    pub earned: Duration,
}

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "is quiet, but answers pings",
            Self::Silent => "does not answer pings",
            Self::Frozen => "stops reading",
            Self::SendsNoHandshake => "never sends its handshake",
            Self::TricklesHandshake => "trickles its handshake",
            Self::TricklesFrame => "trickles a message",
            Self::Talks => "never stops talking",
            Self::IgnoresClose => "ignores the Close frame",
            Self::Resets => "resets the connection",
            Self::AnswersLate => "answers pings late",
            Self::Uploads => "uploads a message slowly",
        }
    }

    /// Returns what the server does for it.
    pub fn serves(self) -> Serves {
        match self {
            Self::Frozen => Serves::Push,
            _ => Serves::Echo,
        }
    }

    /// Plays the client until its connection ends.
    pub async fn play(self, stage: &Stage) -> Result<Seen, Failure> {
        match self {
            Self::Healthy => healthy(stage).await,
            Self::Silent => silent(stage).await,
            Self::Frozen => frozen(stage).await,
            Self::SendsNoHandshake => sends_no_handshake(stage).await,
            Self::TricklesHandshake => trickles_handshake(stage).await,
            Self::TricklesFrame => trickles_frame(stage).await,
            Self::Talks => talks(stage).await,
            Self::IgnoresClose => ignores_close(stage).await,
            Self::Resets => resets(stage).await,
            Self::AnswersLate => answers_late(stage).await,
            Self::Uploads => uploads(stage).await,
        }
    }
}

impl Seen {
    fn new(start: Instant, end: End) -> Self {
        Self {
            start,
            close: end.close,
            gone: Some(end.gone),
            earned: Duration::ZERO,
        }
    }
}

// ---- clients that behave ----

/// Returns how long the healthy client stays connected: only its pongs keep it from being idle.
pub fn healthy_duration(config: &TimeoutConfig) -> Duration {
    longer_than_idle(config)
}

async fn healthy(stage: &Stage) -> Result<Seen, Failure> {
    let start = now();
    let mut socket = connect(stage).await?;
    echo(&mut socket, Message::text("hello")).await?;
    echo(&mut socket, Message::binary(vec![1, 2, 3])).await?;

    let mut pings = 0;
    let until = start + healthy_duration(&stage.config);
    while let Ok(next) = timeout_at(until, socket.next()).await {
        match next {
            Some(Ok(Message::Ping(_))) => pings += 1,
            other => return Err(format!("got {other:?} while quiet").into()),
        }
    }
    stage.say(format_args!("client: answered {pings} pings"));
    if pings == 0 {
        return Err("got no ping".into());
    }

    echo(&mut socket, Message::text("good bye")).await?;
    let end = close(&mut socket, stage.narrator).await?;
    Ok(Seen::new(start, end))
}

/// How many pings are answered late.
const LATE_PONGS: u32 = 3;

/// Returns how long a late pong takes.
fn late_by(config: &TimeoutConfig) -> Duration {
    config.pong_timeout().unwrap_or_default() / 2
}

/// Returns how long the client that answers late stays connected: the next ping is due as soon as
/// it has answered, or `ping_interval` after the ping before.
pub fn late_duration(config: &TimeoutConfig) -> Duration {
    let interval = config.ping_interval().unwrap_or_default();
    interval + late_by(config) + late_by(config).max(interval) * (LATE_PONGS - 1)
}

async fn answers_late(stage: &Stage) -> Result<Seen, Failure> {
    let start = now();
    let (mut reader, mut writer) = raw::open(stage.address, None).await?;
    for _ in 0..LATE_PONGS {
        let ping = reader.frame().await?;
        if ping.opcode != raw::PING {
            return Err(format!("got opcode {} while quiet", ping.opcode).into());
        }
        sleep(late_by(&stage.config)).await;
        writer.frame(raw::PONG, &ping.payload).await?;
    }
    stage.say(format_args!("client: answered {LATE_PONGS} pings late"));
    writer.frame(raw::CLOSE, &NORMAL).await?;
    Ok(Seen::new(start, reader.until_gone(stage.narrator).await))
}

/// How much of the large message the client sends at a time, and how often.
const PIECE: usize = 4 << 10;
const PIECE_EVERY: Duration = Duration::from_millis(100);

/// Returns how long the upload takes: only its bytes keep the client from being idle.
pub fn upload_duration(config: &TimeoutConfig) -> Duration {
    longer_than_idle(config)
}

async fn uploads(stage: &Stage) -> Result<Seen, Failure> {
    let start = now();
    let (mut reader, mut writer) = raw::open(stage.address, None).await?;
    let pieces = upload_duration(&stage.config)
        .div_duration_f64(PIECE_EVERY)
        .ceil() as usize;
    let message: Vec<u8> = (0..pieces * PIECE).map(|at| (at % 251) as u8).collect();
    let began = now();
    let mut piece_at = began;
    for piece in raw::frame(raw::BINARY, &message).chunks(PIECE) {
        sleep_until(piece_at).await;
        writer.bytes(piece).await?;
        piece_at += PIECE_EVERY;
    }
    stage.say(format_args!(
        "client: {} kB sent in {:.1} s",
        message.len() / 1000,
        (now() - began).as_secs_f64()
    ));

    let echo = loop {
        let frame = reader.frame().await?;
        match frame.opcode {
            // The client could not answer it in the middle of a frame.
            raw::PING => {}
            _ => break frame,
        }
    };
    if echo.opcode != raw::BINARY || echo.payload != message {
        return Err("the echo is not what was sent".into());
    }
    writer.frame(raw::CLOSE, &NORMAL).await?;
    Ok(Seen::new(start, reader.until_gone(stage.narrator).await))
}

/// Returns a duration after which the policy would close a connection that it considers idle.
fn longer_than_idle(config: &TimeoutConfig) -> Duration {
    config.idle_timeout().unwrap_or_default() + Duration::from_secs(1)
}

/// The payload of a Close frame with code 1000.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

// ---- clients that misbehave ----

async fn silent(stage: &Stage) -> Result<Seen, Failure> {
    let start = now();
    let (mut reader, _writer) = raw::open(stage.address, None).await?;
    Ok(Seen::new(start, reader.until_gone(stage.narrator).await))
}

async fn frozen(stage: &Stage) -> Result<Seen, Failure> {
    const WINDOW: u32 = 4 << 10;
    let start = now();
    let (mut reader, _writer) = raw::open(stage.address, Some(WINDOW)).await?;
    stage.reported.clone().wait_for(Option::is_some).await?;
    // Reads what the kernels still hold, to check that no Close frame follows it.
    let end = reader.until_gone(stage.narrator).await;
    Ok(Seen {
        gone: None,
        ..Seen::new(start, end)
    })
}

async fn sends_no_handshake(stage: &Stage) -> Result<Seen, Failure> {
    let start = now();
    let (mut reader, _writer) = raw::connect(stage.address, None).await?;
    Ok(Seen::new(start, reader.until_gone(stage.narrator).await))
}

async fn trickles_handshake(stage: &Stage) -> Result<Seen, Failure> {
    const EVERY: Duration = Duration::from_millis(100);
    let start = now();
    let (reader, writer) = raw::connect(stage.address, None).await?;
    let (end, _) = trickle(reader, writer, raw::REQUEST, EVERY, stage.narrator).await?;
    Ok(Seen::new(start, end))
}

async fn trickles_frame(stage: &Stage) -> Result<Seen, Failure> {
    const EVERY: Duration = Duration::from_millis(200);
    let (reader, writer) = raw::open(stage.address, None).await?;
    let frame = raw::frame(raw::TEXT, &[b'x'; 1000]);
    let start = now();
    let (end, bytes) = trickle(reader, writer, &frame, EVERY, stage.narrator).await?;
    let rate = stage.config.min_data_rate().ok_or("min_data_rate is off")?;
    Ok(Seen {
        earned: Duration::from_secs(1) * bytes / rate,
        ..Seen::new(start, end)
    })
}

/// Sends byte by byte until the connection is gone. Returns how it ended, and how many bytes were
/// sent.
async fn trickle(
    mut reader: raw::Reader,
    mut writer: raw::Writer,
    bytes: &[u8],
    every: Duration,
    narrator: Narrator,
) -> Result<(End, u32), Failure> {
    let mut sent = 0;
    let trickling = async {
        for byte in bytes {
            sent += 1;
            if writer.bytes(&[*byte]).await.is_err() {
                // The reader reports the end.
                std::future::pending::<()>().await;
            }
            sleep(every).await;
        }
    };
    tokio::select! {
        end = reader.until_gone(narrator) => Ok((end, sent)),
        () = trickling => Err("all of it was taken".into()),
    }
}

async fn talks(stage: &Stage) -> Result<Seen, Failure> {
    // How many messages are in flight: enough that the server does not run out of them, and few
    // enough that its Close frame does not wait behind seconds of messages.
    const AT_ONCE: usize = 1000;
    let start = now();
    let (mut sink, mut stream) = connect(stage).await?.split();
    let may_talk = Arc::new(Semaphore::new(AT_ONCE));
    let heard_back = may_talk.clone();
    let talking = tokio::spawn(async move {
        while let Ok(turn) = may_talk.acquire().await {
            turn.forget();
            if sink.send(Message::text("and another thing")).await.is_err() {
                break;
            }
        }
    });

    let mut echoes = 0_u64;
    let mut close = None;
    while let Some(message) = stream.next().await {
        match message? {
            Message::Close(frame) => close = Some(report_close(stage.narrator, frame)),
            Message::Text(_) => {
                echoes += 1;
                heard_back.add_permits(1);
            }
            _ => {}
        }
    }
    let gone = now();
    stage.say(format_args!("client: gone, after {echoes} echoes"));
    heard_back.close();
    talking.await?;
    Ok(Seen::new(start, End { close, gone }))
}

async fn ignores_close(stage: &Stage) -> Result<Seen, Failure> {
    let (mut reader, mut writer) = raw::open(stage.address, None).await?;
    let start = now();
    writer.frame(raw::TEXT, b"hello").await?;
    if reader.frame().await?.payload != b"hello" {
        return Err("the echo is not what was sent".into());
    }
    Ok(Seen::new(start, reader.until_gone(stage.narrator).await))
}

async fn resets(stage: &Stage) -> Result<Seen, Failure> {
    let mut socket = connect(stage).await?;
    echo(&mut socket, Message::text("hello")).await?;
    let start = now();
    // With a linger time of zero, the kernel resets the connection.
    socket.get_ref().set_zero_linger()?;
    drop(socket);
    stage.say("client: has broken the connection");
    Ok(Seen {
        start,
        close: None,
        gone: None,
        earned: Duration::ZERO,
    })
}

// ---- shared by the clients that use a library ----

type Socket = WebSocketStream<TcpStream>;

async fn connect(stage: &Stage) -> Result<Socket, Failure> {
    let tcp = TcpStream::connect(stage.address).await?;
    tcp.set_nodelay(true)?;
    let (socket, _) = client_async("ws://localhost/", tcp).await?;
    Ok(socket)
}

/// Sends a message and waits for its echo.
async fn echo(socket: &mut Socket, message: Message) -> Result<(), Failure> {
    socket.send(message.clone()).await?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Ping(_))) => {}
            Some(Ok(echo)) if echo == message => return Ok(()),
            other => return Err(format!("sent {message:?}, got {other:?}").into()),
        }
    }
}

/// Closes with code 1000 and waits for the end.
async fn close(socket: &mut Socket, narrator: Narrator) -> Result<End, Failure> {
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    socket.close(Some(normal)).await?;
    let mut close = None;
    while let Some(message) = socket.next().await {
        if let Message::Close(frame) = message? {
            close = Some(report_close(narrator, frame));
        }
    }
    narrator.say("client: gone");
    Ok(End { close, gone: now() })
}

/// Reports a Close frame, and returns its code and when it came.
fn report_close(narrator: Narrator, frame: Option<CloseFrame>) -> (u16, Instant) {
    let code = frame.map_or(raw::NO_CODE, |frame| frame.code.into());
    narrator.say(format_args!("client: a Close with code {code}"));
    (code, now())
}
