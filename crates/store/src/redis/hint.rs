//! Hears that another node shared something.
//!
//! A connection of its own, as a subscribed one can do nothing else. What is missed while it is away is
//! learnt by the next beat, so its loss is not said anywhere.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Setup;
use super::dial::listen;
use super::slot::jittered;

const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Notifies `heard` of other nodes' hints for as long as it is polled.
pub(super) async fn hear(setup: Arc<Setup>, heard: Arc<Notify>) {
    let channel = setup.channel();
    let mut pause = PAUSE;
    loop {
        if let Ok(listener) = listen(&setup, &channel).await {
            pause = PAUSE;
            let mut hints = listener.into_on_message();
            while let Some(hint) = hints.next().await {
                if hint.get_payload_bytes() != setup.node.as_bytes() {
                    heard.notify_one();
                }
            }
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
