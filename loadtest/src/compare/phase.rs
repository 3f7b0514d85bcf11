//! What is measured of each gateway, and how.
//!
//! Each phase is one run of the generator. A figure is the median of its rounds; the table also shows the
//! least and the most, so that a figure that cannot be trusted looks it.

use std::time::Duration;

use crate::load::{Extent, Loop, Mode, Plan};
use crate::report::Report;

use super::gateway::{Gateway, Kind};

/// Between two pieces: long enough that each is a packet and a wake-up of its own.
const PIECE_GAP_MS: u64 = 10;
/// Pieces of a stream whose pieces are counted: enough that opening it hardly shows.
const PIECES: u32 = 200;
/// Streams in the memory phase.
const MANY_STREAMS: u16 = 1000;
/// Load before the window.
const WARMUP: Duration = Duration::from_secs(1);

/// One run of the generator against each gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Plain requests at a fixed rate.
    Paced,
    /// Plain requests as fast as 32 clients get answers.
    Busy,
    /// Plain requests one after another.
    Single,
    /// 100 streams.
    Streams,
    /// 1,000 streams at once.
    Memory,
}

/// All phases in the order they are run.
pub const PHASES: [Phase; 5] = [Phase::Paced, Phase::Busy, Phase::Single, Phase::Streams, Phase::Memory];

impl Phase {
    /// For progress messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paced => "plain, paced",
            Self::Busy => "plain, busy",
            Self::Single => "plain, one connection",
            Self::Streams => "100 streams",
            Self::Memory => "1,000 streams at once",
        }
    }

    /// Whether the phase says anything of `kind`: without a gateway there is no CPU time of one.
    pub fn applies(self, kind: Kind) -> bool {
        match self {
            Self::Paced | Self::Streams | Self::Memory => kind != Kind::Direct,
            Self::Busy | Self::Single => true,
        }
    }

    /// The run: `lasting` long, `rate` for what is paced. `round` changes the content.
    pub fn plan(self, gateway: &Gateway, lasting: Duration, rate: f64, round: u32) -> Plan {
        let base = Plan {
            url: gateway.plain_url.clone(),
            extent: Extent::Lasting(lasting),
            warmup: WARMUP,
            seed: (u64::from(round) + 1) << 40,
            pids: gateway.pid().into_iter().collect(),
            ..Plan::default()
        };
        let stream = Plan { mode: Mode::Stream, url: gateway.stream_url.clone(), ..base.clone() };
        let closed = |clients: usize, spread| Loop::Closed { clients, spread };
        match self {
            Self::Paced => Plan { arrivals: Loop::Open { rate, connections: 64 }, ..base },
            Self::Busy => Plan { arrivals: closed(32, Duration::ZERO), ..base },
            Self::Single => Plan { arrivals: closed(1, Duration::ZERO), ..base },
            Self::Streams => Plan {
                arrivals: closed(100, WARMUP),
                script: format!("chunks={PIECES}&delay-ms={PIECE_GAP_MS}"),
                ..stream
            },
            Self::Memory => Plan {
                arrivals: closed(MANY_STREAMS.into(), WARMUP),
                extent: Extent::Requests(MANY_STREAMS.into()),
                script: "chunks=50&delay-ms=100".into(),
                ..stream
            },
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What it is and how it was measured.
    pub what: &'static str,
    /// Which phase it comes from.
    pub phase: Phase,
    /// Whether the value without a gateway is subtracted.
    pub added: bool,
    /// Reads it from a run; `None`: the run does not say.
    pub read: fn(&Report) -> Option<f64>,
    /// A ratio to nginx says something.
    pub ratio: bool,
}

/// The table's lines.
pub const FIGURES: [Figure; 9] = [
    Figure {
        what: "CPU per plain request, paced (us)",
        phase: Phase::Paced,
        added: false,
        read: |report| report.cpu?.us_per_answer,
        ratio: true,
    },
    Figure {
        what: "CPU per plain request, 32 busy clients (us)",
        phase: Phase::Busy,
        added: false,
        read: |report| report.cpu?.us_per_answer,
        ratio: true,
    },
    Figure {
        what: "plain answers per second, 32 busy clients",
        phase: Phase::Busy,
        added: false,
        read: |report| Some(report.answers_per_second),
        ratio: true,
    },
    Figure {
        what: "CPU per stream chunk, 100 streams (us)",
        phase: Phase::Streams,
        added: false,
        read: |report| report.cpu?.us_per_piece,
        ratio: true,
    },
    Figure {
        what: "latency p50, one connection (us)",
        phase: Phase::Single,
        added: false,
        read: |report| Some(report.latency?.p50_us),
        ratio: false,
    },
    Figure {
        what: "latency p99, one connection (us)",
        phase: Phase::Single,
        added: false,
        read: |report| Some(report.latency?.p99_us),
        ratio: false,
    },
    Figure {
        what: "added latency p50, one connection (us)",
        phase: Phase::Single,
        added: true,
        read: |report| Some(report.latency?.p50_us),
        ratio: true,
    },
    Figure {
        what: "added latency p99, one connection (us)",
        phase: Phase::Single,
        added: true,
        read: |report| Some(report.latency?.p99_us),
        ratio: true,
    },
    Figure {
        what: "resident memory, 1,000 streams (MiB)",
        phase: Phase::Memory,
        added: false,
        read: |report| Some(report.rss_peak_kib? as f64 / 1024.0),
        ratio: true,
    },
];
