//! A node's word, said every second, and what it hears in turn.
//!
//! A beat that fails says nothing yet; after `LOST_BEATS` of them, and none heard for as long as a node lives, this node
//! is on its own until one succeeds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_health::registry::PeerSays;
use tidegate_store::fleet::{Beat, Cooldown};
use tokio::time::{Instant, sleep, timeout};

use super::{Fleet, Heard, LIVES, Peer, WITHIN, Word};
use crate::gateway::Gateway;
use crate::health::now;
use crate::live::Live;

/// From one word to the next, give or take a fifth.
const BEAT: Duration = Duration::from_secs(1);
/// Hints do not make it more often than this.
const BEAT_LEAST: Duration = Duration::from_millis(100);
/// So many words in a row without an answer, and the store is away rather than slow.
const LOST_BEATS: u32 = 3;
/// Rests of one beat that are taken in.
const COOLDOWNS_MAX: usize = 10_000;
/// Peers whose words could not be read, remembered so that each is named once.
const UNREADABLE_MAX: usize = 64;

/// What the beating task remembers from one word to the next.
#[derive(Default)]
struct Memory {
    epoch: String,
    in_touch: bool,
    lost: u32,
    unreadable: HashSet<String>,
    warned_of_name: bool,
    /// The beat that tells of the drain was due.
    said_goodbye: bool,
}

impl Fleet {
    pub(super) async fn beats(&self, live: &Live) {
        let mut memory = Memory::default();
        let drain = Arc::clone(&live.gateway().drain);
        loop {
            self.beat(&live.gateway(), &mut memory).await;
            self.count_nodes();
            sleep(BEAT_LEAST).await;
            let rest = BEAT.mul_f64(0.8 + 0.4 * fastrand::f64()).saturating_sub(BEAT_LEAST);
            tokio::select! {
                // A hint that is lost, or never comes, costs a beat.
                _ = timeout(rest, self.store.hinted()) => {}
                // From now on the others share among themselves.
                () = drain.begun.cancelled(), if !memory.said_goodbye => memory.said_goodbye = true,
            }
        }
    }

    async fn beat(&self, gateway: &Gateway, memory: &mut Memory) {
        let payload = self.word(gateway).payload();
        let beat = Beat { node: self.key(), payload, lives: LIVES, epoch: memory.epoch.clone() };
        let sent = Instant::now();
        match self.store.beat(&beat, WITHIN).await {
            Ok(fleet) => {
                memory.lost = 0;
                self.hear(gateway, &fleet.nodes, sent, memory);
                for Cooldown { name, left } in fleet.cooldowns.iter().take(COOLDOWNS_MAX) {
                    for upstream in &gateway.upstreams {
                        upstream.keys.apply(name, *left, Instant::now());
                    }
                }
                // The store was away, or has lost what it held.
                if !memory.in_touch || memory.epoch != fleet.epoch {
                    for upstream in &gateway.upstreams {
                        for rest in upstream.keys.running(Instant::now()) {
                            let _ = self.tell.try_send(rest);
                        }
                    }
                }
                memory.in_touch = true;
                memory.epoch = fleet.epoch;
            }
            Err(failure) => {
                memory.lost = memory.lost.saturating_add(1);
                // A process that was stopped for a while finds its connection broken, and its peers where they were.
                if memory.lost >= LOST_BEATS && !self.is_in_touch() {
                    if memory.in_touch {
                        tracing::warn!(cause = %failure, "peers are not heard of: this node is on its own");
                        gateway.health.hear(&[], now());
                    }
                    memory.in_touch = false;
                    gateway.health.unleased(self.nodes());
                }
            }
        }
    }

    fn hear(
        &self,
        gateway: &Gateway,
        nodes: &[tidegate_store::fleet::Peer],
        sent: Instant,
        memory: &mut Memory,
    ) {
        let mut peers = Vec::new();
        let mut count = u32::from(!gateway.drain.is_draining());
        let own = self.key();
        for node in nodes.iter().filter(|node| node.node != own) {
            match Word::read(&node.payload) {
                Ok(word) => {
                    count += u32::from(!word.draining);
                    memory.unreadable.remove(&node.node);
                    peers.push(Peer { word: Arc::new(word), age: node.age });
                }
                Err(why) => {
                    // It is there all the same and takes its share.
                    count += 1;
                    if memory.unreadable.len() < UNREADABLE_MAX && memory.unreadable.insert(node.node.clone())
                    {
                        tracing::warn!(node = %node.node, cause = %why, "a node's word cannot be read and is skipped");
                    }
                }
            }
        }
        let twin = |peer: &Peer| peer.word.name == self.node && peer.age < BEAT * 2;
        // This node's last run may not be forgotten yet.
        let grown = self.born.elapsed() > LIVES * 2;
        if grown && !memory.warned_of_name && peers.iter().any(twin) {
            memory.warned_of_name = true;
            tracing::warn!(node = %self.node, "another node has this name: give each a `node.name` of its own");
        }
        let says = |peer: &Peer| PeerSays { node: peer.word.name.clone(), report: peer.word.report() };
        let says: Vec<PeerSays> = peers.iter().map(says).collect();
        gateway.health.hear(&says, now());
        self.heard.store(Arc::new(Heard { at: Some(sent), peers, nodes: count }));
    }
}
