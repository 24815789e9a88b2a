//! What operators and newcomers look at: health, metrics, and a page that shows events arriving.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{Html, IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use crate::{
    app::App,
    problem::{Code, Problem},
};

/// The built-in page, complete in itself.
const PAGE: &str = include_str!("../page.html");

/// What the page may do: run what stands in it, and talk to this server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";

/// Whether the process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")),
)]
pub async fn health() -> &'static str {
    "ok\n"
}

/// Whether to send traffic here.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain"),
        (status = 503, description = "Draining, or the log cannot be written", body = String, content_type = "text/plain"),
    ),
)]
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// Metrics in the OpenMetrics text format, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text")),
)]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let text = app.metrics.encode().map_err(|_| Problem::new(Code::Internal, "metrics could not be written"))?;
    let media_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

/// `GET /`: publish and subscribe in a browser.
pub async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY))], Html(PAGE)).into_response()
}

/// What no route takes.
pub async fn not_found() -> Problem {
    Problem::new(Code::NotFound, "there is nothing at this path; /docs lists what there is")
}

/// What a route does not take.
pub async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path does not take this method; /docs lists what it takes")
}
