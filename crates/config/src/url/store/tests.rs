use proptest::prelude::*;

use super::store;
use crate::used::{Kind, StoreUrl};

fn url(text: &str) -> StoreUrl {
    store(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}"))
}

fn addresses(list: &[(&str, u16)]) -> Vec<(String, u16)> {
    list.iter().map(|&(host, port)| (host.to_owned(), port)).collect()
}

#[test]
fn one_redis() {
    for (text, tls, host, port, username, database) in [
        ("redis://Redis", false, "redis", 6379, None, 0),
        ("redis://127.0.0.1:6380/", false, "127.0.0.1", 6380, None, 0),
        ("redis://127.0.0.1/15", false, "127.0.0.1", 6379, None, 15),
        ("redis://h/1000000", false, "h", 6379, None, 1_000_000),
        ("redis://gateway@h/0", false, "h", 6379, Some("gateway"), 0),
        ("rediss://redis.example.com:6390/2", true, "redis.example.com", 6390, None, 2),
        ("redis://[::1]", false, "::1", 6379, None, 0),
        ("rediss://u@[2001:DB8::1]:7/1/", true, "2001:db8::1", 7, Some("u"), 1),
    ] {
        let want = StoreUrl {
            kind: Kind::Single,
            tls,
            addresses: addresses(&[(host, port)]),
            username: username.map(str::to_owned),
            database,
            master: None,
        };
        assert_eq!(url(text), want, "{text}");
    }
}

#[test]
fn sentinels_and_clusters() {
    let sentinel = url("redis+sentinel://h1:26379,H2,[::1]:5/MyMaster/3");
    assert_eq!(
        sentinel,
        StoreUrl {
            kind: Kind::Sentinel,
            tls: false,
            addresses: addresses(&[("h1", 26379), ("h2", 26379), ("::1", 5)]),
            username: None,
            database: 3,
            master: Some("MyMaster".to_owned()),
        }
    );
    let short = url("rediss+sentinel://me@h/m");
    assert_eq!((short.kind, short.tls, short.database), (Kind::Sentinel, true, 0));
    assert_eq!((short.username.as_deref(), short.master.as_deref()), (Some("me"), Some("m")));
    let cluster = url("redis+cluster://h1:7000,h2:7001");
    assert_eq!(
        cluster,
        StoreUrl {
            kind: Kind::Cluster,
            tls: false,
            addresses: addresses(&[("h1", 7000), ("h2", 7001)]),
            username: None,
            database: 0,
            master: None,
        }
    );
    let secure = url("rediss+cluster://h/0");
    assert_eq!((secure.tls, secure.addresses), (true, addresses(&[("h", 6379)])));
}

#[test]
fn what_is_no_store_is_told_without_being_repeated() {
    for (text, part) in [
        ("127.0.0.1:6379", "no scheme"),
        ("http://h", "scheme we do not speak"),
        ("valkey://h", "rediss+cluster://"),
        ("redis://user:hunter2@h", "`password: {env: NAME}`"),
        ("redis://:hunter2@h", "`password: {env: NAME}`"),
        ("redis://u:hun/ter2@h", "`password: {env: NAME}`"),
        ("redis://u:hunter2@@h", "`password: {env: NAME}`"),
        ("mysql://u:hunter2@h", "`password: {env: NAME}`"),
        ("redis+sentinel://u:hunter2@h1,h2/m", "`password: {env: NAME}`"),
        ("redis://@h", "user name"),
        ("redis://hun%74er2@h", "user name"),
        ("redis://h?password=hunter2", "`?`"),
        ("redis://h/0#hunter2", "`#`"),
        ("redis://", "no host: "),
        ("redis:///0", "no host: "),
        ("redis+cluster:///", "no host: "),
        ("redis://h1,h2", "several hosts"),
        ("redis+cluster://h1,,h2", "no host name"),
        ("redis+cluster://h1,", "no host name"),
        ("redis+cluster://h1,h1:6379", "twice"),
        ("redis+cluster://h1/1", "database 0 alone"),
        ("redis+cluster://h1/m/0", "database 0 alone"),
        ("redis+sentinel://h1,h2", "names no master"),
        ("redis+sentinel://h1/", "names no master"),
        ("redis+sentinel://h1/hunter 2", "master's name"),
        ("redis+sentinel://h1/m/hunter2", "database"),
        ("redis+sentinel://h1/m/0/0", "database"),
        ("redis://h/hunter2", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/+1", "database"),
        ("redis://h/1000001", "database"),
        ("redis://h/99999999999999999999", "database"),
        ("redis://h:0", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:hunter2", "port"),
        ("redis://[::1", "no host name"),
        ("redis://[nope]", "IPv6"),
        ("redis://例え", "no host name"),
    ] {
        let wrong = store(text).unwrap_err();
        assert!(wrong.contains(part), "{text}: {wrong}");
        assert!(!wrong.contains("hunter") && !wrong.contains("ter2"), "{text}: {wrong}");
    }
}

#[test]
fn a_list_of_hosts_has_an_end() {
    let list = |hosts: u8| {
        let hosts: Vec<String> = (0..hosts).map(|n| format!("h{n}")).collect();
        store(&format!("redis+cluster://{}", hosts.join(",")))
    };
    assert_eq!(list(32).unwrap().addresses.len(), 32);
    assert_eq!(list(33).unwrap_err(), "names more than 32 hosts: a few find all others");
}

proptest! {
    #[test]
    fn any_text_is_refused_or_keeps_what_is_promised(
        scheme in "(redis|rediss|\\PC{0,4})([+](sentinel|cluster))?",
        between in "(://|:|/){0,2}",
        rest in "([a-z0-9@:,/?#%\\[\\]. -]|\\PC){0,40}",
    ) {
        if let Ok(url) = store(&format!("{scheme}{between}{rest}")) {
            prop_assert!(!url.addresses.is_empty() && url.addresses.iter().all(|(host, port)| !host.is_empty() && *port > 0));
            prop_assert!(url.kind != Kind::Single || url.addresses.len() == 1);
            prop_assert_eq!(url.master.is_some(), url.kind == Kind::Sentinel);
            prop_assert!((0..=1_000_000).contains(&url.database) && (url.kind != Kind::Cluster || url.database == 0));
        }
    }

    #[test]
    fn a_password_is_never_repeated(scheme in "redis(s)?([+](sentinel|cluster))?", before in "[a-z:/?#,@]{0,6}", after in "[a-z0-9:/?#,@]{0,12}") {
        if let Err(wrong) = store(&format!("{scheme}://{before}:Hunter2{after}")) {
            prop_assert!(!wrong.contains("Hunter2"));
        }
    }
}
