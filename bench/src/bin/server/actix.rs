//! actix-ws with a typical handler, on one worker.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, rt, web};
use actix_ws::{Message, MessageStream, Session};
use futures_util::StreamExt;

use crate::Outcome;

pub fn serve(ping: Duration) -> Outcome {
    rt::System::new().block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        println!("listening on {}", listener.local_addr()?.port());
        let server = HttpServer::new(move || {
            App::new().route(
                "/",
                web::get().to(move |request, body| upgrade(request, body, ping)),
            )
        });
        Ok(server.workers(1).listen(listener)?.run().await?)
    })
}

async fn upgrade(
    request: HttpRequest,
    body: web::Payload,
    ping: Duration,
) -> Result<HttpResponse, Error> {
    let (response, session, messages) = actix_ws::handle(&request, body)?;
    rt::spawn(keep(session, messages, ping));
    Ok(response)
}

async fn keep(mut session: Session, mut messages: MessageStream, ping: Duration) {
    let mut ticks = rt::time::interval(ping);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(Ok(message)) = message else { break };
                heard = Instant::now();
                let sent = match message {
                    Message::Text(text) => session.text(text).await,
                    Message::Ping(payload) => session.pong(&payload).await,
                    _ => Ok(()),
                };
                if sent.is_err() {
                    break;
                }
            }
            _ = ticks.tick() => {
                if heard.elapsed() > ping + Duration::from_secs(60)
                    || session.ping(b"").await.is_err()
                {
                    break;
                }
            }
        }
    }
}
