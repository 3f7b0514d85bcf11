//! The outage: what happens to the simulated upstreams, and what the node makes of it, told as it happens.
//!
//! The teller looks from outside, as an operator would: at the node's status page, at the answers users get, at
//! what reaches the upstreams. It waits for states, never for times, and gives up with what it waited for when
//! the whole takes too long. Not here: whether it went well (`report`).

pub mod report;
mod watch;

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::simulated::Upstreams;
use super::simulated::door::Mode;
use super::users::{PER_SECOND, Users};
use report::{Dead, Report};
use watch::Watched;

/// All of it.
const LIMIT: Duration = Duration::from_secs(58);
/// Of that, for the last answers on their way, when the story has failed.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Answers that show who answers.
const SOME: usize = 40;
/// Traffic is back when it was for this long.
const BACK: Duration = Duration::from_secs(2);

/// Plays it against a node that serves at `address`, its status at `admin`. The error says that nothing can be
/// printed; what went wrong in the story is in the report.
pub async fn play(address: SocketAddr, admin: SocketAddr, upstreams: &Upstreams) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut story = Story {
        started,
        watched: [&upstreams.primary, &upstreams.secondary].map(|door| Watched::new(Arc::clone(door))),
        users: Users::start(address),
        admin,
        broke_at: started,
    };
    say(&format!(
        "An outage is played: {PER_SECOND} requests a second to http://{address}, every second one streamed, meet two \
         simulated\nupstreams that fail one after the other. Watch it at http://{admin}/ meanwhile.\n\
         As in an electric circuit, closed means that traffic flows, and open that none does."
    ))?;
    let last = story.tell().await;
    let in_time = match &last {
        Ok(_) => timeout_at(started + LIMIT, story.users.stop()).await.is_ok(),
        Err(_) => timeout(LAST_ANSWERS, story.users.stop()).await.is_ok(),
    };
    let (last, missed) = match last {
        Ok(last) => (last, (!in_time).then(|| "the last answers".to_owned())),
        Err(error) => (Default::default(), Some(error.to_string())),
    };
    let dead = story.watched.iter().filter_map(|watched| {
        let dead = watched.dead.clone()?;
        Some(Dead { name: watched.door.name, seen: watched.door.seen(dead) })
    });
    let report = Report {
        took: started.elapsed(),
        all: story.users.since(started),
        longest_wait: story.users.longest_wait(started),
        faults: story.users.faults(),
        dead: dead.collect(),
        last,
        missed,
    };
    say(&report.to_string())?;
    Ok(report)
}

struct Story {
    started: Instant,
    watched: [Watched; 2],
    users: Users,
    admin: SocketAddr,
    /// When the last step was told: the latest trouble began, or ended.
    broke_at: Instant,
}

impl Story {
    /// Who answered at the very end. The error says what did not happen in time.
    async fn tell(&mut self) -> anyhow::Result<super::users::Tally> {
        let [primary, secondary] = self.watched.each_ref().map(|watched| Arc::clone(&watched.door));
        let start = self.started;
        let both = |story: &Self| story.users.since(start).by.len() >= 2;
        self.until("answers from both upstreams", |s| s.answered(start) >= SOME && both(s)).await?;
        self.step(format!("All is well. Answers: {}.", self.users.since(start).shares()))?;

        primary.set(Mode::Down);
        self.step("The primary dies: it drops every new request without an answer.")?;
        self.until("the primary to be open", |s| s.is(0, "open")).await?;
        let since = Instant::now();
        self.until("answers from the secondary", |s| s.answered(since) >= SOME).await?;
        self.step(format!(
            "Users get answers: {}. None waited longer than {}.",
            self.users.since(since).shares(),
            self.wait()
        ))?;

        secondary.set(Mode::Hanging);
        self.step("The secondary freezes: it takes requests and never answers.")?;
        self.until("the secondary to be open", |s| s.is(1, "open")).await?;
        let since = Instant::now();
        let local = |s: &Self| s.users.since(since).fallback >= SOME;
        self.until("answers from the local model", local).await?;
        self.step(format!(
            "The local model stands in, marked x-tidegate-fallback: true. Answers: {}. None waited longer than {}.",
            self.users.since(since).shares(),
            self.wait()
        ))?;

        primary.set(Mode::Up);
        secondary.set(Mode::Up);
        self.step("Both upstreams are repaired. Nobody tells the gateway.")?;
        let closed = |s: &Self| s.is(0, "closed") && s.is(1, "closed");
        self.until("both upstreams to be closed", closed).await?;
        let since = Instant::now();
        let back = |s: &Self| since.elapsed() >= BACK && s.answered(since) > 0;
        self.until("answers after the outage", back).await?;
        let last = self.users.since(since);
        self.step(format!("Answers of the last {} s: {}.", BACK.as_secs(), last.shares()))?;
        Ok(last)
    }

    /// Looks, and tells what has changed, until something is so.
    async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        loop {
            // A look that fails is followed by another.
            if let Ok(Ok(status)) = timeout(BACK, watch::status(self.admin)).await {
                let broke_at = self.broke_at;
                let lines: Vec<String> =
                    self.watched.iter_mut().flat_map(|watched| watched.look(&status, broke_at)).collect();
                for line in lines {
                    self.print("  ", line)?;
                }
            }
            if so(self) {
                return Ok(());
            }
            if self.started.elapsed() >= LIMIT - LAST_ANSWERS {
                let states = self.watched.iter().map(Watched::to_string).collect::<Vec<_>>().join(", ");
                anyhow::bail!("{what} ({states})");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is(&self, i: usize, state: &str) -> bool {
        self.watched.get(i).is_some_and(|watched| watched.state == state)
    }

    fn answered(&self, since: Instant) -> usize {
        self.users.since(since).answers
    }

    /// The longest since the last step.
    fn wait(&self) -> String {
        format!("{:.1} s", self.users.longest_wait(self.broke_at).as_secs_f64())
    }

    fn step(&mut self, line: impl Display) -> anyhow::Result<()> {
        self.broke_at = Instant::now();
        self.print("", line)
    }

    fn print(&self, indent: &str, line: impl Display) -> anyhow::Result<()> {
        say(&format!("{:6.1} s  {indent}{line}", self.started.elapsed().as_secs_f64()))
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
