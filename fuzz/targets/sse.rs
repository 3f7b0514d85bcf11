//! The splitter: the cuts depend on the bytes alone, lose none of them, and are those of the standard.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_wire::sse::{Event, Splitter};

const ROOMY: usize = 1 << 20;

/// What the stream is cut into when it arrives in these pieces, and what the end of the body adds.
fn cut<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Option<Event>) {
    let mut splitter = Splitter::new(ROOMY);
    let mut events = Vec::new();
    for piece in pieces {
        splitter.push(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event().expect("far below the bound") {
            events.push(event);
        }
    }
    let last = splitter.finish();
    assert_eq!(splitter.finish(), None);
    assert_eq!(splitter.pending(), 0);
    (events, last)
}

/// Pieces of lengths that follow from the stream itself, so that a find is found again.
fn pieces(mut stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = stream
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (piece, rest) = stream.split_at(((state >> 33) as usize % 13).min(stream.len()));
        let more = !stream.is_empty();
        stream = rest;
        more.then_some(piece)
    })
}

/// Payloads by the standard's own algorithm. It knows no unfinished event.
fn by_the_book(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let mut lines = vec![Vec::new()];
    let mut previous = 0;
    for &byte in stream {
        match byte {
            b'\n' if previous == b'\r' => {}
            b'\n' | b'\r' => lines.push(Vec::new()),
            _ => lines.last_mut().expect("never empty").push(byte),
        }
        previous = byte;
    }
    lines.pop();
    let mut payloads = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    for line in lines {
        if line.is_empty() {
            payloads.extend(data.take());
            continue;
        }
        let colon = line.iter().position(|b| *b == b':');
        let (field, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if field == b"data" {
            match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
    }
    payloads
}

fuzz_target!(|stream: &[u8]| {
    let (events, last) = cut(std::iter::once(stream));
    assert_eq!(cut(pieces(stream)), (events.clone(), last.clone()));
    assert_eq!(cut(stream.chunks(1)), (events.clone(), last.clone()));

    let joined: Vec<u8> = events.iter().flat_map(|e| e.raw.to_vec()).collect();
    let rest = stream.strip_prefix(&joined[..]).expect("raw bytes are the stream's");
    match &last {
        None => assert!(rest.iter().all(|b| matches!(b, b'\r' | b'\n')), "lost {rest:?}"),
        Some(last) => {
            let added = last.raw.strip_prefix(rest).expect("raw bytes are the stream's");
            assert!(matches!(added, b"" | b"\n" | b"\n\n"));
        }
    }

    // Complete only when nothing had to be added.
    let complete = last.filter(|last| last.raw == rest);
    let payloads: Vec<Vec<u8>> =
        events.iter().chain(&complete).filter_map(|e| e.data().map(|data| data.into_owned())).collect();
    assert_eq!(payloads, by_the_book(stream));

    // A bound refuses exactly what is longer.
    let max = stream.first().map_or(0, |b| usize::from(*b) % 64);
    let mut splitter = Splitter::new(max);
    let mut given = Vec::new();
    let refused = pieces(stream).any(|piece| {
        splitter.push(Bytes::copy_from_slice(piece));
        loop {
            match splitter.next_event() {
                Ok(Some(event)) => given.push(event),
                Ok(None) => break splitter.pending() > max,
                Err(_) => break true,
            }
        }
    });
    let fitting = events.iter().take_while(|e| e.raw.len() <= max).count();
    assert_eq!(given, events[..fitting]);
    assert_eq!(refused, fitting < events.len() || rest.len() > max);
});
