//! Another configuration while the node runs: what asks for it, what a faulty one does, what stays known and what takes
//! effect, and that requests under way notice nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::answer::{self, DONE, delta, finish, last_piece, piece, role, stream_head};
use tidegate_tests::client::{Call, Reply};
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::client_key;
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::site::{Faulty, VISIBLE};
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tidegate_tests::{clear_of_midnight, until, until_within};
use tokio::time::Instant;

const BACK: Duration = Duration::from_secs(20);

/// A node with one route to `a` and a price, by which files are told apart.
fn setup(a: &str, price: f64) -> Setup {
    Setup::new().upstream("a", a).section(&format!("prices: {{\"m\": {{input: {price:?}, output: 1.0}}}}"))
}

async fn hash(node: &Node) -> String {
    let status = node.status().await;
    let hash = status["config"]["hash"].as_str();
    hash.unwrap_or_else(|| panic!("no hash of the configuration: {status}")).to_owned()
}

async fn last(node: &Node) -> Value {
    node.status().await["config"]["last_reload"].clone()
}

/// How often a reload came to this.
async fn outcomes(node: &Node, outcome: &str) -> f64 {
    node.metric("tidegate_config_reloads_total", &[("outcome", outcome)]).await
}

/// Does what replaces the file and waits until the node runs by another one.
async fn reloaded(node: &Node, replace: impl FnOnce()) -> Value {
    let before = hash(node).await;
    replace();
    until("another configuration", async || (hash(node).await != before).then_some(())).await;
    last(node).await
}

async fn ask(node: &Node) -> Reply {
    Call::new(node.admin, "POST", "/api/reload").send().await
}

/// Where `yaml` would say this for the first time, from 1.
fn place(yaml: &str, what: &str) -> (usize, usize) {
    let (line, text) = yaml.lines().enumerate().find(|(_, text)| text.contains(what)).unwrap();
    (line + 1, text.find(what).unwrap() + 1)
}

/// A stream that waits for the gate before its end.
fn held_stream(gate: &Gate) -> Vec<Act> {
    vec![
        Act::Send([stream_head(), piece(role()), piece(delta("first "))].concat().into()),
        Act::Wait(gate.clone()),
        Act::Send([piece(delta("last")), piece(finish()), piece(DONE), last_piece()].concat().into()),
    ]
}

// What asks for it.

#[tokio::test]
async fn a_file_renamed_into_place_is_taken_up_by_itself() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    assert_eq!(node.last_reload().await, 1.0, "what it began with was good");
    let next = setup(&a.url(), 2.0).yaml();
    let last = reloaded(&node, || node.replace_config(&next)).await;
    assert_eq!((&last["successful"], &last["trigger"]), (&json!(true), &json!("file")), "{last}");
    assert_eq!((&last["faults"], &last["restart_needed"]), (&json!([]), &json!([])), "{last}");
    assert_eq!(outcomes(&node, "applied").await, 1.0);
}

#[tokio::test]
async fn a_file_that_is_written_over_is_taken_up_by_itself() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    for price in [2.0, 3.0] {
        let next = setup(&a.url(), price).yaml();
        let last = reloaded(&node, || std::fs::write(node.config_file(), &next).unwrap()).await;
        assert_eq!(last["successful"], true, "{last}");
    }
    assert_eq!(node.last_reload().await, 1.0);
}

/// As Kubernetes mounts a ConfigMap: the file leads through `..data`, which leads to a folder of this edition.
fn mount(root: &Path, edition: u32, yaml: Option<&str>) {
    let folder = root.join(format!("..edition_{edition}"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("tidegate.yaml"), yaml.unwrap_or_default()).unwrap();
    let new = root.join("..data_tmp");
    std::os::unix::fs::symlink(folder.file_name().unwrap(), &new).unwrap();
    std::fs::rename(new, root.join("..data")).unwrap();
    if edition > 1 {
        std::fs::remove_dir_all(root.join(format!("..edition_{}", edition - 1))).unwrap();
    }
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_taken_up_by_itself_every_time() {
    let a = Simulated::start("a").await;
    let setup_1 = setup(&a.url(), 1.0);
    let root: PathBuf = setup_1.file("beside", "").parent().unwrap().to_owned();
    mount(&root, 1, None);
    std::os::unix::fs::symlink("..data/tidegate.yaml", root.join("tidegate.yaml")).unwrap();
    let node = setup_1.start().await;
    for edition in 2..6 {
        let next = setup(&a.url(), f64::from(edition)).yaml();
        let last = reloaded(&node, || mount(&root, edition, Some(&next))).await;
        assert_eq!((&last["successful"], &last["trigger"]), (&json!(true), &json!("file")), "{last}");
    }
    // A faulty one is seen as well, and so is the next good one.
    mount(&root, 6, Some("listen: 7\n"));
    until("a refusal", async || (node.last_reload().await == 0.0).then_some(())).await;
    mount(&root, 7, Some(&setup(&a.url(), 7.0).yaml()));
    node.until_content().await;
    node.still_answers().await;
}

#[tokio::test]
async fn sighup_reads_the_file_again() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    node.process.signal("HUP").await;
    let last = until("a reload", async || {
        let last = last(&node).await;
        last["at"].is_string().then_some(last)
    })
    .await;
    assert_eq!((&last["successful"], &last["trigger"]), (&json!(true), &json!("signal")), "{last}");
    assert_eq!(outcomes(&node, "unchanged").await, 1.0);
    node.still_answers().await;
}

#[tokio::test]
async fn an_operator_asks_and_is_told_what_became_of_it() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    let same = ask(&node).await;
    assert_eq!(same.status, 200);
    let said = same.json().await;
    assert_eq!(said, json!({"changed": false, "config_hash": hash(&node).await, "restart_needed": []}));
    // It may be asked at the moment at which the file is noticed by itself, which then has nothing left to do.
    let before = hash(&node).await;
    std::fs::write(node.config_file(), setup(&a.url(), 2.0).yaml()).unwrap();
    let said = ask(&node).await.json().await;
    assert_eq!(said["config_hash"], hash(&node).await);
    assert_ne!(said["config_hash"], before);
    let faulty = setup(&a.url(), 2.0).yaml() + "nonsense: true\n";
    node.replace_config(&faulty);
    let refused = ask(&node).await;
    assert_eq!(refused.status, 400);
    let body = refused.json().await;
    assert_eq!(body["error"]["code"], "invalid_config", "{body}");
    let faults = body["error"]["faults"].as_array().or_else(|| body["faults"].as_array());
    let faults = faults.unwrap_or_else(|| panic!("no faults: {body}"));
    let (line, column) = place(&faulty, "nonsense");
    assert_eq!((&faults[0]["line"], &faults[0]["column"]), (&json!(line), &json!(column)), "{body}");
    assert!(faults[0]["text"].as_str().unwrap().contains("nonsense"), "{body}");
}

#[tokio::test]
async fn only_who_may_change_the_node_may_ask() {
    let a = Simulated::start("a").await;
    let setup = setup(&a.url(), 1.0).admin("token: {env: TOKEN}").env("TOKEN", "the-admin-token");
    let node = setup.start().await;
    let call = || Call::new(node.admin, "POST", "/api/reload");
    for call in [call(), call().bearer("wrong")] {
        assert_eq!(call.send().await.status, 401);
    }
    assert_eq!(call().bearer("the-admin-token").send().await.status, 200);
}

#[tokio::test]
async fn a_key_in_a_file_of_its_own_is_read_again() {
    let a = Simulated::start("a").await;
    let setup = Setup::new();
    let key = setup.file("key", "sk-the-old-one");
    let settings = format!("keys: [{{file: \"{}\"}}]", key.display());
    let node = setup.upstream_with("a", &a.url(), &settings).start().await;
    node.still_answers().await;
    std::fs::write(&key, "sk-the-new-one").unwrap();
    assert_eq!(ask(&node).await.status, 200);
    node.still_answers().await;
    let keys: Vec<_> =
        a.of(Kind::User).iter().map(|a| a.seen.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(keys, ["Bearer sk-the-old-one", "Bearer sk-the-new-one"]);
}

// What a faulty one does.

#[tokio::test]
async fn a_faulty_file_changes_nothing_and_shows_within_a_second_and_where() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    let good = setup(&a.url(), 1.0).yaml();
    let before = hash(&node).await;
    let faults = [
        ("an unknown section", "nonsense: true\n", 1),
        ("an unknown key", "conversations: {ttl: 24h, keep: all}\n", 27),
        ("another type", "log: {level: [loud]}\n", 14),
        ("no YAML", "tracing: {otlp: [\"unfinished\n", 18),
        ("an upstream that is not there", "", 0),
    ];
    let mut seen = Vec::new();
    for (what, more, column) in faults {
        let mut faulty = Faulty { yaml: good.clone() + more, line: good.lines().count() + 1, column };
        if more.is_empty() {
            faulty.yaml = good.replace("to: [a]", "to: [aa]");
            (faulty.line, faulty.column) = place(&faulty.yaml, "aa]");
        }
        let lines = node.process.count();
        let refused = outcomes(&node, "refused").await;
        let written = Instant::now();
        node.replace_config(&faulty.yaml);
        node.until_refused(&faulty, lines).await;
        seen.push(written.elapsed());
        assert_eq!(outcomes(&node, "refused").await, refused + 1.0, "{what}: once");
        assert_eq!(hash(&node).await, before, "{what}");
        node.still_answers().await;
        node.replace_config(&good);
        node.until_content().await;
    }
    assert_eq!(hash(&node).await, before);
    seen.sort();
    // One may have met a pause of the machine's.
    assert!(seen[seen.len() - 2] <= VISIBLE && seen[seen.len() - 1] <= VISIBLE * 5, "seen after {seen:?}");
}

#[tokio::test]
async fn a_half_written_file_is_at_most_refused_and_then_taken_up_whole() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    let next = setup(&a.url(), 2.0).yaml();
    // Cut at every place where a writer might have been interrupted, in the middle of a word too.
    for cut in [0, next.len() / 4, next.len() / 2, next.len() - 3] {
        let last = node.status().await["config"]["reloads"].clone();
        std::fs::write(node.config_file(), &next.as_bytes()[..cut]).unwrap();
        until("a look at it", async || (node.status().await["config"]["reloads"] != last).then_some(()))
            .await;
        node.still_answers().await;
    }
    std::fs::write(node.config_file(), &next).unwrap();
    node.until_content().await;
    let said = ask(&node).await.json().await;
    assert_eq!(said["changed"], false, "the whole file is in force: {said}");
    node.still_answers().await;
}

#[tokio::test]
async fn a_hundred_mebibytes_are_refused_without_being_taken_in() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    node.still_answers().await;
    let before = node.process.peak();
    // Sparse: as long as it says, and nothing of it on the disk.
    let huge = node.folder().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    std::fs::rename(&huge, node.config_file()).unwrap();
    until_within(BACK, "a refusal", async || (node.last_reload().await == 0.0).then_some(())).await;
    let grown = node.process.peak().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for a file nobody wants");
    node.still_answers().await;
    node.replace_config(&setup(&a.url(), 1.0).yaml());
    node.until_content().await;
}

#[tokio::test]
async fn a_missing_file_changes_nothing() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    let aside = node.folder().join("aside");
    std::fs::rename(node.config_file(), &aside).unwrap();
    let refused = ask(&node).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json().await["error"]["code"], "invalid_config");
    assert_eq!(node.last_reload().await, 0.0);
    node.still_answers().await;
    std::fs::rename(&aside, node.config_file()).unwrap();
    node.until_content().await;
}

// What stays known.

#[tokio::test]
async fn a_changed_upstream_begins_in_the_ramp_and_the_others_stay_as_they_were() {
    let (a, b, other) =
        (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("other").await);
    let of = |url: &str, more: &str| {
        let setup = Setup::new().upstream("a", &a.url()).upstream("b", url);
        let setup = setup.quick_health().health("recovery", "{ramp_step: 60s, ramp_requests: 100000}");
        if more.is_empty() { setup } else { setup.upstream_without_key("c", more) }
    };
    let node = of(&b.url(), "").start().await;
    let load = Load::start(&node, 20.0, 0.3);
    load.more(20).await;
    let since = node.path("a@direct").await["since"].clone();
    let next = of(&other.url(), &other.url()).yaml();
    reloaded(&node, || node.replace_config(&next)).await;
    assert_eq!(node.path_state("b@direct").await, "ramping", "it is another one");
    assert_eq!(node.path_state("c@direct").await, "ramping", "it is new");
    let kept = node.path("a@direct").await;
    assert_eq!((&kept["state"], &kept["since"]), (&json!("closed"), &since), "{kept}");
    let asked = b.count(Kind::User);
    load.more(40).await;
    assert_eq!(b.count(Kind::User), asked, "nobody goes where it was");
    load.stop().await.assert_all_ok();
}

/// The second of the day of a time as `2026-01-01T12:00:00.000Z`.
fn second(time: &str) -> f64 {
    let of_day = time.split('T').nth(1).unwrap().trim_end_matches('Z');
    of_day.split(':').fold(0.0, |all, part| all * 60.0 + part.parse::<f64>().unwrap())
}

#[tokio::test]
async fn what_was_tripped_or_forced_stays_so() {
    let (a, b, c) = (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("c").await);
    let of = |price: f64| {
        // A probe would find out by itself what requests have found out, and that is another reason.
        let setup = Setup::new().upstream_with("a", &a.url(), "probe: {path: none}");
        let setup = setup.upstream("b", &b.url()).upstream("c", &c.url());
        let setup = setup.section(&format!("prices: {{\"m\": {{input: {price:?}, output: 1.0}}}}"));
        setup
            .quick_health()
            .health("breaker", "{window: 6s, open_for: 60s, max_open: 60s, stalled_after: 700ms}")
    };
    let node = of(1.0).start().await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(20).await;
    a.set(Mode::Status(500, "an outage"));
    node.until_path_state("a@direct", "open", BACK).await;
    assert_eq!(node.operate("b@direct", "disable").await.status, 200);
    let facts = async |name: &str| {
        let path = node.path(name).await;
        // What is told of a moment is some milliseconds off, each time it is asked.
        (path["state"].clone(), path["reason"].clone(), second(path["since"].as_str().unwrap()))
    };
    let before = (facts("a@direct").await, facts("b@direct").await);
    for price in 2..6 {
        reloaded(&node, || node.replace_config(&of(f64::from(price)).yaml())).await;
        for (now, was) in [(facts("a@direct").await, &before.0), (facts("b@direct").await, &before.1)] {
            assert_eq!((&now.0, &now.1), (&was.0, &was.1));
            assert!((now.2 - was.2).abs() < 0.1, "it is {} since {}, and was since {}", now.0, now.2, was.2);
        }
    }
    assert_eq!(node.operate("b@direct", "enable").await.status, 200);
    node.until_path_state("b@direct", "closed", BACK).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn a_key_that_rests_goes_on_resting() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let of = |price: f64| {
        let setup = Setup::new().upstream("a", &a.url()).upstream("b", &b.url());
        setup.section(&format!("prices: {{\"m\": {{input: {price:?}, output: 1.0}}}}"))
    };
    let node = of(1.0).start().await;
    let error = answer::error("requests", "rate_limit_exceeded", "slow down");
    a.set(Mode::Does(vec![Act::Send(answer::json_with(429, &[("retry-after", "600")], &error))]));
    let answered = Ask::plain(&node).send().await;
    assert_eq!((answered.path.as_str(), answered.attempts), ("b@direct", 2), "{answered:?}");
    reloaded(&node, || node.replace_config(&of(2.0).yaml())).await;
    let answered = Ask::plain(&node).send().await;
    assert_eq!((answered.path.as_str(), answered.attempts), ("b@direct", 1), "{answered:?}");
    assert_eq!(a.count(Kind::User), 1);
}

#[tokio::test]
async fn what_was_used_of_a_limit_stays_used_and_a_changed_one_holds_at_once() {
    clear_of_midnight().await;
    let a = Simulated::start("a").await;
    let of = |price: f64, limit: u32| {
        let limits = format!("limits: [{{requests: {limit}/day}}]");
        setup(&a.url(), price).clients(&[("team", &limits)])
    };
    let node = of(1.0, 3).start().await;
    let call = async || node.chat().bearer(&client_key("team")).send().await.status.as_u16();
    for _ in 0..3 {
        assert_eq!(call().await, 200);
    }
    assert_eq!(call().await, 429);
    reloaded(&node, || node.replace_config(&of(2.0, 3).yaml())).await;
    assert_eq!(call().await, 429, "a reload is no gift");
    reloaded(&node, || node.replace_config(&of(2.0, 5).yaml())).await;
    assert_eq!(call().await, 200, "more are allowed now");
    reloaded(&node, || node.replace_config(&of(2.0, 2).yaml())).await;
    assert_eq!(call().await, 429);
}

#[tokio::test]
async fn places_that_are_taken_stay_taken() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let of = |price: f64| {
        setup(&upstream.url(), price)
            .section("limits: [{per: node, in_flight: 1, queue: 0, queue_timeout: 1s}]")
    };
    let node = of(1.0).start().await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    reloaded(&node, || node.replace_config(&of(2.0).yaml())).await;
    assert_eq!(node.chat().send().await.status, 503, "the only place is taken");
    gate.open(1);
    assert!(stream.text().await.ends_with(DONE));
    gate.open(1);
    until("the place given back", async || (node.chat_stream().send().await.status == 200).then_some(()))
        .await;
}

// What takes effect, and for whom.

#[tokio::test]
async fn the_next_request_goes_by_the_new_routes_and_the_one_under_way_by_the_old() {
    let gate = Gate::new();
    let (a, b) = (Upstream::doing(held_stream(&gate)).await, Simulated::start("b").await);
    let of = |to: &str| Setup::new().upstream("a", &a.url()).upstream("b", &b.url()).route_to(to, "");
    let node = of("a").start().await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    reloaded(&node, || node.replace_config(&of("b").yaml())).await;
    assert_eq!(node.chat().send().await.header("x-tidegate-path"), "b@direct");
    gate.open(1);
    let text = stream.text().await;
    assert!(text.ends_with(DONE), "{text}");
}

/// One that has not been answered yet is tried over what its own configuration has.
#[tokio::test]
async fn a_request_that_waits_is_finished_over_an_upstream_that_is_no_longer_there() {
    let gate = Gate::new();
    let good = answer::json(200, &answer::chat("from the old one"));
    let a = Upstream::doing(vec![Act::Wait(gate.clone()), Act::Send(good)]).await;
    let b = Simulated::start("b").await;
    let of = |name: &str, url: &str| Setup::new().upstream_without_key(name, url);
    let node = of("a", &a.url()).start().await;
    let waiting = tokio::spawn(node.chat().send());
    a.received(1).await;
    reloaded(&node, || node.replace_config(&of("b", &b.url()).yaml())).await;
    let status = node.status().await;
    let names: Vec<_> = status["paths"].as_array().unwrap().iter().map(|path| path["name"].clone()).collect();
    assert_eq!(names, ["b@direct"]);
    assert_eq!(node.chat().send().await.header("x-tidegate-path"), "b@direct");
    gate.open(1);
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-path")), (200, "a@direct"));
}

#[tokio::test]
async fn a_removed_upstream_is_let_go_when_its_last_stream_has_ended() {
    let gate = Gate::new();
    let (a, b) = (Upstream::doing(held_stream(&gate)).await, Simulated::start("b").await);
    let both = Setup::new().upstream_without_key("a", &a.url()).upstream_without_key("b", &b.url());
    let node = both.route_to("a", "").start().await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    let next = Setup::new().upstream_without_key("b", &b.url()).yaml();
    reloaded(&node, || node.replace_config(&next)).await;
    node.still_answers().await;
    gate.open(1);
    let text = stream.text().await;
    assert!(text.ends_with(DONE) && answer::text_of(&text) == "first last", "{text}");
    // Its connections are closed, since nobody will use them.
    until_within(BACK, "no connection to it", async || (established(&node, a.port()) == 0).then_some(()))
        .await;
}

/// Connections of a node to this port of loopback.
fn established(node: &Node, port: u16) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", node.process.id())).unwrap();
    let to = format!(":{port:04X}");
    let is = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|remote| remote.ends_with(&to)) && fields.get(3) == Some(&"01")
    };
    table.lines().skip(1).filter(is).count()
}

#[tokio::test]
async fn clients_come_and_go_and_who_went_is_served_to_the_end() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let of = |names: &[(&str, &str)]| Setup::new().upstream("a", &upstream.url()).clients(names);
    let node = of(&[("old", ""), ("both", "")]).start().await;
    let call = |name: &str| node.chat_stream().bearer(&client_key(name));
    assert_eq!(call("new").send().await.status, 401);
    let mut stream = call("old").send().await;
    assert_eq!(stream.event().await, Some(role()));
    reloaded(&node, || node.replace_config(&of(&[("both", ""), ("new", "")]).yaml())).await;
    assert_eq!(call("old").send().await.status, 401);
    gate.open(3);
    for name in ["both", "new"] {
        assert_eq!(call(name).send().await.status, 200, "{name}");
    }
    let text = stream.text().await;
    assert!(text.ends_with(DONE), "{text}");
}

#[tokio::test]
async fn prices_hold_for_what_comes_after_them() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1000.0).start().await;
    let cost = async || node.metric("tidegate_cost_usd_total", &[]).await;
    node.still_answers().await;
    let first = until("a cost", async || Some(cost().await).filter(|cost| *cost > 0.0)).await;
    reloaded(&node, || node.replace_config(&setup(&a.url(), 10_000.0).yaml())).await;
    node.still_answers().await;
    let second = until("another cost", async || Some(cost().await - first).filter(|cost| *cost > 0.0)).await;
    assert!(second > first * 5.0, "{first}, then {second}");
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_holds() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let of = |to: &str| Setup::new().upstream("a", &a.url()).upstream("b", &b.url()).route_to(to, "");
    let node = of("a").start().await;
    let next = of("b").listen("max_connections: 77").admin("token: {env: KEY_a}");
    let next = next.section("store: {url: \"redis://127.0.0.1:1/0\"}").yaml();
    let last = reloaded(&node, || node.replace_config(&next)).await;
    assert_eq!(last["successful"], true, "{last}");
    let named: Vec<_> = last["restart_needed"].as_array().unwrap().iter().map(Value::to_string).collect();
    for key in ["listen.max_connections", "admin.token", "store"] {
        assert!(named.iter().any(|name| name.contains(key)), "{key} is not among {named:?}");
    }
    assert_eq!(node.chat().send().await.header("x-tidegate-path"), "b@direct", "the rest holds");
    let log = node.process.output();
    assert!(log.lines().any(|line| line.contains("listen.max_connections")), "{log}");
    // The old token, none, still holds.
    let said = ask(&node).await;
    assert_eq!(said.status, 200);
    let said = said.json().await;
    assert!(said["restart_needed"].to_string().contains("store"), "as long as it is needed: {said}");
}

#[tokio::test]
async fn reloads_under_load_cost_no_client_an_answer() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let of = |price: f64| setup(&a.url(), price).upstream("b", &b.url()).quick_health();
    let node = of(1.0).start().await;
    a.streams_last(Duration::from_millis(200), Duration::from_millis(600));
    b.streams_last(Duration::from_millis(200), Duration::from_millis(600));
    let load = Load::start(&node, 60.0, 0.4);
    for n in 2..22 {
        load.more(5).await;
        reloaded(&node, || node.replace_config(&of(f64::from(n)).yaml())).await;
    }
    assert_eq!(outcomes(&node, "applied").await, 20.0);
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn a_rotated_secret_is_a_change_and_one_that_is_read_at_the_start_alone_is_named() {
    let a = Simulated::start("a").await;
    let setup = Setup::new();
    let (key, token) = (setup.file("key", "sk-the-old-one"), setup.file("token", "the-old-token"));
    let settings = format!("keys: [{{file: \"{}\"}}]", key.display());
    let admin = format!("token: {{file: \"{}\"}}", token.display());
    let node = setup.upstream_with("a", &a.url(), &settings).admin(&admin).start().await;
    // Both at once, and nothing asks for it: they are noticed all the same.
    std::fs::write(&key, "sk-the-new-one").unwrap();
    std::fs::write(&token, "the-new-token").unwrap();
    let named = async || (last(&node).await["restart_needed"] == json!(["admin.token"])).then_some(());
    until_within(BACK, "the rotation to be taken up", named).await;
    assert!(outcomes(&node, "applied").await >= 1.0);
    let again = Call::new(node.admin, "POST", "/api/reload").bearer("the-old-token").send().await;
    assert_eq!(again.status, 200, "until the node is started again");
    let said = again.json().await;
    assert_eq!(
        (&said["changed"], &said["restart_needed"]),
        (&json!(false), &json!(["admin.token"])),
        "{said}"
    );
    let refused = Call::new(node.admin, "POST", "/api/reload").bearer("the-new-token").send().await;
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn what_is_written_while_another_file_is_being_loaded_is_taken_up_after_it() {
    let a = Simulated::start("a").await;
    let node = setup(&a.url(), 1.0).start().await;
    // Tokens are counted from the second file on, so that building it takes a while.
    let limits = "limits: [{per: ip, tokens: 1000000/min}]";
    for price in [2.0, 4.0, 6.0] {
        let slow = setup(&a.url(), price).section(limits).yaml();
        let last_one = setup(&a.url(), price + 1.0).section(limits).yaml();
        node.replace_config(&slow);
        let asked = tokio::spawn(Call::new(node.admin, "POST", "/api/reload").send());
        node.replace_config(&last_one);
        asked.await.unwrap();
        until("the last file to be in force", async || {
            let config = Call::new(node.admin, "GET", "/api/config").send().await.json().await;
            (config["prices"][0]["m"]["input"].as_f64() == Some(price + 1.0)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn another_bound_of_an_upstream_holds_for_what_runs_and_what_comes() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let of =
        |most: usize| Setup::new().upstream_with("a", &upstream.url(), &format!("max_in_flight: {most}"));
    let node = of(3).start().await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..3 {
        streams.spawn(node.chat_stream().send());
    }
    upstream.received(3).await;
    let next = of(4).yaml();
    reloaded(&node, || node.replace_config(&next)).await;
    streams.spawn(node.chat_stream().send());
    upstream.received(4).await;
    assert_eq!(node.chat_stream().send().await.status, 503, "four run, whichever file they began with");
    gate.open(100);
    while let Some(reply) = streams.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
}
