//! The server's side of a connection: the task that serves a stream until a shard does, or to its end.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Poll, Wake},
};

use bytes::Bytes;
use tidings_core::stream::{Item, Stream};
use tidings_hub::Format;
use tidings_protocol::{
    envelope::{Closing, Connected, Gap},
    sse,
};

use super::wire::SharedWire;

/// Carries the event's own id beside the cursor.
pub(crate) const FORMAT: Format = Format::SseEnvelope;

/// A waker that remembers that it was woken.
#[derive(Default)]
pub(crate) struct Flag(pub(crate) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

pub(crate) async fn serve(mut stream: Stream, wire: SharedWire) {
    let mut items = Vec::new();
    loop {
        poll_fn(|cx| wire.lock().poll_room(cx)).await;
        if stream.is_live() {
            wire.lock().begin_live();
            match hand_over(stream, &wire) {
                None => return,
                Some(back) => stream = back,
            }
        }
        let result = {
            let mut next = pin!(stream.next(&mut items));
            poll_fn(|cx| match std::mem::take(&mut wire.lock().interrupt) {
                true => Poll::Ready(None),
                false => next.as_mut().poll(cx).map(Some),
            })
            .await
        };
        let mut wire = wire.lock();
        for item in items.drain(..) {
            if matches!(item, Item::Live(_)) {
                wire.begin_live();
            }
            wire.write(&encode(&item));
        }
        if let Some(Err(reason)) = result {
            let mut bytes = Vec::new();
            sse::write_closing(&mut bytes, &Closing { reason: reason.to_string(), retry: Some(1500) });
            wire.write(&bytes);
            return;
        }
    }
}

/// Gives the stream to a shard, if that is wanted. Gives it back if no shard takes it.
fn hand_over(mut stream: Stream, wire: &SharedWire) -> Option<Stream> {
    let Some(adoption) = wire.lock().take_offer() else { return Some(stream) };
    let (has_frames, close) = (stream.subscription().waiting().0 > 0, stream.subscription().close_reason());
    match stream.hand_over(adoption) {
        Ok(()) => {
            let mut wire = wire.lock();
            wire.asked.extend(close);
            let mut sights = wire.sights.lock();
            sights.handed_over += 1;
            sights.handed_over_with_frames += u64::from(has_frames);
            sights.handed_over_closed += u64::from(close.is_some());
            None
        }
        Err(back) => {
            let (stream, adoption) = *back;
            drop(adoption);
            wire.lock().not_taken();
            Some(stream)
        }
    }
}

fn encode(item: &Item) -> Bytes {
    let mut bytes = Vec::new();
    match item {
        Item::Connected { cursor } => {
            let connected =
                Connected { connection: String::new(), node: String::new(), user: None, channels: Vec::new() };
            sse::write_connected(&mut bytes, cursor.as_ref(), &connected);
        }
        Item::Replayed { logged, cursor } => return FORMAT.encode(cursor.as_ref(), logged),
        Item::Gap { channels, reason, cursor } => {
            let channels = channels.iter().map(|channel| channel.as_str().to_owned()).collect();
            sse::write_gap(&mut bytes, cursor.as_ref(), &Gap { channels, reason: reason.to_string() });
        }
        Item::Live(frame) => return frame.bytes(FORMAT).clone(),
    }
    bytes.into()
}
