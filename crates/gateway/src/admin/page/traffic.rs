//! The way of traffic: routes to the left, paths to the right, and between them what went over each lately.
//!
//! A picture where there is room for it, and a list where there is not, which is also what screen readers get.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use super::out::{Out, at, count, flag, list, number, word};
use super::words::{cut, own, percent, rate, span};

/// Of a route's ribbons together, at their beginning.
const THICK: f64 = 34.0;
const BOX: f64 = 46.0;
const GAP: f64 = 14.0;
const LEFT: (f64, f64) = (0.0, 350.0);
const RIGHT: (f64, f64) = (870.0, 1240.0);

/// A connection of a route and a path.
struct Link<'a> {
    route: usize,
    path: &'a str,
    share: f64,
    requests: u64,
    fallback: bool,
}

struct Place {
    top: f64,
    height: f64,
    /// Where the next ribbon begins.
    next: f64,
}

/// The section.
pub(super) fn section(out: &mut Out, status: &Value) {
    let routes = list(status, "routes");
    if routes.is_empty() {
        return;
    }
    let paths = list(status, "paths");
    let links: Vec<Link<'_>> = routes.iter().enumerate().flat_map(|(n, route)| links(n, route)).collect();
    // A table of everything with everything helps nobody.
    let drawn = routes.len() <= 24 && paths.len() <= 24;
    out.raw("<section id=\"traffic\"");
    if drawn {
        out.raw(" class=\"drawn\"");
    }
    out.raw("><div class=\"top\"><h2>The way of traffic</h2><p>");
    let busy = routes.iter().filter(|route| total(route) > 0);
    match busy.filter_map(|route| number(at(route, "answered"), "within_s")).reduce(f64::max) {
        Some(within) => {
            out.raw("answers of the last ").text(&span(Duration::from_secs_f64(within.clamp(1.0, 1e6))))
        }
        None => out.raw("no answers in the last five minutes"),
    };
    out.raw("</p></div>\n");
    if drawn {
        draw(out, routes, paths, &links);
    }
    let states: HashMap<&str, &str> = paths.iter().map(|path| (word(path, "name"), own(path))).collect();
    out.raw("<ul class=\"ways\">");
    for (n, route) in routes.iter().enumerate() {
        out.raw("<li><h3><code>").text(word(route, "model")).raw("</code> <span>").text(&pace(route));
        if flag(route, "fallback_active") {
            out.raw(" · on its fallback");
        }
        out.raw("</span></h3><ul>");
        let begin = links.partition_point(|link| link.route < n);
        for link in links.iter().skip(begin).take_while(|link| link.route == n) {
            let state = states.get(link.path).copied().unwrap_or_default();
            out.raw("<li class=\"").text(state).raw("\"><span class=\"to\">").text(link.path);
            if link.fallback {
                out.raw(" <small>fallback</small>");
            }
            out.raw("</span> <svg class=\"share\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
            out.raw(
                "<rect class=\"rail\" width=\"100\" height=\"6\"/><rect class=\"fill\" height=\"6\" width=\"",
            );
            out.show(format_args!("{:.1}", link.share * 100.0)).raw("\"/></svg> <b>");
            out.text(&if link.requests == 0 { "–".to_owned() } else { percent(link.share) });
            out.raw("</b></li>");
        }
        out.raw("</ul></li>");
    }
    out.raw("</ul></section>\n");
}

/// Of one route: what went over its paths, and those over which nothing went.
fn links(route: usize, of: &Value) -> impl Iterator<Item = Link<'_>> {
    let answered: HashMap<&str, &Value> =
        list(at(of, "answered"), "paths").iter().map(|seen| (word(seen, "path"), seen)).collect();
    let own = list(of, "paths").iter().map(|path| (path, false));
    let fallback = list(of, "fallback").iter().map(|path| (path, true));
    own.chain(fallback).filter_map(move |(path, fallback)| {
        let path = path.as_str()?;
        let seen = answered.get(path).copied();
        Some(Link {
            route,
            path,
            share: seen.and_then(|seen| number(seen, "share")).unwrap_or_default(),
            requests: seen.map_or(0, |seen| count(seen, "requests")),
            fallback,
        })
    })
}

fn total(route: &Value) -> u64 {
    list(at(route, "answered"), "paths").iter().map(|seen| count(seen, "requests")).sum()
}

fn pace(route: &Value) -> String {
    let within = number(at(route, "answered"), "within_s").unwrap_or(5.0).max(0.5);
    match total(route) {
        0 => "no requests".to_owned(),
        total => format!("{} answers a second", rate(total as f64 / within)),
    }
}

/// Boxes one below the other, each high enough for what ends there, in the middle of `height`.
fn places(thick: impl Iterator<Item = f64>) -> (Vec<Place>, f64) {
    let mut top = 0.0;
    let places = thick.map(|thick| {
        let height = BOX.max(thick + 10.0);
        let place = Place { top, height, next: top + (height - thick) / 2.0 };
        top += height + GAP;
        place
    });
    let places = places.collect();
    (places, top - GAP)
}

fn draw(out: &mut Out, routes: &[Value], paths: &[Value], links: &[Link<'_>]) {
    let used: Vec<&Value> =
        paths.iter().filter(|path| links.iter().any(|link| link.path == word(path, "name"))).collect();
    let (mut from, left) = places(routes.iter().map(|_| THICK));
    let into = |path: &&Value| -> f64 {
        links.iter().filter(|link| link.path == word(path, "name")).map(|link| link.share * THICK).sum()
    };
    let (mut to, right) = places(used.iter().map(into));
    let height = left.max(right).max(BOX);
    for place in &mut from {
        place.top += (height - left) / 2.0;
        place.next += (height - left) / 2.0;
    }
    for place in &mut to {
        place.top += (height - right) / 2.0;
        place.next += (height - right) / 2.0;
    }
    out.raw("<svg class=\"flow\" aria-hidden=\"true\" viewBox=\"-1 -1 1242 ");
    out.show(format_args!("{:.0}", height + 2.0)).raw("\">");
    for link in links {
        let Some(end) = used.iter().position(|path| word(path, "name") == link.path) else { continue };
        let (Some(start), Some(end_place)) = (from.get_mut(link.route), to.get_mut(end)) else { continue };
        let state = used.get(end).map_or("", |path| own(path));
        let thick = link.share * THICK;
        let (x1, x2) = (LEFT.1, RIGHT.0);
        let middle = f64::midpoint(x1, x2);
        if link.requests == 0 {
            let (y1, y2) = (start.top + start.height / 2.0, end_place.top + end_place.height / 2.0);
            out.raw("<path class=\"idle ").text(state);
            out.raw(if link.fallback { " spare\" d=\"" } else { "\" d=\"" });
            out.show(format_args!("M{x1} {y1:.1}C{middle} {y1:.1} {middle} {y2:.1} {x2} {y2:.1}"))
                .raw("\"/>");
            continue;
        }
        let (y1, y2) = (start.next + thick / 2.0, end_place.next + thick / 2.0);
        start.next += thick;
        end_place.next += thick;
        let way = format!("M{x1} {y1:.1}C{middle} {y1:.1} {middle} {y2:.1} {x2} {y2:.1}");
        out.raw("<path class=\"ribbon ").text(state);
        out.raw(if link.fallback { " spare" } else { "" }).raw("\" stroke-width=\"");
        out.show(format_args!("{:.1}", thick.max(1.5))).raw("\" d=\"").text(&way).raw("\"/>");
        out.raw("<path class=\"stream ").text(state).raw("\" d=\"").text(&way).raw("\"/>");
    }
    for (route, place) in routes.iter().zip(&from) {
        let on_fallback = flag(route, "fallback_active");
        boxed(out, LEFT, place, if on_fallback { "open" } else { "" });
        label(out, LEFT, place, word(route, "model"), &pace(route));
    }
    for (path, place) in used.iter().zip(&to) {
        let name = word(path, "name");
        let mut said = own(path).to_owned();
        let requests: u64 = links.iter().filter(|link| link.path == name).map(|link| link.requests).sum();
        let all: u64 = routes.iter().map(total).sum();
        if requests > 0 {
            said = format!("{said} · {} of all answers", percent(requests as f64 / all.max(1) as f64));
        }
        if links.iter().any(|link| link.fallback && link.path == name) {
            said.push_str(" · fallback");
        }
        boxed(out, RIGHT, place, own(path));
        label(out, RIGHT, place, name, &said);
    }
    out.raw("</svg>\n");
}

fn boxed(out: &mut Out, (x1, x2): (f64, f64), place: &Place, state: &str) {
    out.raw("<rect class=\"box ")
        .text(state)
        .raw("\" rx=\"8\" x=\"")
        .show(x1)
        .raw("\" width=\"")
        .show(x2 - x1);
    out.raw("\" y=\"").show(format_args!("{:.1}", place.top)).raw("\" height=\"");
    out.show(format_args!("{:.1}", place.height)).raw("\"/><rect class=\"edge ").text(state);
    // The edge is where the ribbons are.
    let x = if x1 < 1.0 { x2 - 4.0 } else { x1 };
    out.raw("\" rx=\"2\" width=\"4\" x=\"")
        .show(x)
        .raw("\" y=\"")
        .show(format_args!("{:.1}", place.top + 5.0));
    out.raw("\" height=\"").show(format_args!("{:.1}", place.height - 10.0)).raw("\"/>");
}

fn label(out: &mut Out, (x1, _): (f64, f64), place: &Place, name: &str, more: &str) {
    let middle = place.top + place.height / 2.0;
    for (class, text, down) in [("who", cut(name, 36), -4.0), ("what", cut(more, 48), 13.0)] {
        out.raw("<text class=\"").raw(class).raw("\" x=\"").show(x1 + 18.0).raw("\" y=\"");
        out.show(format_args!("{:.1}", middle + down)).raw("\">").text(&text).raw("</text>");
    }
}
