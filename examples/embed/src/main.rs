//! Tidings inside an axum application: one process, one port, events published without a detour.
//!
//! `cargo run -p example-embed`, open <http://127.0.0.1:8080/shop>, and like something in two windows.
//! `EMBED_LISTEN` names another address and port.

#![allow(clippy::print_stdout, reason = "it is a command, and says where it is")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{Router, extract::State, http::StatusCode, response::Html, routing};
use tidings::Tidings;

struct Shop {
    push: Tidings,
    likes: AtomicU64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // For development: everybody may listen. With `.config(…)` it takes all that tidings.toml can say.
    let push = Tidings::builder().dev(true).data_dir("tidings-data").build().await?;
    // The API is at its usual paths: /v1/subscribe, /v1/publish, /docs.
    let api = push.router();
    let drained = push.drained_on_ctrl_c();
    let shop = Arc::new(Shop { push, likes: AtomicU64::new(0) });
    let app = Router::new()
        .route("/shop", routing::get(page))
        .route("/shop/like", routing::post(like))
        .with_state(shop.clone())
        .merge(api);

    let listen = std::env::var("EMBED_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("http://{}/shop", listener.local_addr()?);
    // With connect info, streams are listed with their address and limited by it.
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(drained)
        .await?;
    // All requests have ended, so this is the last hold on the server.
    if let Some(shop) = Arc::into_inner(shop) {
        shop.push.close().await;
    }
    Ok(())
}

/// Counts a like and tells everybody who looks at the counter. `conflate` lets a slow phone skip the
/// numbers in between.
async fn like(State(shop): State<Arc<Shop>>) -> Result<String, (StatusCode, String)> {
    let likes = shop.likes.fetch_add(1, Relaxed) + 1;
    let event = serde_json::json!({ "channel": "shop:likes", "data": likes, "conflate": "likes" });
    let published = shop.push.publish(&event.to_string()).await;
    published.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(likes.to_string())
}

async fn page() -> Html<&'static str> {
    Html(
        r#"<!doctype html><title>Likes</title>
<button onclick="fetch('/shop/like', { method: 'POST' })">Like</button> <output id="likes">0</output>
<script>
  new EventSource('/v1/subscribe?channel=shop:likes&replay=1').onmessage = (event) => likes.textContent = event.data;
</script>"#,
    )
}
