use std::ops::Deref;

use super::*;
use crate::embedded::{Bounds, Embedded};

mod flights;
mod keeping;
mod nodes;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
/// What a find may spend on the store.
const ALLOWANCE: Duration = Duration::from_millis(25);
const RULES: Rules = Rules { ttl: HOUR, stale: Duration::ZERO, max_size: 1 << 20 };

fn store() -> Store {
    Store::embedded(Embedded::new(Bounds::default(), || Duration::ZERO))
}

/// One node of several over `store`.
struct Node {
    answers: Arc<Answers>,
    key: Key,
}

impl Deref for Node {
    type Target = Arc<Answers>;

    fn deref(&self) -> &Arc<Answers> {
        &self.answers
    }
}

impl Node {
    fn new(store: &Store) -> Self {
        Self::with(store, 1 << 20, true, true)
    }

    /// The only one.
    fn single() -> Self {
        Self::with(&store(), 1 << 20, false, true)
    }

    fn with(store: &Store, memory: usize, shared: bool, runs: bool) -> Self {
        let answers = Answers::with_shared(store.clone(), memory, Some(b"secret"), 200 * MS, shared);
        if runs {
            tokio::spawn(Arc::clone(&answers).run());
        }
        let key = answers.key(&[b"a request"]);
        Self { answers, key }
    }

    async fn finds(&self) -> Found {
        self.reads(Read::Normal).await
    }

    async fn reads(&self, read: Read) -> Found {
        self.find(self.key, &RULES, read, "", ALLOWANCE).await
    }

    async fn leads(&self) -> Lead {
        self.leads_by(&RULES).await
    }

    async fn leads_by(&self, rules: &Rules) -> Lead {
        lead(self.find(self.key, rules, Read::Normal, "", ALLOWANCE).await)
    }

    async fn follows(&self) -> Follower {
        follow(self.finds().await)
    }

    /// Makes and keeps an answer of `pieces`.
    async fn keeps(&self, rules: &Rules, pieces: &[&'static str]) {
        let lead = self.leads_by(rules).await;
        lead.head(head());
        for piece in pieces {
            lead.piece(Bytes::from_static(piece.as_bytes())).await;
        }
        lead.complete(true);
    }

    /// Waits until the store has it, or has it no more.
    async fn stored(&self, there: bool) {
        let stored = async {
            while self.store.look_up(&self.key.hex(), ALLOWANCE).await.unwrap().is_some() != there {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SECOND, stored).await.unwrap();
    }
}

fn head() -> Head {
    Head { status: 200, content_type: "text/event-stream".into(), streamed: true, about: "{}".into() }
}

#[track_caller]
fn lead(found: Found) -> Lead {
    let Found::Lead(lead) = found else { panic!("{found:?}") };
    lead
}

#[track_caller]
fn follow(found: Found) -> Follower {
    let Found::Follow(follower) = found else { panic!("{found:?}") };
    follower
}

#[track_caller]
fn hit(found: Found) -> (Vec<Bytes>, Duration) {
    let Found::Hit(kept, age) = found else { panic!("{found:?}") };
    assert_eq!(kept.head, head());
    (kept.pieces.clone(), age)
}

/// All that comes, and how it ends.
async fn read_out(follower: &mut Follower) -> (Vec<Bytes>, bool) {
    let mut pieces = Vec::new();
    loop {
        match follower.piece().await {
            Some(Ok(piece)) => pieces.push(piece),
            end => return (pieces, end.is_none()),
        }
    }
}

async fn begins(follower: &mut Follower) {
    let joined = follower.head().await;
    assert!(matches!(&joined, Joined::Head(begun) if *begun == head()), "{joined:?}");
}

async fn taken_over(follower: &mut Follower) -> Lead {
    match follower.head().await {
        Joined::Lead(lead) => lead,
        other => panic!("{other:?}"),
    }
}

impl Found {
    fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}
