//! `soak [--minutes N] [--rate R]`: HAProxy, three nodes, Redis and two upstreams under a constant load of which a third
//! are streams, and one fault after the other for as long as is asked.
//!
//! Prints a line a minute and ends with 1 when a request failed that was not under way on a node killed with -9, or
//! when the node that lived through all of it holds more at rest than it did after a warm-up. The first node is never
//! restarted, so that growth shows; the other two are, again and again.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use tidegate_tests::footprint::Footprint;
use tidegate_tests::load::{Answered, Load, Report};
use tidegate_tests::node::{binary, is_debug_build};
use tidegate_tests::simulated::Mode;
use tidegate_tests::site::{Killed, Site};
use tokio::time::{Instant, sleep, sleep_until};

/// Failures that are kept with all they say.
const KEPT: usize = 50;
const STREAMED: f64 = 0.34;
/// At rest a node is looked at for so long: what is closed late is closed by then.
const REST: Duration = Duration::from_secs(20);

struct Asked {
    lasts: Duration,
    rate: f64,
}

fn asked() -> Option<Asked> {
    let mut asked = Asked { lasts: Duration::from_secs(20 * 60), rate: 100.0 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value: f64 = words.next()?.parse().ok()?;
        match word.as_str() {
            "--minutes" if value > 0.0 => asked.lasts = Duration::from_secs_f64(value * 60.0),
            "--rate" if value > 0.0 => asked.rate = value,
            _ => return None,
        }
    }
    Some(asked)
}

fn say(line: &str) {
    // Nobody may read it any more.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn main() -> ExitCode {
    let Some(asked) = asked() else {
        say("usage: soak [--minutes N] [--rate REQUESTS_A_SECOND]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match runtime.block_on(soak(&asked)) {
        Some(faults) if faults.is_empty() => {
            say("nothing failed that should not have, and nothing has grown");
            ExitCode::SUCCESS
        }
        Some(faults) => {
            faults.iter().for_each(|fault| say(&format!("FAULT: {fault}")));
            ExitCode::FAILURE
        }
        None => {
            say("Redis or HAProxy is missing; scripts/install brings them");
            ExitCode::FAILURE
        }
    }
}

/// What has happened so far.
#[derive(Default)]
struct Story {
    events: Mutex<Vec<String>>,
    killed: Mutex<Vec<Killed>>,
    failed: Mutex<Vec<Answered>>,
}

impl Story {
    fn tell(&self, event: &str) {
        self.events.lock().unwrap().push(event.to_owned());
    }
}

async fn soak(asked: &Asked) -> Option<Vec<String>> {
    let site = Site::start().await?;
    let kind = if is_debug_build() { "a debug build: its memory says little" } else { "a release build" };
    say(&format!("{} ({kind})", binary().display()));
    say(&format!(
        "{:.0} requests a second through HAProxy to three nodes, for {:?}",
        asked.rate, asked.lasts
    ));
    let story = Story::default();
    let load = site.load(asked.rate, STREAMED);
    warm_up(&site, asked).await;
    let report = load.stop().await;
    take(&story, &report);
    let before = Footprint::at_rest(&*site.node(0).await, REST).await;
    say(&format!("node a at rest after a warm-up: {}", shown(&before)));

    let load = site.load(asked.rate, STREAMED);
    let until = Instant::now() + asked.lasts;
    say("| minute | requests | failed | p50 | p99 | a | b | c | what befell it |");
    say("|---:|---:|---:|---:|---:|---|---|---|---|");
    tokio::join!(befall(&site, &load, &story, asked, until), follow(&site, &load, &story, until));
    row(&site, &load.stop().await, &story, "end").await;

    let after = Footprint::at_rest(&*site.node(0).await, REST).await;
    say(&format!("node a at rest at the end: {}", shown(&after)));
    let mut faults = after.growth(&before);
    judge(&story, asked, &mut faults);
    Some(faults)
}

/// Everything that takes memory once: all models, all kinds of requests, a few reloads.
async fn warm_up(site: &Site, asked: &Asked) {
    let until = Instant::now() + (asked.lasts / 10).clamp(Duration::from_secs(10), Duration::from_secs(60));
    for n in 0..9 {
        site.reload(n % 3).await;
    }
    site.reload_faulty(0, 0).await;
    site.restart_redis().await;
    sleep_until(until).await;
}

/// One fault after the other, with time to recover in between.
async fn befall(site: &Site, load: &Load, story: &Story, asked: &Asked, until: Instant) {
    let pause = (asked.lasts / 60).clamp(Duration::from_secs(2), Duration::from_secs(15));
    let second = asked.rate as usize;
    for n in 0.. {
        sleep(pause).await;
        if Instant::now() >= until {
            return;
        }
        match n % 7 {
            0 => {
                for index in 0..3 {
                    site.reload(index).await;
                }
                story.tell("reload");
            }
            1 => {
                site.upstreams[0].set(Mode::Reset);
                load.more(5 * second).await;
                site.upstreams[0].set(Mode::Good);
                story.tell("x resets");
            }
            2 => {
                site.restart_redis().await;
                story.tell("Redis restarted");
            }
            3 => {
                let seen = site.reload_faulty(n % 3, n / 7).await;
                story.tell(&format!("faulty file, seen in {seen:.1?}"));
            }
            4 => {
                site.restart(1).await;
                site.restart(2).await;
                story.tell("b, c restarted");
            }
            5 => {
                site.upstreams[1].set(Mode::Status(503, "an outage"));
                load.more(5 * second).await;
                site.upstreams[1].set(Mode::Good);
                story.tell("y answers 503");
            }
            _ => {
                let index = 1 + n / 7 % 2;
                let killed = site.kill(index).await;
                story.killed.lock().unwrap().push(killed);
                site.haproxy.until_server(&Site::server(index), false).await;
                load.more(second).await;
                site.revive(index).await;
                story.tell(&format!("{} killed with {} running", ["a", "b", "c"][index], killed.running));
            }
        }
    }
}

async fn follow(site: &Site, load: &Load, story: &Story, until: Instant) {
    for minute in 1.. {
        let next = Instant::now() + Duration::from_secs(60);
        if next > until {
            return sleep_until(until).await;
        }
        sleep_until(next).await;
        row(site, &load.take(), story, &minute.to_string()).await;
    }
}

async fn row(site: &Site, report: &Report, story: &Story, name: &str) {
    take(story, report);
    site.upstreams.iter().for_each(tidegate_tests::simulated::Simulated::forget);
    let mut times: Vec<_> = report.answered.iter().filter(|a| !a.streamed).map(|a| a.took).collect();
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(shown(&Footprint::of(&*site.node(index).await).await));
    }
    let events = std::mem::take(&mut *story.events.lock().unwrap()).join("; ");
    let (count, failed) = (report.len(), report.failed().len());
    say(&format!(
        "| {name} | {count} | {failed} | {:.0?} | {:.0?} | {} | {events} |",
        at(50),
        at(99),
        nodes.join(" | ")
    ));
}

fn take(story: &Story, report: &Report) {
    let failed = report.answered.iter().filter(|a| !a.ok()).cloned();
    story.failed.lock().unwrap().extend(failed);
}

fn shown(of: &Footprint) -> String {
    let tasks = of.tasks.map(|tasks| format!(", {tasks} tasks")).unwrap_or_default();
    let mebibytes = of.resident as f64 / f64::from(1 << 20);
    format!("{mebibytes:.1} MiB, {} files, {} threads{tasks}", of.files, of.threads)
}

/// Each failure belongs to one kill, and each kill has no more than may have run on the node.
fn judge(story: &Story, asked: &Asked, faults: &mut Vec<String>) {
    let (killed, failed) = (story.killed.lock().unwrap(), story.failed.lock().unwrap());
    let mut lost = vec![0_usize; killed.len()];
    let mut otherwise = Vec::new();
    for answered in failed.iter() {
        match killed.iter().position(|killed| killed.explains(answered)) {
            Some(at) => lost[at] += 1,
            None => otherwise.push(answered),
        }
    }
    for (killed, lost) in killed.iter().zip(&lost) {
        // What was sent while it was looked may have come to run there as well.
        let sent = (asked.rate * (killed.ended - killed.looked).as_secs_f64()).ceil() as usize + 1;
        if *lost > killed.running + sent {
            faults.push(format!("{lost} lost with a node that ran {}", killed.running));
        }
    }
    let ran: usize = killed.iter().map(|killed| killed.running).sum();
    say(&format!("{} killed, {ran} ran on them, {} lost", killed.len(), lost.iter().sum::<usize>()));
    if !otherwise.is_empty() {
        faults.push(format!("{} requests failed otherwise", otherwise.len()));
        otherwise.iter().take(KEPT).for_each(|answered| faults.push(format!("{answered:?}")));
    }
}
