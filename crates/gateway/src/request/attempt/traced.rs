//! What the span of an attempt is told of its result.

use std::borrow::Cow;

use super::{Answered, Body, Failed, plain};
use crate::trace::Attempt;

/// The span ends here, or with the last byte of an answer that comes in pieces.
pub fn tell(mut span: Box<Attempt>, result: &mut Result<Answered, Failed>) {
    let answered = match result {
        Ok(answered) => answered,
        Err(failed) => return span.fail(word(failed)),
    };
    if answered.status.is_success() {
        span.succeed();
    } else {
        span.fail(answered.status.as_str().to_owned());
    }
    match &answered.body {
        Body::Whole(bytes, usage) => span.whole(&plain::of(&answered.headers, bytes), *usage),
        Body::Passage(..) => answered.span = Some(span),
        Body::Events(held, events, _) => {
            span.first_content(held.iter());
            span.used(events.usage);
            answered.span = Some(span);
        }
    }
}

/// Its class; a status where the fault is the client's.
fn word(failed: &Failed) -> Cow<'static, str> {
    match &failed.answer {
        Some(words) if failed.clients_fault => Cow::Owned(words.status.as_str().to_owned()),
        _ if failed.abandoned => Cow::Borrowed("abandoned"),
        _ => Cow::Borrowed(failed.failure.class.error_type()),
    }
}
