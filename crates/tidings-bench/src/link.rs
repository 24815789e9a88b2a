//! What clients of one run say to each other, over standard input and output as a line of JSON each, or
//! from thread to thread.

use std::{
    io::{BufRead, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{crew::Plan, epoll::Waker, streams::Shard, tally::Tally};

/// Messages that wait to be read. One that leads has nothing else to wait for, so it reads quickly.
const INBOX_MAX: usize = 1024;

/// One thing that is said.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// To a member: what to do.
    Plan(Box<Plan>, Shard),
    /// To the leader: the streams are open, or some are not.
    Opened(Box<Tally>),
    /// To a member: the measured part begins at this time.
    Start(u64),
    /// To the leader: all of this client's streams have so many messages.
    Delivered(u64),
    /// To a member: so many messages were published, and there will be no more.
    Published(u64),
    /// To the leader: all is done.
    Result(Box<Tally>),
    /// To anyone: it does not go on.
    Failed(String),
}

/// One end of a conversation.
pub(crate) struct Link {
    outbox: Outbox,
    inbox: Receiver<Said>,
}

enum Outbox {
    Thread(SyncSender<Said>, Waker),
    Lines(Box<dyn Write + Send>),
}

impl Link {
    /// Two ends, for two threads.
    pub(crate) fn pair(one: Waker, other: Waker) -> (Self, Self) {
        let (to_one, inbox_of_one) = sync_channel(INBOX_MAX);
        let (to_other, inbox_of_other) = sync_channel(INBOX_MAX);
        (
            Self { outbox: Outbox::Thread(to_other, other), inbox: inbox_of_one },
            Self { outbox: Outbox::Thread(to_one, one), inbox: inbox_of_other },
        )
    }

    /// An end whose other is a process.
    pub(crate) fn lines(from: impl BufRead + Send + 'static, to: impl Write + Send + 'static, waker: Waker) -> Self {
        let (sender, inbox) = sync_channel(INBOX_MAX);
        std::thread::spawn(move || {
            for line in from.lines() {
                let said = line.context("reading").and_then(|line| Ok(serde_json::from_str(&line)?));
                let said = said.unwrap_or_else(|error| Said::Failed(format!("not understood: {error:#}")));
                if sender.send(said).is_err() {
                    return;
                }
                waker.wake();
            }
            // The end drops the sender, and that is seen by who takes.
            drop(sender);
            waker.wake();
        });
        Self { outbox: Outbox::Lines(Box::new(to)), inbox }
    }

    pub(crate) fn say(&mut self, said: Said) -> anyhow::Result<()> {
        match &mut self.outbox {
            Outbox::Thread(sender, waker) => {
                sender.send(said).ok().context("a client of the run is gone")?;
                waker.wake();
            }
            Outbox::Lines(to) => {
                let mut line = serde_json::to_vec(&said)?;
                line.push(b'\n');
                to.write_all(&line).and_then(|()| to.flush()).context("a client of the run is gone")?;
            }
        }
        Ok(())
    }

    /// What was said, if anything.
    pub(crate) fn take(&mut self) -> anyhow::Result<Option<Said>> {
        match self.inbox.try_recv() {
            Ok(Said::Failed(why)) => Err(anyhow::anyhow!(why)),
            Ok(said) => Ok(Some(said)),
            Err(std::sync::mpsc::TryRecvError::Empty) => Ok(None),
            Err(std::sync::mpsc::TryRecvError::Disconnected) => Err(anyhow::anyhow!("a client of the run is gone")),
        }
    }

    /// Waits for the first thing that is said.
    pub(crate) fn wait(&mut self) -> anyhow::Result<Said> {
        self.inbox.recv().context("nothing was said")
    }
}
