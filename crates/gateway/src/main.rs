//! Tidegate: a high-availability gateway for OpenAI-compatible APIs.
//!
//! This crate holds all client and upstream sockets. A request's life is in `request`, what it runs by in
//! `gateway`, start and end of a node in `node`; the commands are in `cli`.

mod admin;
mod answer;
mod bill;
mod cli;
mod clock;
mod demo;
mod drain;
mod error;
mod fleet;
mod gateway;
mod headers;
mod health;
mod history;
mod limits;
mod listener;
mod live;
mod log;
mod metrics;
mod node;
mod patient;
mod places;
mod reload;
mod request;
mod store;
mod tls;
mod trace;
mod upstream;
mod usage;
mod worker;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
