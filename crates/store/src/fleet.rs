//! Who is there: what nodes say of themselves every second, and the cool-downs they share.

use std::time::Duration;

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Beat {
    /// Unique name of the node.
    pub node: String,
    /// JSON; opaque to the store. At most 64 KiB.
    pub payload: String,
    /// A node that was not heard of for so long is gone.
    pub lives: Duration,
    /// [`Fleet::epoch`] as last heard; empty when never.
    pub epoch: String,
}

/// What a node hears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// All who are there, this node among them, by name.
    pub nodes: Vec<Peer>,
    /// Those that run.
    pub cooldowns: Vec<Cooldown>,
    /// Names this filling of the store; another one than before: the store has lost what it held.
    pub epoch: String,
}

/// A node, as it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Its word.
    pub payload: String,
    /// How long ago it said so.
    pub age: Duration,
}

/// A credential that rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cooldown {
    /// Names it without saying it.
    pub name: String,
    /// How long still.
    pub left: Duration,
}
