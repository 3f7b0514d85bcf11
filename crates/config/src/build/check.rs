//! Checks every section shares: names and references, ranges, refusal of what is not built.
//!
//! Owns the words of these faults, so that the same mistake reads the same everywhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use tidegate_router::glob::Glob;

use crate::fault::{Collector, Place, listed, nearest, quote};
use crate::read::{Item, Said};
use crate::unit::{Count, Flag, Number, Percent, Rate, Size, Text, Time};

/// Longer waits are a slip of the pen: no request and no drain lasts a day.
pub(super) const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// The names of one kind of thing, in the order of the file.
pub(crate) struct Names<'f> {
    kind: &'static str,
    names: Vec<Option<&'f str>>,
}

impl<'f> Names<'f> {
    /// Takes the names and reports those that are malformed or taken. A name's index is its entry's.
    pub(crate) fn new(
        kind: &'static str,
        said: impl Iterator<Item = &'f Said<Text>>,
        faults: &mut Collector,
    ) -> Self {
        let mut names: Vec<Option<&str>> = Vec::new();
        for name in said {
            if let Some((Text(text), place)) = name.at() {
                if names.contains(&Some(text)) {
                    faults.fault(place, format!("{kind} {} is there already: names are unique", quote(text)));
                } else if !is_label(text) {
                    faults.fault(
                        place,
                        format!(
                            "{} is no name: 1 to 64 letters, digits, `.`, `_` and `-` are meant",
                            quote(text)
                        ),
                    );
                }
            }
            names.push(name.get().map(|Text(text)| text.as_str()));
        }
        Self { kind, names }
    }

    /// The index of the entry with this name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|&known| known == Some(name))
    }

    /// The index of what is referred to, or `None` after saying which name is nearest.
    pub(crate) fn find(&self, name: &str, place: Place, faults: &mut Collector) -> Option<usize> {
        let found = self.position(name);
        if found.is_none() {
            faults.fault(place, self.unknown(name, &[]));
        }
        found
    }

    /// What to say of a name nothing has; `more` are names that exist without an entry.
    pub(crate) fn unknown(&self, name: &str, more: &[&str]) -> String {
        let known = || more.iter().copied().chain(self.names.iter().copied().flatten());
        let kind = self.kind;
        match (nearest(name, known()), known().next()) {
            (Some(near), _) => format!("unknown {kind} {}: did you mean {}?", quote(name), quote(near)),
            (None, Some(_)) => format!("unknown {kind} {}: the file has {}", quote(name), listed(known())),
            (None, None) => format!("unknown {kind} {}: the file has none", quote(name)),
        }
    }
}

/// Whether this can be the name of a node, an upstream, an egress or a client: 1 to 64 ASCII letters, digits, `.`,
/// `_` and `-`, so that it can stand in a header, a metric label and a path name (`upstream@egress`) alike.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// The count, or the default when it is unsaid or unusable.
pub(crate) fn count(
    said: &Said<Count>,
    key: &str,
    range: RangeInclusive<u64>,
    default: usize,
    faults: &mut Collector,
) -> usize {
    let Some((&Count(count), place)) = said.at() else { return default };
    match usize::try_from(count) {
        Ok(usable) if range.contains(&count) => usable,
        _ => {
            let (least, most) = range.into_inner();
            faults.fault(place, format!("`{key}` is {count}: {least} to {most} is meant"));
            default
        }
    }
}

/// The count, or the default when it is unsaid or unusable.
pub(crate) fn count32(
    said: &Said<Count>,
    key: &str,
    range: RangeInclusive<u32>,
    default: u32,
    faults: &mut Collector,
) -> u32 {
    let (least, most) = range.into_inner();
    let default_wide = usize::try_from(default).unwrap_or(usize::MAX);
    let count = count(said, key, u64::from(least)..=u64::from(most), default_wide, faults);
    u32::try_from(count).unwrap_or(default)
}

/// A time that may be 0s, or the default.
pub(crate) fn wait(said: &Said<Time>, key: &str, default: Duration, faults: &mut Collector) -> Duration {
    within(said, key, Duration::ZERO, default, faults)
}

/// A time over 0s, or the default.
pub(crate) fn time(said: &Said<Time>, key: &str, default: Duration, faults: &mut Collector) -> Duration {
    within(said, key, Duration::from_millis(1), default, faults)
}

fn within(
    said: &Said<Time>,
    key: &str,
    least: Duration,
    default: Duration,
    faults: &mut Collector,
) -> Duration {
    let Some((&Time(time), place)) = said.at() else { return default };
    if (least..=TIME_MAX).contains(&time) {
        return time;
    }
    let what = if time < least { "0" } else { "over 24h" };
    faults.fault(place, format!("`{key}` is {what}: {}ms to 24h is meant", least.as_millis()));
    default
}

/// A time in a range other than the usual one, or the default.
pub(crate) fn between(
    said: &Said<Time>,
    key: &str,
    range: RangeInclusive<Duration>,
    default: Duration,
    faults: &mut Collector,
) -> Duration {
    let Some((&Time(time), place)) = said.at() else { return default };
    if range.contains(&time) {
        return time;
    }
    let (least, most) = range.into_inner();
    let text =
        format!("`{key}` is {}: {} to {} is meant", spelt_time(time), spelt_time(least), spelt_time(most));
    faults.fault(place, text);
    default
}

/// As it would be written in the file, in the largest unit that leaves no rest.
pub(crate) fn spelt_time(time: Duration) -> String {
    let unit = |seconds: u64| time.subsec_nanos() == 0 && time.as_secs().is_multiple_of(seconds);
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        seconds if unit(86_400) => format!("{}d", seconds / 86_400),
        seconds if unit(3600) => format!("{}h", seconds / 3600),
        seconds if unit(60) => format!("{}m", seconds / 60),
        seconds if unit(1) => format!("{seconds}s"),
        _ => format!("{}ms", time.as_millis()),
    }
}

/// A size in a range, or the default.
pub(crate) fn size(
    said: &Said<Size>,
    key: &str,
    range: RangeInclusive<u64>,
    default: usize,
    faults: &mut Collector,
) -> usize {
    let Some((&Size(bytes), place)) = said.at() else { return default };
    match usize::try_from(bytes) {
        Ok(usable) if range.contains(&bytes) => usable,
        _ => {
            let (least, most) = range.into_inner();
            let text = format!("`{key}` is {}: {} to {} is meant", spelt(bytes), spelt(least), spelt(most));
            faults.fault(place, text);
            default
        }
    }
}

/// As it would be written in the file, in the largest unit that leaves no rest.
pub(crate) fn spelt(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    let (unit, bits) = unit.unwrap_or(("B", 0));
    format!("{}{unit}", bytes >> bits)
}

/// A number in a range, or the default.
pub(crate) fn number(
    said: &Said<Number>,
    key: &str,
    range: RangeInclusive<f64>,
    default: f64,
    faults: &mut Collector,
) -> f64 {
    let Some((&Number(number), place)) = said.at() else { return default };
    if range.contains(&number) {
        return number;
    }
    let (least, most) = range.into_inner();
    faults.fault(place, format!("`{key}` is {number}: {least} to {most} is meant"));
    default
}

/// A share of 0 to 100%, or the default.
pub(crate) fn share(said: &Said<Percent>, key: &str, default: f64, faults: &mut Collector) -> f64 {
    let Some((&Percent(share), place)) = said.at() else { return default };
    if share <= 1.0 {
        return share;
    }
    faults.fault(place, format!("`{key}` is over 100%: 0% to 100% is meant"));
    default
}

/// A rate that lets something through.
pub(crate) fn rate(said: &Said<Rate>, key: &str, faults: &mut Collector) {
    if let Some((Rate(amount), place)) = said.at()
        && amount.each <= 0.0
    {
        faults.fault(place, format!("`{key}` lets nothing through: an amount over 0 is meant"));
    }
}

/// The time from one to the next at this rate, or the default.
pub(crate) fn pace(said: &Said<Rate>, key: &str, default: Duration, faults: &mut Collector) -> Duration {
    rate(said, key, faults);
    let Some((&Rate(amount), place)) = said.at().filter(|(Rate(amount), _)| amount.each > 0.0) else {
        return default;
    };
    match Duration::try_from_secs_f64(amount.per_second().recip()) {
        Ok(every) if every <= TIME_MAX => every,
        _ => {
            faults.fault(place, format!("`{key}` is under 1/day: 1/day or more is meant"));
            default
        }
    }
}

/// Model patterns: each says something, and none is said twice.
pub(crate) fn globs(said: &Said<Vec<Item<Text>>>, faults: &mut Collector) {
    for (index, item) in said.items().iter().enumerate() {
        glob(&item.value, item.place, faults);
        repeated(said.items(), index, faults);
    }
}

/// A model pattern that matches something.
pub(crate) fn glob(Text(text): &Text, place: Place, faults: &mut Collector) {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        faults.fault(place, "no model has this name: write one such as gpt-4o, or a pattern such as gpt-4*");
    }
}

/// Warns of each of these patterns that an earlier one leaves nothing to. A pattern covers another exactly when it
/// matches the other's text with every `*` replaced by a character no literal holds: only a `*` can take that one.
pub(crate) fn covered<'f>(
    what: &str,
    patterns: impl Iterator<Item = (&'f str, Place)>,
    faults: &mut Collector,
) {
    let mut earlier: Vec<(Glob, usize)> = Vec::new();
    for (pattern, place) in patterns {
        let hardest = pattern.replace('*', "\u{1}");
        if let Some((glob, line)) = earlier.iter().find(|(glob, _)| glob.matches(&hardest)) {
            let text = format!(
                "this {what} never matches: {} in line {line} comes first and takes all it could",
                quote(glob.as_str())
            );
            faults.warn(place, text);
        } else {
            earlier.push((Glob::new(pattern), place.line));
        }
    }
}

/// Reports the entry when an earlier one is the same.
pub(crate) fn repeated(items: &[Item<Text>], index: usize, faults: &mut Collector) {
    let Some((item, earlier)) = items.get(..=index).and_then(<[_]>::split_last) else { return };
    if earlier.iter().any(|other| other.value.0 == item.value.0) {
        faults.fault(item.place, format!("{} is in this list already", quote(&item.value.0)));
    }
}

/// Refuses a key whose feature is not built.
pub(crate) fn unbuilt<T>(said: &Said<T>, key: &str, faults: &mut Collector) {
    if let Some(place) = said.key() {
        refuse(place, key, faults);
    }
}

/// Refuses a list whose feature is not built; an empty one asks for nothing.
pub(crate) fn unbuilt_list<T>(said: &Said<Vec<T>>, key: &str, faults: &mut Collector) {
    if said.get().is_none_or(|items| !items.is_empty()) {
        unbuilt(said, key, faults);
    }
}

/// Refuses a feature that is not built.
pub(crate) fn refuse(place: Place, what: &str, faults: &mut Collector) {
    faults.fault(place, format!("`{what}` is not built yet in this version: remove it"));
}

/// Accepts only `false` of a switch whose feature is not built.
pub(crate) fn only_false(said: &Said<Flag>, key: &str, faults: &mut Collector) {
    if let (Some(Flag(true)), Some(place)) = (said.get(), said.key()) {
        refuse(place, &format!("{key}: true"), faults);
    }
}
