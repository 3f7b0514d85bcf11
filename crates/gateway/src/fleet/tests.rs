use std::borrow::Cow;
use std::time::SystemTime;

use tidegate_health::registry::{Report, Said, SubjectName};
use tidegate_store::Failure;

use super::lease::{Lease, name_of};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn word(report: Report) -> Word {
    let about = word::About {
        instance: 7,
        name: "gw1",
        zone: "hk",
        started: SystemTime::UNIX_EPOCH,
        config_hash: "0123456789abcdef",
        draining: false,
        ready: true,
    };
    Word::new(&about, report)
}

fn said(name: &str, model: Option<&str>, state: State) -> Said {
    Said {
        subject: SubjectName { name: name.to_owned(), model: model.map(str::to_owned) },
        state,
        reason: Some(Cow::Borrowed("probe")),
        own: true,
        epoch: 3,
    }
}

fn fleet(shared: bool) -> Fleet {
    let store = crate::store::embedded();
    Fleet { shared, ..Fleet::new(store, "gw1".to_owned(), "hk".to_owned(), 3) }
}

fn heard(fleet: &Fleet, ago: Duration, words: Vec<Word>) {
    let peers: Vec<Peer> =
        words.into_iter().map(|word| Peer { word: Arc::new(word), age: Duration::ZERO }).collect();
    let nodes = u32::try_from(peers.len()).unwrap() + 1;
    fleet.heard.store(Arc::new(Heard { at: Some(Instant::now() - ago), peers, nodes }));
}

#[test]
fn a_word_is_heard_as_it_was_said() {
    let report = Report {
        epoch: 9,
        cut_off: false,
        said: vec![said("a@direct", None, State::Open), said("a", Some("gpt"), State::Ramping)],
    };
    let read = Word::read(&word(report.clone()).payload()).unwrap();
    assert_eq!(read.report(), report);
    let status = read.status(SECOND);
    assert_eq!(status["open"], serde_json::json!(["a@direct"]));
    assert_eq!((&status["state"], &status["age_ms"]), (&"ready".into(), &1000.into()));
    assert_eq!(status["started_at"], "1970-01-01T00:00:00.000Z");
}

#[test]
fn a_report_that_is_too_long_loses_its_end_and_says_so() {
    let all: Vec<Said> =
        (0..2000).map(|n| said(&format!("upstream-{n}@direct"), None, State::Open)).collect();
    let payload = word(Report { epoch: 9, cut_off: false, said: all.clone() }).payload();
    assert!(payload.len() <= 64 * 1024 && payload.len() > 48 * 1024, "{}", payload.len());
    assert!(payload.contains("\"truncated\":true"));
    let kept = Word::read(&payload).unwrap().report().said;
    assert_eq!(kept, all[..kept.len()]);
}

#[test]
fn what_another_version_says_is_read_as_far_as_it_is_understood() {
    let text = r#"{"name": "gw2", "instance": "00", "mood": {"good": true}, "epoch": 4, "report": [
        {"name": "a@direct", "state": "pondering", "own": true},
        {"name": "b@direct", "state": "open", "own": true, "epoch": 4, "colour": "red"}]}"#;
    let report = Word::read(text).unwrap().report();
    assert_eq!(report.said.len(), 1);
    assert_eq!((report.said[0].state, report.said[0].epoch), (State::Open, 4));
    let bare = Word::read(r#"{"name": "gw2", "instance": "00"}"#).unwrap();
    assert!(!bare.ready && !bare.cut_off && !bare.draining);
}

#[test]
fn what_is_no_word_is_an_error_and_never_more() {
    let long = format!(r#"{{"name": "{}", "instance": ""}}"#, "x".repeat(70_000));
    let deep = "[".repeat(60_000);
    for text in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"name": 7, "instance": "0"}"#,
        r#"{"name": "a", "instance": "0", "report": {}}"#,
        r#"{"name": "a", "instance": "0", "epoch": 18446744073709551615}"#,
        r#"{"name": "a", "instance": "0", "epoch": 1, "report": [{"name": "p", "state": "open", "epoch": 2}]}"#,
        r#"{"name": "a", "instance": "0", "epoch": -1}"#,
        "\u{0}\u{1}",
        &long,
        &deep,
    ] {
        assert!(Word::read(text).is_err(), "{}", &text[..text.len().min(80)]);
    }
    let name = format!(r#"{{"name": "{}", "instance": ""}}"#, "ü".repeat(1000));
    assert!(Word::read(&name).unwrap().name.len() <= 256);
}

#[tokio::test(start_paused = true)]
async fn as_many_nodes_are_reckoned_with_as_were_last_heard_for_ten_minutes() {
    let shared = fleet(true);
    assert_eq!(shared.nodes(), 3, "as configured while none was heard");
    heard(&shared, Duration::ZERO, vec![word(Report::default())]);
    assert_eq!((shared.nodes(), shared.peers().len()), (2, 1));
    tokio::time::advance(SECOND * 6).await;
    assert_eq!((shared.nodes(), shared.peers().len()), (2, 0));
    tokio::time::advance(REMEMBERED).await;
    assert_eq!(shared.nodes(), 3);
    let alone = fleet(false);
    assert_eq!(alone.nodes(), 1);
}

#[test]
fn a_lease_counts_from_before_it_was_asked_for_and_is_lost_without_an_answer() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let sent = Instant::now();
        let taken = Lease::after(None, &Ok(true), sent);
        assert_eq!(taken.held(sent + SECOND * 4), Some(sent + SECOND * 5));
        assert_eq!(taken.held(sent + SECOND * 5), None, "a process that was stopped holds nothing");
        let unknown = Lease::after(Some(taken), &Err(Failure::Unknown), sent + SECOND * 2);
        assert_eq!(unknown.held(sent + SECOND * 4), Some(sent + SECOND * 5), "not renewed");
        let lost = Lease::after(Some(taken), &Ok(false), sent + SECOND * 2);
        assert_eq!(lost.held(sent + SECOND * 2), None);
        assert_eq!(Lease::after(None, &Err(Failure::Down), sent).held(sent), None);
    });
}

#[test]
fn leases_are_called_the_same_on_all_nodes() {
    let path = SubjectName { name: "a@direct".to_owned(), model: None };
    let model = SubjectName { name: "a".to_owned(), model: Some("gpt".to_owned()) };
    assert_eq!([name_of(&path), name_of(&model)], ["shadow:a", "shadow:a"]);
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_one_name_say_their_words_apart() {
    let (one, two) = (fleet(true), fleet(true));
    assert_ne!(one.key(), two.key());
    assert!(one.key().starts_with("gw1#"));
}

#[tokio::test(start_paused = true)]
async fn leaving_waits_for_nobody_where_nothing_runs() {
    let before = Instant::now();
    fleet(true).leave().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}
