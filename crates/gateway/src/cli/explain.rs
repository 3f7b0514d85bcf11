//! `tidegate explain`: which route, paths and limits a request would meet, and why.
//!
//! Reads the file alone and asks no node: it says what the configuration has in mind, not what is up right now.

mod sharing;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use humantime::format_duration as shown;
use tidegate_config::used::Hedge;
use tidegate_config::{Client, Config, Purpose, Route, Upstream, beyond_attempts, nearest};

use super::check::{ConfigFile, FILE_DEFAULT, printed};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate explain --config tidegate.yaml --model gpt-4o\n  tidegate explain --config tidegate.yaml --model gpt-4o --client team-a\n\nExit status: 0 when the request would be sent, 1 when it would be refused, 2 when the file or the client's name is\nwrong."
)]
pub struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG", default_value = FILE_DEFAULT, value_parser = ConfigFile)]
    config: PathBuf,
    /// The model the request asks for
    #[arg(long, value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    model: String,
    /// Who asks, a name under `clients`
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
}

/// How it ends, beside what is said.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Sent,
    Refused,
    Wrong,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let config = match tidegate_config::load(&args.config, Purpose::Check) {
        Ok(loaded) => loaded.config,
        Err(faults) => {
            let _ = writeln!(std::io::stderr().lock(), "{faults}");
            return ExitCode::from(2);
        }
    };
    let (text, end) = explain(&config, &args.model, args.client.as_deref());
    let written = match end {
        End::Wrong => std::io::stderr().lock().write_all(text.as_bytes()),
        End::Sent | End::Refused => std::io::stdout().lock().write_all(text.as_bytes()),
    };
    let ended = match end {
        End::Sent => ExitCode::SUCCESS,
        End::Refused => ExitCode::FAILURE,
        // Its text went to stderr, and when that is closed nobody is left to tell.
        End::Wrong => return ExitCode::from(2),
    };
    if written.is_ok() { ended } else { printed(written, &mut std::io::stderr().lock()) }
}

/// In the order a request meets it. Writing into a `String` cannot fail.
fn explain(config: &Config, model: &str, client: Option<&str>) -> (String, End) {
    let mut out = String::new();
    let known = config.clients.as_deref().unwrap_or_default();
    let client = match client.map(|name| known.iter().find(|client| client.name == name).ok_or(name)) {
        None => None,
        Some(Ok(client)) => Some(client),
        Some(Err(name)) => {
            let hint = match nearest(name, known.iter().map(|client| client.name.as_str())) {
                Some(near) => format!("did you mean {near}?"),
                None if known.is_empty() => "the file has no clients, so anyone may call".to_owned(),
                None => "the file has no such name under `clients`".to_owned(),
            };
            return (format!("unknown client {name}: {hint}\n"), End::Wrong);
        }
    };
    let _ = writeln!(out, "model: {model}");
    if !says_client(&mut out, config, model, client) {
        return (out, End::Refused);
    }
    let found = config.routes.iter().position(|route| route.model.matches(model));
    let Some((number, route)) = found.and_then(|index| Some((index + 1, config.routes.get(index)?))) else {
        let _ = writeln!(out, "route: none matches {model}{}", passed_over(&config.routes));
        let _ = writeln!(out, "answer: 404 model_not_found");
        return (out, End::Refused);
    };
    let _ = writeln!(
        out,
        "route: {}, number {number} of {}, the first that matches",
        route.name,
        config.routes.len()
    );
    if number > 1 {
        let before = config.routes.get(..number - 1).unwrap_or_default();
        let _ = writeln!(out, "  before it{}", passed_over(before));
    }
    let upstreams: Vec<&Upstream> =
        route.to.iter().filter_map(|&index| config.upstreams.get(index)).collect();
    says_paths(&mut out, config, route, &upstreams);
    says_times(&mut out, route, &upstreams);
    says_hedge(&mut out, route);
    says_fallback(&mut out, config, route);
    let mirrored =
        if route.shadow { "may be copied to a recovering path of this route" } else { "never copied" };
    let _ = writeln!(out, "shadow: {mirrored}");
    sharing::says_cache(&mut out, config, route);
    sharing::says_limits(&mut out, config, route, client);
    sharing::says_price(&mut out, config, model);
    (out, End::Sent)
}

/// Whether this client may ask for the model.
fn says_client(out: &mut String, config: &Config, model: &str, client: Option<&Client>) -> bool {
    let allowed = match (client, &config.clients) {
        (None, None) => {
            let _ = writeln!(out, "client: anyone may call, the file has no `clients`");
            return true;
        }
        (None, Some(clients)) => {
            let names: Vec<&str> = clients.iter().map(|client| client.name.as_str()).collect();
            let _ = writeln!(
                out,
                "client: none named; a request needs the key of a client ({}); without it 401 invalid_api_key",
                names.join(", ")
            );
            return true;
        }
        (Some(client), _) => {
            let globs = client.models.as_deref();
            let listed =
                globs.unwrap_or_default().iter().map(|glob| glob.as_str()).collect::<Vec<_>>().join(", ");
            match globs.map(|globs| globs.iter().find(|glob| glob.matches(model))) {
                None => writeln!(out, "client: {}, may ask for every model", client.name).is_ok(),
                Some(Some(glob)) => writeln!(
                    out,
                    "client: {}, may ask for it by `{}` of its models",
                    client.name,
                    glob.as_str()
                )
                .is_ok(),
                Some(None) => {
                    let _ = writeln!(out, "client: {}, may ask only for {listed}", client.name);
                    false
                }
            }
        }
    };
    if !allowed {
        let _ = writeln!(out, "answer: 403 model_not_allowed");
    }
    allowed
}

fn passed_over(routes: &[Route]) -> String {
    let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
    format!(" ({}: no match)", names.join(", "))
}

/// Every way to every upstream, in the order of the file.
fn says_paths(out: &mut String, config: &Config, route: &Route, upstreams: &[&Upstream]) {
    let _ = writeln!(out, "paths, among which health, latency and weight decide:");
    let mut paths = 0_usize;
    for upstream in upstreams {
        for egress in upstream.egress.iter().filter_map(|&index| config.egress.get(index)) {
            paths += 1;
            let weight =
                if upstream.weight == 1.0 { String::new() } else { format!(", weight {}", upstream.weight) };
            let _ = writeln!(
                out,
                "  {}@{}  {}, max_in_flight {}{weight}",
                upstream.name,
                egress.name,
                address(upstream),
                upstream.max_in_flight
            );
        }
    }
    if let Some(remark) = beyond_attempts(paths, route.retry.attempts) {
        let _ = writeln!(out, "  {remark}");
    }
}

fn address(upstream: &Upstream) -> String {
    let url = &upstream.base_url;
    format!("{}://{}{}", if url.tls { "https" } else { "http" }, url.authority, url.path)
}

fn says_hedge(out: &mut String, route: &Route) {
    let after = match route.hedge {
        None => return,
        Some(Hedge::Percentile(percent)) => format!("the p{percent} of a path's own times"),
        Some(Hedge::After(time)) => shown(time).to_string(),
    };
    let _ = writeln!(out, "hedge: a second path is asked as well after {after}, within the retry budget");
}

/// What stands in, in the order it is tried.
fn says_fallback(out: &mut String, config: &Config, route: &Route) {
    if route.fallback.is_empty() {
        let _ = writeln!(out, "fallback: none");
        return;
    }
    let _ = writeln!(out, "fallback, tried in this order:");
    for fallback in &route.fallback {
        let Some(upstream) = config.upstreams.get(fallback.upstream) else { continue };
        let when = fallback.when;
        let cases = [
            (when.unavailable, "no path is usable"),
            (when.context_length_exceeded, "the prompt is too long for the model"),
            (when.rate_limited, "every key is at its limit"),
        ];
        let cases: Vec<&str> = cases.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
        let _ = write!(out, "  {}  {}, when {}", upstream.name, address(upstream), cases.join(" or "));
        if let Some(model) = &fallback.model {
            let _ = write!(out, "; as model {model}");
        }
        let prompt = &fallback.prompt;
        if prompt.system.is_some() {
            let _ = write!(out, "; with a system prompt of its own");
        }
        if let Some(most) = prompt.max_tokens {
            let _ = write!(out, "; at most {most} tokens");
        }
        if let Some(turns) = prompt.keep_last_turns {
            let _ = write!(out, "; the last {turns} turns");
        }
        let _ = writeln!(out);
    }
}

fn says_times(out: &mut String, route: &Route, upstreams: &[&Upstream]) {
    let _ = writeln!(out, "timeouts of each attempt:");
    for upstream in upstreams {
        let times = upstream.timeouts;
        let _ = writeln!(
            out,
            "  {}  connect {}, first_byte {}, idle {}",
            upstream.name,
            shown(times.connect),
            shown(times.first_byte),
            shown(times.idle)
        );
    }
    let total = upstreams.iter().map(|upstream| upstream.timeouts.total).max().unwrap_or_default();
    let stream = upstreams.iter().map(|upstream| upstream.timeouts.stream_total).max().unwrap_or_default();
    let _ = writeln!(out, "timeouts of all attempts: {}, streamed {}", shown(total), shown(stream));
    let retry = route.retry;
    let _ = writeln!(
        out,
        "retry: {} attempts at most, another path at once, the same upstream after up to {} growing x{} to {}; \
         retries are at most {}% of requests",
        retry.attempts,
        shown(retry.initial),
        retry.factor,
        shown(retry.max),
        retry.budget * 100.0
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_config::{Config, Purpose, parse};

    use super::{End, explain};

    const FILE: &str = "\
egress: [{name: hk, proxy: 'http://p:3128'}]
upstreams:
  - {name: one, base_url: 'https://one/v1', egress: [hk, direct], timeouts: {total: 30s}}
  - {name: two, base_url: 'http://two:8000/v1'}
routes:
  - {match: {model: 'o1*'}, to: [two]}
  - {match: {model: 'gpt*'}, to: [one, two], retry: {attempts: 4}}
clients:
  - {name: team-a, key_sha256: '1111111111111111111111111111111111111111111111111111111111111111', models: [gpt-4o]}
  - {name: team-b, key_sha256: '2222222222222222222222222222222222222222222222222222222222222222'}
";

    fn config() -> Config {
        parse("f", FILE.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config
    }

    #[test]
    fn the_whole_way_of_a_request() {
        let (text, end) = explain(&config(), "gpt-4o", Some("team-a"));
        assert_eq!(end, End::Sent);
        assert_eq!(
            text,
            "\
model: gpt-4o
client: team-a, may ask for it by `gpt-4o` of its models
route: gpt*, number 2 of 2, the first that matches
  before it (o1*: no match)
paths, among which health, latency and weight decide:
  one@hk  https://one/v1, max_in_flight 1000
  one@direct  https://one/v1, max_in_flight 1000
  two@direct  http://two:8000/v1, max_in_flight 1000
timeouts of each attempt:
  one  connect 5s, first_byte 1m, idle 30s
  two  connect 5s, first_byte 1m, idle 30s
timeouts of all attempts: 2m, streamed 10m
retry: 4 attempts at most, another path at once, the same upstream after up to 100ms growing x2 to 10s; retries are at most 10% of requests
fallback: none
shadow: may be copied to a recovering path of this route
cache: off
limits: node in_flight 1000; beyond it 100 wait for up to 1s, the rest get 503 overloaded
"
        );
    }

    #[test]
    fn refusals_and_slips() {
        for (model, client, end, part) in [
            ("gpt-4", Some("team-a"), End::Refused, "answer: 403 model_not_allowed"),
            ("llama", Some("team-b"), End::Refused, "answer: 404 model_not_found"),
            ("llama", None, End::Refused, "route: none matches llama (o1*, gpt*: no match)"),
            (
                "gpt-4",
                None,
                End::Sent,
                "a request needs the key of a client (team-a, team-b); without it 401 invalid_api_key\n",
            ),
            ("gpt-4", Some("team_a"), End::Wrong, "unknown client team_a: did you mean team-a?"),
            ("gpt-4", Some("zebra"), End::Wrong, "no such name"),
        ] {
            let (text, ended) = explain(&config(), model, client);
            assert_eq!(ended, end, "{text}");
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_fallback_is_told_with_its_cases_and_changes() {
        let file = FILE.replace(
            "retry: {attempts: 4}",
            "hedge: {after: 800ms}, fallback: [{upstream: local, when: [unavailable, rate_limited], model: tiny, \
             prompt: {system: 'Be brief.', max_tokens: 64, keep_last_turns: 2}}]",
        );
        let local = "  - {name: local, base_url: 'http://l:8000/v1', local: true, max_in_flight: 2}\nroutes:";
        let file = file.replacen("routes:", local, 1);
        let config = parse("f", file.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
        let (text, _) = explain(&config, "gpt-4o", None);
        let expected = "\
hedge: a second path is asked as well after 800ms, within the retry budget
fallback, tried in this order:
  local  http://l:8000/v1, when no path is usable or every key is at its limit; as model tiny; with a system prompt \
of its own; at most 64 tokens; the last 2 turns
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn paths_beyond_the_attempts_are_told() {
        let remark = |attempts: &str| {
            let file = FILE.replace("attempts: 4", &format!("attempts: {attempts}"));
            let config = parse("f", file.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
            let (text, _) = explain(&config, "gpt-4o", None);
            text.lines().find(|line| line.contains("raise")).map(str::to_owned)
        };
        let two = "  3 paths and 2 attempts: the last may never be reached; raise `retry.attempts`";
        let one = "  3 paths and 1 attempt: the last 2 may never be reached; raise `retry.attempts`";
        assert_eq!(remark("3"), None);
        assert_eq!(remark("2").as_deref(), Some(two));
        assert_eq!(remark("1").as_deref(), Some(one));
    }

    #[test]
    fn no_model_is_wrong_usage() {
        let parsed = |model: &str| {
            let command = <super::Args as clap::Args>::augment_args(clap::Command::new("explain"));
            command.try_get_matches_from(["explain", "--config", "f", "--model", model])
        };
        assert_eq!(parsed("").unwrap_err().exit_code(), 2);
        assert_eq!(parsed("gpt-4o").unwrap().get_one::<String>("model").unwrap(), "gpt-4o");
    }
}
