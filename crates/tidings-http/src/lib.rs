//! The HTTP side of Tidings: the only crate that knows HTTP.
//!
//! A connection passes [`server`] → [`router`] → [`caller`] (who is it, and not too fast) → a call of
//! [`api`] → for a stream, a [`transport`]. What goes wrong on the way is a [`problem`].

use std::sync::Arc;

use axum::{Router, routing::get};
use tower::ServiceBuilder;
use utoipa::{
    OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub mod api;
pub mod app;
pub mod auth;
mod blocks;
mod body;
pub mod caller;
pub mod client_address;
mod cors;
mod guard;
pub mod metrics;
mod path;
pub mod problem;
mod query;
pub mod rate_limit;
pub mod server;
pub mod settings;
mod socket;
pub mod tls;
pub mod transport;

pub use app::{App, AppParts};
pub use server::serve;

/// What `/openapi.json` says besides the calls.
#[derive(OpenApi)]
#[openapi(info(
    title = "Tidings",
    description = "Real-time push: publish events, stream them over SSE or long-poll, resume without loss. \
                   Errors are `application/problem+json` (RFC 9457) with a stable `code`. \
                   Send `Authorization: Bearer` with an API key (`tk_…`) or a JWT.",
    license(name = "Apache-2.0", identifier = "Apache-2.0"),
), modifiers(&Bearer), security((), ("bearer" = [])))]
struct Description;

/// How requests are authorized, so that the viewer at `/docs` can be told a key or a token.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key or a JWT")).build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

fn calls() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(api::publish::publish))
        .routes(routes!(api::subscribe::subscribe))
        .routes(routes!(api::tickets::issue))
        .routes(routes!(api::channels::channel))
        .routes(routes!(api::channels::history, api::channels::purge))
        .routes(routes!(api::connections::list))
        .routes(routes!(api::connections::close))
        .routes(routes!(api::connections::close_user))
        .routes(routes!(api::presence::user_presence))
        .routes(routes!(api::presence::channel_presence))
        .routes(routes!(api::notifications::notify))
        .routes(routes!(api::notifications::report))
        .routes(routes!(api::inbox::mine))
        .routes(routes!(api::inbox::my_counts))
        .routes(routes!(api::inbox::read))
        .routes(routes!(api::inbox::unread))
        .routes(routes!(api::inbox::archive))
        .routes(routes!(api::inbox::seen))
        .routes(routes!(api::ack::acknowledge))
        .routes(routes!(api::followers::change))
        .routes(routes!(api::follows::mine, api::follows::change_mine))
        .routes(routes!(api::follows::follow_mine, api::follows::unfollow_mine))
        .routes(routes!(api::devices::mine))
        .routes(routes!(api::devices::put_mine, api::devices::remove_mine))
        .routes(routes!(api::preferences::mine, api::preferences::put_mine))
        .routes(routes!(api::users::erase))
        .routes(routes!(api::inbox::theirs))
        .routes(routes!(api::inbox::their_counts))
        .routes(routes!(api::follows::theirs, api::follows::change_theirs))
        .routes(routes!(api::follows::follow_theirs, api::follows::unfollow_theirs))
        .routes(routes!(api::devices::theirs))
        .routes(routes!(api::devices::put_theirs, api::devices::remove_theirs))
        .routes(routes!(api::preferences::theirs, api::preferences::put_theirs))
        .routes(routes!(api::pushes::dead))
        .routes(routes!(api::pushes::retry))
        .routes(routes!(api::operations::health))
        .routes(routes!(api::operations::ready))
        .routes(routes!(api::operations::metrics))
}

/// The description of the API, as `/openapi.json` gives it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    calls().into_openapi()
}

/// All routes of a server, to be served by [`serve`] or merged into an application's own router.
pub fn router(app: Arc<App>) -> Router {
    let (calls, openapi) = calls().split_for_parts();
    // Without the badge of an outside service, which would be sent the URL of the description.
    let viewer = utoipa_swagger_ui::Config::default().validator_url("none");
    let docs = utoipa_swagger_ui::SwaggerUi::new("/docs").url("/openapi.json", openapi).config(viewer);
    let calls = match &app.alarm_path {
        // For clients that have a path built in.
        Some(path) => calls.route(path, get(api::subscribe::subscribe)),
        None => calls,
    };
    calls
        .route("/", get(api::operations::page))
        .merge(docs)
        .fallback(api::operations::not_found)
        .method_not_allowed_fallback(api::operations::method_not_allowed)
        // Together, for each layer by itself is a box and a clone for every request.
        .layer(ServiceBuilder::new().layer(cors::PagesLayer::new(app.clone())).layer(guard::GuardLayer(app.clone())))
        .with_state(app)
}
