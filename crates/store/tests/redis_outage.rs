//! What callers see while a server is away, frozen, slow, full, read-only or not for us: an answer in time, always.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use support::{LONG, Server, WITHIN, store, until};
use tidegate_store::redis::{Redis, Setup};
use tidegate_store::{Failure, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);
/// What a request may wait for the store.
const BUDGET: Duration = Duration::from_millis(25);
/// A loaded machine runs a timer late.
const LATE: Duration = Duration::from_millis(75);
/// In which a store that is back is used again.
const BACK: Duration = Duration::from_secs(5);

async fn lease(store: &Store) -> Result<bool, Failure> {
    let began = Instant::now();
    let answer = store.lease("l", 1, MINUTE, BUDGET).await;
    assert!(began.elapsed() < BUDGET + LATE, "{answer:?} after {:?}", began.elapsed());
    answer
}

async fn until_up(store: &Store) {
    let took = until("it is back", async || lease(store).await == Ok(true)).await;
    assert!(took < BACK, "{took:?}");
}

async fn until_down(store: &Store) {
    until("it is known to be down", async || lease(store).await == Err(Failure::Down)).await;
    assert!(!store.is_up());
    assert!(store.trouble().is_some());
}

/// A store that does not get up says why.
async fn trouble_of(setup: Setup, of: &str) -> (Store, String) {
    let store = Store::redis(Redis::start(setup).unwrap());
    until("it says why", async || store.trouble().is_some_and(|trouble| trouble.contains(of))).await;
    assert!(!store.is_up());
    assert_eq!(lease(&store).await, Err(Failure::Down));
    let trouble = store.trouble().unwrap();
    (store, trouble)
}

#[tokio::test]
async fn a_store_that_is_not_there_yet_is_down_at_once_and_used_when_it_comes() {
    let Some(mut server) = Server::start(&[]).await else { return };
    server.kill();
    let store = Store::redis(Redis::start(server.setup()).unwrap());
    let began = Instant::now();
    assert_eq!(store.lease("l", 1, MINUTE, WITHIN).await, Err(Failure::Down));
    assert!(began.elapsed() < LATE);
    until("it says why", async || store.trouble().is_some_and(|t| t.contains("refused"))).await;
    server.restart().await;
    until_up(&store).await;
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn a_killed_server_costs_no_caller_more_than_its_budget_and_is_used_again_within_seconds() {
    let Some(mut server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    server.kill();
    until_down(&store).await;
    for _ in 0..20 {
        assert_eq!(lease(&store).await, Err(Failure::Down));
        sleep(Duration::from_millis(50)).await;
    }
    server.restart().await;
    until_up(&store).await;
}

#[tokio::test]
async fn a_frozen_server_costs_three_calls_their_budget_and_is_used_again_within_seconds() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    server.signal("STOP");
    for _ in 0..3 {
        assert_eq!(lease(&store).await, Err(Failure::Unknown));
    }
    for _ in 0..40 {
        assert_eq!(lease(&store).await, Err(Failure::Down));
        sleep(Duration::from_millis(50)).await;
    }
    server.signal("CONT");
    until_up(&store).await;
}

#[tokio::test]
async fn calls_made_at_once_while_it_is_frozen_all_end_in_time() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    server.signal("STOP");
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.lease("l", 1, MINUTE, BUDGET).await })
        })
        .collect();
    let began = Instant::now();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(Failure::Unknown | Failure::Down)));
    }
    assert!(began.elapsed() < BUDGET + LATE * 3, "{:?}", began.elapsed());
    server.signal("CONT");
    until_up(&store).await;
}

#[tokio::test]
async fn a_server_too_slow_for_its_callers_stays_down_until_it_is_quick_again() {
    let Some(server) = Server::start(&[]).await else { return };
    let proxy = Proxy::start(server.port).await;
    let store = store(Setup { addresses: vec![("127.0.0.1".into(), proxy.port)], ..server.setup() }).await;
    proxy.set(Mode::Slow);
    until_down(&store).await;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(lease(&store).await, Err(Failure::Down));
        sleep(Duration::from_millis(20)).await;
    }
    proxy.set(Mode::Pass);
    until_up(&store).await;
}

#[tokio::test]
async fn a_connection_that_swallows_what_is_sent_is_replaced() {
    let Some(server) = Server::start(&[]).await else { return };
    let proxy = Proxy::start(server.port).await;
    let store = store(Setup { addresses: vec![("127.0.0.1".into(), proxy.port)], ..server.setup() }).await;
    proxy.swallow_those_that_are_open();
    assert_eq!(lease(&store).await, Err(Failure::Unknown));
    until_up(&store).await;
}

#[tokio::test]
async fn a_full_server_is_down_for_that_reason_until_there_is_room() {
    let Some(server) = Server::start(&["--maxmemory-policy", "noeviction"]).await else { return };
    let store = server.store().await;
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    match lease(&store).await {
        Err(Failure::Refused(text)) => assert!(text.starts_with("OOM") && text.len() <= 100, "{text}"),
        other => panic!("{other:?}"),
    }
    until_down(&store).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        lease(&store).await,
        Err(Failure::Down),
        "a probe must write, or it would come up and fall again"
    );
    assert!(store.trouble().unwrap().contains("OOM"));
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    until_up(&store).await;
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_given_up_at_once() {
    let (Some(server), Some(master)) = (Server::start(&[]).await, Server::start(&[]).await) else { return };
    let store = server.store().await;
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]).await.unwrap();
    // READONLY, or LOADING while it copies the master.
    let answer = store.lease("l", 1, MINUTE, WITHIN).await;
    assert!(matches!(answer, Err(Failure::Refused(_))), "{answer:?}");
    assert_eq!(lease(&store).await, Err(Failure::Down));
    until("it says why", async || store.trouble().is_some_and(|t| t.contains("READONLY"))).await;
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    until_up(&store).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_repeated() {
    let Some(server) = Server::start(&["--requirepass", "right-pass"]).await else { return };
    let with = |password: &str| Setup { password: Some(SecretString::from(password)), ..server.setup() };
    let (down, trouble) = trouble_of(with("wrong-pass"), "authentication failed").await;
    assert!(!trouble.contains("wrong-pass") && !format!("{down:?}").contains("wrong-pass"), "{trouble}");
    trouble_of(server.setup(), "NOAUTH").await;
    until_up(&store(with("right-pass")).await).await;
}

#[tokio::test]
async fn tls_to_a_server_without_it_is_said() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = Store::redis(Redis::start(Setup { tls: true, ..server.setup() }).unwrap());
    until("it says why", async || store.trouble() != Some("not reached yet".into())).await;
    assert!(!store.is_up());
}

#[tokio::test]
async fn an_outage_is_one_line_and_its_end_another() {
    let Some(mut server) = Server::start(&[]).await else { return };
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let store = server.store().await;
    assert_eq!(lines.taken(), ["store is up", "store cache is up"]);
    server.kill();
    until_down(&store).await;
    for _ in 0..200 {
        assert_eq!(lease(&store).await, Err(Failure::Down));
        sleep(Duration::from_millis(5)).await;
    }
    server.restart().await;
    until_up(&store).await;
    assert_eq!(lines.taken(), ["store is up", "store is down"]);
}

#[tokio::test]
async fn a_user_without_scripts_is_no_silent_success() {
    let Some(server) = Server::start(&[]).await else { return };
    server.ask::<()>(&["ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-@scripting"]).await.unwrap();
    let setup = Setup { username: Some("poor".into()), password: Some("pw".into()), ..server.setup() };
    let (store, trouble) = trouble_of(setup, "NOPERM").await;
    assert!(trouble.contains("scripts do not run"), "{trouble}");
    server.ask::<()>(&["ACL", "SETUSER", "poor", "+@scripting"]).await.unwrap();
    until_up(&store).await;
}

#[tokio::test]
async fn a_user_without_the_channel_shares_cool_downs_all_the_same() {
    let Some(server) = Server::start(&[]).await else { return };
    server.ask::<()>(&["ACL", "SETUSER", "mute", "on", ">pw", "~*", "resetchannels", "+@all"]).await.unwrap();
    let setup = Setup { username: Some("mute".into()), password: Some("pw".into()), ..server.setup() };
    let store = store(setup).await;
    let cooldown = tidegate_store::fleet::Cooldown { name: "c".into(), left: MINUTE };
    store.cool(&cooldown, WITHIN).await.unwrap();
}

#[tokio::test]
async fn hints_are_heard_again_after_a_restart() {
    let Some(mut server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    server.restart().await;
    until_up(&store).await;
    let hinted = timeout(LONG, store.hinted());
    let publishing = until("somebody listens", async || {
        server.ask::<i64>(&["PUBLISH", "t:v1:hint", "node-2"]).await.unwrap() == 1
    });
    let (hinted, _) = tokio::join!(hinted, publishing);
    hinted.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_store_is_said_at_the_start() {
    let setup = |addresses, prefix: &str, kind, database| Setup {
        kind,
        tls: true,
        ca: None,
        addresses,
        username: None,
        password: None,
        database,
        prefix: prefix.into(),
        node: "n".into(),
    };
    use tidegate_store::redis::Kind;
    assert!(Redis::start(setup(vec![], "", Kind::Single, 0)).is_err());
    let somewhere = vec![("127.0.0.1".to_owned(), 1)];
    assert!(Redis::start(setup(somewhere.clone(), "a{", Kind::Single, 0)).is_err());
    assert!(Redis::start(setup(somewhere.clone(), "", Kind::Cluster, 1)).is_err());
    assert!(Redis::start(setup(somewhere, "", Kind::Single, 1)).is_ok());
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Pass,
    /// Every piece comes 200 ms late.
    Slow,
}

/// Stands between the store and a server.
struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    /// Connections made before this count are swallowed.
    swallowed: watch::Sender<u64>,
    made: watch::Receiver<u64>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((mode, modes), (swallowed, limit)) = (watch::channel(Mode::Pass), watch::channel(0));
        let (count, made) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = *count.borrow();
                count.send_replace(number + 1);
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((cr, cw), (sr, sw)) = (client.into_split(), server.into_split());
                tokio::spawn(pump(cr, sw, modes.clone(), limit.clone(), number));
                tokio::spawn(pump(sr, cw, modes.clone(), limit.clone(), number));
            }
        });
        Self { port, mode, swallowed, made }
    }

    fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    fn swallow_those_that_are_open(&self) {
        self.swallowed.send_replace(*self.made.borrow());
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
    swallowed: watch::Receiver<u64>,
    number: u64,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if number < *swallowed.borrow() {
            continue;
        }
        let slow = *mode.borrow() == Mode::Slow;
        if slow {
            sleep(Duration::from_millis(200)).await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Keeps the messages of log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Sorted, as two connections come up in any order.
    fn taken(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.0.lock().unwrap());
        lines.sort_by_key(String::len);
        lines
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("tidegate")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message<'a>(&'a Lines);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0.0.lock().unwrap().push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Message(self));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
