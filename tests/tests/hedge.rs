//! Second tries beside a slow first one, and connections raced over two ways out: what is late is overtaken, the
//! loser is stopped, and neither is used where it is not wanted.

use std::time::Duration;

use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::tunnel::Tunnel;
use tidegate_tests::until_within;
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{answer, until};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const HEDGED: &str = "hedge: {after: 200ms}";
/// Later than a hedge, earlier than any timeout.
const LATE: Duration = ms(600);

/// `a` is quick and has the traffic, `b` is out of its band.
async fn primary_and_other(route: &str) -> (Node, Simulated, Simulated) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.latency(ms(10));
    b.latency(ms(100));
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .route_to("a, b", route)
        .quick_health()
        .health("choice", "{hysteresis: 30s, explore: 0%}")
        .health("breaker", "{stalled_after: 30s}")
        .start()
        .await;
    let load = Load::start(&node, 60.0, 0.5);
    load.more(180).await;
    let settled = load.so_far().len();
    load.more(60).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let last = &report.answered[settled..];
    assert!(last.iter().all(|a| a.path == "a@direct"), "{}", report.by_second());
    (node, a, b)
}

async fn hedges(node: &Node, outcome: &str) -> usize {
    node.metric("tidegate_hedges_total", &[("outcome", outcome)]).await as usize
}

#[tokio::test]
async fn a_late_answer_is_overtaken_and_its_call_is_stopped() {
    let (node, a, b) = primary_and_other(HEDGED).await;
    assert_eq!(hedges(&node, "won").await, 0, "none while all is well");
    for (n, ask) in [Ask::plain(&node), Ask::streamed(&node), Ask::plain(&node)].into_iter().enumerate() {
        let (asked, other, gone) = (a.count(Kind::User), b.count(Kind::User), a.abandoned());
        a.outlier(LATE);
        let answered = ask.send().await;
        assert!(answered.ok(), "{answered:?}");
        assert_eq!((answered.path.as_str(), answered.said().as_str()), ("b@direct", "from b"));
        assert!((ms(250)..ms(500)).contains(&answered.took), "{:?}", answered.took);
        assert_eq!((a.count(Kind::User), b.count(Kind::User)), (asked + 1, other + 1), "one call each");
        until_within(Duration::from_secs(1), "the late call given up", async || {
            (a.abandoned() > gone).then_some(())
        })
        .await;
        assert_eq!(hedges(&node, "won").await, n + 1);
        // Back to what it was before the next.
        assert!(Ask::plain(&node).send().await.ok());
    }
    assert_eq!(hedges(&node, "lost").await, 0);
    assert_eq!(node.metric("tidegate_requests_total", &[]).await, 246.0, "clients' requests only");
}

#[tokio::test]
async fn a_first_call_that_answers_before_the_second_has_its_answer_taken() {
    let (node, a, b) = primary_and_other(HEDGED).await;
    b.latency(Duration::from_secs(3));
    a.outlier(ms(400));
    let answered = Ask::plain(&node).send().await;
    assert!(answered.ok() && answered.path == "a@direct", "{answered:?}");
    assert!((ms(400)..ms(1000)).contains(&answered.took), "{:?}", answered.took);
    until("the second call given up", async || (b.abandoned() == 1).then_some(())).await;
    assert_eq!((hedges(&node, "won").await, hedges(&node, "lost").await), (0, 1));
}

#[tokio::test]
async fn without_a_hedge_in_the_route_no_second_call_is_made() {
    let (node, a, b) = primary_and_other("").await;
    let other = b.count(Kind::User);
    for ask in [Ask::plain(&node), Ask::streamed(&node)] {
        a.outlier(LATE);
        let answered = ask.send().await;
        assert!(answered.ok() && answered.path == "a@direct", "{answered:?}");
        assert!(answered.took >= LATE, "{:?}", answered.took);
    }
    assert_eq!((b.count(Kind::User), hedges(&node, "won").await, hedges(&node, "lost").await), (other, 0, 0));
}

#[tokio::test]
async fn an_error_after_a_hedge_has_begun_leaves_the_answer_to_the_hedge() {
    let (node, a, b) = primary_and_other(HEDGED).await;
    b.latency(ms(300));
    let error = answer::json(500, &answer::error("server_error", "simulated", "late and wrong"));
    a.set(Mode::Does(vec![Act::Sleep(ms(300)), Act::Send(error)]));
    let other = b.count(Kind::User);
    for ask in [Ask::plain(&node), Ask::streamed(&node)] {
        let answered = ask.send().await;
        assert!(answered.ok() && answered.path == "b@direct", "{answered:?}");
        assert!(answered.took < ms(900), "{:?}", answered.took);
    }
    assert_eq!(b.count(Kind::User), other + 2, "one call each");
}

/// With all answers late every request would be hedged; the budget of retries is hedges' too.
#[tokio::test]
async fn hedges_stay_within_the_budget_of_retries() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.latency(LATE);
    b.latency(LATE);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .route("{match: {model: \"*\"}, to: [a, b], hedge: {after: 100ms}, retry: {budget: 10%}}")
        .quick_health()
        .start()
        .await;
    let load = Load::start(&node, 40.0, 0.5);
    load.more(320).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let calls = a.count(Kind::User) + b.count(Kind::User);
    let seconds =
        report.answered.last().unwrap().at.duration_since(report.answered[0].at).as_secs() as usize + 1;
    // A tenth, one a second besides, and three that are always allowed to run.
    let most = report.len() / 10 + seconds + 3;
    let second = calls - report.len();
    assert!(second >= 1, "there were hedges");
    assert!(second <= most, "{second} second calls for {} requests, at most {most}", report.len());
}

/// The way by hk takes connections and answers CONNECT two seconds later.
async fn two_ways() -> (Node, Upstream, Tunnel, Simulated) {
    let a = Simulated::start("a").await;
    let consent = bytes::Bytes::from_static(b"HTTP/1.1 200 Connection established\r\n\r\n");
    let hk = Upstream::doing(vec![Act::Sleep(Duration::from_secs(2)), Act::Send(consent)]).await;
    let sg = Tunnel::start().await;
    let node = Setup::new()
        .upstream_with("a", &a.url(), "egress: [hk, sg], probe: {path: none}")
        .section(&format!(
            "egress: [{{name: hk, proxy: \"http://127.0.0.1:{}\"}}, {{name: sg, proxy: \"http://127.0.0.1:{}\"}}]",
            hk.port(),
            sg.port()
        ))
        .own_pace()
        .start()
        .await;
    (node, hk, sg, a)
}

#[tokio::test]
async fn a_cold_request_overtakes_a_slow_way_out_and_sends_nothing_over_it() {
    let mut met = 0;
    // Which way is chosen first is left to chance while nothing is known of either.
    for n in 0..12 {
        let (node, hk, sg, a) = two_ways().await;
        let ask = if n % 2 == 0 { Ask::plain(&node) } else { Ask::streamed(&node) };
        let answered = ask.send().await;
        assert!(answered.ok(), "{answered:?}");
        assert_eq!((answered.path.as_str(), answered.attempts), ("a@sg", 1), "{answered:?}");
        assert!(answered.took < ms(600), "{:?}", answered.took);
        assert_eq!((a.count(Kind::User), sg.opened()), (1, 1));
        let asked = hk.requests();
        assert!(asked.iter().all(|seen| seen.head.starts_with("CONNECT ")), "{asked:?}");
        if !asked.is_empty() {
            met += 1;
            assert!(answered.took >= ms(200), "hk got its head start: {:?}", answered.took);
        }
        if met == 2 {
            return;
        }
    }
    panic!("hk was chosen first {met} times of twelve");
}

#[tokio::test]
async fn ways_out_are_not_raced_while_the_first_is_quick() {
    let a = Simulated::start("a").await;
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let node = Setup::new()
        .upstream_with("a", &a.url(), "egress: [hk, sg], probe: {path: none}, pool: {max_idle: 0}")
        .section(&format!(
            "egress: [{{name: hk, proxy: \"http://127.0.0.1:{}\"}}, {{name: sg, proxy: \"http://127.0.0.1:{}\"}}]",
            hk.port(),
            sg.port()
        ))
        .own_pace()
        .start()
        .await;
    for _ in 0..20 {
        assert!(Ask::plain(&node).send().await.ok());
    }
    assert_eq!(hk.opened() + sg.opened(), 20, "one connection for each request");
}
