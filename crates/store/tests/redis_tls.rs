//! A Redis over TLS with a certificate of a private CA: whom it is trusted by, and what is said when it is not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use secrecy::SecretString;
use support::{Server, Tls, WITHIN, store, until};
use tidegate_store::fleet::Cooldown;
use tidegate_store::redis::{Kind, Redis, Setup};
use tidegate_store::{Failure, Store};
use tokio::time::timeout;

const MINUTE: Duration = Duration::from_secs(60);
const HERE: &str = "127.0.0.1";

/// A CA that nobody trusts yet.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        // With the name that the certificates have too, servers would take those for self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    fn setup(&self, of: &Server) -> Setup {
        Setup { ca: Some(self.pem().into_bytes()), ..of.setup() }
    }

    fn tls(&self) -> Tls {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([HERE.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Tls { ca: self.pem(), cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A server with a certificate for where it is.
    async fn server(&self, args: &[&str]) -> Option<Server> {
        Server::start_with("redis-server", args, None, Some(&self.tls())).await
    }
}

fn with_password(password: &str, setup: Setup) -> Setup {
    Setup { password: Some(SecretString::from(password)), ..setup }
}

fn as_user(username: &str, password: &str, setup: Setup) -> Setup {
    with_password(password, Setup { username: Some(username.to_owned()), ..setup })
}

/// Calls are answered over each of its connections, and hints come in.
async fn works(setup: Setup) {
    let listener = store(setup.clone()).await;
    let other = store(Setup { node: "node-2".to_owned(), ..setup }).await;
    assert!(listener.lease("l", 1, MINUTE, WITHIN).await.unwrap());
    assert!(!other.lease("l", 2, MINUTE, WITHIN).await.unwrap());
    let cooldown = Cooldown { name: "c".to_owned(), left: MINUTE };
    until("a hint is heard", async || {
        other.cool(&cooldown, WITHIN).await.unwrap();
        timeout(Duration::from_millis(100), listener.hinted()).await.is_ok()
    })
    .await;
}

/// A store that does not get up, and says `why`.
async fn is_down(setup: Setup, why: &str) -> String {
    let store = Store::redis(Redis::start(setup).unwrap());
    until("it says why", async || store.trouble() != Some("not reached yet".to_owned())).await;
    let trouble = store.trouble().unwrap();
    assert!(trouble.contains(why), "{trouble}");
    assert_eq!(store.lease("l", 1, MINUTE, WITHIN).await, Err(Failure::Down));
    trouble
}

#[tokio::test]
async fn with_its_ca_and_the_password_it_is_used() {
    let ca = Ca::new();
    let Some(server) = ca.server(&["--requirepass", "right-pass"]).await else { return };
    works(with_password("right-pass", ca.setup(&server))).await;
    is_down(with_password("wrong-pass", ca.setup(&server)), "authentication failed").await;
    is_down(ca.setup(&server), "NOAUTH").await;
}

#[tokio::test]
async fn with_its_ca_and_a_user_it_is_used() {
    let ca = Ca::new();
    let user = ["--user", "gate", "on", ">right-pass", "~t:*", "&t:*", "+@all"];
    let args = [&["--requirepass", "of-others"], &user[..]].concat();
    let Some(server) = ca.server(&args).await else { return };
    works(as_user("gate", "right-pass", ca.setup(&server))).await;
    is_down(as_user("gate", "of-others", ca.setup(&server)), "authentication failed").await;
    is_down(as_user("nobody", "right-pass", ca.setup(&server)), "authentication failed").await;
}

#[tokio::test]
async fn one_ca_of_a_bundle_is_enough() {
    let (ca, other) = (Ca::new(), Ca::new());
    let Some(server) = ca.server(&[]).await else { return };
    let bundle = format!("# Ours.\n{}\n{}", other.pem(), ca.pem());
    works(Setup { ca: Some(bundle.into_bytes()), ..ca.setup(&server) }).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_not_trusted() {
    let (ca, other) = (Ca::new(), Ca::new());
    let Some(server) = ca.server(&["--requirepass", "right-pass"]).await else { return };
    let right = with_password("right-pass", ca.setup(&server));
    for setup in [other.setup(&server), Setup { ca: None, ..right.clone() }] {
        let setup = Setup { password: right.password.clone(), ..setup };
        is_down(setup.clone(), "certificate").await;
        is_down(Setup { kind: Kind::Cluster, ..setup.clone() }, "certificate").await;
        is_down(Setup { kind: Kind::Sentinel { master: "main".to_owned() }, ..setup }, "certificate").await;
    }
    works(right).await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_trusted() {
    let ca = Ca::new();
    let Some(server) = ca.server(&[]).await else { return };
    let addresses = vec![("localhost".to_owned(), server.port)];
    is_down(Setup { addresses, ..ca.setup(&server) }, "certificate").await;
}

#[tokio::test]
async fn without_tls_it_is_down_and_says_that_tls_is_missing() {
    let ca = Ca::new();
    let Some(server) = ca.server(&["--requirepass", "right-pass"]).await else { return };
    let plain = Setup { tls: false, ca: None, ..server.setup() };
    for setup in [plain.clone(), with_password("right-pass", plain)] {
        is_down(setup.clone(), "a TLS port needs a rediss address").await;
        let kind = Kind::Sentinel { master: "main".to_owned() };
        let trouble = is_down(Setup { kind, ..setup }, "a TLS port needs a rediss address").await;
        assert!(!trouble.contains("right-pass"), "{trouble}");
    }
}

#[tokio::test]
async fn the_ca_is_that_of_sentinel_and_of_the_master() {
    let ca = Ca::new();
    let Some(master) = ca.server(&["--requirepass", "right-pass"]).await else { return };
    let config =
        format!("sentinel monitor main {HERE} {} 1\nsentinel auth-pass main right-pass\n", master.port);
    let sentinel = Server::start_with("redis-sentinel", &[], Some(&config), Some(&ca.tls())).await;
    let Some(sentinel) = sentinel else { return };
    until("the sentinel reaches the master", async || {
        let known: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", "main"]).await.unwrap();
        known.chunks(2).any(|pair| pair == ["flags", "master"])
    })
    .await;
    let kind = Kind::Sentinel { master: "main".to_owned() };
    works(with_password("right-pass", Setup { kind, ..ca.setup(&sentinel) })).await;
}

#[tokio::test]
async fn the_ca_is_that_of_every_node_of_a_cluster() {
    let ca = Ca::new();
    let args = ["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    let (Some(one), Some(two)) = (ca.server(&args).await, ca.server(&args).await) else { return };
    let (port, bus) = (two.port.to_string(), (two.port + 10_000).to_string());
    one.ask::<()>(&["CLUSTER", "MEET", HERE, &port, &bus]).await.unwrap();
    one.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).await.unwrap();
    two.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).await.unwrap();
    for node in [&one, &two] {
        until("the cluster agrees", async || {
            node.ask::<String>(&["CLUSTER", "INFO"]).await.unwrap().contains("cluster_state:ok")
        })
        .await;
    }
    let setup = Setup { kind: Kind::Cluster, ..ca.setup(&one) };
    works(setup.clone()).await;
    // Some of these names lie on the node that was not named.
    let store = store(setup).await;
    for i in 0..32 {
        assert!(store.lease(&format!("of-{i}"), 1, MINUTE, WITHIN).await.unwrap());
    }
    for node in [&one, &two] {
        assert_ne!(node.ask::<i64>(&["DBSIZE"]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_ca_that_cannot_be_trusted_is_said_at_the_start() {
    let setup = |tls, ca: &str| Setup {
        kind: Kind::Single,
        tls,
        ca: Some(ca.as_bytes().to_vec()),
        addresses: vec![(HERE.to_owned(), 1)],
        username: None,
        password: None,
        database: 0,
        prefix: String::new(),
        node: "n".to_owned(),
    };
    let pem = Ca::new().pem();
    assert!(Redis::start(setup(true, &pem)).is_ok());
    let key = KeyPair::generate().unwrap().serialize_pem();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let unended = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    for (tls, ca, why) in [
        (true, "", "no certificate"),
        (true, key.as_str(), "no certificate"),
        (true, broken, "tls.ca: "),
        (true, unended, "not PEM"),
        (false, pem.as_str(), "not reached over TLS"),
    ] {
        let said = Redis::start(setup(tls, ca)).unwrap_err();
        assert!(said.starts_with("tls.ca: ") && said.contains(why), "{said}");
    }
}
