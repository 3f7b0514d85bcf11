//! The status page: what `/api/status` says, for people.
//!
//! One answer without anything to fetch besides: markup, style and script together, under a policy that lets nothing
//! else run. The facts are written here from the same JSON as `/api/status`, so the page is whole without JavaScript;
//! its script asks `/api/status?format=html` every second for the facts written anew, and adds the switches. Everything
//! shown is escaped by `out`, whoever named it. Not here: the facts themselves (`status`), and who may change anything.

mod out;
mod paths;
mod tables;
mod traffic;
mod words;

use std::sync::LazyLock;
use std::time::SystemTime;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use out::{Out, at, flag, list, number, word};
use words::{ago, clock, headline, rate, span};

const STYLE: &str = include_str!("page/status.css");
const SCRIPT: &str = include_str!("page/status.js");
/// A gate in the tide. Shown by the browser, so it must not be fetched.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='8' fill='%230b6e7f'/%3E%3Cpath d='M8 7v18M24 7v18' stroke='%23fff' stroke-width='3' stroke-linecap='round'/%3E%3Cpath d='M8 19q4-4 8 0t8 0' stroke='%239fe3ec' stroke-width='3' fill='none'/%3E%3C/svg%3E";

/// Nothing but what the page itself brings.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        STANDARD.encode(digest)
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The whole page.
pub fn page(status: &Value) -> Response {
    let mut out = Out::default();
    out.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    out.raw("<meta name=\"color-scheme\" content=\"light dark\">\n");
    out.raw("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n<title>");
    title(&mut out, status);
    out.raw("</title>\n<link rel=\"icon\" href=\"").raw(ICON).raw("\">\n<style>").raw(STYLE);
    out.raw("</style>\n</head>\n<body>\n<div class=\"bar\"><div class=\"wrap\">");
    out.raw("<svg class=\"mark\" viewBox=\"0 0 32 32\" aria-hidden=\"true\"><path d=\"M7 6v20M25 6v20\"/>");
    out.raw("<path class=\"tide\" d=\"M7 19q4.5-4.5 9 0t9 0\"/></svg><b class=\"brand\">Tidegate</b>");
    out.raw("<span id=\"live\" role=\"status\"><noscript>written anew every 5 s</noscript></span>");
    out.raw("<span id=\"actions\"></span></div></div>\n");
    facts(&mut out, status);
    out.raw("\n<script>").raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
    html(out.end())
}

/// The facts alone, for the page's script.
pub fn part(status: &Value) -> Response {
    let mut out = Out::default();
    facts(&mut out, status);
    html(out.end())
}

fn html(text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
    ];
    (headers, text).into_response()
}

fn title(out: &mut Out, status: &Value) {
    let (tone, _) = headline(status);
    let sign = match tone {
        words::Tone::Good => "",
        words::Tone::Watch => "◐ ",
        words::Tone::Bad => "▲ ",
    };
    out.text(sign).text(word(at(status, "node"), "name")).text(" · Tidegate");
}

fn facts(out: &mut Out, status: &Value) {
    let now = crate::clock::wall();
    let (tone, said) = headline(status);
    out.raw("<main id=\"facts\" class=\"wrap\" data-tone=\"").raw(tone.class()).raw("\" data-title=\"");
    title(out, status);
    out.raw("\" data-node=\"").text(word(at(status, "node"), "name")).raw("\">\n");
    head(out, status, &said, now);
    reload(out, status, now);
    tiles(out, status);
    traffic::section(out, status);
    paths::section(out, status, now);
    out.raw("<div class=\"cards\">\n");
    tables::fleet(out, status, now);
    tables::limits(out, status);
    tables::store(out, status);
    tables::cache(out, status);
    tables::egress(out, status);
    out.raw("</div>\n<footer>The same as JSON: <a href=\"/api/status\">/api/status</a> · ");
    out.raw("tokens and money: <a href=\"/api/usage\">/api/usage</a> · Prometheus: <a href=\"/metrics\">/metrics</a>");
    out.raw("</footer>\n</main>");
}

fn head(out: &mut Out, status: &Value, said: &[String], now: SystemTime) {
    let node = at(status, "node");
    let (class, state) = if flag(node, "draining") {
        ("watch", "draining")
    } else if flag(node, "cut_off") {
        ("bad", "cut off")
    } else {
        ("good", "serving")
    };
    out.raw("<header>\n<h1><span class=\"name\">").text(word(node, "name")).raw("</span>");
    if !word(node, "zone").is_empty() {
        out.raw(" <span class=\"zone\">in ").text(word(node, "zone")).raw("</span>");
    }
    out.raw(" <span class=\"badge ").raw(class).raw("\"><i></i>").raw(state).raw("</span></h1>\n");
    out.raw("<div id=\"headline\" aria-live=\"polite\"><p>");
    if let Some((first, more)) = said.split_first() {
        out.text(first).raw("</p><p>").text(&more.join(" "));
    }
    out.raw("</p></div>\n<ul class=\"meta\">");
    out.raw("<li>version <b>").text(word(node, "version")).raw("</b></li>");
    if let Some(up) = ago(word(node, "started_at"), now) {
        out.raw("<li title=\"since ").text(word(node, "started_at")).raw("\">up <b>");
        out.text(&span(up)).raw("</b></li>");
    }
    let config = at(status, "config");
    let hash = if config.is_null() { word(node, "config_hash") } else { word(config, "hash") };
    out.raw("<li>configuration <code>").text(hash).raw("</code></li>");
    if let Some(age) = ago(word(config, "loaded_at"), now) {
        out.raw("<li title=\"").text(word(config, "file")).raw("\">loaded <b>").text(&span(age));
        out.raw("</b> ago</li>");
    }
    let last = at(config, "last_reload");
    if last.get("successful").and_then(Value::as_bool) == Some(true) {
        out.raw("<li>last reload by <b>").text(word(last, "trigger")).raw("</b> at <b>");
        out.text(clock(word(last, "at"))).raw("</b> UTC</li>");
    }
    out.raw("</ul>\n</header>\n");
}

/// A reload that failed, or that did not do all.
fn reload(out: &mut Out, status: &Value, now: SystemTime) {
    let config = at(status, "config");
    let last = at(config, "last_reload");
    if last.get("successful").and_then(Value::as_bool) == Some(false) {
        out.raw("<section class=\"alarm bad\" id=\"reload\"><h2>The file is faulty</h2>\n<p>");
        if let Some(age) = ago(word(last, "at"), now) {
            out.text(&span(age)).raw(" ago a reload by ").text(word(last, "trigger"));
        }
        out.raw(" changed nothing: the configuration <code>").text(word(config, "hash"));
        out.raw("</code> stays in force.</p>\n<ol>");
        for fault in list(last, "faults").iter().take(20) {
            out.raw("<li><code>").text(word(config, "file"));
            for place in [number(fault, "line"), number(fault, "column")].into_iter().flatten() {
                out.raw(":").show(place);
            }
            out.raw("</code> ").text(word(fault, "text")).raw("</li>");
        }
        out.raw("</ol></section>\n");
    }
    let restart: Vec<&str> = list(last, "restart_needed").iter().filter_map(Value::as_str).collect();
    if !restart.is_empty() {
        out.raw(
            "<section class=\"alarm watch\"><h2>A restart is needed</h2>\n<p>What the file says of <code>",
        );
        out.text(&restart.join(", ")).raw("</code> holds from the next start on.</p></section>\n");
    }
}

/// Sums over all paths.
fn tiles(out: &mut Out, status: &Value) {
    let paths = list(status, "paths");
    let recent = |key: &str, samples: usize| -> (f64, usize) {
        let mut seen = 0;
        let mut sum = 0.0;
        for path in paths {
            let known = list(at(path, "history"), key).iter().rev().take(samples).filter_map(Value::as_f64);
            let known: Vec<f64> = known.collect();
            seen = seen.max(known.len());
            sum += known.iter().sum::<f64>();
        }
        (sum, seen)
    };
    let (attempts, samples) = recent("requests", 3);
    let (all, _) = recent("requests", 12);
    let (failures, _) = recent("failures", 12);
    let tile = |out: &mut Out, label: &'static str, value: &str, more: &str, class: &'static str| {
        out.raw("<div class=\"").raw(class).raw("\"><dt>").raw(label).raw("</dt><dd><b>").text(value);
        out.raw("</b> <span>").text(more).raw("</span></dd></div>");
    };
    out.raw("<dl class=\"tiles\">");
    let per_second = if samples == 0 { 0.0 } else { attempts / (samples as f64 * 5.0) };
    tile(out, "Attempts", &rate(per_second), "a second", "");
    let failed = if all > 0.0 { failures / all } else { 0.0 };
    let class = if failed >= 0.01 { "bad" } else { "" };
    let value = if failed > 0.0 && failed < 0.01 {
        format!("{:.1} %", (failed * 100.0).max(0.1))
    } else {
        words::percent(failed)
    };
    tile(out, "Attempts that failed", &value, "of the last minute", class);
    let running: u64 = paths.iter().map(|path| out::count(path, "in_flight")).sum();
    tile(out, "In flight", &running.to_string(), "now", "");
    let serving = paths.iter().filter(|path| words::serves(path)).count();
    let class = if serving < paths.len() { "bad" } else { "" };
    tile(out, "Paths with traffic", &serving.to_string(), &format!("of {}", paths.len()), class);
    let nodes = list(status, "fleet");
    let ready = nodes.iter().filter(|node| word(node, "state") == "ready").count();
    let class = if ready < nodes.len() { "bad" } else { "" };
    tile(out, "Nodes ready", &ready.to_string(), &format!("of {}", nodes.len()), class);
    out.raw("</dl>\n");
}

#[cfg(test)]
mod tests;
