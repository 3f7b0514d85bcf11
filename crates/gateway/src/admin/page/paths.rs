//! Every path: its state and why, how far it is on its way back, and its last five minutes.

use std::time::SystemTime;

use serde_json::Value;

use super::out::{Out, at, count, list, number, word};
use super::words::{ago, are, cut, means, millis, models, own, percent, shut, span, until, why};

/// Of a sparkline.
const WIDTH: f64 = 180.0;
const HEIGHT: f64 = 34.0;

/// The section.
pub(super) fn section(out: &mut Out, status: &Value, now: SystemTime) {
    out.raw("<section id=\"paths\"><div class=\"top\"><h2>Paths</h2>");
    out.raw("<p>an upstream over a way out; <i>open</i> as an electric circuit: nothing flows</p></div>\n");
    out.raw("<table role=\"table\" class=\"paths\"><thead role=\"rowgroup\"><tr role=\"row\">");
    for (class, name) in [
        ("", "Path"),
        ("", "State"),
        ("", "Why"),
        ("", "Last 5 minutes"),
        ("n", "First content"),
        ("n", "Probe"),
        ("n", "Share"),
        ("n", "In flight"),
        ("n", "Failures"),
        ("n", "Keys"),
    ] {
        out.raw("<th role=\"columnheader\" scope=\"col\" class=\"")
            .raw(class)
            .raw("\">")
            .raw(name)
            .raw("</th>");
    }
    out.raw("</tr></thead>\n<tbody role=\"rowgroup\">");
    for path in list(status, "paths") {
        row(out, path, now);
    }
    out.raw("</tbody></table></section>\n");
}

fn cell(out: &mut Out, name: &'static str, text: &str, class: &'static str) {
    out.raw("<td role=\"cell\" data-name=\"").raw(name).raw("\" class=\"n ").raw(class).raw("\">");
    out.text(text).raw("</td>");
}

fn row(out: &mut Out, path: &Value, now: SystemTime) {
    let (name, state, own) = (word(path, "name"), word(path, "state"), own(path));
    out.raw("<tr role=\"row\" data-key=\"").text(name).raw("\" class=\"").text(state).raw("\">");
    out.raw("<th role=\"rowheader\" scope=\"row\"><span class=\"name\">").text(name).raw("</span>");
    out.raw("<span class=\"switch\" data-path=\"").text(name).raw("\" data-state=\"").text(own);
    if own != state {
        out.raw(" but for some models");
    }
    out.raw("\"></span></th><td role=\"cell\" class=\"state\">");
    badge(out, own);
    // How long is known of the worst alone.
    if own == state
        && let Some(since) = ago(word(path, "since"), now)
    {
        out.raw("<span class=\"since\" title=\"since ").text(word(path, "since")).raw("\">for ");
        out.text(&span(since)).raw("</span>");
    }
    out.raw("</td><td role=\"cell\" class=\"why\">");
    reason(out, path, now);
    out.raw("</td><td role=\"cell\" class=\"past\">");
    sparkline(out, at(path, "history"));
    out.raw("</td>");
    let time = |key: &str| number(path, key).map_or_else(|| "–".to_owned(), millis);
    cell(out, "First content", &time("ttft_ms"), "");
    cell(out, "Probe", &time("latency_ms"), "");
    let share = number(path, "own_share").or_else(|| number(path, "share"));
    cell(out, "Share", &percent(share.unwrap_or_default()), "");
    cell(out, "In flight", &count(path, "in_flight").to_string(), "");
    let failures = count(path, "failures");
    cell(out, "Failures", &failures.to_string(), if failures > 0 { "some" } else { "" });
    let keys = at(path, "keys");
    let (total, resting) = (count(keys, "total"), count(keys, "resting"));
    let said = match (total, resting) {
        (0, _) => "none".to_owned(),
        (_, 0) => total.to_string(),
        _ => format!("{resting} of {total} rest"),
    };
    cell(out, "Keys", &said, if resting > 0 { "some" } else { "" });
    out.raw("</tr>\n");
}

fn badge(out: &mut Out, state: &str) {
    out.raw("<span class=\"badge ").text(state).raw("\" title=\"").raw(means(state)).raw("\"><i></i>");
    out.text(state).raw("</span>");
}

fn reason(out: &mut Out, path: &Value, now: SystemTime) {
    let (state, said) = (word(path, "state"), word(path, "reason"));
    let text = why(state, said);
    out.raw("<p>");
    match shut(path) {
        0 => out.text(if text.is_empty() { said } else { text }),
        shut => out.text(&models(shut)).raw(" of it ").raw(are(shut)).raw(" shut"),
    };
    out.raw(".");
    let evidence = word(path, "evidence");
    if !evidence.is_empty() {
        out.raw(" <span class=\"soft\" title=\"")
            .text(evidence)
            .raw("\">")
            .text(&cut(evidence, 90))
            .raw("</span>");
    }
    out.raw("</p>");
    way_back(out, path, state, now);
    // A model that is well on a path that is not says nothing new.
    let models = list(path, "models").iter().filter(|model| word(model, "state") != "closed");
    for model in models.take(4) {
        let (state, reason) = (word(model, "state"), word(model, "reason"));
        out.raw("<p class=\"model\"><code>").text(&cut(word(model, "model"), 40)).raw("</code> ");
        badge(out, state);
        out.raw(" <span class=\"soft\">").text(why(state, reason)).raw("</span></p>");
    }
}

/// The four stages, where it stands among them, and what it waits for.
fn way_back(out: &mut Out, path: &Value, state: &str, now: SystemTime) {
    let stage = match state {
        "open" => 0,
        "shadowing" => 1,
        "ramping" => 2,
        _ => return,
    };
    let recovery = at(path, "recovery");
    let get = |key: &str| number(recovery, key).unwrap_or_default();
    let steps = |done: f64, all: f64| if all > 0.0 { (done / all).clamp(0.0, 1.0) } else { 0.0 };
    let (part, said) = match state {
        "open" => match until(word(path, "open_until"), now) {
            Some(left) => {
                let rested = ago(word(path, "since"), now).unwrap_or_default();
                let all = (rested + left).as_secs_f64();
                (steps(rested.as_secs_f64(), all), format!("rests for {} more", span(left)))
            }
            None if word(path, "reason") == "operator" => (0.0, "until an operator enables it".to_owned()),
            None => (1.0, "its rest is over; it waits for a probe to pass".to_owned()),
        },
        "shadowing" => {
            let next = match get("next_ms") {
                wait if wait >= 1_000.0 => format!("; next copy in {}", millis(wait)),
                _ => String::new(),
            };
            let span = if get("passes") >= get("needed") && get("took_ms") < get("span_ms") {
                format!("; {} more to show it lasts", millis(get("span_ms") - get("took_ms")))
            } else {
                String::new()
            };
            let passes = get("passes").min(get("needed"));
            let said = format!("{passes} of {} trial requests passed{next}{span}", get("needed"));
            (steps(get("passes"), get("needed")), said)
        }
        _ => {
            let share = percent(number(path, "share").unwrap_or_default());
            let (step, all) = (get("step"), get("steps"));
            let good = get("good").min(get("needed"));
            let said = format!(
                "step {step} of {all}: {share} of its share; {good} of {} answers good",
                get("needed")
            );
            (steps(step, all), said)
        }
    };
    out.raw("<div class=\"back\"><ol>");
    for (n, name) in ["rest", "prove", "ramp", "serve"].into_iter().enumerate() {
        out.raw("<li class=\"");
        out.raw(if n < stage {
            "done"
        } else if n == stage {
            "now\" aria-current=\"step"
        } else {
            ""
        });
        out.raw("\">").raw(name);
        out.raw("<svg viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
        out.raw(
            "<rect class=\"rail\" width=\"100\" height=\"4\"/><rect class=\"fill\" height=\"4\" width=\"",
        );
        let width = if n < stage {
            100.0
        } else if n == stage {
            part * 100.0
        } else {
            0.0
        };
        out.show(format_args!("{width:.0}")).raw("\"/></svg></li>");
    }
    out.raw("</ol><p class=\"soft\">").text(&said).raw("</p></div>");
}

/// Latency as a line, failures as ticks, states as a strip below.
fn sparkline(out: &mut Out, history: &Value) {
    let latency: Vec<Option<f64>> = list(history, "latency_ms").iter().map(Value::as_f64).collect();
    let sum = |key: &str| -> f64 { list(history, key).iter().filter_map(Value::as_f64).sum() };
    let known = || latency.iter().flatten().copied();
    let (least, most) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
    out.raw("<svg class=\"spark\" role=\"img\" viewBox=\"0 0 180 40\" preserveAspectRatio=\"none\"><title>");
    if least.is_finite() {
        out.text(&format!(
            "First content after {} to {}; {} attempts, {} failed",
            millis(least),
            millis(most),
            sum("requests"),
            sum("failures")
        ));
    } else {
        out.text(&format!("Nothing was answered; {} attempts, {} failed", sum("requests"), sum("failures")));
    }
    out.raw("</title><path class=\"ground\" d=\"M0 34.5H180\"/>");
    let step = WIDTH / latency.len().max(1) as f64;
    let x = |n: usize| (n as f64 + 0.5) * step;
    let y = |ms: f64| HEIGHT - 4.0 - (ms / most.max(1.0)) * (HEIGHT - 12.0);
    let mut line = String::new();
    let mut area = String::new();
    for run in runs(&latency) {
        let points: Vec<(f64, f64)> = run.into_iter().map(|(n, ms)| (x(n), y(ms))).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
        // A single sample would be no line at all.
        let end = if points.len() == 1 { format!("h{step:.1}") } else { String::new() };
        let way: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        line.push_str(&format!("M{}{end}", way.join("L")));
        area.push_str(&format!("M{:.1} {HEIGHT}L{}L{:.1} {HEIGHT}Z", first.0, way.join("L"), last.0));
    }
    out.raw("<path class=\"area\" d=\"")
        .text(&area)
        .raw("\"/><path class=\"line\" d=\"")
        .text(&line)
        .raw("\"/>");
    for (n, failed) in list(history, "failures").iter().enumerate() {
        if failed.as_f64().is_some_and(|failed| failed > 0.0) {
            out.raw("<path class=\"failed\" d=\"").show(format_args!("M{:.1} {HEIGHT}v-7", x(n))).raw("\"/>");
        }
    }
    let states: Vec<&str> =
        list(history, "states").iter().map(|state| state.as_str().unwrap_or_default()).collect();
    let mut begin = 0;
    for (n, state) in states.iter().enumerate() {
        if states.get(n + 1) == Some(state) {
            continue;
        }
        if !state.is_empty() {
            out.raw("<rect class=\"strip ").text(state).raw("\" y=\"36.5\" height=\"3.5\" x=\"");
            out.show(format_args!("{:.1}", begin as f64 * step)).raw("\" width=\"");
            out.show(format_args!("{:.1}", (n + 1 - begin) as f64 * step)).raw("\"/>");
        }
        begin = n + 1;
    }
    out.raw("</svg><span class=\"scale\">");
    if least.is_finite() {
        out.text("up to ").text(&millis(most));
    } else {
        out.raw("no answers");
    }
    out.raw("</span>");
}

/// Samples that follow one another without a gap.
fn runs(samples: &[Option<f64>]) -> Vec<Vec<(usize, f64)>> {
    let mut runs: Vec<Vec<(usize, f64)>> = vec![Vec::new()];
    for (n, sample) in samples.iter().enumerate() {
        match (sample, runs.last_mut()) {
            (Some(value), Some(run)) => run.push((n, *value)),
            (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
            _ => {}
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_samples_is_a_gap_in_the_line() {
        let samples = [None, Some(1.0), Some(2.0), None, None, Some(3.0)];
        assert_eq!(runs(&samples), [vec![(1, 1.0), (2, 2.0)], vec![(5, 3.0)]]);
    }
}
