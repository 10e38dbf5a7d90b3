//! The driver of a connection.
//!
//! The policy cannot see two things here. A message counts as sent when actix has accepted it, and
//! actix accepts 32, and what its buffers hold, before it makes the handler wait. And the policy
//! sees a message only when it is complete, so set `idle_timeout` longer than the largest message
//! takes to arrive.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use actix_web::rt;
use actix_ws::{CloseReason as CloseFrame, Message, MessageStream, Session};
use futures_util::{FutureExt, SinkExt, StreamExt};
use ws_timeout::{
    Action, CloseReason, Event, Phase, PingId, Status, TimeoutConfig, TimeoutPolicy, Timestamp,
};

/// How many messages may wait for room before the handler stops reading.
const MAX_WAITING: usize = 16;

/// Echoes until the connection ends, and returns what the policy knew then.
pub async fn guard(
    mut session: Session,
    mut stream: MessageStream,
    config: &TimeoutConfig,
) -> Status {
    let start = Instant::now();
    let now = || Timestamp::from_duration(start.elapsed());
    let mut policy = TimeoutPolicy::new(config, RandomState::new().hash_one(start), now());
    let mut waiting: VecDeque<(Message, Event)> = VecDeque::new();
    // Everything that had arrived by then has been read; `None` while there may be more to read.
    let mut read_until = None;
    loop {
        if !waiting.is_empty() {
            policy.observe(now(), Event::SendStart);
        }

        // 1. Decide. While there may be more to read, allow only what no input could overturn.
        let action = match read_until {
            Some(at) => policy.poll(at),
            None => policy.poll_unread(now()),
        };
        let until = match action {
            Action::SendPing(id) => {
                let ping = Message::Ping(id.payload().to_vec().into());
                waiting.push_back((ping, Event::PingSent(id)));
                // The ping must be sent before silence may count.
                read_until = None;
                continue;
            }
            Action::Close(reason) => {
                waiting.push_back((Message::Close(close_frame(config, reason)), Event::Flushed));
                continue;
            }
            Action::Abort(reason) => {
                // Only if there is room at once. Dropping both halves is what counts.
                if let Some(frame) = close_frame(config, reason) {
                    let _ = session.close(Some(frame)).now_or_never();
                }
                break;
            }
            Action::Idle { until } => until,
        };

        // 2. Wait for a message, for room for one, or for the deadline. actix reads the transport
        //    in a task of its own; `yield_now` lets that read what has arrived before the policy
        //    decides.
        let reads = waiting.len() < MAX_WAITING;
        let may_wait = read_until.is_some() || !reads;
        let deadline = async {
            match until {
                _ if !may_wait => {}
                Some(until) => rt::time::sleep(until.saturating_duration_since(now())).await,
                None => pending().await,
            }
            let at = now();
            tokio::task::yield_now().await;
            at
        };
        read_until = None;
        tokio::select! {
            biased;
            message = stream.next(), if reads => {
                let (event, reply) = match message {
                    Some(Ok(Message::Ping(payload))) => {
                        (Event::Ping, Some((Message::Pong(payload), Event::Flushed)))
                    }
                    Some(Ok(Message::Pong(payload))) => {
                        (Event::Pong(PingId::from_payload(&payload)), None)
                    }
                    Some(Ok(Message::Close(frame))) => {
                        // Fails if our Close frame has left already, and this is the answer.
                        let _ = session.close(frame).now_or_never();
                        policy.observe(now(), Event::PeerClose);
                        break;
                    }
                    Some(Ok(data)) => (Event::Recv, Some((data, Event::SendOk))),
                    Some(Err(_)) | None => {
                        policy.observe(now(), Event::Closed);
                        break;
                    }
                };
                policy.observe(now(), event);
                // Nothing may follow our Close frame.
                waiting.extend(reply.filter(|_| policy.phase() == Phase::Open));
            }
            room = poll_fn(|cx| session.poll_ready_unpin(cx)), if !waiting.is_empty() => {
                let Some((message, event)) = waiting.pop_front() else {
                    continue;
                };
                if room.and_then(|()| session.start_send_unpin(message)).is_err() {
                    policy.observe(now(), Event::Closed);
                    break;
                }
                policy.observe(now(), event);
            }
            at = deadline => read_until = reads.then_some(at),
        }
    }
    policy.status(now())
}

fn close_frame(config: &TimeoutConfig, reason: CloseReason) -> Option<CloseFrame> {
    config.close_code(reason).map(|code| CloseFrame {
        code: code.into(),
        description: Some(reason.to_string()),
    })
}
