//! Inboxes in memory: what streams read of them, what the tellers of nodes do to them, and the truth that
//! clients are held against.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tidings_core::{
    notifications::{Content, Counts, InboxEntry, Kind, Notification, NotificationId, Preferences, PushMode, State},
    ports::{
        AcceptError, Store,
        store::{
            Accepted, Acknowledged, DeadPush, Device, DeviceError, Due, FanOut, Follow, FollowError, FollowersChanged,
            InboxPage, InboxQuery, Mark, Marked, Missed, MissedQuery, MissedSince, NewNotification, Outcome, PushJob,
            PushResult, Put, Report, Settled, StoreError, StoreStatus, Told, Untold, Verification, Which,
        },
    },
};
use tidings_protocol::{
    Channel, Data, Epoch, Event, EventId, EventType, Millis, Partition, PartitionCursor, Position, UserId,
    notification::{NOTIFICATION, NotificationBody, NotificationEvent},
};

use super::cluster::turn;

/// Where a notification stands with its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    Untold,
    /// This node has appended it and not noted where.
    UnderWay(usize, EventId),
    Noted(EventId),
    /// It was muted.
    Silent,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: NotificationId,
    /// `None` is everyone.
    pub(crate) user: Option<UserId>,
    pub(crate) telling: Telling,
    is_silent: bool,
    /// Places where it was told by nodes that died before they could note it.
    pub(crate) forgotten: Vec<EventId>,
    read_by: HashSet<UserId>,
}

impl Row {
    pub(crate) fn is_for(&self, user: &UserId) -> bool {
        self.user.as_ref().is_none_or(|own| own == user)
    }

    pub(crate) fn is_unread_by(&self, user: &UserId) -> bool {
        !self.read_by.contains(user)
    }

    /// Where its event is that counts.
    pub(crate) fn place(&self) -> Option<EventId> {
        match self.telling {
            Telling::UnderWay(_, id) | Telling::Noted(id) => Some(id),
            Telling::Untold | Telling::Silent => None,
        }
    }

    fn notification(&self) -> Notification {
        let content = Content {
            kind: Kind::default_kind(),
            title: "t".to_owned(),
            body: None,
            url: None,
            data: None,
            collapse: None,
        };
        Notification { id: self.id, content, push: PushMode::Offline, created_at: 0, expires_at: Millis::MAX }
    }

    /// As the teller of a node makes it.
    fn event(&self) -> Event {
        let (channel, id) = (self.user.as_ref().map_or_else(Channel::everyone, Channel::personal), self.id.to_string());
        let body = NotificationBody {
            id: id.into(),
            kind: "default".into(),
            title: "t".into(),
            body: None,
            url: None,
            data: None,
            state: "unread".into(),
            seen: false,
            collapse: None,
            created_at: 0,
            expires_at: Millis::MAX,
        };
        let data = serde_json::to_string(&NotificationEvent { notification: body, counts: None });
        Event {
            channel,
            event_type: EventType::trusted(NOTIFICATION),
            data: Data::trusted(data.expect("it has a form")),
            sent_at: 0,
            key: None,
            conflate: None,
            expires_in_secs: None,
            is_ephemeral: true,
        }
    }
}

/// A partition whose place a client has kept.
pub(crate) type Kept = (Partition, Epoch);

/// All rows, in the order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// What was told at which place, other than what will be told again.
    places: BTreeMap<(usize, u32, Position), NotificationId>,
    /// Those that are untold, or under way.
    unsettled: BTreeSet<NotificationId>,
}

impl Rows {
    pub(crate) fn get(&self, id: NotificationId) -> Option<&Row> {
        self.rows.get(usize::try_from(id.0 - 1).ok()?)
    }

    /// What a user was told in a stretch.
    pub(crate) fn told(
        &self,
        user: &UserId,
        partition: Partition,
        after: PartitionCursor,
        through: Position,
    ) -> impl Iterator<Item = &Row> {
        let place = |position| (partition.index(), after.epoch.0, position);
        let range =
            (Bound::Excluded(place(after.position)), Bound::Included(place(through.max(after.position.next()))));
        let told = self.places.range(range).filter(move |((.., position), _)| *position <= through);
        told.filter_map(|(_, id)| self.get(*id)).filter(move |row| row.is_for(user))
    }

    pub(crate) fn add(&mut self, user: Option<UserId>, is_silent: bool) {
        let id = NotificationId(self.rows.len() as i64 + 1);
        let telling = Telling::Untold;
        self.unsettled.insert(id);
        self.rows.push(Row { id, user, telling, is_silent, forgotten: Vec::new(), read_by: HashSet::new() });
    }

    /// The user reads all but the latest.
    pub(crate) fn read_all_but(&mut self, count: usize, user: &UserId) {
        let older = self.rows.len().saturating_sub(count);
        let unread = self.rows[..older].iter_mut().rev().filter(|row| row.is_for(user));
        for row in unread.take(200) {
            row.read_by.insert(user.clone());
        }
    }

    fn unsettled(&mut self, is_meant: impl Fn(Telling) -> bool) -> Vec<usize> {
        let all = self.unsettled.iter().map(|id| id.0 as usize - 1);
        all.filter(|at| is_meant(self.rows[*at].telling)).collect()
    }

    /// A node takes up to so many that are untold, oldest first, and appends them. `append` answers where, or
    /// nothing if it fails. Whether there were any.
    pub(crate) fn tell(&mut self, node: usize, count: usize, mut append: impl FnMut(Event) -> Option<EventId>) -> bool {
        let mut untold = self.unsettled(|telling| telling == Telling::Untold);
        untold.truncate(count);
        for at in &untold {
            let row = &mut self.rows[*at];
            if row.is_silent {
                row.telling = Telling::Silent;
                self.unsettled.remove(&row.id);
            } else if let Some(id) = append(row.event()) {
                row.telling = Telling::UnderWay(node, id);
                self.places.insert((id.partition.index(), id.at.epoch.0, id.at.position), row.id);
            }
        }
        !untold.is_empty()
    }

    /// The node notes where it told them.
    pub(crate) fn note(&mut self, node: usize) {
        for at in self.unsettled(|telling| matches!(telling, Telling::UnderWay(by, _) if by == node)) {
            let row = &mut self.rows[at];
            if let Telling::UnderWay(_, id) = row.telling {
                row.telling = Telling::Noted(id);
                self.unsettled.remove(&row.id);
            }
        }
    }

    /// The node dies: what it has not noted will be told again.
    pub(crate) fn forget(&mut self, node: usize) {
        for at in self.unsettled(|telling| matches!(telling, Telling::UnderWay(by, _) if by == node)) {
            let row = &mut self.rows[at];
            if let Telling::UnderWay(_, id) = row.telling {
                row.telling = Telling::Untold;
                row.forgotten.push(id);
                self.places.remove(&(id.partition.index(), id.at.epoch.0, id.at.position));
            }
        }
    }

    /// What a user has not read, and was told in none of these partitions.
    pub(crate) fn unread(&self, user: &UserId, kept: &[Kept]) -> BTreeSet<NotificationId> {
        let rows = self.rows.iter().filter(|row| row.is_for(user) && row.is_unread_by(user));
        let is_kept = |id: EventId| kept.contains(&(id.partition, id.at.epoch));
        rows.filter(|row| !row.place().is_some_and(is_kept)).map(|row| row.id).collect()
    }
}

pub(crate) type SharedRows = Arc<Mutex<Rows>>;

/// What a node's streams read.
pub(crate) struct SimStore {
    pub(crate) rows: SharedRows,
    rng: Mutex<StdRng>,
}

impl SimStore {
    pub(crate) fn new(rows: SharedRows, seed: u64) -> Self {
        Self { rows, rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    /// It takes a while, and may fail.
    async fn visit(&self) -> Result<usize, StoreError> {
        let (turns, limit, fails) = {
            let mut rng = self.rng.lock();
            // Small pages, so that streams are cut between them; large ones, so that who comes from far arrives.
            let limit = if rng.random_ratio(1, 4) { 100 } else { rng.random_range(1..4) };
            (rng.random_range(0..4), limit, rng.random_ratio(1, 200))
        };
        for _ in 0..turns {
            turn().await;
        }
        match fails {
            true => Err(StoreError { cause: "the simulation says so".to_owned() }),
            false => Ok(limit),
        }
    }

    fn is_unsettled(&self, user: &UserId) -> bool {
        let rows = self.rows.lock();
        rows.unsettled.iter().filter_map(|id| rows.get(*id)).any(|row| row.is_for(user))
    }

    fn find(&self, query: &MissedQuery, limit: usize, is_unsettled: bool) -> Missed {
        let rows = self.rows.lock();
        let told_at = |row: &Row| match row.telling {
            Telling::Noted(id) => Some(id),
            Telling::Untold | Telling::UnderWay(..) | Telling::Silent => None,
        };
        let mut found: Vec<&Row> = match &query.since {
            MissedSince::Told { partition, after, through } => {
                let told = rows.told(&query.user, *partition, *after, *through);
                told.filter(|row| told_at(row).is_some()).collect()
            }
            MissedSince::Unread { after } => {
                let is_after = |row: &&Row| after.is_none_or(|after| row.id > after);
                let unread = rows.rows.iter().filter(|row| row.is_for(&query.user) && row.is_unread_by(&query.user));
                unread.filter(is_after).collect()
            }
        };
        let has_more = found.len() > limit;
        found.truncate(limit);
        let entry = |row: &Row| InboxEntry {
            notification: Arc::new(row.notification()),
            state: if row.is_unread_by(&query.user) { State::Unread } else { State::Read },
            is_seen: false,
            is_for_everyone: row.user.is_none(),
            told_at: told_at(row),
        };
        Missed { entries: found.into_iter().map(entry).collect(), has_more, is_unsettled }
    }
}

const NO: &str = "streams only read";

#[async_trait]
impl Store for SimStore {
    async fn counts(&self, _: &UserId, _: Millis) -> Result<Counts, StoreError> {
        self.visit().await?;
        Ok(Counts::default())
    }

    async fn missed(&self, query: &MissedQuery, _: Millis) -> Result<Missed, StoreError> {
        let limit = self.visit().await?;
        // One after the other, as databases are asked: much may happen in between.
        let is_unsettled = self.is_unsettled(&query.user);
        for _ in 0..limit.min(3) {
            turn().await;
        }
        // What is unread always comes in small pages.
        let limit = if matches!(query.since, MissedSince::Unread { .. }) { limit.min(3) } else { limit };
        let missed = self.find(query, limit.min(query.limit), is_unsettled);
        for _ in 0..limit.min(3) {
            turn().await;
        }
        Ok(missed)
    }

    async fn accept(&self, _: NewNotification) -> Result<Accepted, AcceptError> {
        unreachable!("{NO}")
    }

    async fn fan_out(&self, _: usize, _: Millis) -> Result<FanOut, StoreError> {
        unreachable!("{NO}")
    }

    async fn untold(&self, _: usize, _: Millis) -> Result<Vec<Untold>, StoreError> {
        unreachable!("{NO}")
    }

    async fn on_told(&self, _: &[Told]) -> Result<(), StoreError> {
        unreachable!("{NO}")
    }

    async fn report(&self, _: NotificationId, _: Millis) -> Result<Option<Report>, StoreError> {
        unreachable!("{NO}")
    }

    async fn sweep(&self, _: usize, _: Millis) -> Result<usize, StoreError> {
        unreachable!("{NO}")
    }

    async fn inbox(&self, _: &UserId, _: InboxQuery, _: Millis) -> Result<InboxPage, StoreError> {
        unreachable!("{NO}")
    }

    async fn mark(&self, _: &UserId, _: &Which, _: Mark, _: Millis) -> Result<Marked, StoreError> {
        unreachable!("{NO}")
    }

    async fn erase_user(&self, _: &UserId) -> Result<usize, StoreError> {
        unreachable!("{NO}")
    }

    async fn follows(&self, _: &UserId, _: Option<&Channel>, _: usize) -> Result<Vec<Follow>, StoreError> {
        unreachable!("{NO}")
    }

    async fn follow(&self, _: &UserId, _: &[Channel], _: usize, _: Millis) -> Result<Vec<Channel>, FollowError> {
        unreachable!("{NO}")
    }

    async fn unfollow(&self, _: &UserId, _: &[Channel]) -> Result<Vec<Channel>, StoreError> {
        unreachable!("{NO}")
    }

    async fn change_followers(
        &self,
        _: &Channel,
        _: &[UserId],
        _: &[UserId],
        _: usize,
        _: Millis,
    ) -> Result<FollowersChanged, StoreError> {
        unreachable!("{NO}")
    }

    async fn devices(&self, _: &UserId) -> Result<Vec<Device>, StoreError> {
        unreachable!("{NO}")
    }

    async fn put_device(&self, _: &UserId, _: Device, _: usize) -> Result<Put, DeviceError> {
        unreachable!("{NO}")
    }

    async fn remove_device(&self, _: &UserId, _: &str) -> Result<bool, StoreError> {
        unreachable!("{NO}")
    }

    async fn preferences(&self, _: &UserId) -> Result<Preferences, StoreError> {
        unreachable!("{NO}")
    }

    async fn set_preferences(&self, _: &UserId, _: &Preferences) -> Result<(), StoreError> {
        unreachable!("{NO}")
    }

    async fn due(&self, _: usize, _: Millis) -> Result<Vec<Due>, StoreError> {
        unreachable!("{NO}")
    }

    async fn next_due(&self) -> Result<Option<Millis>, StoreError> {
        unreachable!("{NO}")
    }

    async fn settle(&self, _: &[Settled], _: Millis) -> Result<Vec<Outcome>, StoreError> {
        unreachable!("{NO}")
    }

    async fn acknowledge(&self, _: &UserId, _: &Acknowledged, _: Millis) -> Result<usize, StoreError> {
        unreachable!("{NO}")
    }

    async fn take_pushes(&self, _: usize, _: u64, _: Millis) -> Result<Vec<PushJob>, StoreError> {
        unreachable!("{NO}")
    }

    async fn next_push(&self) -> Result<Option<Millis>, StoreError> {
        unreachable!("{NO}")
    }

    async fn on_pushed(&self, _: &[PushResult], _: Millis) -> Result<(), StoreError> {
        unreachable!("{NO}")
    }

    async fn dead_pushes(&self, _: Option<i64>, _: usize) -> Result<Vec<DeadPush>, StoreError> {
        unreachable!("{NO}")
    }

    async fn retry_push(&self, _: i64, _: Millis) -> Result<bool, StoreError> {
        unreachable!("{NO}")
    }

    async fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    async fn verify(&self) -> Result<Verification, StoreError> {
        unreachable!("{NO}")
    }

    async fn close(&self) {}
}
