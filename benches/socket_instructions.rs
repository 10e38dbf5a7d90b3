//! One loop over so many messages and nothing else, for a counter of instructions to watch.
//!
//! ```text
//! socket_instructions IDIOM MESSAGES AT_ONCE read|echo
//! ```

mod idioms;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;

use idioms::{Feed, IDIOMS, run};
use tokio::task::unconstrained;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [idiom, messages, at_once, what] = &arguments[..] else {
        eprintln!("usage: socket_instructions IDIOM MESSAGES AT_ONCE read|echo");
        return ExitCode::from(2);
    };
    let named = IDIOMS.iter().find(|(name, _)| name == idiom);
    let (Some(&(_, idiom)), Ok(messages), Ok(at_once)) = (named, messages.parse(), at_once.parse())
    else {
        eprintln!(
            "{idiom} is one of {:?}, the others are numbers",
            IDIOMS.map(|(name, _)| name)
        );
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let Ok(runtime) = runtime else {
        return ExitCode::FAILURE;
    };
    let feed = Feed::new(messages, at_once);
    let read = runtime.block_on(async {
        let echo = what == "echo";
        // Polled again at once where a scheduler would have had its turn, which is not what is counted.
        let task = tokio::spawn(async move {
            let mut reading = pin!(unconstrained(run(idiom, feed, echo)));
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(read) = reading.as_mut().poll(cx) {
                        return Poll::Ready(read);
                    }
                }
            })
            .await
        });
        task.await.unwrap_or(0)
    });
    if read == messages {
        ExitCode::SUCCESS
    } else {
        eprintln!("{read} messages were read, of {messages}");
        ExitCode::FAILURE
    }
}
