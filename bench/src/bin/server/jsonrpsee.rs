//! jsonrpsee, with its built-in pings.

use std::time::Duration;

use jsonrpsee::RpcModule;
use jsonrpsee::server::{PingConfig, Server, ServerConfig};

use crate::Outcome;

pub async fn serve(ping: Duration) -> Outcome {
    let pings = PingConfig::new()
        .ping_interval(ping)
        .inactive_limit(ping + Duration::from_secs(60));
    let config = ServerConfig::builder()
        .ws_only()
        .max_connections(100_000)
        .enable_ws_ping(pings)
        .build();
    let server = Server::builder()
        .set_config(config)
        .build("127.0.0.1:0")
        .await?;
    println!("listening on {}", server.local_addr()?.port());
    server.start(RpcModule::new(())).stopped().await;
    Ok(())
}
