//! Reading bodies: within a length, within a time, within what all bodies together may take.

use super::gate::Gate;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Bodies up to this are not counted: the number of connections bounds them.
const UNCOUNTED: usize = 16 << 10;

/// Why a body was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    TooLong,
    TooSlow,
    Broken,
}

impl Refused {
    /// The HTTP status and a reason.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::TooLong => (413, "the request is longer than this server takes"),
            Self::TooSlow => (408, "the request took too long to arrive"),
            Self::Broken => (400, "the body of the request is broken"),
        }
    }
}

/// A body, and the room it takes.
pub(super) struct Read {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads a body whole.
pub(super) async fn read(body: Incoming, max: usize, time: Duration, gate: &Gate) -> Result<Read, Refused> {
    if body.is_end_stream() {
        return Ok(Read { bytes: Bytes::new(), _room: None });
    }
    tokio::time::timeout(time, collect(body, max, gate)).await.unwrap_or(Err(Refused::TooSlow))
}

async fn collect(mut body: Incoming, max: usize, gate: &Gate) -> Result<Read, Refused> {
    let said = body.size_hint().exact().unwrap_or(0);
    if said > max as u64 {
        return Err(Refused::TooLong);
    }
    let mut room = None;
    // Bounded by `max`, which is a usize.
    let said = usize::try_from(said).unwrap_or(max);
    make_room(&mut room, gate, said).await;
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refused::Broken)?.into_data() else { continue };
        let length = first.len() + whole.len() + data.len();
        if length > max {
            return Err(Refused::TooLong);
        }
        make_room(&mut room, gate, length).await;
        if first.is_empty() && whole.is_empty() {
            // One frame is the rule: nothing is copied then.
            first = data;
            continue;
        }
        if !first.is_empty() {
            whole.reserve(said.max(length));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Read { bytes, _room: room })
}

/// Takes room for a body that is so long now, in steps, so that a long one does not ask for each frame.
async fn make_room(room: &mut Option<OwnedSemaphorePermit>, gate: &Gate, length: usize) {
    const STEP: usize = 64 << 10;
    let held = room.as_ref().map_or(0, |permit| permit.num_permits() * 4096);
    if length <= UNCOUNTED || length <= held {
        return;
    }
    let more = gate.room((length - held).next_multiple_of(STEP)).await;
    match (room.as_mut(), more) {
        (Some(room), Some(more)) => room.merge(more),
        (None, more) => *room = more,
        (Some(_), None) => {}
    }
}

/// Reads a body and keeps nothing of it beyond `keep` bytes, so that the connection can go on. `None` if it was
/// longer than `keep`.
pub(super) async fn drain(
    mut body: Incoming,
    keep: usize,
    max: usize,
    time: Duration,
) -> Result<Option<Bytes>, Refused> {
    if body.is_end_stream() {
        return Ok(Some(Bytes::new()));
    }
    let work = async {
        let (mut kept, mut length) = (BytesMut::new(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Refused::Broken)?.into_data() else { continue };
            length += data.len();
            if length > max {
                return Err(Refused::TooLong);
            }
            if length <= keep {
                kept.extend_from_slice(&data);
            }
        }
        Ok((length <= keep).then(|| kept.freeze()))
    };
    tokio::time::timeout(time, work).await.unwrap_or(Err(Refused::TooSlow))
}
