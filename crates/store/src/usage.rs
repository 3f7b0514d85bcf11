//! What clients used, by UTC day, client and model.

/// What is added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// Name of the client; empty where anyone may call.
    pub client: String,
    /// Name of the model, from a bounded list.
    pub model: String,
    /// How much.
    pub amount: Amount,
}

/// How much was used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amount {
    /// Requests answered.
    pub requests: u64,
    /// Tokens read, those from the upstream's cache included.
    pub prompt: u64,
    /// Tokens written.
    pub completion: u64,
    /// Of `prompt`, those from the upstream's cache.
    pub cached: u64,
    /// Millionths of a US dollar.
    pub micro_usd: f64,
}

/// What was used in a day.
pub type Spent = Entry;
