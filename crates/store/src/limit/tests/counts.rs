//! What the limiter counts about itself.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use metrics::{Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::*;

/// Counters by name and label values.
#[derive(Default)]
struct Counted(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Counted {
    fn of(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |counter| counter.load(Ordering::Acquire))
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> metrics::Counter {
        let labels = key.labels().map(|label| format!(" {}", label.value()));
        let name = key.name().to_owned() + &labels.collect::<String>();
        metrics::Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn counted() -> (Counted, Arc<Limiter>) {
    let counted = Counted::default();
    let limiter = metrics::with_local_recorder(&counted, || Limiter::new(memory(), memory(), 1, TIMEOUT));
    (counted, limiter)
}

#[tokio::test(start_paused = true)]
async fn each_scope_counts_once_for_a_request_and_only_the_one_that_denies() {
    let (counted, limiter) = counted();
    let rules = [
        rule(Scope::Client, Meter::Requests(per_minute(60.0, 2.0))),
        rule(Scope::Client, Meter::Requests(per_day(10.0))),
        rule(Scope::Ip, Meter::Requests(per_minute(60.0, 5.0))),
    ];
    assert_eq!(admitted(&limiter, &rules).await, 2);
    let decisions = |of: &str| counted.of(&format!("tidegate_rate_limit_decisions_total {of}"));
    assert_eq!((decisions("client allowed"), decisions("client denied")), (2, 98));
    assert_eq!((decisions("ip allowed"), decisions("ip denied")), (2, 0));
    assert_eq!(counted.of("tidegate_rate_limit_denials_cached_total"), 97, "the store denied one");
}

#[tokio::test(start_paused = true)]
async fn settlements_that_find_no_room_are_counted() {
    let (counted, limiter) = counted();
    let rules = client(Meter::Tokens(per_day(1e6)));
    for _ in 0..QUEUE + 10 {
        ask(&limiter, &rules, 1.0).await.unwrap().settle(0.0, 0.0);
    }
    assert_eq!(counted.of("tidegate_settlements_dropped_total"), 10);
}
