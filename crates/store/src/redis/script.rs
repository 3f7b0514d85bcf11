//! The scripts, by name, each with its meters.
//!
//! A script is asked for by its hash; a server that does not know it is sent all of it once, with the same keys,
//! which is one way to the right node of a cluster and needs no other.

use metrics::{Counter, Histogram, counter, histogram};
use redis::Cmd;

/// A script and what is measured of it.
pub(super) struct Script {
    code: &'static str,
    hash: String,
    pub(super) took: Histogram,
    pub(super) down: Counter,
    pub(super) timeout: Counter,
    pub(super) refused: Counter,
}

impl Script {
    fn new(operation: &'static str, code: &'static str) -> Self {
        let failures = |reason: &'static str| counter!("tidegate_store_failures_total", "operation" => operation, "reason" => reason);
        Self {
            code,
            hash: redis::Script::new(code).get_hash().to_owned(),
            took: histogram!("tidegate_store_operation_seconds", "operation" => operation),
            down: failures("down"),
            timeout: failures("timeout"),
            refused: failures("refused"),
        }
    }

    /// The call by hash; `fill` adds the number of keys, the keys and the arguments.
    pub(super) fn short(&self, fill: impl Fn(&mut Cmd)) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.hash);
        fill(&mut cmd);
        cmd
    }

    /// The same with all of its text.
    pub(super) fn whole(&self, fill: impl Fn(&mut Cmd)) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(self.code);
        fill(&mut cmd);
        cmd
    }
}

macro_rules! scripts {
    ($($name:ident),+) => {
        /// All of them.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: Script::new(
                        stringify!($name),
                        include_str!(concat!("scripts/", stringify!($name), ".lua")),
                    ),)+
                }
            }
        }
    };
}

scripts!(
    charge, settle, running, begin, look_up, renew, follow, put, give_up, forget, lease, release, beat,
    leave, cool, spend, spent, probe
);
