//! Reads rows, hands them over, deletes them.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Database, OutboxConfig, OutboxHandle, OutboxRow, OutboxSink, SinkError, Taken,
    lane::{Lane, Lanes},
    link::{Link, LinkError},
    row::Target,
    wake::Wake,
};

/// The first wait after nothing was found; each further one is twice as long.
const POLL_MIN: Duration = Duration::from_millis(20);

/// The longest wait, whatever is configured: the server ends sessions that are silent for longer.
const POLL_MAX: Duration = Duration::from_secs(30);

/// How often a node that is not the leader tries to become it.
const LEAD_RETRY: Duration = Duration::from_secs(1);

/// The first wait after the database was lost, and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long the sink and the database may take to finish when the server stops. What has been taken by then comes
/// again, and is known by its key.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Drains one table.
pub(super) struct Drain {
    config: OutboxConfig,
    sink: Arc<dyn OutboxSink>,
    handle: OutboxHandle,
    events: Lane,
    notifications: Lane,
}

/// What became of a batch.
#[derive(Default)]
struct Verdicts {
    /// Rows that were taken, and whether they had been before.
    taken: Vec<(i64, Target, Taken)>,
    /// Rows that never will be.
    refused: Vec<(i64, String)>,
    /// Why others were not.
    unavailable: Option<String>,
}

impl Verdicts {
    fn add(&mut self, id: i64, target: Target, verdict: Result<Taken, SinkError>) {
        match verdict {
            Ok(taken) => self.taken.push((id, target, taken)),
            Err(SinkError::Refused(reason)) => self.refused.push((id, reason)),
            Err(SinkError::Unavailable(cause)) => {
                self.unavailable.get_or_insert(cause);
            }
        }
    }

    fn has_some(&self) -> bool {
        !self.taken.is_empty() || !self.refused.is_empty()
    }
}

impl Lane {
    /// What a batch came to; `is_read` says whether rows of this lane were asked for.
    fn on_batch(&mut self, verdicts: &Verdicts, is_read: bool) {
        if verdicts.has_some() || (is_read && verdicts.unavailable.is_none()) {
            self.on_taken();
        }
        if let Some(cause) = &verdicts.unavailable {
            self.on_unavailable(cause.clone(), Instant::now());
        }
    }
}

impl Drain {
    pub(super) fn new(config: OutboxConfig, sink: Arc<dyn OutboxSink>, handle: OutboxHandle) -> Self {
        let (events, notifications) = (Lane::default(), Lane::default());
        Self { config, sink, handle, events, notifications }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Ok(database) = Database::of_url(&self.config.url) else { return };
        let wake = Wake::new(&self.config, database, &self.handle);
        let mut wait = RECONNECT.0;
        while !stop.is_cancelled() {
            let connected = tokio::select! {
                () = stop.cancelled() => break,
                connected = Link::connect(&self.config, database) => connected,
            };
            let ended = match connected {
                Ok(mut link) => {
                    let draining = async {
                        let ended = self.on_link(&mut link, &wake, &stop, &mut wait).await;
                        if ended.is_ok() {
                            link.close().await;
                        }
                        ended
                    };
                    tokio::select! {
                        ended = draining => ended,
                        () = async { stop.cancelled().await; sleep(STOP_GRACE).await } => Ok(()),
                    }
                }
                Err(error) => Err(error),
            };
            self.handle.update(|status| (status.is_leader, status.lag_ms) = (false, 0));
            if let Err(error) = ended {
                self.handle.trouble(Some(error.to_string()));
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(wait.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.5..1.0))) => {}
                }
                wait = (wait * 2).min(RECONNECT.1);
            }
        }
    }

    /// Drains until it is told to stop, or the connection fails.
    async fn on_link(
        &mut self,
        link: &mut Link,
        wake: &Wake,
        stop: &CancellationToken,
        reconnect_wait: &mut Duration,
    ) -> Result<(), LinkError> {
        while !link.lead().await? {
            self.handle.trouble(None);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(LEAD_RETRY) => {}
            }
        }
        self.handle.update(|status| status.is_leader = true);
        let (mut poll, poll_max) = (POLL_MIN, self.config.poll_max.min(POLL_MAX));
        while !stop.is_cancelled() {
            let has_progressed = self.round(link, stop).await?;
            *reconnect_wait = RECONNECT.0;
            self.handle.trouble(self.events.trouble().or(self.notifications.trouble()).cloned());
            if has_progressed {
                poll = POLL_MIN;
                continue;
            }
            let opens = [&self.events, &self.notifications].into_iter().filter_map(|l| l.closed_until(Instant::now()));
            poll = if wake.is_heard() { poll_max } else { poll.min(poll_max) };
            let next_look = opens.min().map_or(Instant::now() + poll, |opens| opens.min(Instant::now() + poll));
            tokio::select! {
                () = stop.cancelled() => {}
                () = wake.heard() => poll = POLL_MIN,
                () = sleep_until(next_look) => poll *= 2,
            }
        }
        Ok(())
    }

    /// Takes a batch. Answers whether there may be more to do at once.
    async fn round(&mut self, link: &mut Link, stop: &CancellationToken) -> Result<bool, LinkError> {
        let now = Instant::now();
        let lanes = match (self.events.closed_until(now), self.notifications.closed_until(now)) {
            (None, None) => Lanes::Both,
            (Some(_), None) => Lanes::Without(Target::Event),
            (None, Some(_)) => Lanes::Without(Target::Notification),
            (Some(_), Some(_)) => return Ok(false),
        };
        let rows = link.rows(lanes).await?;
        let lag_ms = rows.first().map_or(0, |row| u64::try_from(row.age_ms).unwrap_or(0));
        self.handle.update(|status| status.lag_ms = lag_ms);

        let mut refused = Vec::new();
        let (mut events, mut notifications) = (Vec::new(), Vec::new());
        for row in rows {
            let id = row.id;
            match row.read(link.source(), self.config.payload_max_bytes) {
                Ok((Target::Event, row)) => events.push((id, row)),
                Ok((Target::Notification, row)) => notifications.push((id, row)),
                Err(reason) => refused.push((id, reason)),
            }
        }
        let doubts_notifications = self.notifications.is_in_doubt();
        let (events, notifications) =
            tokio::join!(self.take_events(events), self.take_notifications(notifications, doubts_notifications, stop));

        self.events.on_batch(&events, lanes.have(Target::Event));
        self.notifications.on_batch(&notifications, lanes.have(Target::Notification));
        refused.extend(events.refused);
        refused.extend(notifications.refused);
        let taken: Vec<_> = events.taken.into_iter().chain(notifications.taken).collect();
        let done: Vec<_> = taken.iter().map(|(id, ..)| *id).collect();
        link.settle(&done, &refused).await?;
        self.count(&taken, &refused);
        Ok(!taken.is_empty() || !refused.is_empty())
    }

    async fn take_events(&self, rows: Vec<(i64, OutboxRow)>) -> Verdicts {
        let mut verdicts = Verdicts::default();
        if rows.is_empty() {
            return verdicts;
        }
        let (ids, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let mut answers = self.sink.events(rows).await.into_iter();
        for id in ids {
            let answer = answers.next().unwrap_or_else(|| Err(SinkError::Unavailable("no answer".to_owned())));
            verdicts.add(id, Target::Event, answer);
        }
        verdicts
    }

    /// One after another, up to the first that cannot be taken now. Where that is in doubt, the next one is
    /// tried: if it can be, the first is put aside.
    async fn take_notifications(
        &self,
        rows: Vec<(i64, OutboxRow)>,
        is_in_doubt: bool,
        stop: &CancellationToken,
    ) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let mut rows = rows.into_iter();
        while let Some((id, row)) = rows.next() {
            if stop.is_cancelled() {
                break;
            }
            let verdict = self.sink.notification(row.clone()).await;
            let Err(SinkError::Unavailable(cause)) = verdict else {
                verdicts.add(id, Target::Notification, verdict);
                continue;
            };
            if !is_in_doubt || verdicts.has_some() {
                verdicts.unavailable = Some(cause);
                break;
            }
            let Some((next_id, next)) = rows.next() else {
                verdicts.unavailable = Some(cause);
                break;
            };
            match self.sink.notification(next).await {
                Err(SinkError::Unavailable(cause)) => {
                    verdicts.unavailable = Some(cause);
                    break;
                }
                verdict => {
                    verdicts.add(next_id, Target::Notification, verdict);
                    // The trouble may have ended just now.
                    let again = self.sink.notification(row).await;
                    let refusal = |cause| SinkError::Refused(format!("others were taken, this was not: {cause}"));
                    verdicts.add(id, Target::Notification, again.map_err(|error| refusal(error.to_string())));
                }
            }
        }
        verdicts
    }

    fn count(&self, taken: &[(i64, Target, Taken)], refused: &[(i64, String)]) {
        let of = |what: Target| {
            let is_new = |(_, target, taken): &&(i64, Target, Taken)| *target == what && *taken == Taken::New;
            taken.iter().filter(is_new).count() as u64
        };
        let duplicates = taken.iter().filter(|(.., taken)| *taken == Taken::Duplicate).count() as u64;
        self.handle.update(|status| {
            status.events_total += of(Target::Event);
            status.notifications_total += of(Target::Notification);
            status.duplicates_total += duplicates;
            status.parked_total += refused.len() as u64;
        });
        if let Some((id, reason)) = refused.first() {
            let count = refused.len();
            tracing::warn!(outbox = self.config.name, count, id, reason, "rows of the outbox were put aside");
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::outbox::Table;

    /// Takes no notification that says `poison`, without saying that it never will, and none while it is down.
    #[derive(Default)]
    struct Fussy {
        is_down: bool,
        taken: Mutex<Vec<String>>,
    }

    #[async_trait::async_trait]
    impl OutboxSink for Fussy {
        async fn events(&self, _rows: Vec<OutboxRow>) -> Vec<Result<Taken, SinkError>> {
            Vec::new()
        }

        async fn notification(&self, row: OutboxRow) -> Result<Taken, SinkError> {
            if self.is_down || row.payload == b"poison" {
                return Err(SinkError::Unavailable("no".to_owned()));
            }
            self.taken.lock().push(row.key);
            Ok(Taken::New)
        }
    }

    async fn take(sink: Fussy, payloads: &[&str], is_in_doubt: bool) -> (Verdicts, Vec<String>) {
        let sink = Arc::new(sink);
        let config = OutboxConfig {
            name: String::new(),
            url: String::new(),
            table: Table::default(),
            payload_max_bytes: 100,
            poll_max: Duration::from_secs(1),
        };
        let drain = Drain::new(config, sink.clone(), OutboxHandle::new("t".to_owned()));
        let rows = payloads.iter().zip(1..).map(|(payload, id): (_, i64)| {
            (id, OutboxRow { payload: payload.as_bytes().to_vec(), key: id.to_string() })
        });
        let verdicts = drain.take_notifications(rows.collect(), is_in_doubt, &CancellationToken::new()).await;
        let taken = sink.taken.lock().clone();
        (verdicts, taken)
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_taken_holds_up_the_others_until_there_is_doubt() {
        let (verdicts, taken) = take(Fussy::default(), &["a", "poison", "b"], false).await;
        assert_eq!(taken, ["1"]);
        assert!(verdicts.unavailable.is_some() && verdicts.refused.is_empty());

        let (verdicts, taken) = take(Fussy::default(), &["poison", "b", "c"], true).await;
        assert_eq!(taken, ["2", "3"]);
        assert_eq!(verdicts.refused, [(1, "others were taken, this was not: no".to_owned())]);
        assert_eq!(verdicts.unavailable, None);
    }

    #[tokio::test]
    async fn a_sink_that_is_down_costs_no_row() {
        let down = Fussy { is_down: true, ..Fussy::default() };
        let (verdicts, taken) = take(down, &["a", "b", "c"], true).await;
        assert!(taken.is_empty() && !verdicts.has_some() && verdicts.unavailable.is_some());
    }
}
