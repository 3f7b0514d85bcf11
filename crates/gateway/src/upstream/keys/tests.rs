use super::*;

fn ring(n: usize) -> KeyRing {
    let keys: Vec<SecretString> = (0..n).map(|i| format!("key-{i}").into()).collect();
    KeyRing::new(&keys, None).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rest_is_only_ever_extended() {
    let ring = ring(1);
    let now = Instant::now();
    ring.rest(0, "m", Class::RateLimited, Some(Duration::from_secs(60)), 0.0, now);
    ring.rest(0, "m", Class::RateLimited, Some(Duration::from_secs(1)), 0.0, now);
    assert_eq!(ring.offer("m", &[], now), Offer::Resting(Duration::from_secs(60)));
    assert_eq!(ring.offer("other", &[], now), Offer::Key(0), "a rate limit is per model");
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_is_left_alone_while_another_works() {
    let ring = ring(2);
    let now = Instant::now();
    ring.rest(0, "m", Class::Auth, None, 0.0, now);
    for _ in 0..4 {
        assert_eq!(ring.offer("m", &[], now), Offer::Key(1));
    }
    ring.rest(1, "m", Class::Auth, None, 0.0, now + Duration::from_secs(1));
    assert_eq!(ring.offer("m", &[], now), Offer::Key(0), "the one refused longest ago");
    assert_eq!(ring.ready_in("m", &[], now), Some(LAST_RESORT), "any other path comes first");
    assert_eq!(ring.ready_in("m", &[0, 1], now), None);
    ring.rest(0, "m", Class::Quota, None, 0.0, now);
    assert_eq!(ring.offer("m", &[], now), Offer::Key(1));
}

#[tokio::test(start_paused = true)]
async fn rests_without_a_hint_double_up_to_their_cap() {
    let ring = ring(1);
    let mut now = Instant::now();
    let waits: Vec<u64> = (0..6)
        .map(|_| {
            let Offer::Key(0) = ring.offer("m", &[], now) else { panic!("rests") };
            let wait = ring.rest(0, "m", Class::RateLimited, None, 0.0, now).unwrap();
            assert_eq!(ring.rest(0, "m", Class::RateLimited, Some(wait), 0.0, now), None, "told once");
            now += wait;
            wait.as_secs()
        })
        .collect();
    assert_eq!(waits, [5, 20, 60, 60, 60, 60]);
    ring.worked(0);
    assert_eq!(ring.rest(0, "m", Class::RateLimited, None, 0.0, now), Some(Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_without_keys_rests_as_a_whole() {
    let ring = ring(0);
    let now = Instant::now();
    assert_eq!((ring.offer("m", &[], now), ring.header(0)), (Offer::Key(0), None));
    ring.rest(0, "m", Class::RateLimited, Some(Duration::from_secs(7)), 0.0, now);
    assert_eq!(ring.offer("m", &[], now), Offer::Resting(Duration::from_secs(7)));
    assert_eq!(ring.count(now), (0, 0));
}

#[test]
fn our_keys_are_cut_out_of_what_leaves() {
    let text = b"Incorrect API key provided: key-1. key-1!";
    assert_eq!(ring(2).redacted(text).unwrap(), b"Incorrect API key provided: [redacted]. [redacted]!");
    assert_eq!(ring(1).redacted(text), None);
    let odd = KeyRing::new(&["redacted".into()], None).unwrap();
    assert_eq!(odd.redacted(b"not redacted").unwrap(), b"not [redacted]", "a key within its own replacement");
}

fn shared(n: usize) -> (KeyRing, tokio::sync::mpsc::Receiver<Rest>) {
    let ring = ring(n);
    let (tell, told) = tokio::sync::mpsc::channel(2);
    ring.share("https://api/v1", None, tell);
    (ring, told)
}

#[tokio::test(start_paused = true)]
async fn a_rest_is_told_once_and_keeps_the_key_of_another_node_from_use() {
    let ((here, mut told), (there, _)) = (shared(2), shared(2));
    let now = Instant::now();
    here.rest(1, "m", Class::RateLimited, Some(Duration::from_secs(7)), 0.0, now);
    here.rest(1, "m", Class::RateLimited, Some(Duration::from_secs(7)), 0.0, now);
    let rest = told.try_recv().unwrap();
    assert!(told.try_recv().is_err(), "told once");
    assert_eq!(rest, Rest { name: format!("{}/m", here.names()[1]), until: now + Duration::from_secs(7) });
    assert!(there.apply(&rest.name, rest.until - now, now));
    for _ in 0..4 {
        assert_eq!(there.offer("m", &[], now), Offer::Key(0));
    }
    assert_eq!(there.offer("other", &[0], now), Offer::Key(1));
    assert_eq!(here.running(now), [rest]);
    assert_eq!(here.running(now + Duration::from_secs(7)), []);
}

#[tokio::test(start_paused = true)]
async fn a_longer_rest_is_told_and_a_shorter_word_shortens_nothing() {
    let (ring, mut told) = shared(1);
    let now = Instant::now();
    ring.rest(0, "m", Class::RateLimited, Some(Duration::from_secs(1)), 0.0, now);
    ring.rest(0, "m", Class::RateLimited, Some(Duration::from_secs(60)), 0.0, now);
    let (first, second) = (told.try_recv().unwrap(), told.try_recv().unwrap());
    assert_eq!(second.until - first.until, Duration::from_secs(59));
    assert!(ring.apply(&second.name, Duration::from_secs(2), now));
    assert_eq!(ring.offer("m", &[], now), Offer::Resting(Duration::from_secs(60)));
    assert!(ring.apply(&ring.names()[0], Duration::MAX, now));
    assert_eq!(
        ring.offer("m", &[], now),
        Offer::Resting(Duration::from_secs(3960)),
        "no word rests for ever"
    );
    assert!(!ring.apply("0123456789abcdef/m", Duration::from_secs(1), now), "not ours");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_was_proven_wrong_here_does_not_come_back_by_hearsay() {
    let (ring, _told) = shared(2);
    let now = Instant::now();
    ring.rest(0, "m", Class::Auth, None, 0.0, now);
    ring.worked(0);
    let refused = format!("{}!", ring.names()[0]);
    ring.apply(&refused, Duration::from_secs(299), now);
    assert_eq!(ring.ready_in("m", &[1], now), Some(Duration::ZERO));
    ring.apply(&refused, Duration::from_secs(299), now + Duration::from_secs(60));
    assert_eq!(ring.ready_in("m", &[1], now), Some(LAST_RESORT), "another refusal");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_loses_the_word_and_not_the_rest() {
    let (ring, mut told) = shared(3);
    let now = Instant::now();
    for key in 0..3 {
        ring.rest(key, "m", Class::Quota, None, 0.0, now);
    }
    assert_eq!(ring.count(now), (3, 3));
    assert_eq!(std::iter::from_fn(|| told.try_recv().ok()).count(), 2);
}

#[test]
fn names_tell_keys_apart_and_say_nothing_of_them() {
    let (tell, _told) = tokio::sync::mpsc::channel(1);
    let named = |url: &str, salt: Option<&[u8]>| {
        let ring = ring(2);
        ring.share(url, salt, tell.clone());
        ring.names().to_vec()
    };
    let plain = named("https://api/v1", None);
    assert_eq!(plain, named("https://api/v1", None));
    // SHA-256 of `https://api/v1`, a zero byte and `key-0`.
    assert_eq!(plain[0], "15bf19ef8285f99c");
    assert_ne!(plain[0], plain[1]);
    assert_ne!(plain, named("https://api/v2", None));
    assert_ne!(plain, named("https://api/v1", Some(b"salt")));
}
