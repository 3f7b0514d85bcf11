//! Shapes on the wire: what of OpenAI-compatible requests, answers, events and errors the gateway must understand.
//! Pure bytes in, bytes out: no sockets, no tasks, no clock, so nothing it depends on can be down. It owns what a
//! field means, and not what to do about it: bytes that need no change are handed on as they came, and a field
//! unknown here passes unseen. Input is hostile: every function takes any bytes, in time linear in their length.

pub mod adapt;
pub mod answer;
mod body;
pub mod cacheable;
pub mod canonical;
pub mod error;
mod lenient;
pub mod mirror;
pub mod models;
pub mod replay;
pub mod request;
pub mod sse;
pub mod tokens;
pub mod usage_option;
