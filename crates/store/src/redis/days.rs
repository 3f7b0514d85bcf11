//! Usage in Redis.
//!
//! A hash for each UTC day, `usage:{usage}:DAY` with the day since 1970: a letter for what is counted,
//! client, NUL and model to the amount. A script may touch only keys that it is given, and only the store
//! knows which day it is, so the caller gives the day it takes for today and the script does nothing but say
//! which it is where that is wrong: once at the start, once at midnight.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::Redis;
use super::reply::{bytes, int, list, millis, number};
use crate::Failure;
use crate::usage::{Amount, Entry, Spent};

/// Entries of one message.
const ENTRIES: usize = 256;
/// Today, 40 days and one that is left over.
const KEPT: Duration = Duration::from_secs(42 * 86_400);
/// Midnight passes once during a call.
const TRIES: usize = 3;
/// What one entry adds at most: the script counts in floats, which are exact up to here.
const MOST: u64 = 1 << 53;

impl Redis {
    /// See [`crate::Store::spend`]. 256 entries at once, all of them or none; a sum stops at 2^53.
    ///
    /// # Errors
    /// [`Failure`]; of more than 256 entries the first may have been added.
    pub async fn spend(&self, entries: &[Entry], within: Duration) -> Result<(), Failure> {
        let until = Instant::now() + within;
        'chunks: for entries in entries.chunks(ENTRIES) {
            for _ in 0..TRIES {
                let (day, key) = self.day(0);
                let fill = |cmd: &mut Cmd| {
                    cmd.arg(1).arg(&key).arg(day).arg(millis(KEPT));
                    for entry in entries {
                        add(cmd, entry);
                    }
                };
                let within = until - Instant::now();
                let today = self.blobs.run(&self.scripts.spend, within, fill, int).await?;
                if self.is_today(day, today) {
                    continue 'chunks;
                }
            }
            return Err(no_day());
        }
        Ok(())
    }

    /// See [`crate::Store::spent`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn spent(&self, days_ago: u32, within: Duration) -> Result<Vec<Spent>, Failure> {
        let until = Instant::now() + within;
        for _ in 0..TRIES {
            let (day, key) = self.day(i64::from(days_ago));
            let fill = |cmd: &mut Cmd| {
                cmd.arg(1).arg(&key).arg(day);
            };
            let within = until - Instant::now();
            let (today, spent) = self.blobs.run(&self.scripts.spent, within, fill, read).await?;
            if self.is_today(day, today) {
                return Ok(spent);
            }
        }
        Err(no_day())
    }

    /// The day that was last seen, and the key of the day so many before it.
    fn day(&self, ago: i64) -> (i64, String) {
        let day = self.day.load(Ordering::Relaxed);
        (day, self.key("usage", "usage", &(day - ago).to_string()))
    }

    /// Whether the caller took the right day for today; if not, the next one will.
    fn is_today(&self, day: i64, today: i64) -> bool {
        self.day.store(today, Ordering::Relaxed);
        day == today
    }
}

fn no_day() -> Failure {
    Failure::Refused("its clock does not know which day it is".to_owned())
}

fn add(cmd: &mut Cmd, entry: &Entry) {
    let Amount { requests, prompt, completion, cached, micro_usd } = entry.amount;
    cmd.arg(format!("{}\0{}", entry.client, entry.model));
    for n in [requests, prompt, completion, cached] {
        cmd.arg(n.min(MOST));
    }
    cmd.arg(if micro_usd.is_finite() { micro_usd } else { 0.0 });
}

fn read(reply: Value) -> Option<(i64, Vec<Spent>)> {
    let mut reply = list(reply)?;
    let today = int(reply.next()?)?;
    let mut fields = list(reply.next()?)?;
    let mut spent: BTreeMap<(String, String), Amount> = BTreeMap::new();
    while let Some(field) = fields.next() {
        let (field, value) = (bytes(field)?, number(fields.next()?)?);
        let (what, whose) = field.split_first()?;
        let (client, model) = std::str::from_utf8(whose).ok()?.split_once('\0')?;
        let amount = spent.entry((client.to_owned(), model.to_owned())).or_default();
        // Counts stay at or below 2^53.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        match what {
            b'r' => amount.requests = value as u64,
            b'p' => amount.prompt = value as u64,
            b'c' => amount.completion = value as u64,
            b'k' => amount.cached = value as u64,
            b'u' => amount.micro_usd = value,
            _ => return None,
        }
    }
    let spent = spent.into_iter().map(|((client, model), amount)| Entry { client, model, amount });
    Some((today, spent.collect()))
}
