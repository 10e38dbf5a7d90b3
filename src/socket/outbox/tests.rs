//! The outbox on a sink that has little room, refuses, and fails.

use std::vec::Vec;

use super::*;
use crate::random::{Random, for_each_case};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Data(u32),
    Ping,
    Close,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Displace,
    Ping,
    Reply,
    Close,
    PeerClose,
    /// A drain through a sink that has room for `room` messages, refuses `refusals` pings, and may
    /// not flush or may fail.
    Drain {
        room: u8,
        refusals: u8,
        flushes: bool,
        fails: bool,
    },
}

fn call(random: &mut Random) -> Call {
    match random.below(14) {
        0..2 => Call::Displace,
        2..4 => Call::Ping,
        4..6 => Call::Reply,
        6 => Call::Close,
        7 => Call::PeerClose,
        _ => Call::Drain {
            room: random.below(4) as u8,
            refusals: random.below(3) as u8,
            flushes: random.percent(50),
            fails: random.percent(5),
        },
    }
}

/// After a failure nothing is sent. Each accepted message is sent once, in order, or reported as
/// lost. The Close frame is the last. A drain ends, and by then everything that can be sent has
/// been.
/// Guards rules 11, 15 and 21.
#[test]
fn writes_are_sent_in_order() {
    for_each_case(2000, |random| {
        let mut outbox = Outbox::new();
        let (mut next, mut accepted) = (0, Vec::new());
        let (mut sent, mut lost, mut broken) = (Vec::new(), 0, false);
        let mut peer_closed = false;
        for _ in 0..=random.below(39) {
            let closed = outbox.is_closing() || peer_closed;
            match call(random) {
                Call::Displace if !closed && !broken => {
                    next += 1;
                    match outbox.displace(Sent::Data(next)) {
                        Ok(()) => accepted.push(Sent::Data(next)),
                        Err(message) => assert_eq!(message, Sent::Data(next)),
                    }
                }
                Call::Ping if !closed && !broken => outbox.queue_ping(),
                Call::Reply if !closed && !broken => outbox.on_heartbeat_reply_queued(),
                Call::Close if !peer_closed => outbox.queue_close(Sent::Close),
                Call::PeerClose => {
                    peer_closed = true;
                    lost += usize::from(outbox.on_peer_close());
                }
                Call::Drain {
                    mut room,
                    mut refusals,
                    flushes,
                    fails,
                } => {
                    outbox.begin_drain();
                    let mut steps = 0;
                    loop {
                        steps += 1;
                        assert!(steps < 50, "{outbox:?}");
                        match outbox.next() {
                            step if fails && step != Step::Done => {
                                lost += usize::from(outbox.has_displaced());
                                outbox.on_broken();
                                broken = true;
                            }
                            Step::AwaitRoom if room == 0 => break,
                            Step::AwaitRoom => {
                                room -= 1;
                                outbox.on_room();
                            }
                            Step::Give(item) => {
                                assert!(!broken);
                                if item == Item::Ping && refusals > 0 {
                                    refusals -= 1;
                                    outbox.on_refused(item);
                                    continue;
                                }
                                sent.push(match item {
                                    Item::Displaced => outbox.take_displaced().unwrap(),
                                    Item::Close => outbox.take_close().unwrap(),
                                    Item::Ping => Sent::Ping,
                                });
                                outbox.on_taken(item, item == Item::Displaced);
                            }
                            Step::Flush if !flushes => break,
                            Step::Flush => {
                                outbox.on_flushed();
                                assert_eq!(outbox.buffered(), Buffered::default());
                            }
                            Step::Done => {
                                assert!(broken || !outbox.has_displaced());
                                assert!(!outbox.has_pending_writes() || outbox.has_ping());
                                assert!(
                                    broken || !outbox.is_closing() || outbox.is_close_flushed()
                                );
                                break;
                            }
                        }
                    }
                }
                _ => {}
            }
            assert!(!broken || outbox.next() == Step::Done);
            assert!(!broken || !outbox.has_pending_writes());
        }
        let data: Vec<_> = sent
            .iter()
            .copied()
            .filter(|sent| matches!(sent, Sent::Data(_)))
            .collect();
        assert!(accepted.starts_with(&data));
        let waiting = usize::from(outbox.has_displaced());
        assert_eq!(accepted.len(), data.len() + waiting + lost);
        let close = sent.iter().position(|&sent| sent == Sent::Close);
        assert!(
            close.is_none_or(|close| close + 1 == sent.len()),
            "{sent:?}"
        );
    });
}

/// Guards rules 10 and 11.
#[test]
fn a_ping_that_is_refused_twice_stays() {
    let mut outbox = Outbox::<Sent>::new();
    outbox.queue_ping();
    outbox.begin_drain();
    let mut steps = Vec::new();
    loop {
        let step = outbox.next();
        steps.push(step);
        match step {
            Step::AwaitRoom => outbox.on_room(),
            Step::Give(item) => {
                outbox.on_refused(item);
            }
            Step::Flush => {
                outbox.on_flushed();
            }
            Step::Done => break,
        }
    }
    // The buffer that refused it may have been full, so it is flushed before the second try.
    let tries = [Step::AwaitRoom, Step::Give(Item::Ping), Step::Flush];
    assert_eq!(steps[..6], [tries, tries].concat(), "{steps:?}");
    assert_eq!(steps[6..], [Step::Done]);
    assert!(outbox.has_ping());
}

/// A queued reply may use up the room that the sink reserved, so the program's message waits behind
/// it.
/// Guards rule 10.
#[test]
fn a_queued_reply_takes_the_reserved_place() {
    let mut outbox = Outbox::<Sent>::new();
    outbox.on_room();
    assert!(outbox.has_place());
    outbox.on_heartbeat_reply_queued();
    assert!(!outbox.has_place());
    assert!(outbox.has_unprompted_writes());
}

#[test]
fn messages_of_the_program_are_buffered_by_kind() {
    let buffered = |data, control| Buffered {
        data,
        control,
        ping: false,
    };
    let mut outbox = Outbox::<Sent>::new();
    outbox.on_given(true, false);
    assert_eq!(outbox.buffered(), buffered(false, false));
    outbox.on_given(true, true);
    assert_eq!(outbox.buffered(), buffered(true, false));
    outbox.on_given(false, true);
    assert_eq!(outbox.buffered(), buffered(true, true));
    outbox.on_given(true, true);
    assert_eq!(outbox.on_flushed(), buffered(true, true));
    outbox.on_given(false, true);
    assert_eq!(outbox.on_flushed(), buffered(false, true));
}
