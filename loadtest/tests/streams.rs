//! The mock and the generator together: what one sends, the other finds right; what the script spoils, the
//! other counts by its kind.

use std::net::SocketAddr;
use std::time::Duration;

use tidegate_loadtest::load::{self, Extent, Failure, Loop, Mode, Plan};
use tidegate_loadtest::mock::{Mock, Settings};

/// A mock on a free port, served by the test's own runtime.
fn mock() -> std::io::Result<(Mock, SocketAddr)> {
    let mock = Mock::new(Settings::default());
    let listener = Mock::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let serving = mock.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    Ok((mock, address))
}

fn plan(address: SocketAddr, mode: Mode, requests: u64, script: &str) -> Plan {
    Plan {
        url: format!("http://{address}/v1"),
        mode,
        arrivals: Loop::Closed { clients: 20, spread: Duration::ZERO },
        extent: Extent::Requests(requests),
        script: script.into(),
        ..Plan::default()
    }
}

#[tokio::test]
async fn random_streams_arrive_whole_under_random_cutting() {
    let (mock, address) = mock().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..20 {
        let script =
            format!("chunks={}&delay-ms=0&size={}&split=true", random.u32(0..120), random.u32(0..200));
        let plan = Plan { seed: random.u64(..), ..plan(address, Mode::Stream, 50, &script) };
        let report = load::run(&plan).await.unwrap();
        assert_eq!((report.requests, report.failed), (50, 0), "{script}: {:?}", report.examples);
    }
    let stats = mock.stats();
    assert_eq!((stats.requests, stats.in_flight, stats.cancelled), (1000, 0, 0));
}

#[tokio::test]
async fn plain_answers_arrive_whole_in_an_open_loop() {
    let (_, address) = mock().unwrap();
    let plan = Plan {
        arrivals: Loop::Open { rate: 2000.0, connections: 4 },
        extent: Extent::Requests(400),
        ..plan(address, Mode::Plain, 0, "size=100000")
    };
    let report = load::run(&plan).await.unwrap();
    assert_eq!((report.requests, report.failed), (400, 0), "{:?}", report.examples);
    assert_eq!(report.latency.unwrap().count, 400);
}

#[tokio::test]
async fn every_fault_is_counted_by_its_kind() {
    let (mock, address) = mock().unwrap();
    let cases = [
        (Mode::Plain, "status=503", Failure::Status5xx),
        (Mode::Plain, "status=429&retry-after=3", Failure::Status4xx),
        (Mode::Plain, "fault=error", Failure::Status5xx),
        (Mode::Plain, "fault=reset", Failure::Cut),
        (Mode::Plain, "fault=cut", Failure::Cut),
        (Mode::Plain, "fault=garbage", Failure::Corrupt),
        (Mode::Plain, "fault=html", Failure::Corrupt),
        (Mode::Plain, "fault=stall", Failure::Timeout),
        (Mode::Plain, "no-such-setting=1", Failure::Status4xx),
        (Mode::Stream, "status=500", Failure::Status5xx),
        (Mode::Stream, "fault=reset", Failure::Cut),
        (Mode::Stream, "fault=cut", Failure::Cut),
        (Mode::Stream, "fault=cut&fault-at=0", Failure::Cut),
        (Mode::Stream, "fault=no-done", Failure::Cut),
        (Mode::Stream, "fault=garbage", Failure::Corrupt),
        (Mode::Stream, "fault=html", Failure::Corrupt),
        (Mode::Stream, "fault=error", Failure::ErrorEvent),
        (Mode::Stream, "fault=stall", Failure::Timeout),
    ];
    for (mode, script, failure) in cases {
        let delayed = format!("{script}&delay-ms=0&chunks=10");
        let plan = Plan { timeout: Duration::from_millis(300), ..plan(address, mode, 5, &delayed) };
        let report = load::run(&plan).await.unwrap();
        let counts: Vec<_> = report.failures.into_iter().collect();
        assert_eq!(counts, [(failure, 5)], "{mode:?} {script}: {:?}", report.examples);
    }
    let left = load::leftover(&format!("http://{address}/stats")).await.unwrap();
    assert_eq!(left.running, 0);
    assert!(mock.stats().cancelled >= 10, "the stalled ones were hung up on: {:?}", mock.stats());
}

#[tokio::test]
async fn a_cut_comes_after_the_pieces_before_it() {
    let (_, address) = mock().unwrap();
    let report = load::run(&plan(address, Mode::Stream, 1, "chunks=10&delay-ms=0&fault=cut&fault-at=4"))
        .await
        .unwrap();
    assert_eq!(report.failures.get(&Failure::Cut), Some(&1));
    assert_eq!(report.gap.unwrap().count, 3);
}

#[tokio::test]
async fn clients_that_hang_up_leave_nothing_running() {
    let (mock, address) = mock().unwrap();
    let endless = "chunks=100000&delay-ms=5";
    let plan = Plan { hangup_after: Some(3), ..plan(address, Mode::Stream, 200, endless) };
    let report = load::run(&Plan {
        arrivals: Loop::Closed { clients: 200, spread: Duration::from_millis(100) },
        ..plan
    })
    .await
    .unwrap();
    assert_eq!((report.hung_up, report.failed), (200, 0), "{:?}", report.examples);
    let left = load::leftover(&format!("http://{address}/stats")).await.unwrap();
    assert_eq!((left.running, left.cancelled), (0, 200));
    assert_eq!(mock.stats().streams, 0);
}

#[tokio::test]
async fn a_dead_target_is_a_result_and_not_an_error() {
    let listener = Mock::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = load::run(&plan(address, Mode::Plain, 20, "")).await.unwrap();
    assert_eq!(report.failures.get(&Failure::Connect), Some(&20));
}
