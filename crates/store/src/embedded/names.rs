//! Leases, cool-downs and nodes by name, each for a time.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::counter;

use crate::fleet::{Beat, Cooldown, Fleet, Peer};

#[derive(Debug)]
struct Node {
    payload: String,
    said: Duration,
    until: Duration,
}

/// What is there for a time.
#[derive(Debug)]
pub(super) struct Names {
    leases: BTreeMap<String, (u128, Duration)>,
    cooldowns: BTreeMap<String, Duration>,
    nodes: BTreeMap<String, Node>,
    epoch: String,
    max: usize,
}

impl Names {
    /// Empty; at most `max` of each.
    pub fn new(max: usize) -> Self {
        let epoch = format!("{:032x}", fastrand::u128(..));
        Self { leases: BTreeMap::new(), cooldowns: BTreeMap::new(), nodes: BTreeMap::new(), epoch, max }
    }

    /// See [`crate::Store::lease`].
    pub fn lease(&mut self, name: &str, owner: u128, lives: Duration, now: Duration) -> bool {
        let until = now.saturating_add(lives);
        if let Some(lease) = self.leases.get_mut(name) {
            let had = lease.0 == owner || lease.1 <= now;
            if had {
                *lease = (owner, until);
            }
            return had;
        }
        if self.leases.len() >= self.max {
            self.leases.retain(|_, (_, until)| *until > now);
        }
        let room = self.leases.len() < self.max;
        if room {
            self.leases.insert(name.to_owned(), (owner, until));
        }
        room
    }

    /// See [`crate::Store::release`].
    pub fn release(&mut self, name: &str, owner: u128) {
        if self.leases.get(name).is_some_and(|(holder, _)| *holder == owner) {
            self.leases.remove(name);
        }
    }

    /// See [`crate::Store::beat`]. `None`: too many nodes.
    pub fn beat(&mut self, beat: &Beat, now: Duration) -> Option<Fleet> {
        self.nodes.retain(|_, node| node.until > now);
        self.cooldowns.retain(|_, until| *until > now);
        if self.nodes.len() >= self.max && !self.nodes.contains_key(&beat.node) {
            return None;
        }
        let node = Node { payload: beat.payload.clone(), said: now, until: now.saturating_add(beat.lives) };
        self.nodes.insert(beat.node.clone(), node);
        let nodes = self.nodes.iter().map(|(name, node)| Peer {
            node: name.clone(),
            payload: node.payload.clone(),
            age: now.saturating_sub(node.said),
        });
        let cooldowns = self
            .cooldowns
            .iter()
            .map(|(name, until)| Cooldown { name: name.clone(), left: until.saturating_sub(now) });
        Some(Fleet { nodes: nodes.collect(), cooldowns: cooldowns.collect(), epoch: self.epoch.clone() })
    }

    /// See [`crate::Store::leave`].
    pub fn leave(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// See [`crate::Store::cool`].
    pub fn cool(&mut self, cooldown: &Cooldown, now: Duration) {
        let asked = now.saturating_add(cooldown.left);
        if let Some(until) = self.cooldowns.get_mut(&cooldown.name) {
            *until = asked.max(*until);
            return;
        }
        if self.cooldowns.len() >= self.max {
            self.cooldowns.retain(|_, until| *until > now);
        }
        if self.cooldowns.len() < self.max {
            self.cooldowns.insert(cooldown.name.clone(), asked);
        } else {
            counter!("tidegate_store_evictions_total", "kind" => "cooldown").increment(1);
        }
    }
}

#[cfg(test)]
mod tests;
