//! The status page as people see it: in a real browser, during a real outage, and with nothing but HTML.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tidegate_tests::answer;
use tidegate_tests::browser::{Browser, Tab, View};
use tidegate_tests::client::Call;
use tidegate_tests::load::Load;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Mode, Simulated};
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{until, until_within};
use tokio::time::Instant;

/// What the node knows is on the page so soon.
const SHOWN: Duration = Duration::from_secs(3);
const BACK: Duration = Duration::from_secs(40);

struct Site {
    node: Node,
    a: Simulated,
    b: Simulated,
    _local: Simulated,
}

/// Two upstreams of one route and a fallback, with probes that a busy machine does not fail and a way back that is
/// long enough to be watched.
async fn site(setup: Setup) -> Site {
    let (a, b, local) =
        (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("local").await);
    let probe = "probe: {interval: 500ms, timeout: 5s}";
    let node = setup
        .upstream_with("a", &a.url(), probe)
        .upstream_with("b", &b.url(), probe)
        .upstream_with("local", &local.url(), &format!("local: true, max_in_flight: 100, {probe}"))
        .route_to("a, b", "fallback: [{upstream: local, model: m}]")
        .quick_health()
        .health("breaker", "{window: 6s, open_for: 500ms, max_open: 3s, stalled_after: 10s}")
        .health(
            "recovery",
            "{shadow_max: 1200/min, successes: 5, min_span: 3s, latency_floor: 5s, ramp_step: 1s, ramp_requests: 3}",
        )
        .health("choice", "{hysteresis: 1s, explore: 10%}")
        .start()
        .await;
    Site { node, a, b, _local: local }
}

/// Two upstreams whose states only an operator changes.
async fn quiet(setup: Setup) -> (Node, Upstream) {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let node = setup.upstream("a", &upstream.url()).upstream("b", &upstream.url()).start().await;
    (node, upstream)
}

fn page(node: &Node) -> String {
    format!("http://{}/", node.admin)
}

fn row(path: &str) -> String {
    format!("tr[data-key=\"{path}\"]")
}

/// Waits until the page says of a path that it is in this state; gives its row's text of that moment.
async fn shows(tab: &Tab<'_>, path: &str, state: &str, limit: Duration) -> String {
    let row = row(path);
    let look = format!(
        "(() => {{ const row = document.querySelector('{row}'); return row && [row.className, row.innerText]; }})()"
    );
    until_within(limit, &format!("{path} {state} on the page"), async || {
        let shown = tab.value(&look).await;
        (shown[0] == state).then(|| shown[1].as_str().unwrap().to_owned())
    })
    .await
}

/// No error, nothing that the policy stopped, and not a byte from elsewhere.
async fn assert_clean(tab: &Tab<'_>, node: &Node) {
    assert_eq!(tab.trouble().await, Vec::<String>::new());
    for url in tab.requests().await {
        let own = url.starts_with(&page(node)) || url.starts_with("data:");
        assert!(own, "asked for {url}");
    }
}

/// Nothing of the page is beyond the edge of the screen.
async fn assert_fits(tab: &Tab<'_>, what: &str) {
    let widths = tab.value("[document.documentElement.scrollWidth, window.innerWidth]").await;
    assert!(widths[0].as_u64() <= widths[1].as_u64(), "{what}: {widths}");
}

#[tokio::test]
async fn an_outage_is_told_from_its_beginning_to_its_end() {
    let Some(browser) = Browser::start().await else { return };
    let site = site(Setup::new()).await;
    let (node, a, b) = (&site.node, &site.a, &site.b);
    let load = Load::start(node, 30.0, 0.5);
    let tab = browser.open(&page(node), View::DESK).await;
    let text = shows(&tab, "a@direct", "closed", SHOWN).await;
    assert!(text.contains("Nothing has gone wrong"), "{text}");
    load.more(60).await;

    for upstream in [a, b] {
        upstream.set(Mode::Status(500, "out of order"));
    }
    let opened = node.until_path_state("a@direct", "open", BACK).await;
    let text = shows(&tab, "a@direct", "open", SHOWN).await;
    eprintln!("on the page {:?} after /api/status", opened.elapsed());
    let known = [
        "failed several times in a row",
        "Too many of its requests failed",
        "probes failed",
        "fails over every way",
        "A trial request failed",
    ];
    assert!(known.iter().any(|why| text.contains(why)), "why it is open: {text}");
    assert!(text.contains("rest"), "what it waits for: {text}");
    node.until_path_state("b@direct", "open", BACK).await;
    let on_fallback = async || tab.text("#headline").await.contains("fallback answers").then_some(());
    until("the fallback in the headline", on_fallback).await;
    assert!(tab.value("document.title").await.as_str().unwrap().starts_with('▲'));

    for upstream in [a, b] {
        upstream.set(Mode::Good);
    }
    let text = shows(&tab, "a@direct", "shadowing", BACK).await;
    assert!(text.contains("of 5 trial requests passed"), "{text}");
    let text = shows(&tab, "a@direct", "ramping", BACK).await;
    assert!(text.contains("of its share"), "{text}");
    shows(&tab, "a@direct", "closed", BACK).await;
    node.until_path_state("b@direct", "closed", BACK).await;

    let past = node.path("a@direct").await["history"].clone();
    for list in ["latency_ms", "requests", "failures", "states"] {
        assert_eq!(past[list].as_array().unwrap().len(), 60, "{past}");
    }
    let sum = |list: &str| past[list].as_array().unwrap().iter().filter_map(|n| n.as_u64()).sum::<u64>();
    assert!(sum("requests") > sum("failures") && sum("failures") > 0, "{past}");
    assert!(past["requests"][0].is_null(), "nothing is known of the time before the start: {past}");
    load.stop().await.assert_all_ok();
    assert_clean(&tab, node).await;
}

#[tokio::test]
async fn the_facts_are_there_without_javascript_and_the_switches_are_not() {
    let Some(browser) = Browser::start().await else { return };
    let site = site(Setup::new().section("node: {name: gate-7, zone: hk}")).await;
    let (node, a) = (&site.node, &site.a);
    a.set(Mode::Status(500, "out of order"));
    let load = Load::start(node, 30.0, 0.5);
    node.until_path_state("a@direct", "open", BACK).await;
    let tab = browser.open(&page(node), View::DESK.plain()).await;
    assert!(tab.text("h1").await.contains("gate-7"));
    let said = tab.text("#headline").await;
    assert!(said.contains("a@direct"), "{said}");
    let text = tab.text(&row("a@direct")).await;
    // Between two rests it is tried for a moment.
    let said = text.contains("failed") || text.contains("Its rest is over");
    assert!(said && ["open", "shadowing"].iter().any(|state| text.contains(state)), "{text}");
    assert!(tab.text("#store").await.contains("embedded"));
    assert!(tab.text("#egress").await.contains("direct"));
    assert_eq!(tab.value("document.querySelectorAll('button, input, form').length").await, 0);
    let html = node.admin("/").await.text().await;
    assert!(html.contains("<noscript><meta http-equiv=\"refresh\""), "it is read again by itself");
    assert_fits(&tab, "without JavaScript").await;
    drop(load);
}

#[tokio::test]
async fn it_fits_a_desk_and_a_phone_by_day_and_by_night() {
    let Some(browser) = Browser::start().await else { return };
    let site = site(Setup::new()).await;
    let (node, a) = (&site.node, &site.a);
    let load = Load::start(node, 30.0, 0.5);
    a.set(Mode::Status(500, "out of order"));
    node.until_path_state("a@direct", "open", BACK).await;
    for view in [View::DESK, View::DESK.dark(), View::PHONE, View::PHONE.dark()] {
        let tab = browser.open(&page(node), view).await;
        until("the page to be live", async || (tab.text("#live").await == "Live").then_some(())).await;
        assert_fits(&tab, &format!("{view:?}")).await;
        let dark = tab.value("getComputedStyle(document.body).backgroundColor").await;
        let light = dark.as_str().unwrap().contains("244");
        assert_eq!(light, !view.dark, "{view:?}: {dark}");
        tab.click(".switch button").await;
        tab.text("dialog h2").await;
        assert_fits(&tab, &format!("a dialog on {view:?}")).await;
        assert_clean(&tab, node).await;
    }
    drop(load);
}

#[tokio::test]
async fn a_path_is_disabled_once_that_is_confirmed_and_not_before() {
    let Some(browser) = Browser::start().await else { return };
    let (node, _upstream) = quiet(Setup::new()).await;
    let tab = browser.open(&page(&node), View::DESK).await;
    let switch = "button[data-path=\"b@direct\"]";
    tab.click(switch).await;
    assert!(tab.text("dialog").await.contains("b@direct"));
    // What has the focus does no harm.
    tab.press("Enter").await;
    until("the dialog to be gone", async || {
        (tab.value("document.querySelector('dialog') === null").await == true).then_some(())
    })
    .await;
    tab.click(switch).await;
    tab.press("Escape").await;
    assert_eq!(node.path_state("b@direct").await, "closed", "nothing was confirmed");

    tab.click(switch).await;
    assert_eq!(tab.text("dialog .do").await, "Disable b@direct");
    tab.click("dialog .do").await;
    shows(&tab, "b@direct", "disabled", SHOWN).await;
    assert_eq!(node.path_state("b@direct").await, "disabled");
    assert_eq!(node.path_state("a@direct").await, "closed");

    tab.click(switch).await;
    tab.click("dialog input[value=close]").await;
    assert_eq!(tab.text("dialog .do").await, "Close b@direct");
    tab.click("dialog .do").await;
    shows(&tab, "b@direct", "closed", SHOWN).await;
    assert_clean(&tab, &node).await;
}

#[tokio::test]
async fn the_token_is_asked_for_when_the_node_wants_it_and_kept_nowhere_but_in_the_page() {
    let Some(browser) = Browser::start().await else { return };
    let setup = Setup::new().admin("token: {env: TOKEN}").env("TOKEN", "the-admin-token");
    let (node, _upstream) = quiet(setup).await;
    let tab = browser.open(&page(&node), View::DESK).await;
    tab.click("button[data-path=\"a@direct\"]").await;
    assert_eq!(tab.value("document.getElementById('token').parentElement.hidden").await, true);
    tab.click("dialog .do").await;
    tab.fill("#token", "wrong").await;
    tab.press("Enter").await;
    until("the refusal", async || tab.text(".said").await.contains("admin token").then_some(())).await;
    assert_eq!(node.path_state("a@direct").await, "closed");
    tab.fill("#token", "the-admin-token").await;
    tab.press("Enter").await;
    shows(&tab, "a@direct", "disabled", SHOWN).await;
    // Known from now on.
    tab.click("button[data-path=\"b@direct\"]").await;
    tab.click("dialog .do").await;
    shows(&tab, "b@direct", "disabled", SHOWN).await;
    assert_eq!(tab.value("localStorage.length + sessionStorage.length + document.cookie.length").await, 0);
    assert!(!tab.value("document.documentElement.outerHTML").await.to_string().contains("the-admin-token"));
}

#[tokio::test]
async fn a_drain_is_asked_for_twice_and_seen() {
    let Some(browser) = Browser::start().await else { return };
    let (node, _upstream) = quiet(Setup::new().listen("drain_grace: 60s")).await;
    let tab = browser.open(&page(&node), View::DESK).await;
    tab.click("#drain-now").await;
    assert!(tab.text("dialog").await.contains("cannot be undone"));
    assert_eq!(node.admin("/readyz").await.status, 200);
    assert_eq!(node.metric("tidegate_node_draining", &[]).await, 0.0);
    tab.click("dialog .do").await;
    let drains = async || tab.text("#headline").await.contains("drains").then_some(());
    until_within(SHOWN, "the drain on the page", drains).await;
    assert_eq!(node.admin("/readyz").await.status, 503);
    assert_eq!(node.metric("tidegate_node_draining", &[]).await, 1.0);
}

#[tokio::test]
async fn a_node_that_is_lost_is_told_and_its_facts_are_marked_as_old() {
    let Some(browser) = Browser::start().await else { return };
    let (node, _upstream) = quiet(Setup::new()).await;
    let tab = browser.open(&page(&node), View::DESK).await;
    until("the page to be live", async || (tab.text("#live").await == "Live").then_some(())).await;
    node.process.signal("KILL").await;
    let lost = async || tab.text("#live").await.contains("does not answer").then_some(());
    until("the loss", lost).await;
    assert_eq!(tab.value("document.querySelector('main').classList.contains('lost')").await, true);
    assert!(tab.text("table.paths").await.contains("a@direct"), "what was known stays");
}

/// Of all names a path's model alone is the client's to choose.
#[tokio::test]
async fn names_that_look_like_markup_are_shown_as_they_are() {
    let Some(browser) = Browser::start().await else { return };
    let a = Simulated::start("a").await;
    a.probes_always_good();
    a.set(Mode::Status(500, "<script>alert(1)</script>"));
    let evil = "<img src=x onerror=document.title=1>";
    let node = Setup::new()
        .upstream_with("a", &a.url(), "probe: {interval: 500ms, timeout: 5s}")
        .quick_health()
        .health("breaker", "{open_for: 60s}")
        .start()
        .await;
    let body = json!({"model": evil, "messages": [{"role": "user", "content": "hi"}]});
    let opened = async || {
        node.post("/v1/chat/completions", &body).send().await;
        (node.path_state("a@direct").await == "open").then_some(())
    };
    until("the model to be open", opened).await;
    for view in [View::DESK, View::PHONE, View::DESK.plain()] {
        let tab = browser.open(&page(&node), view).await;
        let row = tab.text("table.paths").await;
        assert!(row.contains(evil), "{view:?}: {row}");
        assert_eq!(tab.value("document.querySelectorAll('img, main script').length").await, 0);
        assert_fits(&tab, &format!("{view:?}")).await;
        assert_clean(&tab, &node).await;
    }
}

#[tokio::test]
async fn a_page_of_another_site_cannot_change_the_node() {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        let call = Call::new(node.admin, "POST", "/api/paths/a@direct").header("sec-fetch-site", site);
        let reply = call.body(json!({"action": "close"}).to_string()).send().await;
        assert_eq!(reply.status, status, "{site}");
    }
}

#[tokio::test]
async fn a_name_of_another_site_that_leads_here_cannot_change_the_node() {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let own = node.admin.to_string();
    let close = async |host: &str, origin: Option<&str>| {
        let mut call = Call::new(node.admin, "POST", "/api/paths/a@direct").header("host", host);
        if let Some(origin) = origin {
            call = call.header("origin", origin);
        }
        call.body(json!({"action": "close"}).to_string()).send().await.status.as_u16()
    };
    assert_eq!(close("evil.example:9090", None).await, 403);
    assert_eq!(close("evil.example:9090", Some("http://evil.example:9090")).await, 403);
    assert_eq!(close(&own, Some("http://evil.example:9090")).await, 403);
    assert_eq!(close(&own, Some(&format!("http://{own}"))).await, 200);
    assert_eq!(close("localhost", None).await, 200);
}

/// A client may cause it: it names a model that its upstream fails for.
#[tokio::test]
async fn a_path_of_which_one_model_is_shut_is_shown_to_serve() {
    let upstream = Upstream::start(|seen| {
        let bad = seen.target().ends_with("/chat/completions") && seen.json()["model"] == "bad";
        let answer = if bad {
            answer::json(500, &answer::error("server_error", "oops", "out of order"))
        } else {
            answer::json(200, &answer::chat("x"))
        };
        vec![Act::Send(answer)]
    })
    .await;
    let setup = Setup::new().quick_health().health("breaker", "{open_for: 60s, window: 60s}");
    let node = setup.upstream("u", &upstream.url()).start().await;
    let ask = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        node.post("/v1/chat/completions", &body).send().await.status
    };
    assert_eq!(ask("good").await, 200);
    let opened = async || {
        ask("bad").await;
        (node.path_state("u@direct").await == "open").then_some(())
    };
    until("the model to be open", opened).await;
    assert_eq!(ask("good").await, 200, "the path serves");

    let path = node.path("u@direct").await;
    assert_eq!((&path["state"], &path["share"]), (&json!("open"), &json!(0.0)), "{path}");
    assert_eq!((&path["own_state"], &path["own_share"]), (&json!("closed"), &json!(1.0)), "{path}");
    assert_eq!((&path["models"][0]["model"], &path["models"][0]["state"]), (&json!("bad"), &json!("open")));
    let html = node.admin("/").await.text().await;
    for said in [
        "<p>One model of u@direct is shut.</p>",
        "<p>One model of it is shut.",
        "<dt>Paths with traffic</dt><dd><b>1</b> <span>of 1</span>",
        "data-name=\"Share\" class=\"n \">100 %</td>",
    ] {
        assert!(html.contains(said), "{said} in {html}");
    }
    assert!(!html.contains("takes no traffic"), "{html}");
    let states = async |name: &str| {
        let of = async |state| node.metric(name, &[("path", "u@direct"), ("state", state)]).await;
        (of("closed").await, of("open").await)
    };
    assert_eq!(states("tidegate_path_own_state").await, (1.0, 0.0));
    assert_eq!(states("tidegate_path_state").await, (0.0, 1.0));
    assert_eq!(node.metric("tidegate_path_share", &[("path", "u@direct")]).await, 1.0);
    assert_eq!(node.metric("tidegate_node_draining", &[]).await, 0.0);
}

#[tokio::test]
async fn what_the_script_fetches_has_the_policy_of_the_page() {
    let (node, _upstream) = quiet(Setup::new()).await;
    let page = node.admin("/").await;
    let part = node.admin("/api/status?format=html").await;
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(part.header("content-security-policy"), policy);
}

#[tokio::test]
async fn kept_answers_are_counted_where_a_route_keeps_some() {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let node = Setup::new().upstream("a", &upstream.url()).route_to("a", "cache: {ttl: 1h}").start().await;
    for _ in 0..4 {
        assert_eq!(node.chat().send().await.status, 200);
    }
    let cache = node.status().await["cache"].clone();
    assert_eq!((&cache["hits"], &cache["misses"]), (&json!(3), &json!(1)), "{cache}");
    let held = async || (node.status().await["cache"]["entries"] == 1).then_some(());
    until("the answer to be counted", held).await;
}

/// Writes `docs/images/status.png` and the same by night and on a phone beside it, when asked for by name:
/// `cargo nextest run -p tidegate-tests --run-ignored only -E 'test(pictures)'`.
#[tokio::test]
#[ignore = "writes pictures for the documents"]
async fn pictures_of_an_outage_are_taken() {
    let Some(browser) = Browser::start().await else { return };
    let setup = Setup::new().section("node: {name: gate-hk-1, zone: hk}");
    let (a, azure, local) =
        (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("local").await);
    a.latency(Duration::from_millis(180));
    azure.latency(Duration::from_millis(240));
    local.latency(Duration::from_millis(420));
    let key = "keys: [{env: ONE}, {env: TWO}]";
    let node = setup
        .env("ONE", "1")
        .env("TWO", "2")
        .upstream_with("openai", &a.url(), key)
        .upstream_with("azure-east", &azure.url(), key)
        .upstream_with("local", &local.url(), "local: true, max_in_flight: 100")
        .route("{match: {model: \"gpt-4*\"}, to: [openai, azure-east], cache: {ttl: 1h}, fallback: [{upstream: local, model: smollm2-135m}]}")
        .route("{match: {model: \"*\"}, to: [azure-east, openai], fallback: [{upstream: local, model: smollm2-135m}]}")
        .quick_health()
        .health("breaker", "{window: 60s, open_for: 20s, max_open: 60s, stalled_after: 2s}")
        .health("choice", "{hysteresis: 1s, band: 60%, explore: 10%}")
        .start()
        .await;
    let load = Load::start(&node, 40.0, 0.5);
    // The other route's clients, some of whom ask what was asked before.
    let gpt = async || {
        let mut tick = tokio::time::interval(Duration::from_millis(80));
        for n in 0_u64.. {
            tick.tick().await;
            let text = format!("question {}", n / 3);
            let body =
                json!({"model": "gpt-4o", "temperature": 0, "messages": [{"role": "user", "content": text}]});
            tokio::spawn(node.post("/v1/chat/completions", &body).send());
        }
    };
    let outage = async {
        let begun = Instant::now();
        // Some minutes of ordinary life to look back on.
        let minutes = std::env::var("MINUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(4.0);
        let life = async || (begun.elapsed().as_secs_f64() > minutes * 60.0).then_some(());
        until_within(Duration::from_secs(900), "some history", life).await;
        a.probes_always_good();
        a.set(Mode::Status(500, "out of order"));
        node.until_path_state("openai@direct", "open", BACK).await;
        load.more(400).await;
        let folder = std::env::var("PICTURES").unwrap_or_else(|_| "../docs/images".to_owned());
        for (name, view) in
            [("status", View::DESK), ("status-dark", View::DESK.dark()), ("status-phone", View::PHONE)]
        {
            let tab = browser.open(&page(&node), view).await;
            until("the page to be live", async || (tab.text("#live").await == "Live").then_some(())).await;
            tab.shot(Path::new(&format!("{folder}/{name}.png"))).await;
        }
    };
    tokio::select! {
        () = outage => {}
        () = gpt() => {}
    }
}
