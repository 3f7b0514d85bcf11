use super::*;

fn entry(client: &str, model: &str, requests: u64) -> Entry {
    let amount = Amount { requests, ..Amount::default() };
    Entry { client: client.to_owned(), model: model.to_owned(), amount }
}

fn day(number: u64) -> Duration {
    Duration::from_secs(number * DAY + 3_600)
}

fn requests(usage: &Usage, days_ago: u32, wall: Duration) -> Vec<(String, String, u64)> {
    let spent = usage.spent(days_ago, wall).into_iter();
    spent.map(|entry| (entry.client, entry.model, entry.amount.requests)).collect()
}

#[test]
fn a_day_is_kept_for_forty_days() {
    let mut usage = Usage::new(10);
    for number in 100..=200 {
        usage.spend(&[entry("a", "large", number)], day(number));
        usage.spend(&[], day(number));
    }
    assert_eq!(usage.days.len(), 40);
    assert_eq!(requests(&usage, 0, day(200)), [("a".into(), "large".into(), 200)]);
    assert_eq!(requests(&usage, 39, day(200)), [("a".into(), "large".into(), 161)]);
    assert_eq!(requests(&usage, 40, day(200)), []);
    assert_eq!(requests(&usage, 39, day(5)), []);
}

#[test]
fn what_there_is_no_room_for_is_counted_as_other() {
    let mut usage = Usage::new(8);
    for n in 0..8 {
        usage.spend(&[entry("a", &format!("{n}"), 1)], day(1));
    }
    usage.spend(&[entry("a", "0", 1), entry("a", "8", 5), entry("a", "9", 6), entry("b", "0", 7)], day(1));
    usage.spend(&[entry("c", "0", 8)], day(1));
    let spent = requests(&usage, 0, day(1));
    assert_eq!(spent.len(), 10);
    assert_eq!(spent[0], ("a".into(), "0".into(), 2));
    assert_eq!(spent[8], ("a".into(), "other".into(), 11));
    assert_eq!(spent[9], ("other".into(), "other".into(), 15));
}
