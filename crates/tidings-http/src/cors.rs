//! Pages of other origins: who may call the API, and what they may see (Fetch standard, CORS protocol).

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{extract::Request, response::Response};
use futures_util::{
    TryFutureExt as _,
    future::{Either, MapOk},
};
use http::{HeaderValue, Method, header};
use tower::{Layer, Service};
use tower_http::cors::{self, AllowCredentials, AllowOrigin, Cors, CorsLayer};

use crate::app::App;

/// Applies the rules to requests of pages, and lets those of backends and apps pass beside them.
#[derive(Clone)]
pub(crate) struct PagesLayer(CorsLayer);

/// A service with these rules.
#[derive(Clone)]
pub(crate) struct Pages<S> {
    plain: S,
    with_rules: Cors<S>,
}

impl PagesLayer {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self(rules(app))
    }
}

impl<S: Clone> Layer<S> for PagesLayer {
    type Service = Pages<S>;

    fn layer(&self, inner: S) -> Pages<S> {
        Pages { plain: inner.clone(), with_rules: self.0.layer(inner) }
    }
}

impl<S> Service<Request> for Pages<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<MapOk<S::Future, fn(Response) -> Response>, cors::ResponseFuture<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.plain.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // A browser names the page's origin whenever these rules have anything to say.
        let is_of_page = request.headers().contains_key(header::ORIGIN) || request.method() == Method::OPTIONS;
        match is_of_page {
            true => Either::Right(self.with_rules.call(request)),
            false => Either::Left(self.plain.call(request).map_ok(vary)),
        }
    }
}

/// A cache must not give a page the answer that somebody else got.
fn vary(mut response: Response) -> Response {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    response
}

/// Pages of the listed origins may call the API; with `--dev`, so may pages on loopback.
fn rules(app: Arc<App>) -> CorsLayer {
    let of_credentials = app.clone();
    // Never by `*`: any page at all could then act as whoever looks at it.
    let allow_credentials = AllowCredentials::predicate(move |origin: &HeaderValue, _| {
        let settings = of_credentials.settings();
        settings.allows_cookies && settings.cors_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    });
    let allow_origin = AllowOrigin::predicate(move |origin: &HeaderValue, _| {
        let settings = app.settings();
        let Ok(origin) = origin.to_str() else { return false };
        settings.cors_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
            || settings.dev && is_loopback(origin)
    });
    CorsLayer::new()
        .allow_origin(allow_origin)
        .allow_credentials(allow_credentials)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::CACHE_CONTROL,
            header::HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::RETRY_AFTER])
        .max_age(std::time::Duration::from_secs(3600))
}

fn is_loopback(origin: &str) -> bool {
    let Some(host) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else { return false };
    let host = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}
