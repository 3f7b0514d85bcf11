//! Charges in Redis.
//!
//! Keys, all of a group in one slot: `bucket:{GROUP}:KEY` (a string: the time in ms at which it will be
//! full), `day:{GROUP}:KEY` (a hash: `d`, the day since 1970, `u`, what it used, and `h`, what of that is reserved), `running:{GROUP}:KEY`
//! (a sorted set of ids by the time at which they are forgotten), and beside the first two `bucket-held:` and
//! `day-held:`, sorted sets of `ID:AMOUNT` and `ID:AMOUNT:DAY` by the time at which they are given back. A
//! refund of a [`Counter::Day`] that was not reserved and comes after midnight lowers the new day, as nothing
//! says which day it was charged to; it never goes below zero.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::Redis;
use super::reply::{duration, list, millis, number};
use crate::Failure;
use crate::charge::{Charge, Counter, Debit, Running, Settled, Settlement, Standing, Verdict, units};

/// Entries of one message.
const ENTRIES: usize = 256;
/// Bits of a day's mark that hold the day: until 2059.
const DAY_BITS: u64 = 0x7fff;

impl Redis {
    /// See [`crate::Store::charge`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn charge(&self, charge: &Charge, within: Duration) -> Result<Verdict, Failure> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(charge.debits.len() * 2);
            for debit in &charge.debits {
                self.counter(cmd, &charge.group, &debit.key, &debit.counter);
            }
            cmd.arg(hex(charge.id)).arg(millis(charge.lives));
            for debit in &charge.debits {
                demand(cmd, debit);
            }
        };
        self.control.run(&self.scripts.charge, within, fill, |reply| verdict(reply, &charge.debits)).await
    }

    /// See [`crate::Store::settle`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn settle(&self, settlement: &Settlement, within: Duration) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(settlement.items.len() * 2);
            for item in &settlement.items {
                self.counter(cmd, &settlement.group, &item.key, &item.counter);
            }
            cmd.arg(hex(settlement.id));
            for item in &settlement.items {
                outcome(cmd, item);
            }
        };
        if settlement.items.is_empty() {
            return Ok(());
        }
        self.control.run(&self.scripts.settle, within, fill, |_| Some(())).await
    }

    /// See [`crate::Store::still_running`]. One message for each group: they may lie on different nodes.
    ///
    /// # Errors
    /// [`Failure`]: the first; all other groups were asked for all the same.
    pub async fn still_running(
        &self,
        running: &[Running],
        lives: Duration,
        within: Duration,
    ) -> Result<(), Failure> {
        let mut sorted: Vec<&Running> = running.iter().collect();
        sorted.sort_by(|a, b| a.group.cmp(&b.group));
        let until = Instant::now() + within;
        let messages = sorted.chunk_by(|a, b| a.group == b.group).flat_map(|group| group.chunks(ENTRIES));
        let calls = messages.map(|entries| {
            let fill = move |cmd: &mut Cmd| {
                cmd.arg(entries.len());
                for entry in entries {
                    cmd.arg(self.key("running", &entry.group, &entry.key));
                }
                cmd.arg(millis(lives));
                for entry in entries {
                    cmd.arg(hex(entry.id));
                }
            };
            self.control.run(&self.scripts.running, until - Instant::now(), fill, |_| Some(()))
        });
        join_all(calls).await.into_iter().collect()
    }

    fn counter(&self, cmd: &mut Cmd, group: &str, key: &str, counter: &Counter) {
        let kind = kind(counter);
        cmd.arg(self.key(kind, group, key)).arg(self.key(&format!("{kind}-held"), group, key));
    }
}

const fn kind(counter: &Counter) -> &'static str {
    match counter {
        Counter::Bucket { .. } => "bucket",
        Counter::Day { .. } => "day",
        Counter::Running { .. } => "running",
    }
}

fn demand(cmd: &mut Cmd, debit: &Debit) {
    let is_day = matches!(debit.counter, Counter::Day { .. });
    cmd.arg(kind(&debit.counter))
        .arg(units(debit.cost))
        .arg(units(debit.extra))
        .arg(u8::from(debit.reserved));
    match debit.known {
        Some(mark) if is_day => {
            let (used, day) = unpack(mark);
            cmd.arg(used).arg(day)
        }
        Some(mark) => cmd.arg(mark).arg(""),
        None => cmd.arg("").arg(""),
    };
    match debit.counter {
        Counter::Bucket { per_second, burst, patience } => {
            cmd.arg(per_second).arg(burst).arg(patience.as_secs_f64() * 1000.0)
        }
        Counter::Day { limit } => cmd.arg(limit).arg("").arg(""),
        Counter::Running { limit, lives } => cmd.arg(limit).arg(millis(lives)).arg(""),
    };
}

fn outcome(cmd: &mut Cmd, item: &Settled) {
    let (per_second, burst) = match item.counter {
        Counter::Bucket { per_second, burst, .. } => (per_second, burst),
        Counter::Day { .. } | Counter::Running { .. } => (0.0, 0.0),
    };
    // What is no number must not get into a counter, where it would stay.
    cmd.arg(kind(&item.counter)).arg(units(item.charged)).arg(item.used());
    cmd.arg(u8::from(item.reserved)).arg(per_second).arg(burst);
}

fn verdict(reply: Value, debits: &[Debit]) -> Option<Verdict> {
    let mut reply = list(reply)?;
    let admitted = number(reply.next()?)? > 0.0;
    let by = number(reply.next()?)? as usize;
    let retry_after = duration(reply.next()?)?;
    let standings = debits.iter().map(|debit| {
        let mut next = || reply.next();
        let (extra, left) = (number(next()?)?, number(next()?)?);
        let (reset, wait) = (duration(next()?)?, duration(next()?)?);
        let (mark, day) = (number(next()?)?, number(next()?)?);
        let spent = number(next()?)? > 0.0;
        let mark = if matches!(debit.counter, Counter::Day { .. }) { pack(mark, day as u64) } else { mark };
        Some(Standing { extra, left, reset, wait, mark, spent })
    });
    let standings: Vec<Standing> = standings.collect::<Option<_>>()?;
    if admitted {
        Some(Verdict::Admitted(standings))
    } else {
        debits.get(by)?;
        Some(Verdict::Denied { by, retry_after, standings })
    }
}

/// A day's mark is what it used, with the day in place of the last bits: exact to 11 digits.
fn pack(used: f64, day: u64) -> f64 {
    f64::from_bits((used.max(0.0).to_bits() & !DAY_BITS) | (day & DAY_BITS))
}

fn unpack(mark: f64) -> (f64, u64) {
    (f64::from_bits(mark.to_bits() & !DAY_BITS), mark.to_bits() & DAY_BITS)
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_mark_holds_the_day_and_what_it_used() {
        for used in [0.0, 1.0, 0.000_123, 19.999_999, 2_000_000.0, 1e12] {
            let (again, day) = unpack(pack(used, 20_778));
            assert_eq!(day, 20_778);
            assert!((again - used).abs() <= used * 1e-11, "{used} {again}");
        }
    }

    #[test]
    fn a_reply_that_is_none_of_ours_is_no_verdict() {
        for reply in [
            Value::Nil,
            Value::Okay,
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(0), Value::Int(7), Value::Int(1)]),
            Value::Array(vec![Value::BulkString(b"nan".to_vec()), Value::Int(0), Value::Int(1)]),
        ] {
            assert_eq!(verdict(reply, &[]), None);
        }
    }
}
