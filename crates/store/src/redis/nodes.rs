//! Leases, the fleet and its cool-downs in Redis.
//!
//! Keys: `lease:{NAME}` (a string: the owner); `nodes:{fleet}` (a hash, node to `SEEN LIVES PAYLOAD`, both in
//! ms), `cool:{fleet}` (a hash, name to the time in ms at which it ends) and `epoch:{fleet}` (a string), in
//! one slot.

use std::time::Duration;

use redis::{Cmd, Value};

use super::Redis;
use super::reply::{duration, int, list, millis, text};
use crate::Failure;
use crate::fleet::{Beat, Cooldown, Fleet, Peer};

/// A store that no node used for so long may count as a new one.
const EPOCH: Duration = Duration::from_secs(30 * 86_400);
const FLEET: &str = "fleet";

impl Redis {
    /// See [`crate::Store::lease`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn lease(
        &self,
        name: &str,
        owner: u128,
        lives: Duration,
        within: Duration,
    ) -> Result<bool, Failure> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(1).arg(self.key("lease", name, "")).arg(format!("{owner:032x}")).arg(millis(lives));
        };
        self.control.run(&self.scripts.lease, within, fill, |reply| Some(int(reply)? == 1)).await
    }

    /// See [`crate::Store::release`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn release(&self, name: &str, owner: u128, within: Duration) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(1).arg(self.key("lease", name, "")).arg(format!("{owner:032x}"));
        };
        self.control.run(&self.scripts.release, within, fill, |reply| int(reply).map(|_| ())).await
    }

    /// See [`crate::Store::beat`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn beat(&self, beat: &Beat, within: Duration) -> Result<Fleet, Failure> {
        let epoch = format!("{:032x}", fastrand::u128(..));
        let fill = |cmd: &mut Cmd| {
            cmd.arg(3);
            for family in ["nodes", "cool", "epoch"] {
                cmd.arg(self.key(family, FLEET, ""));
            }
            cmd.arg(&beat.node).arg(&beat.payload).arg(millis(beat.lives)).arg(&epoch).arg(millis(EPOCH));
        };
        self.control.run(&self.scripts.beat, within, fill, fleet).await
    }

    /// See [`crate::Store::leave`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn leave(&self, node: &str, within: Duration) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(1).arg(self.key("nodes", FLEET, "")).arg(node);
        };
        self.control.run(&self.scripts.leave, within, fill, |reply| int(reply).map(|_| ())).await
    }

    /// See [`crate::Store::cool`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn cool(&self, cooldown: &Cooldown, within: Duration) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(1).arg(self.key("cool", FLEET, ""));
            cmd.arg(&cooldown.name)
                .arg(millis(cooldown.left))
                .arg(self.setup.channel())
                .arg(&self.setup.node);
        };
        self.control.run(&self.scripts.cool, within, fill, |reply| int(reply).map(|_| ())).await
    }
}

fn fleet(reply: Value) -> Option<Fleet> {
    let mut reply = list(reply)?;
    let epoch = text(reply.next()?)?;
    let mut said = list(reply.next()?)?;
    let mut nodes = Vec::new();
    while let Some(node) = said.next() {
        let (payload, age) = (text(said.next()?)?, duration(said.next()?)?);
        nodes.push(Peer { node: text(node)?, payload, age });
    }
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let mut cooling = list(reply.next()?)?;
    let mut cooldowns = Vec::new();
    while let Some(name) = cooling.next() {
        cooldowns.push(Cooldown { name: text(name)?, left: duration(cooling.next()?)? });
    }
    cooldowns.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Fleet { nodes, cooldowns, epoch })
}
