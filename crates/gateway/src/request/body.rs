//! A client's body, whole, in bounds of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::GatewayError;
use crate::request::admit::Admission;

/// Longest wait for the next piece: nginx's `client_body_timeout`.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the whole, so that a byte a minute does not hold a place for hours.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);
/// After this many pieces others get their turn: a million one-byte chunks must not hold up a worker.
const PIECES_PER_TURN: usize = 256;

/// What is thrown away of a body nobody wants, so that its sender comes to read our answer: closing on unread
/// bytes would reset the connection and the answer with it (nginx's lingering close).
const LINGER_MAX: usize = 64 * 1024 * 1024;
const LINGER_PIECE: Duration = Duration::from_secs(5);
const LINGER_WHOLE: Duration = Duration::from_secs(30);

/// Reads the rest of a body and forgets it, in bounds; beyond them the connection is closed on it.
pub fn discard(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let rest = async {
            let mut size = 0;
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(LINGER_PIECE, body.frame()).await {
                size += frame.data_ref().map_or(0, Bytes::len);
                if size > LINGER_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LINGER_WHOLE, rest).await;
    });
}

/// A client's body and the room it takes.
pub struct Whole {
    /// As the client sent it.
    pub bytes: Bytes,
    /// Held as long as the bytes are.
    pub room: Option<OwnedSemaphorePermit>,
}

/// Reads all of `body`, at most `max` bytes, as far as the node has room. A body in one piece is not copied.
pub async fn collect(body: &mut Incoming, max: usize, node: &Admission) -> Result<Whole, GatewayError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max {
        return Err(GatewayError::BodyTooLarge(max));
    }
    let room = node.room(announced, None)?;
    tokio::time::timeout(WHOLE_TIMEOUT, pieces(body, max, node, room))
        .await
        .map_err(|_| GatewayError::RequestTimeout)?
}

async fn pieces(
    body: &mut Incoming,
    max: usize,
    node: &Admission,
    mut room: Option<OwnedSemaphorePermit>,
) -> Result<Whole, GatewayError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut count = 0usize;
    loop {
        let frame = tokio::time::timeout(PIECE_TIMEOUT, body.frame())
            .await
            .map_err(|_| GatewayError::RequestTimeout)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| GatewayError::BodyBroken(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = first.len() + rest.len() + data.len();
        if size > max {
            return Err(GatewayError::BodyTooLarge(max));
        }
        if let Some(more) = node.room(size, room.as_ref())? {
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                let left = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(max);
                rest.reserve(data.len() + left);
            }
            rest.extend_from_slice(&data);
        }
        count += 1;
        if count.is_multiple_of(PIECES_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }
    if rest.is_empty() {
        return Ok(Whole { bytes: first, room });
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(Whole { bytes: whole.freeze(), room })
}
