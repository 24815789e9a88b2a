//! The server that most teams would write: axum's `Sse` over a tokio broadcast channel for each topic.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
    serve::ListenerExt as _,
};
use futures_util::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_stream::wrappers::BroadcastStream;

/// Messages that a channel holds for streams which are behind: the number of axum's own chat example.
const CAPACITY: usize = 100;

/// As Tidings's heartbeat.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
struct Message {
    id: u64,
    data: Arc<str>,
}

#[derive(Debug, Default)]
struct Channels {
    senders: Mutex<HashMap<String, broadcast::Sender<Message>>>,
    last_id: AtomicU64,
}

/// Serves until the process is ended.
pub async fn run(listener: TcpListener) -> anyhow::Result<()> {
    let app = Router::new()
        .route("/sub/{channel}", get(subscribe))
        .route("/pub/{channel}", post(publish))
        .route("/account/{user}", get(account))
        .with_state(Arc::new(Channels::default()));
    let listener = listener.tap_io(|stream| {
        // It fails only on a connection that is gone, which is found out soon enough.
        let _nodelay = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

async fn subscribe(
    State(channels): State<Arc<Channels>>,
    Path(channel): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let receiver = {
        let mut senders = channels.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry(channel).or_insert_with(|| broadcast::channel(CAPACITY).0).subscribe()
    };
    // A stream that lags loses messages and is not told: that is how such code is usually written. The
    // load generator counts them, and a run with losses is not published.
    let events = BroadcastStream::new(receiver).filter_map(|message| async {
        let message = message.ok()?;
        Some(Ok(Event::default().id(message.id.to_string()).data(&*message.data)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

async fn publish(State(channels): State<Arc<Channels>>, Path(channel): Path<String>, data: String) -> StatusCode {
    let id = channels.last_id.fetch_add(1, Relaxed) + 1;
    let senders = channels.senders.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = senders.get(&channel) {
        // It fails when nobody listens, which is not the publisher's fault.
        let _receivers = sender.send(Message { id, data: data.into() });
    }
    StatusCode::OK
}

/// What a page asks for again and again where nothing is pushed: an account with its last orders, some 400 bytes.
async fn account(Path(user): Path<String>) -> Json<Value> {
    let orders: Vec<Value> = (1..=4)
        .map(|number| json!({ "id": format!("order-{number:06}"), "status": "filled", "quantity": 10 * number, "price": "104.25" }))
        .collect();
    Json(
        json!({ "user": user, "currency": "EUR", "balance": "10250.75", "available": "9875.50", "unread": 3, "orders": orders }),
    )
}
