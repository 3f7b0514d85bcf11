//! What stands beside the paths: nodes, limits near their bound, the store, kept answers, ways out.

use std::time::SystemTime;

use serde_json::Value;

use super::out::{Out, at, count, list, number, word};
use super::words::{ago, bytes, cut, millis, percent, span};

fn begin(out: &mut Out, id: &'static str, title: &'static str, columns: &[(&'static str, &'static str)]) {
    out.raw("<section class=\"card\" id=\"").raw(id).raw("\"><h2>").raw(title).raw("</h2>\n");
    if columns.is_empty() {
        return;
    }
    out.raw("<div class=\"wide\"><table><thead><tr>");
    for (class, name) in columns {
        out.raw("<th scope=\"col\" class=\"").raw(class).raw("\">").raw(name).raw("</th>");
    }
    out.raw("</tr></thead><tbody>");
}

fn badge(out: &mut Out, class: &'static str, text: &str) {
    out.raw("<span class=\"badge ").raw(class).raw("\"><i></i>").text(text).raw("</span>");
}

/// All nodes, where there are others or may be.
pub(super) fn fleet(out: &mut Out, status: &Value, now: SystemTime) {
    let nodes = list(status, "fleet");
    let own_hash = word(at(status, "node"), "config_hash");
    if nodes.len() < 2 {
        return;
    }
    let columns =
        [("", "Node"), ("", "State"), ("n", "Heard"), ("n", "Up"), ("", "Configuration"), ("", "Open there")];
    begin(out, "fleet", "Fleet", &columns);
    for node in nodes {
        let state = word(node, "state");
        out.raw("<tr><th scope=\"row\">").text(word(node, "name"));
        if !word(node, "zone").is_empty() {
            out.raw(" <span class=\"soft\">").text(word(node, "zone")).raw("</span>");
        }
        out.raw("</th><td>");
        let class = match state {
            "ready" => "good",
            "draining" | "starting" => "watch",
            _ => "bad",
        };
        badge(out, class, &state.replace('_', " "));
        out.raw("</td><td class=\"n\">");
        out.text(&number(node, "age_ms").map_or_else(String::new, |age| format!("{} ago", millis(age))));
        let up = ago(word(node, "started_at"), now).map_or_else(String::new, span);
        out.raw("</td><td class=\"n\">").text(&up).raw("</td><td><code>");
        out.text(&cut(word(node, "config_hash"), 16)).raw("</code>");
        if word(node, "config_hash") != own_hash {
            out.raw(" <span class=\"some\">another</span>");
        }
        let open: Vec<&str> = list(node, "open").iter().filter_map(Value::as_str).collect();
        out.raw("</td><td>").text(&if open.is_empty() { "–".to_owned() } else { open.join(", ") });
        out.raw("</td></tr>");
    }
    out.raw("</tbody></table></div></section>\n");
}

/// The limits that are nearest to their bound.
pub(super) fn limits(out: &mut Out, status: &Value) {
    let mut limits: Vec<&Value> = list(status, "limits").iter().collect();
    if limits.is_empty() {
        return;
    }
    let used = |limit: &Value| number(limit, "used_ratio").unwrap_or_default();
    limits.sort_by(|a, b| used(b).total_cmp(&used(a)));
    begin(out, "limits", "Limits", &[("", "Of"), ("", "Limit"), ("", "Used"), ("n", "")]);
    for limit in limits.into_iter().take(10) {
        let used = used(limit).max(0.0);
        let class = match used {
            _ if used >= 1.0 => "bad",
            _ if used >= 0.8 => "watch",
            _ => "good",
        };
        out.raw("<tr><th scope=\"row\"><span class=\"soft\">").text(word(limit, "scope")).raw("</span> ");
        out.text(&cut(word(limit, "subject"), 40)).raw("</th><td>");
        let said =
            limit.get("limit").map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
        out.text(&said.unwrap_or_default()).raw("</td><td>");
        out.raw("<svg class=\"meter ")
            .raw(class)
            .raw("\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
        out.raw(
            "<rect class=\"rail\" width=\"100\" height=\"6\"/><rect class=\"fill\" height=\"6\" width=\"",
        );
        out.show(format_args!("{:.1}", used.min(1.0) * 100.0)).raw("\"/></svg></td><td class=\"n\">");
        out.text(&percent(used)).raw("</td></tr>");
    }
    out.raw("</tbody></table></div></section>\n");
}

/// The store.
pub(super) fn store(out: &mut Out, status: &Value) {
    let store = at(status, "store");
    let up = word(store, "state") == "up";
    begin(out, "store", "Store", &[]);
    out.raw("<p class=\"big\"><b>").text(word(store, "kind")).raw("</b> ");
    badge(out, if up { "good" } else { "bad" }, word(store, "state"));
    out.raw("</p>");
    if !up {
        let trouble = word(store, "trouble");
        out.raw("<p>").text(if trouble.is_empty() { "It does not answer" } else { trouble });
        out.raw(". Each node goes on with its share of the limits and its own kept answers.</p>");
    } else if word(store, "kind") == "embedded" {
        out.raw("<p class=\"soft\">This node's own memory: nothing is shared.</p>");
    } else {
        out.raw("<p class=\"soft\">Limits, usage, kept answers and the fleet are shared.</p>");
    }
    out.raw("</section>\n");
}

/// Kept answers.
pub(super) fn cache(out: &mut Out, status: &Value) {
    let cache = at(status, "cache");
    if cache.is_null() {
        return;
    }
    let (held, most) = (count(cache, "bytes"), count(cache, "max_bytes"));
    let served = ["hits", "coalesced", "stale"].map(|key| count(cache, key)).iter().sum::<u64>();
    let asked = served + count(cache, "misses");
    begin(out, "cache", "Kept answers", &[]);
    if asked == 0 {
        out.raw("<p class=\"big\">no request has asked for one yet</p>");
    } else {
        out.raw("<p class=\"big\"><b>").text(&percent(served as f64 / asked as f64));
        out.raw("</b> of ").show(asked).raw(" requests met one</p>");
    }
    let part = if most == 0 { 0.0 } else { held as f64 / most as f64 };
    out.raw(
        "<svg class=\"meter good\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
    );
    out.raw("<rect class=\"rail\" width=\"100\" height=\"6\"/><rect class=\"fill\" height=\"6\" width=\"");
    out.show(format_args!("{:.1}", part.min(1.0) * 100.0)).raw("\"/></svg><p class=\"soft\">");
    out.show(count(cache, "entries")).raw(" answers, ").text(&bytes(held)).raw(" of ").text(&bytes(most));
    out.raw(" in this node's memory; ").show(count(cache, "coalesced")).raw(" shared while being made, ");
    out.show(count(cache, "stale")).raw(" past their time</p></section>\n");
}

/// Ways out.
pub(super) fn egress(out: &mut Out, status: &Value) {
    let ways = list(status, "egress");
    if ways.is_empty() {
        return;
    }
    begin(
        out,
        "egress",
        "Ways out",
        &[("", "Egress"), ("", "State"), ("n", "Handshake"), ("", "Last failure")],
    );
    for way in ways {
        out.raw("<tr><th scope=\"row\">").text(word(way, "name")).raw("</th><td>");
        match way.get("up").and_then(Value::as_bool) {
            Some(true) => badge(out, "good", "up"),
            Some(false) => badge(out, "bad", "down"),
            None => badge(out, "", "not tried"),
        }
        let time = number(way, "latency_ms").map_or_else(|| "–".to_owned(), millis);
        let detail = word(way, "detail");
        out.raw("</td><td class=\"n\">").text(&time).raw("</td><td title=\"").text(detail).raw("\">");
        out.text(&if detail.is_empty() { "–".to_owned() } else { cut(detail, 60) }).raw("</td></tr>");
    }
    out.raw("</tbody></table></div></section>\n");
}
