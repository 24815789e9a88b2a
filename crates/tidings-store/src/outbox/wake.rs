//! Hears of rows that were committed, where the database can tell.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{Database, OutboxConfig, OutboxHandle, Table, link};

/// How long a listener that has failed waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// Is woken when there may be rows.
pub(super) struct Wake {
    shared: Arc<Shared>,
    _listener: Option<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Shared {
    notify: Notify,
    /// Whether the trigger is there and is heard. Then nobody needs to look for rows but to be safe.
    is_heard: AtomicBool,
}

impl Wake {
    /// Listens, to Postgres. The others have no such thing.
    pub(super) fn new(config: &OutboxConfig, database: Database, handle: &OutboxHandle) -> Self {
        let shared = Arc::<Shared>::default();
        let options = (database == Database::Postgres).then(|| link::postgres_options(&config.url).ok()).flatten();
        let listener = options.map(|options| {
            let listening = listen(options, config.table.clone(), shared.clone(), handle.clone());
            AbortOnDropHandle::new(tokio::spawn(listening))
        });
        Self { shared, _listener: listener }
    }

    /// Whether it has woken somebody before and will again.
    pub(super) fn is_heard(&self) -> bool {
        self.shared.is_heard.load(Relaxed)
    }

    /// Waits until there may be rows.
    pub(super) async fn heard(&self) {
        self.shared.notify.notified().await;
    }
}

/// Wakes for each notification, and after each loss of the connection, which may have hidden some.
async fn listen(options: PgConnectOptions, table: Table, shared: Arc<Shared>, handle: OutboxHandle) {
    let lasting = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let pool = lasting.connect_lazy_with(options);
    loop {
        let hearing = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(table.as_str()).await?;
            loop {
                shared.notify.notify_one();
                let is_heard = listener.try_recv().await?.is_some();
                shared.is_heard.store(is_heard, Relaxed);
                handle.update(|status| status.wakes_total += u64::from(is_heard));
            }
        };
        // It ends by an error only. The table is looked at in any case, and that says what is wrong.
        let ended: Result<Infallible, sqlx::Error> = hearing.await;
        shared.is_heard.store(false, Relaxed);
        tracing::debug!(error = ?ended.err(), "the outbox cannot be listened to");
        tokio::time::sleep(RETRY).await;
    }
}
