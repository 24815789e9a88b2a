//! Around every call: refuses targets that are too long, and counts the answers that are problems.
//!
//! A service of its own rather than two functions as middleware, each of which would box a future and
//! clone the route for every request.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    extract::Request,
    response::{IntoResponse as _, Response},
};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    app::App,
    problem::{Code, Problem},
};

/// Puts a [`Guard`] around a service.
#[derive(Clone)]
pub(crate) struct GuardLayer(pub(crate) Arc<App>);

/// The service with its guard.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    app: Arc<App>,
    inner: S,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { app: self.0.clone(), inner }
    }
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Guarded<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let app = self.app.clone();
        match too_long(&app, &request) {
            Some(problem) => Guarded { app, answer: Answer::Refused { response: Some(problem.into_response()) } },
            None => Guarded { app, answer: Answer::Awaited { future: self.inner.call(request) } },
        }
    }
}

/// Targets over the limit. Those over 64 KiB, and heads that are too large as a whole, are refused
/// before, while they are being read.
fn too_long(app: &App, request: &Request) -> Option<Problem> {
    let max = app.settings().limits.url_max_bytes;
    let bytes = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    (bytes > max).then(|| {
        let detail = format!("the URL has {bytes} bytes; accepted are up to {max} (limits.max_url_bytes)");
        Problem::new(Code::UrlTooLong, detail)
    })
}

pin_project! {
    /// An answer on its way out.
    pub(crate) struct Guarded<F> {
        app: Arc<App>,
        #[pin]
        answer: Answer<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum Answer<F> {
        Refused { response: Option<Response> },
        Awaited { #[pin] future: F },
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.answer.project() {
            Projected::Refused { response } => response.take().unwrap_or_default(),
            Projected::Awaited { future } => {
                let Ok(response) = ready!(future.poll(cx));
                response
            }
        };
        if let Some(code) = response.extensions().get::<Code>() {
            this.app.metrics.refused(code.as_str());
        }
        Poll::Ready(Ok(response))
    }
}
