//! What the kernel says of this process, by the names that all Prometheus clients use, and the tasks that live in it.
//!
//! Read at each scrape from `/proc/self`; where there is none, the families are left out. Not here: what the machine
//! does, which node_exporter tells.

use std::fs;

use super::exposition::{Exposition, Kind};

/// Ticks of a second in `/proc`: Linux tells every program this, whatever its kernel was built with.
const TICKS: f64 = 100.0;

/// Adds them to `text`. Must be called on the control thread.
pub fn render(text: &mut Exposition) {
    let own = tokio::runtime::Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks());
    let tasks = own.saturating_add(crate::worker::tasks());
    text.gauge("tidegate_tasks", "Tasks that live, of all threads", tasks as f64);

    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    if let Some(Stat { cpu_seconds, started }) = Stat::of(&read("stat")) {
        text.family("process_cpu_seconds_total", Kind::Counter, "User and system time")
            .sample(&[], cpu_seconds);
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        if let Some(booted) = booted(&system) {
            text.gauge("process_start_time_seconds", "When it began, since 1970", booted + started);
        }
    }
    let status = read("status");
    for (line, name, help, unit) in [
        ("VmRSS:", "process_resident_memory_bytes", "Memory in use", 1024.0),
        ("VmSize:", "process_virtual_memory_bytes", "Memory mapped", 1024.0),
        ("Threads:", "process_threads", "Threads", 1.0),
    ] {
        if let Some(value) = number(&status, line) {
            text.gauge(name, help, value * unit);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The one that lists them is not among them afterwards.
        let open = open.count().saturating_sub(1);
        text.gauge("process_open_fds", "Open files and sockets", open as f64);
    }
    if let Some(most) = number(&read("limits"), "Max open files") {
        text.gauge("process_max_fds", "Open files and sockets allowed", most);
    }
}

/// Of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// Seconds after the machine.
    started: f64,
}

impl Stat {
    fn of(stat: &str) -> Option<Self> {
        // The program's name, in brackets, may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        // The first of them is the third of proc_pid_stat(5).
        let field = |number: usize| fields.split(' ').nth(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_seconds: (field(14)? + field(15)?) / TICKS, started: field(22)? / TICKS })
    }
}

fn booted(stat: &str) -> Option<f64> {
    number(stat, "btime")
}

/// The first number in the line that begins with `name`.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_program_is_called() {
        let rest = "S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 5 0 12345 1 2 3";
        for name in ["tidegate", "a b", "x) y ("] {
            let stat = Stat::of(&format!("42 ({name}) {rest}"));
            assert_eq!(stat, Some(Stat { cpu_seconds: 2.0, started: 123.45 }));
        }
        assert_eq!(Stat::of("42 (tidegate) S 1"), None);
    }

    #[test]
    fn figures_are_found_by_their_line() {
        let status = "Name:\tx\nVmSize:\t 2048 kB\nVmRSS:\t    1024 kB\nThreads:\t5\n";
        assert_eq!((number(status, "VmRSS:"), number(status, "Threads:")), (Some(1024.0), Some(5.0)));
        assert_eq!(number(status, "VmSwap:"), None);
        assert_eq!(number("Max open files   1024   4096   files\n", "Max open files"), Some(1024.0));
        assert_eq!(
            number("Max open files   unlimited   unlimited   files\n", "Max open files"),
            Some(f64::INFINITY)
        );
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
