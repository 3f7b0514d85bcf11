//! `log:`.

use super::check::only_false;
use crate::fault::Collector;
use crate::read::Said;
use crate::said::log;
use crate::used;

pub(super) fn log(said: &Said<log::Log>, faults: &mut Collector) -> used::Log {
    let unsaid = log::Log::default();
    let said = said.get().unwrap_or(&unsaid);
    only_false(&said.bodies, "log.bodies", faults);
    for item in said.redact.items() {
        if item.value.0.is_match("") {
            faults.fault(
                item.place,
                "this pattern matches the empty text, too, so it would redact between all letters",
            );
        }
    }
    used::Log {
        level: match said.level.get() {
            Some(log::Level::Error) => used::Level::Error,
            Some(log::Level::Warn) => used::Level::Warn,
            None | Some(log::Level::Info) => used::Level::Info,
            Some(log::Level::Debug) => used::Level::Debug,
            Some(log::Level::Trace) => used::Level::Trace,
        },
        redact: said.redact.items().iter().map(|item| item.value.0.clone()).collect(),
    }
}
