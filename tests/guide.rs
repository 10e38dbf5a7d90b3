//! Runs the programs of the guide as doc tests, with their own dependencies, and compares the
//! guide's log lines with real ones.

#[doc = include_str!("../docs/GUIDE.md")]
pub mod guide {}

#[cfg(test)]
mod tests {
    use std::future::{Future, pending};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{sleep, timeout};
    use tokio_tungstenite::{WebSocketStream, accept_async, client_async};
    use tungstenite::Message;
    use ws_timeout::runtime::tokio::open;
    use ws_timeout::{Connection, Metered, Observer, Report, TimeoutConfig, Timeouts};

    const GUIDE: &str = include_str!("../docs/GUIDE.md");
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_lines_of_the_log_are_real() {
        let default = TimeoutConfig::DEFAULT;
        let pings = default
            .to_builder()
            .ping_interval(20 * SECOND)
            .pong_timeout(10 * SECOND);
        let real = [
            line(default, |mut tcp| async move {
                tcp.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
                pending().await
            })
            .await,
            line(default, |tcp| async {
                read_now_and_then(&mut connect(tcp).await).await;
            })
            .await,
            line(default, |tcp| async {
                let mut client = connect(tcp).await;
                client.send(Message::text("much")).await.unwrap();
                pending().await
            })
            .await,
            line(default, |tcp| async {
                let _client = connect(tcp).await;
                pending().await
            })
            .await,
            line(pings.build().unwrap(), |tcp| async {
                let mut client = connect(tcp).await;
                let reading = read_now_and_then(&mut client);
                timeout(50 * SECOND, reading).await.unwrap_err();
                pending().await
            })
            .await,
            line(default, |tcp| async {
                let mut client = connect(tcp).await;
                client.send(Message::text("close")).await.unwrap();
                pending().await
            })
            .await,
            line(default, |tcp| async {
                // The beginning of a binary message of 16 KiB.
                let mut client = connect(tcp).await;
                let header = [0x82, 0xFE, 0x40, 0, 0, 0, 0, 0];
                let tcp = client.get_mut();
                tcp.write_all(&header).await.unwrap();
                while tcp.write_all(&[7]).await.is_ok() {
                    sleep(SECOND).await;
                }
            })
            .await,
            line(default, |tcp| async {
                let (mut sink, mut stream) = connect(tcp).await.split();
                tokio::spawn(async move { while stream.next().await.is_some() {} });
                while sink.send(Message::Ping("".into())).await.is_ok() {
                    sleep(SECOND / 100).await;
                }
            })
            .await,
            line(default, |tcp| async {
                let mut client = connect(tcp).await;
                client.send(Message::text("drain")).await.unwrap();
                while client.next().await.is_some() {}
            })
            .await,
        ];
        for line in real {
            assert!(
                lines().any(|of_guide| of_guide == line),
                "the guide lacks {line}"
            );
        }
    }

    #[test]
    fn the_table_of_presets_is_right() {
        for (name, config) in [
            ("development()", TimeoutConfig::development()),
            ("DEFAULT", TimeoutConfig::DEFAULT),
            ("production()", TimeoutConfig::production()),
            ("high_latency()", TimeoutConfig::high_latency()),
            ("client()", TimeoutConfig::client()),
        ] {
            let bound = config.detection_bound().unwrap().as_secs();
            let lifetime = config.connection_timeout();
            let lifetime = lifetime.map_or("off".to_string(), |lifetime| {
                format!("{} min", lifetime.as_secs() / 60)
            });
            let row = format!("| `TimeoutConfig::{name}` | {bound} s | {lifetime} |");
            assert!(GUIDE.contains(&row), "the guide lacks {row}");
        }
    }

    /// The words of each line of the guide's log.
    fn lines() -> impl Iterator<Item = String> {
        let (_, log) = GUIDE.split_once("### The log's lines").unwrap();
        let (_, log) = log.split_once("```text\n").unwrap();
        let (log, _) = log.split_once("```").unwrap();
        let log = log.replace("\n      ", " ");
        let lines: Vec<String> = log.lines().map(words).collect();
        lines.into_iter()
    }

    /// The words of a line, without figures and units.
    fn words(line: &str) -> String {
        let words = line.split(|c: char| !c.is_alphabetic());
        words
            .filter(|word| word.len() > 2)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The line of the verdict on a connection to this peer, in words.
    async fn line<F>(config: TimeoutConfig, peer: impl FnOnce(DuplexStream) -> F) -> String
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let verdict = Verdict::default();
        let timeouts = Timeouts::new(config).with_observer(verdict.clone());
        let (ours, theirs) = duplex(64 << 10);
        let peer = tokio::spawn(peer(theirs));
        let ours = Metered::new(ours);
        let meter = ours.meter();
        let opening = open(&timeouts, accept_async(ours)).with_meter(meter);
        if let Ok(mut socket) = opening.with_label("10.0.0.7:51312").await {
            while let Some(Ok(message)) = socket.next().await {
                let _ = match message.to_text() {
                    Ok("much") => socket.send_binary(vec![7; 1 << 20]).await,
                    Ok("close") => socket.close(1000, "").await.map(drop),
                    Ok("drain") => {
                        socket.drain(10 * SECOND);
                        Ok(())
                    }
                    _ => Ok(()),
                };
            }
        }
        peer.abort();
        let line = verdict.0.lock().unwrap();
        words(&line)
    }

    #[derive(Clone, Default)]
    struct Verdict(Arc<Mutex<String>>);

    impl Observer for Verdict {
        fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
            if let Report::Verdict { verdict, .. } = report {
                let level = match verdict.reason.is_planned() {
                    true => "INFO",
                    false => "WARN",
                };
                let label = connection.label.unwrap();
                *self.0.lock().unwrap() = format!("{level}  {label}: {report}");
            }
        }
    }

    async fn connect(tcp: DuplexStream) -> WebSocketStream<DuplexStream> {
        client_async("ws://localhost/", tcp).await.unwrap().0
    }

    /// Answers each ping some milliseconds late.
    async fn read_now_and_then(client: &mut WebSocketStream<DuplexStream>) {
        while !matches!(timeout(SECOND / 1000, client.next()).await, Ok(None)) {
            sleep(SECOND * 38 / 1000).await;
        }
    }
}
