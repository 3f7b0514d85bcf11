//! One call of a script: bounded, at most two messages, never a panic whatever comes back.

use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::time::{Instant, timeout};

use super::fault::{Fault, fault, said};
use super::script::Script;
use super::slot::{Lost, Slot};
use crate::Failure;

impl Slot {
    /// Runs `script` and reads its reply. `fill` adds the number of keys, the keys and the arguments; `read` gives
    /// `None` for a reply that is none of ours. Dropped before its end, the script may run all the same.
    pub(super) async fn run<T>(
        &self,
        script: &Script,
        within: Duration,
        fill: impl Fn(&mut Cmd) + Send + Sync,
        read: impl FnOnce(Value) -> Option<T> + Send,
    ) -> Result<T, Failure> {
        let Some(live) = self.live() else {
            script.down.increment(1);
            return Err(Failure::Down);
        };
        let started = Instant::now();
        let mut conn = live.conn.clone();
        let asked = timeout(within, async {
            match conn.ask(&script.short(&fill)).await {
                Err(e) if is_unknown(&e) => conn.ask(&script.whole(&fill)).await,
                answer => answer,
            }
        });
        let answer: Result<RedisResult<Value>, _> = asked.await;
        script.took.record(started.elapsed());
        match answer {
            Ok(Ok(value)) => {
                self.answered(&live);
                read(value).ok_or_else(|| {
                    script.refused.increment(1);
                    Failure::Refused("an answer that is none of ours".to_owned())
                })
            }
            Ok(Err(e)) => {
                let text = said(&e);
                match fault(&e) {
                    Fault::Broken => {
                        script.timeout.increment(1);
                        if live.conn.heals() {
                            self.failed(&live, started, Some(&text), within);
                        } else {
                            self.lose(&live, &text, Lost::Broken);
                        }
                        Err(Failure::Unknown)
                    }
                    Fault::Refused { elsewhere, state } => {
                        script.refused.increment(1);
                        if elsewhere {
                            self.lose(&live, &text, Lost::Broken);
                        } else if state {
                            self.failed(&live, started, Some(&text), within);
                        } else {
                            self.answered(&live);
                        }
                        Err(Failure::Refused(text))
                    }
                }
            }
            Err(_) => {
                script.timeout.increment(1);
                self.failed(&live, started, None, within);
                Err(Failure::Unknown)
            }
        }
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ServerErrorKind::NoScript.into()
}
