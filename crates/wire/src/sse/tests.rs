use super::*;
use proptest::prelude::*;

const ROOMY: usize = 1 << 20;

/// What a stream is cut into when it arrives in these pieces; the flag tells what only the end of the body gave.
fn cut<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(bool, Event)> {
    let mut splitter = Splitter::new(ROOMY);
    let mut events = Vec::new();
    for piece in pieces {
        splitter.push(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event().unwrap() {
            events.push((false, event));
        }
    }
    while let Some(event) = splitter.finish() {
        events.push((true, event));
    }
    assert_eq!(splitter.pending(), 0);
    events
}

fn whole(stream: &[u8]) -> Vec<(bool, Event)> {
    cut([stream])
}

fn payloads(stream: &[u8]) -> Vec<Option<String>> {
    whole(stream).iter().map(|(_, e)| e.data().map(|d| String::from_utf8_lossy(&d).into_owned())).collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|t| Some((*t).to_owned())).collect()
}

/// The standard's own algorithm, line by line, over a whole text; no relation to the splitter's.
fn by_the_book(stream: &str) -> Vec<(String, String)> {
    let text = stream.strip_prefix('\u{feff}').unwrap_or(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut out = Vec::new();
    let (mut data, mut name, mut any) = (String::new(), String::new(), false);
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    for line in lines {
        if line.is_empty() {
            if any {
                data.pop();
                out.push((std::mem::take(&mut name), std::mem::take(&mut data)));
            }
            (data, name, any) = (String::new(), String::new(), false);
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                data.push_str(value);
                data.push('\n');
                any = true;
            }
            "event" => value.clone_into(&mut name),
            _ => {}
        }
    }
    out
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "data: ?[a-z\u{e9}\u{4f60}\u{1f600}:{}]{0,12}",
        1 => Just("data".to_owned()),
        1 => "event: ?[a-z.]{0,6}",
        1 => ":[ -~]{0,8}",
        1 => "[a-z]{1,3}:? ?[0-9]{0,3}",
        4 => Just(String::new()),
    ]
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\r")]
}

/// Streams with any mixture of line ends, some cut short in the middle.
fn stream() -> impl Strategy<Value = String> {
    let lines = prop::collection::vec((line(), line_end()), 0..24);
    (any::<bool>(), lines, line()).prop_map(|(bom, lines, last)| {
        let mut text = if bom { "\u{feff}".to_owned() } else { String::new() };
        for (line, end) in lines {
            text.push_str(&line);
            text.push_str(end);
        }
        text + &last
    })
}

/// A stream in pieces, cut anywhere, inside characters and line ends too.
fn pieces() -> impl Strategy<Value = (String, Vec<usize>)> {
    stream().prop_flat_map(|text| {
        let places = prop::collection::vec(0..=text.len(), 0..12);
        (Just(text), places)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_cuts_do_not_depend_on_the_chunks((text, mut places) in pieces()) {
        let bytes = text.as_bytes();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let chunked = cut(places.windows(2).map(|w| &bytes[w[0]..w[1]]));
        prop_assert_eq!(&chunked, &whole(bytes));
        prop_assert_eq!(&cut(bytes.chunks(1)), &chunked);
    }

    #[test]
    fn the_raw_bytes_are_the_stream_again((text, _) in pieces()) {
        let events = whole(text.as_bytes());
        let joined: Vec<u8> = events.iter().flat_map(|(_, e)| e.raw.to_vec()).collect();
        let common = joined.len().min(text.len());
        prop_assert_eq!(&joined[..common], &text.as_bytes()[..common]);
        let added = &joined[common..];
        let left = &text.as_bytes()[common..];
        prop_assert!(added.is_empty() || (events.last().unwrap().0 && matches!(added, b"\n" | b"\n\n")));
        prop_assert!(left.iter().all(|b| matches!(b, b'\n' | b'\r')), "only empty lines may be left: {:?}", left);
    }

    #[test]
    fn events_are_those_of_the_standard((text, _) in pieces()) {
        // The standard drops an unfinished event and fires none without data, and so must the comparison.
        let ours: Vec<_> = whole(text.as_bytes())
            .into_iter()
            .filter(|(at_end, e)| !at_end || text.as_bytes().ends_with(&e.raw))
            .filter_map(|(_, e)| {
                let data = String::from_utf8(e.data()?.into_owned()).unwrap();
                Some((String::from_utf8_lossy(e.name().unwrap_or_default()).into_owned(), data))
            })
            .collect();
        prop_assert_eq!(ours, by_the_book(&text));
    }

    #[test]
    fn an_event_is_refused_exactly_when_it_is_over_the_bound(
        (text, mut places) in pieces(), max in 0_usize..40
    ) {
        let bytes = text.as_bytes();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let mut splitter = Splitter::new(max);
        let mut given = 0;
        let mut refused = false;
        'pushing: for w in places.windows(2) {
            splitter.push(Bytes::copy_from_slice(&bytes[w[0]..w[1]]));
            loop {
                match splitter.next_event() {
                    Ok(Some(event)) => {
                        prop_assert!(event.raw.len() <= max);
                        given += 1;
                    }
                    Ok(None) => break,
                    Err(EventTooLarge { max: told }) => {
                        prop_assert_eq!(told, max);
                        refused = true;
                        break 'pushing;
                    }
                }
            }
            prop_assert!(splitter.pending() <= max);
        }
        let complete: Vec<usize> =
            whole(bytes).iter().filter(|(at_end, _)| !at_end).map(|(_, e)| e.raw.len()).collect();
        let unfinished = bytes.len() - complete.iter().sum::<usize>();
        let fitting = complete.iter().take_while(|len| **len <= max).count();
        let too_large = fitting < complete.len() || unfinished > max;
        prop_assert_eq!(refused, too_large);
        prop_assert_eq!(given, fitting);
    }
}

#[test]
fn an_event_inside_one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\ndata: c");
    let mut splitter = Splitter::new(ROOMY);
    splitter.push(chunk.clone());
    let a = splitter.next_event().unwrap().unwrap();
    let b = splitter.next_event().unwrap().unwrap();
    assert_eq!(a.raw.as_ptr(), chunk.as_ptr());
    assert_eq!(b.raw.as_ptr().addr(), chunk.as_ptr().addr() + a.raw.len());
    assert!(matches!(b.data(), Some(Cow::Borrowed(b"b"))));
    assert_eq!(splitter.next_event(), Ok(None));
    assert_eq!(splitter.pending(), 7);
}

#[test]
fn pieces_pushed_together_are_taken_in_order() {
    let mut splitter = Splitter::new(ROOMY);
    for piece in ["da", "", "ta: a\n", "\ndata: b\n\nda", "ta: c"] {
        splitter.push(Bytes::from_static(piece.as_bytes()));
    }
    assert_eq!(splitter.pending(), 2 + 6 + 12 + 5);
    let events: Vec<_> = std::iter::from_fn(|| splitter.finish()).collect();
    let raws: Vec<&[u8]> = events.iter().map(|e| &e.raw[..]).collect();
    assert_eq!(raws, [&b"data: a\n\n"[..], b"data: b\n\n", b"data: c\n\n"]);
}

#[test]
fn a_payload_is_what_follows_the_colon_and_one_space() {
    assert_eq!(
        payloads(b"data:x\n\ndata: x\n\ndata:  x\n\ndata\n\ndata:\n\n"),
        some(&["x", "x", " x", "", ""])
    );
    assert_eq!(payloads(b"data: one\ndata: two\ndata:\ndata: four\n\n"), some(&["one\ntwo\n\nfour"]));
    assert_eq!(payloads(b"database: x\nDATA: y\n data: z\n\n"), [None]);
    assert_eq!(payloads(b"id: 7\r\nretry: 10\r\ndata: {}\r\n\r\n"), some(&["{}"]));
}

#[test]
fn comments_alone_are_an_event_without_payload() {
    let events = whole(b": ping\n\n:\r\n\r\ndata: x\n\n");
    assert_eq!(events.len(), 3);
    assert_eq!((events[0].1.data(), events[1].1.data()), (None, None));
    assert_eq!(events[1].1.raw, ":\r\n\r\n");
}

#[test]
fn the_last_name_counts() {
    let events = whole(b"event: a\nevent:error\ndata: x\n\ndata: y\nevent\n\n");
    assert_eq!(events[0].1.name(), Some(&b"error"[..]));
    assert_eq!(events[1].1.name(), None);
}

#[test]
fn a_byte_order_mark_counts_only_at_the_start() {
    assert_eq!(payloads("\u{feff}data: x\n\n\u{feff}data: y\n\n".as_bytes()), [Some("x".to_owned()), None]);
}

#[test]
fn a_line_end_in_two_chunks_makes_no_event() {
    for split in 0..=18 {
        let text = b"data: a\r\n\r\ndata: b\r\n\r\n";
        let events = cut([&text[..split], &text[split..]]);
        let raws: Vec<_> = events.iter().map(|(_, e)| e.raw.clone()).collect();
        assert_eq!(raws, ["data: a\r\n\r\n", "data: b\r\n\r\n"], "{split}");
    }
}

#[test]
fn bare_carriage_returns_do_not_hold_an_event_back() {
    let mut splitter = Splitter::new(ROOMY);
    splitter.push(Bytes::from_static(b"data: a\r\r"));
    assert_eq!(splitter.next_event().unwrap().unwrap().raw, "data: a\r\r");
    // An LF after all: the line end was a CRLF, and the stream's bytes must stay whole.
    splitter.push(Bytes::from_static(b"\ndata: b\r\r"));
    let b = splitter.next_event().unwrap().unwrap();
    assert_eq!((&b.raw[..], b.data().as_deref()), (&b"\ndata: b\r\r"[..], Some(&b"b"[..])));
}

#[test]
fn the_end_of_the_body_completes_the_last_event() {
    for (text, completed) in [
        ("data: x", Some("data: x\n\n")),
        ("data: x\n", Some("data: x\n\n")),
        ("data: x\r\n", Some("data: x\r\n\n")),
        ("data: x\r", Some("data: x\r\n\n")),
        ("data: x\n\r", Some("data: x\n\r")),
        ("", None),
        ("\n\r\n\r", None),
    ] {
        let events = whole(text.as_bytes());
        assert_eq!(events.last().map(|(_, e)| &e.raw[..]), completed.map(str::as_bytes), "{text:?}");
        assert_eq!(events.len(), usize::from(completed.is_some()), "{text:?}");
    }
}

#[test]
fn an_endless_line_is_refused_at_the_bound_and_let_go() {
    let mut splitter = Splitter::new(1 << 20);
    let chunk = Bytes::from(vec![b'x'; 16 * 1024]);
    for _ in 0..64 {
        splitter.push(chunk.clone());
        assert_eq!(splitter.next_event(), Ok(None));
    }
    splitter.push(chunk.clone());
    assert_eq!(splitter.next_event(), Err(EventTooLarge { max: 1 << 20 }));
    splitter.push(Bytes::from_static(b"\n\ndata: x\n\n"));
    assert_eq!(splitter.next_event(), Err(EventTooLarge { max: 1 << 20 }));
    assert_eq!((splitter.pending(), splitter.finish()), (0, None));
}
