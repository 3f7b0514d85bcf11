//! Answers in Redis.
//!
//! Keys, all of an answer in one slot: `answer:{KEY}` (a string), `marker:{KEY}` (a hash: `owner`, `note`,
//! `followed`, `alone`) and `pieces:{KEY}` (a list). They go over a connection of their own, so that a long
//! answer delays no limit.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::Redis;
use super::reply::{bytes, duration, int, list, millis, text};
use crate::Failure;
use crate::cache::{Begun, Followed, Renewed};

/// Pieces that one question gives.
const PIECES: usize = 256;

impl Redis {
    /// See [`crate::Store::begin`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin(
        &self,
        key: &str,
        owner: u128,
        note: &str,
        lives: Duration,
        within: Duration,
    ) -> Result<Begun, Failure> {
        let fill = |cmd: &mut Cmd| {
            self.answer(cmd, key, &["answer", "marker", "pieces"]);
            cmd.arg(hex(owner)).arg(note).arg(millis(lives));
        };
        let read = |reply| {
            let mut reply = list(reply)?;
            match &*text(reply.next()?)? {
                "found" => Some(Begun::Found(bytes(reply.next()?)?, duration(reply.next()?)?)),
                "lead" => Some(Begun::Lead),
                "follow" => Some(Begun::Follow(text(reply.next()?)?)),
                "alone" => Some(Begun::Alone),
                _ => None,
            }
        };
        self.blobs.run(&self.scripts.begin, within, fill, read).await
    }

    /// See [`crate::Store::look_up`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn look_up(&self, key: &str, within: Duration) -> Result<Option<(Bytes, Duration)>, Failure> {
        let fill = |cmd: &mut Cmd| self.answer(cmd, key, &["answer"]);
        let read = |reply| {
            let mut reply = list(reply)?;
            match &*text(reply.next()?)? {
                "found" => Some(Some((bytes(reply.next()?)?, duration(reply.next()?)?))),
                "none" => Some(None),
                _ => None,
            }
        };
        self.blobs.run(&self.scripts.look_up, within, fill, read).await
    }

    /// See [`crate::Store::renew`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn renew(
        &self,
        key: &str,
        owner: u128,
        pieces: &[Bytes],
        lives: Duration,
        within: Duration,
    ) -> Result<Renewed, Failure> {
        let fill = |cmd: &mut Cmd| {
            self.answer(cmd, key, &["marker", "pieces"]);
            cmd.arg(hex(owner)).arg(millis(lives));
            for piece in pieces {
                cmd.arg(&**piece);
            }
        };
        let read = |reply| {
            let mut reply = list(reply)?;
            Some(Renewed { held: int(reply.next()?)? == 1, followed: int(reply.next()?)? == 1 })
        };
        self.blobs.run(&self.scripts.renew, within, fill, read).await
    }

    /// See [`crate::Store::follow`]. At most 256 pieces at once.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn follow(&self, key: &str, from: usize, within: Duration) -> Result<Followed, Failure> {
        let fill = |cmd: &mut Cmd| {
            self.answer(cmd, key, &["answer", "marker", "pieces"]);
            cmd.arg(from).arg(PIECES);
        };
        let read = |reply| {
            let mut reply = list(reply)?;
            match &*text(reply.next()?)? {
                "found" => Some(Followed::Found(bytes(reply.next()?)?, duration(reply.next()?)?)),
                "pieces" => list(reply.next()?)?.map(bytes).collect::<Option<_>>().map(Followed::Pieces),
                "orphaned" => Some(Followed::Orphaned),
                "alone" => Some(Followed::Alone),
                _ => None,
            }
        };
        self.blobs.run(&self.scripts.follow, within, fill, read).await
    }

    /// See [`crate::Store::put`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put(
        &self,
        key: &str,
        owner: u128,
        value: &Bytes,
        kept: Duration,
        within: Duration,
    ) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| {
            self.answer(cmd, key, &["answer", "marker", "pieces"]);
            cmd.arg(hex(owner)).arg(&**value).arg(millis(kept));
        };
        self.blobs.run(&self.scripts.put, within, fill, done).await
    }

    /// See [`crate::Store::give_up`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn give_up(
        &self,
        key: &str,
        owner: u128,
        uncacheable: bool,
        within: Duration,
    ) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| {
            self.answer(cmd, key, &["marker", "pieces"]);
            cmd.arg(hex(owner)).arg(u8::from(uncacheable));
        };
        self.blobs.run(&self.scripts.give_up, within, fill, done).await
    }

    /// See [`crate::Store::forget`].
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn forget(&self, key: &str, within: Duration) -> Result<(), Failure> {
        let fill = |cmd: &mut Cmd| self.answer(cmd, key, &["answer"]);
        self.blobs.run(&self.scripts.forget, within, fill, done).await
    }

    fn answer(&self, cmd: &mut Cmd, key: &str, families: &[&str]) {
        cmd.arg(families.len());
        for family in families {
            cmd.arg(self.key(family, key, ""));
        }
    }
}

fn done(reply: Value) -> Option<()> {
    int(reply).map(|_| ())
}

fn hex(owner: u128) -> String {
    format!("{owner:032x}")
}
