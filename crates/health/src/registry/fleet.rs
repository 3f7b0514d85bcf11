//! What nodes tell each other of their breakers, and what a node makes of it.
//!
//! A node tells what it has seen itself and nothing that it has only heard, or an opening would keep itself alive.
//! Many who have something open open it here, one makes it doubtful; who has proven it lets it ramp up here. Which
//! of two words is the newer one is told by epochs: each node counts on from the highest number it has heard, so no
//! clocks are compared. Trying what recovers costs money and is the lease holder's alone.
//! Without peers, or while nothing is heard of them, all is this node's own. Not here: the wire and the leases
//! themselves (the gateway).

mod lease;
mod names;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Registry, Subject};
use crate::breaker::{Reason, State, Transition};

/// Fewer nodes than these never open anything elsewhere.
const VOTES_LEAST: usize = 2;
/// Nodes follow a recovery within this time, not all at once.
const FOLLOW: Duration = Duration::from_secs(2);
/// A recovery is told for so long, for those who were away.
const TOLD_FOR: Duration = Duration::from_secs(600);
/// Names longer than this are not told.
const NAME_MAX: usize = 256;

/// A breaker's subject, by names that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectName {
    /// The path, or the upstream.
    pub name: String,
    /// The model where only that is concerned; empty: requests that name none.
    pub model: Option<String>,
}

/// What a node says of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Of what.
    pub subject: SubjectName,
    /// Its state there.
    pub state: State,
    /// What led to it, as a word.
    pub reason: Option<Cow<'static, str>>,
    /// The node has seen for itself that it is down, or has proven that it is up again.
    pub own: bool,
    /// When, counted in openings and recoveries: of two words on one subject the higher one is newer.
    pub epoch: u64,
}

/// What a node has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The highest epoch it knows.
    pub epoch: u64,
    /// All that it tried lately failed: it may be cut off, and says nothing.
    pub cut_off: bool,
    /// What is not plainly closed or has lately recovered, its own evidence first.
    pub said: Vec<Said>,
}

/// What another node has said.
#[derive(Debug, Clone)]
pub struct PeerSays {
    /// Its name, for people.
    pub node: String,
    /// Its word.
    pub report: Report,
}

/// What a registry keeps for the sake of its peers.
#[derive(Debug, Default)]
pub(super) struct Shared {
    epoch: u64,
    stands: HashMap<Subject, Stand>,
    /// What peers have open, one at least.
    doubted: HashSet<Subject>,
    following: HashMap<Subject, Follow>,
    /// Until when a lease is held. `None`: there are no leases.
    leases: Option<HashMap<Subject, Instant>>,
    /// Who try without leases, this node among them.
    nodes: u32,
}

impl Shared {
    /// The same under the numbers of another configuration; what is not in it is forgotten.
    pub(super) fn renamed(&self, of: impl Fn(Subject) -> Option<Subject>) -> Self {
        fn keys<V: Clone>(
            from: &HashMap<Subject, V>,
            of: impl Fn(Subject) -> Option<Subject>,
        ) -> HashMap<Subject, V> {
            from.iter().filter_map(|(subject, value)| Some((of(*subject)?, value.clone()))).collect()
        }
        Self {
            epoch: self.epoch,
            stands: keys(&self.stands, &of),
            doubted: self.doubted.iter().filter_map(|subject| of(*subject)).collect(),
            following: keys(&self.following, &of),
            leases: self.leases.as_ref().map(|leases| keys(leases, &of)),
            nodes: self.nodes,
        }
    }
}

/// The last opening or recovery.
#[derive(Debug, Clone, Copy)]
struct Stand {
    epoch: u64,
    own: bool,
    at: Instant,
}

/// A recovery that is to be followed.
#[derive(Debug, Clone)]
struct Follow {
    node: String,
    epoch: u64,
    due: Instant,
}

/// What peers say of one subject.
#[derive(Debug, Default)]
struct Voices<'a> {
    /// Who have it open by their own evidence.
    open: Vec<(&'a str, &'a Said)>,
    /// The newest proof that it is up.
    proof: Option<(&'a str, u64)>,
}

impl Registry {
    /// What this node has to tell its peers.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        let cut_off = self.is_cut_off();
        let shared = self.fleet();
        let (epoch, stands) = (shared.epoch, shared.stands.clone());
        drop(shared);
        if cut_off {
            return Report { epoch, cut_off, said: Vec::new() };
        }
        let told = |subject: Subject| {
            let (state, reason) =
                self.gate(subject)?.with(now, |breaker| (breaker.state(), breaker.reason()));
            let stand = stands.get(&subject);
            let lately = |stand: &&Stand| stand.own && now.saturating_duration_since(stand.at) < TOLD_FOR;
            if state == State::Closed && stand.filter(lately).is_none() {
                return None;
            }
            Some(Said {
                subject: self.name_of(subject)?,
                state,
                reason: reason.map(|reason| Cow::Borrowed(reason.word())),
                own: stand.is_some_and(|stand| stand.own) && state != State::Disabled,
                epoch: stand.map_or(0, |stand| stand.epoch),
            })
        };
        let mut said: Vec<Said> = self.subjects().filter_map(told).collect();
        said.sort_by_key(|said| (!said.own, !is_shut(said.state)));
        Report { epoch, cut_off, said }
    }

    /// Takes in what all other nodes say now; none: they are not heard of any more, and what they said is void.
    ///
    /// What at least half of the nodes, and two, have open by what they have seen themselves opens here, and what fewer
    /// have open is doubted: it counts for half as much and trips by half as much. What one has proven ramps up
    /// here within two seconds, where this node's evidence is older. Nodes that are cut off do not count.
    pub fn hear(&self, peers: &[PeerSays], now: Instant) {
        let sighted: Vec<&PeerSays> = peers.iter().filter(|peer| !peer.report.cut_off).collect();
        let nodes = sighted.len() + usize::from(!self.is_cut_off());
        let needed = VOTES_LEAST.max(nodes.div_ceil(2));
        let mut voices: HashMap<&SubjectName, Voices<'_>> = HashMap::new();
        for (peer, said) in sighted.iter().flat_map(|peer| peer.report.said.iter().map(move |s| (peer, s))) {
            if !said.own {
                continue;
            }
            let voices = voices.entry(&said.subject).or_default();
            if is_shut(said.state) {
                voices.open.push((&peer.node, said));
            } else if voices.proof.is_none_or(|(_, epoch)| epoch < said.epoch) {
                voices.proof = Some((&peer.node, said.epoch));
            }
        }
        let mut doubted = HashSet::new();
        let mut opening = Vec::new();
        let mut proven = Vec::new();
        {
            let mut shared = self.fleet();
            shared.epoch = peers.iter().map(|peer| peer.report.epoch).fold(shared.epoch, u64::max);
        }
        for (name, Voices { mut open, proof }) in voices {
            let known = self.subject_of(name);
            let stand = known.and_then(|subject| self.fleet().stands.get(&subject).copied());
            let settled = match (known, stand) {
                (Some(subject), Some(stand)) if !self.is_open(subject) => stand.epoch,
                _ => 0,
            };
            let settled = proof.map_or(0, |(_, epoch)| epoch).max(settled);
            open.retain(|(_, said)| said.epoch > settled);
            // Slowness alone does not take the last way from a route.
            let spared = known.is_some_and(|subject| !self.around(subject).others);
            open.retain(|(_, said)| !spared || said.reason.as_deref() != Some(Reason::Slow.word()));
            if open.len() >= needed {
                if let Some(subject) = known.or_else(|| self.make_subject(name, now)) {
                    opening.push((subject, open));
                }
            } else if let Some(subject) = known.filter(|_| !open.is_empty()) {
                doubted.insert(subject);
            }
            if let (Some(subject), Some((node, epoch))) = (known, proof)
                && self.is_open(subject)
                && stand.is_none_or(|stand| stand.epoch < epoch)
            {
                proven.push((subject, node, epoch));
            }
        }
        self.follow(&proven, now);
        for (subject, open) in opening {
            self.open_with(subject, &open, now);
        }
        self.doubt(doubted, now);
    }

    /// Opens what many have open.
    fn open_with(&self, subject: Subject, open: &[(&str, &Said)], now: Instant) {
        let who: Vec<String> = open
            .iter()
            .map(|(node, said)| format!("{node} ({})", said.reason.as_deref().unwrap_or("unknown")))
            .collect();
        let evidence = format!("open on {}", who.join(", "));
        let change = self
            .gate(subject)
            .and_then(|gate| gate.with(now, |breaker| breaker.open(Reason::Fleet, evidence, now)));
        if change.is_some() {
            let epoch = open.iter().map(|(_, said)| said.epoch).max().unwrap_or_default();
            self.fleet().stands.insert(subject, Stand { epoch, own: false, at: now });
        }
        self.note(subject, change);
    }

    /// Makes these doubtful, and no others.
    fn doubt(&self, doubted: HashSet<Subject>, now: Instant) {
        let before = std::mem::take(&mut self.fleet().doubted);
        for subject in before.symmetric_difference(&doubted) {
            if let Some(gate) = self.gate(*subject) {
                gate.with(now, |breaker| breaker.doubt(doubted.contains(subject)));
            }
        }
        self.fleet().doubted = doubted;
    }

    /// Plans to ramp up what peers have proven; a plan once made keeps its time.
    fn follow(&self, proven: &[(Subject, &str, u64)], now: Instant) {
        let mut shared = self.fleet();
        shared.following.retain(|subject, _| proven.iter().any(|(of, ..)| of == subject));
        for (subject, node, epoch) in proven {
            let due = now + FOLLOW.mul_f64(fastrand::f64());
            let follow = shared.following.entry(*subject).or_insert_with(|| Follow {
                node: (*node).to_owned(),
                epoch: *epoch,
                due,
            });
            follow.epoch = follow.epoch.max(*epoch);
        }
    }

    /// Ramps up what is due, and forgets what it thought it saw while it was cut off.
    pub(super) fn follow_fleet(&self, now: Instant) {
        let mut shared = self.fleet();
        if self.is_cut_off() {
            for stand in shared.stands.values_mut() {
                stand.own = false;
            }
        }
        if shared.following.is_empty() {
            return;
        }
        let due: Vec<(Subject, Follow)> = shared
            .following
            .iter()
            .filter(|(_, follow)| follow.due <= now)
            .map(|(subject, follow)| (*subject, follow.clone()))
            .collect();
        drop(shared);
        for (subject, follow) in due {
            let newer = self.fleet().stands.get(&subject).is_some_and(|stand| stand.epoch >= follow.epoch);
            let change = self.gate(subject).filter(|_| !newer).and_then(|gate| {
                gate.with(now, |breaker| breaker.adopt(format!("proven by {}", follow.node), now))
            });
            let mut shared = self.fleet();
            shared.following.remove(&subject);
            if change.is_some() {
                shared.stands.insert(subject, Stand { epoch: follow.epoch, own: false, at: now });
            }
            drop(shared);
            self.note(subject, change);
        }
    }

    /// What this node has seen itself becomes its word.
    pub(super) fn note_for_fleet(&self, subject: Subject, change: &Transition) {
        let own = match (change.to, change.reason) {
            // Whoever hears of it says so.
            (_, Reason::Fleet) => return,
            // An operator means this node; what peers said before is settled.
            (_, Reason::Operator) | (State::Ramping, Reason::Untriable | Reason::New) => false,
            (State::Open, _) => !self.is_cut_off(),
            (State::Ramping, _) => true,
            (State::Closed | State::Shadowing | State::Disabled, _) => return,
        };
        let mut shared = self.fleet();
        shared.epoch = shared.epoch.saturating_add(1);
        let epoch = shared.epoch;
        shared.stands.insert(subject, Stand { epoch, own, at: change.at });
    }

    pub(super) fn fleet(&self) -> MutexGuard<'_, Shared> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, subject: Subject) -> bool {
        self.gate(subject).is_some_and(|gate| is_shut(gate.view().state))
    }
}

/// No traffic flows, and not because an operator said so.
const fn is_shut(state: State) -> bool {
    matches!(state, State::Open | State::Shadowing)
}
