//! From the tables of applications to the log and the store.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_core::{
    Principal, SharedNamespaces,
    ports::{AcceptError, AppendError},
    publish::PublishRefused,
};
use tidings_http::App;
use tidings_protocol::{
    notify::{Notify, NotifyLimits},
    publish::{Publish, PublishLimits},
};
use tidings_store::outbox::{Database, Outbox, OutboxConfig, OutboxRow, OutboxSink, SinkError, Table, Taken};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// How much longer JSON may be than the data in it, where each character is escaped.
const ESCAPE_FACTOR: usize = 6;

/// Room in a row for what is not data: a thousand channels or users.
const ROW_SPARE_BYTES: usize = 512 * 1024;

/// The tables that are configured.
pub(crate) fn settings(config: &Config) -> anyhow::Result<Vec<OutboxConfig>> {
    let mut settings: Vec<OutboxConfig> = Vec::new();
    for from in &config.outbox {
        let url = from.url.expose().to_owned();
        let plain = format!("{} {}", Database::of_url(&url)?.as_str(), from.table);
        let of_that_name = |name: &str| settings.iter().any(|other| other.name == name);
        let mut names = std::iter::once(plain.clone()).chain((2..).map(|number| format!("{plain} {number}")));
        settings.push(OutboxConfig {
            name: names.find(|name| !of_that_name(name)).unwrap_or(plain),
            url,
            table: Table::parse(&from.table)?,
            payload_max_bytes: config.limits.max_data_bytes * ESCAPE_FACTOR + ROW_SPARE_BYTES,
            poll_max: from.poll,
        });
    }
    Ok(settings)
}

/// The tables that are being drained.
pub(crate) struct Outboxes {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Outboxes {
    /// Begins to drain those that are configured.
    pub(crate) fn start(config: &Config, app: &Arc<App>, namespaces: &SharedNamespaces) -> anyhow::Result<Self> {
        let sink: Arc<dyn OutboxSink> = Arc::new(Sink { app: app.clone(), namespaces: namespaces.clone() });
        let mut outboxes = Self { stop: CancellationToken::new(), tasks: JoinSet::new() };
        for from in settings(config)? {
            let outbox = Outbox::new(from, sink.clone())?;
            app.metrics.watch(Arc::new(outbox.handle()));
            outboxes.tasks.spawn(outbox.run(outboxes.stop.clone()));
        }
        Ok(outboxes)
    }

    /// Ends it; what has been taken is finished. The log and the store have to be there until then.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "an outbox failed");
            }
        }
    }
}

/// Publishes and notifies, as a backend with an API key would.
struct Sink {
    app: Arc<App>,
    namespaces: SharedNamespaces,
}

#[async_trait]
impl OutboxSink for Sink {
    async fn events(&self, rows: Vec<OutboxRow>) -> Vec<Result<Taken, SinkError>> {
        let limits = &self.app.settings().limits;
        let limits = PublishLimits { data_max_bytes: limits.data_max_bytes, channels_max: limits.channels_per_publish };
        let now = self.app.clock().now();
        let mut events = Vec::new();
        let parsed: Vec<_> = rows
            .into_iter()
            .map(|row| {
                let publish = Publish::parse(&row.payload, limits, now).map_err(refused)?;
                let channels: Vec<_> = publish.events.iter().map(|event| event.channel.clone()).collect();
                events.extend(publish.events.into_iter().map(|mut event| {
                    event.key.get_or_insert_with(|| row.key.as_str().into());
                    event
                }));
                Ok(channels)
            })
            .collect();
        let who = Principal::ApiKey { label: "outbox".to_owned() };
        let mut answers = self.app.publisher.publish(&who, events).await.into_iter();
        let namespaces = self.namespaces.load();
        parsed
            .into_iter()
            .map(|channels| {
                let channels = channels?;
                // An event with several channels is taken when it is on each of them.
                let answers: Vec<_> = answers.by_ref().take(channels.len()).collect();
                for (channel, answer) in channels.iter().zip(&answers) {
                    if let Ok(appended) = answer {
                        self.app.metrics.published(namespaces.label(channel), appended.is_duplicate);
                    }
                }
                let mut refusal = None;
                let mut taken = Taken::Duplicate;
                for answer in answers {
                    match answer {
                        Ok(appended) if appended.is_duplicate => {}
                        Ok(_) => taken = Taken::New,
                        Err(PublishRefused::Append(AppendError::Unavailable(error))) => {
                            return Err(SinkError::Unavailable(error.to_string()));
                        }
                        Err(error) => refusal = Some(refused(error)),
                    }
                }
                refusal.map_or(Ok(taken), Err)
            })
            .collect()
    }

    async fn notification(&self, row: OutboxRow) -> Result<Taken, SinkError> {
        let limits = NotifyLimits { data_max_bytes: self.app.settings().limits.data_max_bytes };
        let mut notify = Notify::parse(&row.payload, limits).map_err(refused)?;
        notify.key.get_or_insert(row.key);
        match self.app.notifier.notify(notify).await {
            Ok(accepted) if accepted.is_duplicate => Ok(Taken::Duplicate),
            Ok(_) => Ok(Taken::New),
            Err(AcceptError::Store(error)) => Err(SinkError::Unavailable(error.to_string())),
            Err(error @ AcceptError::KeyConflict) => Err(refused(error)),
        }
    }
}

fn refused(error: impl std::error::Error) -> SinkError {
    SinkError::Refused(error.to_string())
}
