//! Random operations on the store and on a model that is too simple to be wrong: after each, both say the same.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidings_core::{
    notifications::{KindPreference, NotificationId, Preferences, PushMode, State},
    ports::{Store as _, store::*},
};
use tidings_protocol::{Channel, Epoch, Millis, Partition, PartitionCursor, Position};

use super::fixture::{Fixture, LONG, NOW, New, place, user};

const USERS: [&str; 5] = ["a", "A", "b", "user-3", "z@example.org"];
const CHANNELS: [&str; 2] = ["region:jeju", "region:seoul"];
/// Users have wishes about the first two; what is for everyone is of the third, for when it is written into an
/// inbox is not to be seen otherwise.
const KINDS: [&str; 3] = ["festival.added", "chat", "news"];
const COLLAPSES: [&str; 2] = ["one", "two"];

#[derive(Debug, Clone)]
struct Row {
    state: State,
    is_seen: bool,
    slot: Option<&'static str>,
    told: Option<u64>,
}

#[derive(Debug, Clone)]
struct Item {
    kind: &'static str,
    collapse: Option<&'static str>,
    push: PushMode,
    expires_at: Millis,
    is_everyone: bool,
    told: Option<u64>,
}

#[derive(Debug)]
struct Job {
    id: i64,
    channel: &'static str,
    reached: String,
}

/// What the store should be.
#[derive(Debug, Default)]
struct Model {
    now: Millis,
    items: BTreeMap<i64, Item>,
    inboxes: BTreeMap<&'static str, BTreeMap<i64, Row>>,
    wishes: BTreeMap<&'static str, Preferences>,
    follows: BTreeMap<&'static str, BTreeSet<&'static str>>,
    jobs: Vec<Job>,
    /// What is to be told: whether to streams, and whether to devices.
    untold: BTreeMap<(i64, &'static str), (bool, PushMode)>,
    untold_to_everyone: BTreeSet<i64>,
    position: u64,
}

impl Model {
    fn is_alive(&self, id: i64) -> bool {
        self.items[&id].expires_at > self.now
    }

    fn wish(&self, name: &str, kind: &str) -> (bool, bool) {
        let preference = self
            .wishes
            .get(name)
            .and_then(|wishes| wishes.iter().find(|(of, _)| of.as_str() == kind).map(|(_, preference)| *preference));
        let preference = preference.unwrap_or_default();
        let is_muted = preference.mute_until.is_some_and(|until| until > self.now);
        (preference.live && !is_muted, preference.push && !is_muted)
    }

    fn put(&mut self, name: &'static str, id: i64) {
        let item = self.items[&id].clone();
        if let Some(collapse) = item.collapse {
            let inbox = self.inboxes.entry(name).or_default();
            let holder = inbox.iter().find(|(_, row)| row.slot == Some(collapse)).map(|(id, _)| *id);
            if let Some(holder) = holder {
                if holder > id && self.items[&holder].expires_at > self.now {
                    return;
                }
                inbox.remove(&holder);
                self.untold.remove(&(holder, name));
            }
        }
        let row = Row { state: State::Unread, is_seen: false, slot: item.collapse, told: None };
        self.inboxes.entry(name).or_default().insert(id, row);
        let (live, push) = self.wish(name, item.kind);
        let push = if push { item.push } else { PushMode::Never };
        if !item.is_everyone && (live || push != PushMode::Never) {
            self.untold.insert((id, name), (live, push));
        }
    }

    fn fan_out(&mut self, limit: usize) -> FanOut {
        if self.jobs.is_empty() {
            return FanOut::Idle;
        }
        let (id, channel, reached) = (self.jobs[0].id, self.jobs[0].channel, self.jobs[0].reached.clone());
        let mut users: Vec<&'static str> = USERS
            .into_iter()
            .filter(|name| **name > *reached && self.follows.get(name).is_some_and(|set| set.contains(channel)))
            .collect();
        users.sort_unstable();
        users.truncate(limit);
        if !self.is_alive(id) {
            users.clear();
        }
        let mut rows = 0;
        for name in &users {
            self.put(name, id);
            rows += usize::from(self.inboxes[name].contains_key(&id));
        }
        let is_done = users.len() < limit;
        if is_done {
            self.jobs.remove(0);
        } else {
            self.jobs[0].reached = (*users.last().unwrap()).to_owned();
        }
        FanOut::Wrote { id: NotificationId(id), rows, is_done }
    }

    fn mark(&mut self, name: &'static str, which: &Which, mark: Mark) -> usize {
        let alive: BTreeSet<i64> = self.items.keys().copied().filter(|id| self.is_alive(*id)).collect();
        let named = |id: i64| match which {
            Which::All => true,
            Which::Through(last) => id <= last.0,
            Which::Ids(ids) => ids.contains(&NotificationId(id)),
        };
        let mut changed = 0;
        let mut freed = BTreeSet::new();
        let inbox = self.inboxes.entry(name).or_default();
        for (id, row) in inbox.iter_mut().filter(|(id, _)| named(**id)) {
            if matches!(mark, Mark::Read | Mark::Archive) {
                self.untold.remove(&(*id, name));
            }
            if !alive.contains(id) {
                continue;
            }
            let before = (row.state, row.is_seen);
            match mark {
                Mark::Read if row.state == State::Unread => row.state = State::Read,
                Mark::Archive => row.state = State::Archived,
                Mark::Unread => row.state = State::Unread,
                _ => {}
            }
            if row.state != State::Unread {
                row.slot = None;
            } else if before.0 != State::Unread {
                freed.insert(*id);
            }
            row.is_seen |= mark != Mark::Read || row.state != State::Unread;
            changed += usize::from(before != (row.state, row.is_seen));
        }
        // What is unread again is replaced by the next one, if nothing newer stands in its place.
        for id in freed.into_iter().rev() {
            let Some(collapse) = self.items[&id].collapse else { continue };
            let inbox = self.inboxes.entry(name).or_default();
            if inbox.iter().all(|(id, row)| row.slot != Some(collapse) || !alive.contains(id)) {
                inbox.values_mut().filter(|row| row.slot == Some(collapse)).for_each(|row| row.slot = None);
                inbox.get_mut(&id).unwrap().slot = Some(collapse);
            }
        }
        changed
    }

    /// What is in an inbox at the moment, newest first.
    fn listed(&self, name: &str, state: Option<State>) -> Vec<(i64, State, bool, Option<u64>)> {
        let Some(inbox) = self.inboxes.get(name) else { return Vec::new() };
        let told = |id: &i64, row: &Row| if self.items[id].is_everyone { self.items[id].told } else { row.told };
        let fits = |row: &Row| state.map_or(row.state != State::Archived, |state| row.state == state);
        let rows = inbox.iter().rev().filter(|(id, row)| self.is_alive(**id) && fits(row));
        rows.map(|(id, row)| (*id, row.state, row.is_seen, told(id, row))).collect()
    }

    fn counts(&self, name: &str) -> BTreeMap<&'static str, (u64, u64)> {
        let mut counts = BTreeMap::new();
        for (id, _, is_seen, _) in self.listed(name, Some(State::Unread)) {
            let (unread, unseen) = counts.entry(self.items[&id].kind).or_default();
            *unread += 1;
            *unseen += u64::from(!is_seen);
        }
        counts
    }
}

struct Run {
    on: Fixture,
    model: Model,
    everyone_collapses: bool,
    rng: StdRng,
}

pub(crate) async fn a_thousand_random_operations_agree_with_a_model(on: Fixture) {
    run(on, false).await;
}

/// What for everyone replaces something does so when it is looked at. Only after that does the store tell the same as
/// the model, in which it does so at once.
pub(crate) async fn so_they_do_when_what_is_for_everyone_replaces_something(on: Fixture) {
    run(on, true).await;
}

async fn run(on: Fixture, everyone_collapses: bool) {
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = from_environment("TIDINGS_STORE_SEED").unwrap_or_else(|| rand::rng().random());
    let steps = from_environment("TIDINGS_STORE_STEPS").unwrap_or(1_000);
    eprintln!("{:?}: seed {seed}, {steps} steps; TIDINGS_STORE_SEED={seed} repeats them", on.on);
    let model = Model { now: NOW, ..Model::default() };
    let mut run = Run { on, model, everyone_collapses, rng: StdRng::seed_from_u64(seed) };
    for step in 0..steps {
        run.step().await;
        let name = run.name();
        run.check(name).await;
        if step % 50 == 0 {
            for name in USERS {
                run.check(name).await;
            }
            run.on.verify().await;
        }
    }
    for name in USERS {
        run.check(name).await;
    }
    run.on.verify().await;
    // In the end all of it goes.
    run.model.now += 2 * LONG;
    while run.on.store.sweep(7, run.model.now).await.unwrap() > 0 {}
    for name in USERS {
        run.check(name).await;
    }
    let verification = run.on.store.verify().await.unwrap();
    assert_eq!((verification.rows, verification.findings), (0, vec![]));
}

impl Run {
    fn name(&mut self) -> &'static str {
        USERS.choose(&mut self.rng).unwrap()
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.accept().await,
            30..42 => {
                let limit = self.rng.random_range(1..4);
                self.look().await;
                let found = self.on.store.fan_out(limit, self.model.now).await.unwrap();
                let model = &mut self.model;
                // What has expired may have been swept away.
                let is_passed = |id: i64| !matches!(found, FanOut::Wrote { id: found, .. } if found.0 <= id);
                model.jobs.retain(|job| !is_passed(job.id) || model.items[&job.id].expires_at > model.now);
                assert_eq!(found, model.fan_out(limit));
            }
            42..65 => self.mark().await,
            65..73 => self.tell().await,
            73..80 => self.follow().await,
            80..85 => self.wish().await,
            85..87 => self.erase().await,
            87..93 => self.model.now += self.rng.random_range(1..2_000),
            93..97 => {
                let limit = self.rng.random_range(1..20);
                self.on.store.sweep(limit, self.model.now).await.unwrap();
            }
            _ => self.missed().await,
        }
    }

    /// Has every user look, if that makes a difference to what happens next.
    async fn look(&mut self) {
        if self.everyone_collapses {
            for name in USERS {
                self.check(name).await;
            }
        }
    }

    async fn accept(&mut self) {
        let kind = KINDS[self.rng.random_range(0..2)];
        let collapse = self.rng.random_bool(0.3).then(|| *COLLAPSES.choose(&mut self.rng).unwrap());
        let is_short = self.rng.random_bool(0.4);
        let lives_ms = if is_short { self.rng.random_range(1..20_000) } else { LONG };
        let mut item = Item {
            kind,
            collapse,
            push: *PushMode::ALL.choose(&mut self.rng).unwrap(),
            expires_at: self.model.now + lives_ms,
            is_everyone: false,
            told: None,
        };
        let channel = *CHANNELS.choose(&mut self.rng).unwrap();
        let names: Vec<&'static str> = {
            let count = self.rng.random_range(1..=3);
            USERS.choose_multiple(&mut self.rng, count).copied().collect()
        };
        let what = self.rng.random_range(0..10);
        let new = match what {
            0..5 => New::to_users(&names, "to users"),
            5..8 => New::to_followers(channel, "to followers"),
            _ => {
                item.is_everyone = true;
                item.kind = KINDS[2];
                item.collapse = item.collapse.filter(|_| self.everyone_collapses);
                if item.collapse.is_some() {
                    // What is replaced while nobody looks is not missed when that expires.
                    item.expires_at = self.model.now + LONG;
                }
                New::to_everyone("to everyone")
            }
        };
        let mut new = new.kind(item.kind).push(item.push).created_at(self.model.now).expires_at(item.expires_at);
        if let Some(collapse) = item.collapse {
            new = new.collapse(collapse);
        }
        let id = self.on.accept(new).await.0;
        self.model.items.insert(id, item);
        match what {
            0..5 => names.iter().for_each(|name| self.model.put(name, id)),
            5..8 => self.model.jobs.push(Job { id, channel, reached: String::new() }),
            _ => {
                USERS.iter().for_each(|name| self.model.put(name, id));
                self.model.untold_to_everyone.insert(id);
            }
        }
    }

    async fn mark(&mut self) {
        let name = self.name();
        let mark = *[Mark::Read, Mark::Unread, Mark::Archive, Mark::Seen].choose(&mut self.rng).unwrap();
        let ids: Vec<i64> = self.model.items.keys().copied().collect();
        let which = match self.rng.random_range(0..10) {
            0..2 => Which::All,
            2..4 => Which::Through(NotificationId(ids.choose(&mut self.rng).copied().unwrap_or(1))),
            _ => {
                let count = self.rng.random_range(0..6);
                // Rather of the newest; and one that is not there.
                let newest: Vec<i64> = ids.iter().rev().take(20).copied().chain([i64::MAX]).collect();
                Which::Ids(newest.choose_multiple(&mut self.rng, count).map(|id| NotificationId(*id)).collect())
            }
        };
        let marked = self.on.store.mark(&user(name), &which, mark, self.model.now).await.unwrap();
        let changed = self.model.mark(name, &which, mark);
        assert_eq!(marked.changed, changed, "{name} {which:?} {mark:?}");
        self.compare_counts(name, &marked.counts);
    }

    async fn tell(&mut self) {
        let now = self.model.now;
        let limit = self.rng.random_range(1..30);
        self.look().await;
        let untold = self.on.store.untold(limit, now).await.unwrap();
        let model = &self.model;
        let mut expected: Vec<(i64, Option<&str>, bool, PushMode)> =
            model.untold.iter().map(|((id, name), (live, push))| (*id, Some(*name), *live, *push)).collect();
        expected.extend(model.untold_to_everyone.iter().map(|id| (*id, None, true, model.items[id].push)));
        expected.retain(|(id, ..)| model.is_alive(*id));
        expected.sort_by_key(|(id, name, ..)| (*id, *name));
        expected.truncate(limit);
        let found: Vec<_> = untold
            .iter()
            .map(|untold| {
                let name = untold.user.as_ref().map(|user| user.as_str());
                (untold.notification.id.0, name, untold.is_live, untold.push)
            })
            .collect();
        assert_eq!(found, expected);
        let mut told = Vec::new();
        for untold in &untold {
            if let (Some(user), Some(counts)) = (&untold.user, &untold.counts) {
                self.compare_counts(user.as_str(), counts);
            }
            let position = untold.is_live.then(|| {
                self.model.position += 1;
                self.model.position
            });
            let id = untold.notification.id;
            if let Some(user) = &untold.user {
                let name = *USERS.iter().find(|name| **name == user.as_str()).unwrap();
                self.model.untold.remove(&(id.0, name));
                self.model.inboxes.get_mut(name).unwrap().get_mut(&id.0).unwrap().told = position;
            } else {
                self.model.untold_to_everyone.remove(&id.0);
                self.model.items.get_mut(&id.0).unwrap().told = position;
            }
            let escalate_at = self.rng.random_bool(0.5).then_some(now);
            // Nobody has a device here, so that the work for everyone's is done at once.
            let escalate_at = escalate_at.filter(|_| untold.user.is_some());
            told.push(Told { id, user: untold.user.clone(), at: position.map(place), escalate_at });
        }
        self.on.store.on_told(&told).await.unwrap();
    }

    async fn follow(&mut self) {
        let name = self.name();
        let channel = *CHANNELS.choose(&mut self.rng).unwrap();
        let channels = [Channel::parse(channel).unwrap()];
        let set = self.model.follows.entry(name).or_default();
        if self.rng.random_bool(0.7) {
            let new = self.on.store.follow(&user(name), &channels, 10, self.model.now).await.unwrap();
            assert_eq!(new.len(), usize::from(set.insert(channel)));
        } else {
            let gone = self.on.store.unfollow(&user(name), &channels).await.unwrap();
            assert_eq!(gone.len(), usize::from(set.remove(channel)));
        }
        let follows = self.on.store.follows(&user(name), None, 10).await.unwrap();
        assert!(follows.iter().map(|follow| follow.channel.as_str()).eq(set.iter().copied()));
    }

    async fn wish(&mut self) {
        let name = self.name();
        let mut preferences = Preferences::new();
        for kind in &KINDS[..2] {
            if self.rng.random_bool(0.5) {
                let mute_until = self.rng.random_bool(0.4).then(|| self.model.now + self.rng.random_range(0..3_000));
                let preference = KindPreference { live: self.rng.random(), push: self.rng.random(), mute_until };
                preferences.insert(tidings_core::notifications::Kind::trusted(kind), preference);
            }
        }
        self.on.store.set_preferences(&user(name), &preferences).await.unwrap();
        assert_eq!(self.on.store.preferences(&user(name)).await.unwrap(), preferences);
        self.model.wishes.insert(name, preferences);
    }

    async fn erase(&mut self) {
        let name = self.name();
        self.on.store.erase_user(&user(name)).await.unwrap();
        let model = &mut self.model;
        model.inboxes.remove(name);
        model.wishes.remove(name);
        model.follows.remove(name);
        model.untold.retain(|(_, of), _| *of != name);
        // Who comes back is new, and has what is for everyone.
        let everyone: Vec<i64> = model.items.iter().filter(|(_, item)| item.is_everyone).map(|(id, _)| *id).collect();
        for id in everyone.into_iter().filter(|id| model.items[id].expires_at > model.now).collect::<Vec<_>>() {
            model.put(name, id);
        }
    }

    async fn missed(&mut self) {
        let name = self.name();
        let now = self.model.now;
        let limit = self.rng.random_range(1..10);
        let listed: Vec<_> = State::ALL.into_iter().flat_map(|state| self.model.listed(name, Some(state))).collect();
        let (since, mut expected) = if self.rng.random_bool(0.5) {
            let after = self.rng.random_range(0..=self.model.position);
            let through = self.rng.random_range(after..=self.model.position);
            let mut told: Vec<(u64, i64)> =
                listed.iter().filter_map(|(id, _, _, told)| Some(((*told)?, *id))).collect();
            told.retain(|(position, _)| *position > after && *position <= through);
            told.sort_unstable();
            let after = PartitionCursor { epoch: Epoch(7), position: Position(after) };
            let since = MissedSince::Told { partition: Partition::ZERO, after, through: Position(through) };
            (since, told.into_iter().map(|(_, id)| id).collect::<Vec<_>>())
        } else {
            let mut unread: Vec<i64> = self.model.listed(name, Some(State::Unread)).iter().map(|row| row.0).collect();
            unread.retain(|id| self.model.wish(name, self.model.items[id].kind).0);
            unread.sort_unstable();
            let after = unread.choose(&mut self.rng).copied().filter(|_| self.rng.random());
            unread.retain(|id| after.is_none_or(|after| *id > after));
            (MissedSince::Unread { after: after.map(NotificationId) }, unread)
        };
        let missed = self.on.store.missed(&MissedQuery { user: user(name), since, limit }, now).await.unwrap();
        assert_eq!(missed.has_more, expected.len() > limit);
        expected.truncate(limit);
        let found: Vec<i64> = missed.entries.iter().map(|entry| entry.notification.id.0).collect();
        assert_eq!(found, expected);
        let model = &self.model;
        let is_unsettled = model.untold_to_everyone.iter().any(|id| model.is_alive(*id))
            || model.untold.iter().any(|((id, of), (live, _))| *of == name && *live && model.is_alive(*id));
        assert_eq!(missed.is_unsettled, is_unsettled);
    }

    fn compare_counts(&self, name: &str, found: &tidings_core::notifications::Counts) {
        let found: BTreeMap<&str, (u64, u64)> =
            found.kinds.iter().map(|(kind, counts)| (kind.as_str(), (counts.unread, counts.unseen))).collect();
        let expected: BTreeMap<&str, (u64, u64)> = self.model.counts(name).into_iter().collect();
        assert_eq!(found, expected, "the counts of {name}");
    }

    /// Page by page, and counted.
    async fn check(&mut self, name: &'static str) {
        let now = self.model.now;
        let counts = self.on.store.counts(&user(name), now).await.unwrap();
        self.compare_counts(name, &counts);
        let state =
            *[None, Some(State::Unread), Some(State::Read), Some(State::Archived)].choose(&mut self.rng).unwrap();
        let expected = self.model.listed(name, state);
        let limit = self.rng.random_range(1..20);
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = self.on.store.inbox(&user(name), InboxQuery { state, before, limit }, now).await.unwrap();
            assert!(page.entries.len() <= limit);
            found.extend(page.entries.iter().map(|entry| {
                let told = entry.told_at.map(|at| at.at.position.0);
                (entry.notification.id.0, entry.state, entry.is_seen, told)
            }));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "{state:?} of {name}");
    }
}
