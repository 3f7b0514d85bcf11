use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderValue;
use tidegate_config::Purpose;
use tidegate_store::limit::{Allowance, Ask};
use tidegate_store::usage::Amount;

use super::*;

const FILE: &str = "\
upstreams: [{name: one, base_url: 'http://127.0.0.1:1/v1'}]
routes: [{match: {model: '*'}, to: [one]}]
";
const PRICED: &str = "prices: {m: {input: 1, output: 2}}\n";

fn gateway(more: &str) -> Arc<Gateway> {
    let file = format!("{FILE}{more}");
    let config =
        tidegate_config::parse("f", file.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
    Arc::new(Gateway::new(config, crate::reload::Record::new(None)).unwrap())
}

fn answered(usage: Option<Usage>, emitted: u64) -> Trail {
    let mut trail = Trail::begin(HeaderValue::from_static("id"));
    trail.first_content = Some(Duration::from_millis(1));
    trail.usage = usage;
    trail.emitted = emitted;
    trail.end = End::Success;
    trail
}

fn bill(prompt: u64) -> Bill {
    Bill { route: Some(0), model: Some("m".to_owned()), prompt: Some(prompt), ..Bill::default() }
}

/// What the store hears of the day.
async fn spent(gateway: &Gateway) -> Vec<(String, Amount)> {
    gateway.usage.tell(gateway).await;
    let spent = gateway.store.spent(0, Duration::from_secs(1)).await.unwrap();
    spent.into_iter().map(|entry| (entry.model, entry.amount)).collect()
}

#[tokio::test]
async fn an_answer_without_usage_costs_what_was_sent_and_what_came() {
    let gateway = gateway(PRICED);
    bill(100).pay(&gateway, &answered(None, 40));
    let cost = Amount { requests: 1, prompt: 100, completion: 40, cached: 0, micro_usd: 180.0 };
    assert_eq!(spent(&gateway).await, [("m".to_owned(), cost)]);
}

#[tokio::test]
async fn a_refused_or_waived_request_costs_nothing() {
    let gateway = gateway(PRICED);
    let mut refused = answered(None, 0);
    refused.end = End::ClientError;
    bill(100).pay(&gateway, &refused);
    Bill { waived: true, ..bill(100) }.pay(&gateway, &answered(None, 40));
    assert_eq!(spent(&gateway).await, []);
}

#[tokio::test]
async fn what_no_model_reads_costs_only_what_the_upstream_says() {
    let gateway = gateway(PRICED);
    let upload = || Bill { model: None, prompt: None, ..bill(0) };
    upload().pay(&gateway, &answered(None, 40));
    assert_eq!(spent(&gateway).await, []);
    upload().pay(&gateway, &answered(Some(Usage { prompt: 3, completion: 0, cached: 0 }), 0));
    assert_eq!(spent(&gateway).await[0].1.prompt, 3);
}

#[tokio::test]
async fn figures_of_any_size_are_settled() {
    let gateway = gateway(&format!("{PRICED}limits: [{{per: route, tokens: 1000/day}}]\n"));
    let mut allowance = Allowance::new(Duration::from_secs(1));
    let applying = gateway.limits.applying(None, Some(0), Some("m"), None);
    let ask = Ask {
        requests: 1.0,
        tokens: 1.0,
        micro_usd: 1.0,
        lives: Duration::from_secs(60),
        wait_at_most: Duration::ZERO,
    };
    let grant = gateway.limits.limiter().admit(&applying.rules, ask, &mut allowance).await.unwrap();
    let most = Usage { prompt: u64::MAX, completion: u64::MAX, cached: u64::MAX };
    Bill { grant: Some(grant), ..bill(1) }.pay(&gateway, &answered(Some(most), 0));
    bill(1).pay(&gateway, &answered(Some(most), 0));
    assert_eq!(spent(&gateway).await[0].1.prompt, u64::MAX);
}

#[tokio::test]
async fn where_nobody_is_to_know_what_answers_cost_no_book_is_kept() {
    let gateway = gateway("");
    bill(100).pay(&gateway, &answered(Some(Usage { prompt: 3, completion: 4, cached: 0 }), 0));
    assert_eq!(spent(&gateway).await, []);
}
