//! `/api/config`: what this node runs by, as a file could say it. Open like every other read: a secret is no more in
//! it than the reference to it. Not here: changing it.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::Admin;

/// The effective configuration.
pub(super) async fn get(State(admin): State<Admin>) -> Json<Value> {
    Json(Value::clone(&admin.live.gateway().config.effective))
}
