//! What an operator can tell the node about a path, and who may.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::client::Call;
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Kind, Simulated};

const BACK: Duration = Duration::from_secs(15);

/// `a` gets everything, `b` what `a` does not answer.
async fn primary_and_spare() -> (Node, Simulated, Simulated) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream_with("b", &b.url(), "weight: 0")
        .quick_health()
        .health("choice", "{explore: 0%}")
        .start()
        .await;
    (node, a, b)
}

/// `action` on `a@direct`, which the node confirms.
async fn operate(node: &Node, action: &str) {
    let reply = node.operate("a@direct", action).await;
    let status = reply.status;
    assert!(status.is_success(), "{action}: {status} {}", reply.text().await);
}

#[tokio::test]
async fn an_operator_takes_a_path_out_and_puts_it_back() {
    let (node, a, _b) = primary_and_spare().await;
    for (out, state, back) in
        [("disable", "disabled", "enable"), ("open", "open", "close"), ("open", "open", "enable")]
    {
        operate(&node, out).await;
        let path = node.path("a@direct").await;
        assert_eq!((&path["state"], &path["reason"]), (&json!(state), &json!("operator")), "{path}");
        let asked = a.count(Kind::User);
        for _ in 0..4 {
            let answered = Ask::plain(&node).send().await;
            assert_eq!((answered.ok(), answered.path.as_str(), answered.attempts), (true, "b@direct", 1));
        }
        assert_eq!(a.count(Kind::User), asked, "users' requests at a path that is out");
        operate(&node, back).await;
        node.until_path_state("a@direct", "closed", BACK).await;
        let asked = a.count(Kind::User);
        assert_eq!(Ask::plain(&node).send().await.path, "a@direct", "after {back}");
        assert_eq!(a.count(Kind::User), asked + 1);
    }
}

#[tokio::test]
async fn a_path_forced_open_stays_open_however_well_its_upstream_is() {
    let (node, a, _b) = primary_and_spare().await;
    operate(&node, "open").await;
    let load = Load::start(&node, 40.0, 0.5);
    // Several rests of an ordinary opening.
    load.more(120).await;
    assert_eq!(node.path_state("a@direct").await, "open");
    load.stop().await.assert_all_ok();
    assert_eq!(a.count(Kind::User), 0);
}

#[tokio::test]
async fn unknown_paths_and_actions_and_strangers_are_refused() {
    let (node, _a, _b) = primary_and_spare().await;
    assert_eq!(node.operate("nobody@direct", "disable").await.status, 404);
    assert_eq!(node.operate("a@nowhere", "disable").await.status, 404);
    assert_eq!(node.operate("a@direct", "explode").await.status, 400);
    let post = |body: &'static str| Call::new(node.admin, "POST", "/api/paths/a@direct").body(body).send();
    assert_eq!(post("not json").await.status, 400);
    assert_eq!(node.path_state("a@direct").await, "closed");

    let a = Simulated::start("a").await;
    let setup = Setup::new().upstream("a", &a.url()).admin("token: {env: TOKEN}").env("TOKEN", "right-token");
    let node = setup.quick_health().start().await;
    assert_eq!(node.operate("a@direct", "disable").await.status, 401);
    let with = |token: &str| {
        let body = json!({"action": "disable"}).to_string();
        Call::new(node.admin, "POST", "/api/paths/a@direct").bearer(token).body(body).send()
    };
    assert_eq!(with("wrong-token").await.status, 401);
    assert_eq!(node.path_state("a@direct").await, "closed");
    assert!(with("right-token").await.status.is_success());
    assert_eq!(node.path_state("a@direct").await, "disabled");
}
