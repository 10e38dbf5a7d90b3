//! Support for tower: [`Timeouts`] as a layer, for axum and plain hyper.
//!
//! The layer adds two extensions to every request: a [`Timeouts`] and its `Arc<TimeoutConfig>`. The
//! innermost layer around a handler wins, so a route can have its own limits:
//!
//! ```
//! # use std::convert::Infallible;
//! # use std::time::Duration;
//! use http::{Request, Response};
//! use tower_layer::Layer;
//! use tower_service::Service;
//! use ws_timeout::{TimeoutConfig, Timeouts};
//!
//! # /// A service of one function, as tower and hyper-util have it.
//! # #[derive(Clone)]
//! # struct Handler<F>(F);
//! # impl<F: Fn(Request<()>) -> Response<()>> Service<Request<()>> for Handler<F> {
//! #     type Response = Response<()>;
//! #     type Error = Infallible;
//! #     type Future = std::future::Ready<Result<Response<()>, Infallible>>;
//! #     fn poll_ready(
//! #         &mut self,
//! #         _: &mut std::task::Context<'_>,
//! #     ) -> std::task::Poll<Result<(), Infallible>> {
//! #         std::task::Poll::Ready(Ok(()))
//! #     }
//! #     fn call(&mut self, request: Request<()>) -> Self::Future {
//! #         std::future::ready(Ok((self.0)(request)))
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let handler = Handler(|request: Request<()>| {
//! #     let timeouts = request.extensions().get::<Timeouts>().expect("the layer sets it");
//! #     assert_eq!(timeouts.config().message_timeout(), Some(Duration::from_secs(8)));
//! #     Response::new(())
//! # });
//! let timeouts = Timeouts::new(TimeoutConfig::production());
//! let slow = timeouts.config().to_builder().message_timeout(Duration::from_secs(8)).build()?;
//!
//! let route = timeouts.with_config(slow).layer(handler);
//! let mut server = timeouts.layer(route); // or `ServiceBuilder::layer`
//! # server.call(Request::new(())).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A handler gets its timeouts with `request.extensions().get::<Timeouts>()`. axum does not need
//! this layer: `.layer(Extension(timeouts))` adds the same [`Timeouts`], and handlers extract it as
//! `Extension<Timeouts>`.
//!
//! When a process applies a configuration as a layer for the first time, the layer logs the limits
//! (`info`), and the settings that are probably mistakes (`warn`; see [`TimeoutConfig::warnings`]).

use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

#[cfg(doc)]
use crate::config::TimeoutConfig;
use crate::report;
use crate::socket::Timeouts;

/// Adds the timeouts to every request; see the [module](crate::tower).
impl<S> Layer<S> for Timeouts {
    type Service = AddTimeouts<S>;

    fn layer(&self, inner: S) -> AddTimeouts<S> {
        report::limits(self.config());
        let timeouts = self.clone();
        AddTimeouts { inner, timeouts }
    }
}

/// A service that adds [`Timeouts`] and their `Arc<TimeoutConfig>` to the extensions of each
/// request.
///
/// [`Timeouts::layer`](Layer::layer) creates it.
#[derive(Clone, Debug)]
pub struct AddTimeouts<S> {
    inner: S,
    timeouts: Timeouts,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for AddTimeouts<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let extensions = request.extensions_mut();
        extensions.insert(self.timeouts.config().clone());
        extensions.insert(self.timeouts.clone());
        self.inner.call(request)
    }
}
