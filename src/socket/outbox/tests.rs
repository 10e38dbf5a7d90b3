//! The outbox on a sink that has little room, refuses, and fails.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

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
    /// A drain through a sink that has room for so many messages, refuses so many pings, and may
    /// not flush or may fail.
    Drain {
        room: u8,
        refusals: u8,
        flushes: bool,
        fails: bool,
    },
}

fn call() -> impl Strategy<Value = Call> {
    let drain = (0..4_u8, 0..3_u8, any::<bool>(), prop::bool::weighted(0.05));
    prop_oneof![
        2 => Just(Call::Displace),
        2 => Just(Call::Ping),
        2 => Just(Call::Reply),
        1 => Just(Call::Close),
        1 => Just(Call::PeerClose),
        6 => drain.prop_map(|(room, refusals, flushes, fails)| Call::Drain { room, refusals, flushes, fails }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// After a break nothing is sent; a message that was accepted is sent once, in order, or its loss is
    /// told; the Close frame is the last; a drain ends, and what can leave has left at its end.
    #[test]
    fn what_leaves_leaves_in_order(calls in prop::collection::vec(call(), 1..40)) {
        let mut outbox = Outbox::new();
        let (mut next, mut accepted) = (0, Vec::new());
        let (mut sent, mut lost, mut broken) = (Vec::new(), 0, false);
        let mut peer_closed = false;
        for call in calls {
            let closed = outbox.is_closing() || peer_closed;
            match call {
                Call::Displace if !closed && !broken => {
                    next += 1;
                    match outbox.displace(Sent::Data(next)) {
                        Ok(()) => accepted.push(Sent::Data(next)),
                        Err(message) => prop_assert_eq!(message, Sent::Data(next)),
                    }
                }
                Call::Ping if !closed && !broken => outbox.queue_ping(),
                Call::Reply if !closed && !broken => outbox.on_reply_queued(),
                Call::Close if !peer_closed => outbox.queue_close(Sent::Close),
                Call::PeerClose => {
                    peer_closed = true;
                    lost += usize::from(outbox.on_peer_close());
                }
                Call::Drain { mut room, mut refusals, flushes, fails } => {
                    outbox.begin_drain();
                    let mut steps = 0;
                    loop {
                        steps += 1;
                        prop_assert!(steps < 50, "{outbox:?}");
                        match outbox.next() {
                            step if fails && step != Step::Done => {
                                lost += usize::from(outbox.has_displaced());
                                outbox.on_broken();
                                broken = true;
                            }
                            Step::AwaitRoom if room == 0 => break,
                            Step::AwaitRoom => { room -= 1; outbox.on_room(); }
                            Step::Give(item) => {
                                prop_assert!(!broken);
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
                                prop_assert_eq!(outbox.buffered(), Buffered::default());
                            }
                            Step::Done => {
                                prop_assert!(broken || !outbox.has_displaced());
                                prop_assert!(!outbox.has_pending_writes() || outbox.has_ping());
                                prop_assert!(broken || !outbox.is_closing() || outbox.is_close_flushed());
                                break;
                            }
                        }
                    }
                }
                _ => {}
            }
            prop_assert!(!broken || outbox.next() == Step::Done);
            prop_assert!(!broken || !outbox.has_pending_writes());
        }
        let data: Vec<_> = sent.iter().copied().filter(|sent| matches!(sent, Sent::Data(_))).collect();
        prop_assert!(accepted.starts_with(&data));
        let waiting = usize::from(outbox.has_displaced());
        prop_assert_eq!(accepted.len(), data.len() + waiting + lost);
        let close = sent.iter().position(|&sent| sent == Sent::Close);
        prop_assert!(close.is_none_or(|close| close + 1 == sent.len()), "{sent:?}");
    }
}

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

/// The reply may have taken it, so the program's message waits behind the reply.
#[test]
fn a_queued_reply_takes_the_promised_place() {
    let mut outbox = Outbox::<Sent>::new();
    outbox.on_room();
    assert!(outbox.has_place());
    outbox.on_reply_queued();
    assert!(!outbox.has_place());
    assert!(outbox.has_unprompted_writes());
}

#[test]
fn what_the_program_gives_is_buffered_by_its_kind() {
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
