use serde_json::json;

use super::*;

fn page_of(status: &Value) -> String {
    let mut out = Out::default();
    facts(&mut out, status);
    out.end()
}

/// Every string in it is hostile.
fn hostile() -> Value {
    let evil = "</code></main><script>alert(1)</script><img src=x onerror=alert(1)>\"'&";
    let history = json!({"latency_ms": [null, 3.5, 4.0], "requests": [null, 3, 4], "failures": [null, 0, 1], "states": [null, evil, "open"]});
    let path = |state: &str| {
        json!({"name": evil, "state": state, "share": 0.5, "reason": evil, "evidence": evil, "since": evil, "open_until": evil,
            "models": [{"model": evil, "state": evil, "reason": evil}], "history": history, "keys": {"total": 2, "resting": 1},
            "recovery": {"phase": evil, "passes": 2, "needed": 5, "step": 1, "steps": 5}})
    };
    json!({
        "node": {"name": evil, "zone": evil, "version": evil, "started_at": evil, "config_hash": evil},
        "config": {"hash": evil, "file": evil, "loaded_at": evil, "last_reload": {"at": evil, "successful": false, "trigger": evil,
            "faults": [{"line": 1, "column": 2, "text": evil}], "restart_needed": [evil]}},
        "paths": [path("open"), path("shadowing"), path("ramping"), path(evil)],
        "routes": [{"model": evil, "paths": [evil], "fallback": [evil], "fallback_active": true,
            "answered": {"within_s": 15, "paths": [{"path": evil, "requests": 3, "share": 1.0}]}}],
        "fleet": [{"name": evil, "zone": evil, "state": evil, "open": [evil], "config_hash": evil}, {"name": evil}],
        "limits": [{"scope": evil, "subject": evil, "limit": evil, "used_ratio": 0.9}],
        "store": {"kind": evil, "state": evil, "trouble": evil},
        "egress": [{"name": evil, "up": false, "detail": evil}],
        "cache": {"bytes": 1, "max_bytes": 2, "entries": 3, "hits": 4, "misses": 5},
    })
}

#[test]
fn what_is_shown_cannot_become_markup() {
    let page = page_of(&hostile());
    for markup in ["<script", "<img", "</code></main>", "alert(1)>"] {
        assert!(!page.contains(markup), "{markup} in {page}");
    }
    assert!(page.contains("&lt;script&gt;"), "it is shown all the same");
    assert_eq!(page.matches("<main").count(), 1);
    assert_eq!(page.matches('<').count(), page.matches('>').count(), "every tag is closed");
}

#[test]
fn nothing_known_is_a_page_all_the_same() {
    let page = page_of(&json!({}));
    assert!(page.contains("Every path serves."), "{page}");
}

fn partly_shut(name: &str, models: &[&str]) -> Value {
    let models: Vec<Value> = models
        .iter()
        .map(|model| json!({"model": model, "state": "open", "share": 0.0, "reason": "consecutive_failures"}))
        .collect();
    json!({"name": name, "state": "open", "share": 0.0, "own_state": "closed", "own_share": 1.0,
        "reason": "consecutive_failures", "evidence": "5 in a row", "models": models})
}

#[test]
fn a_path_of_which_single_models_are_shut_serves() {
    let page = page_of(&json!({"paths": [partly_shut("u@direct", &["bad"])]}));
    for said in [
        "<p>One model of u@direct is shut.</p>",
        "<p>One model of it is shut.",
        "<dt>Paths with traffic</dt><dd><b>1</b> <span>of 1</span>",
        "data-name=\"Share\" class=\"n \">100 %</td>",
        "<td role=\"cell\" class=\"state\"><span class=\"badge closed\"",
        "<code>bad</code> <span class=\"badge open\"",
    ] {
        assert!(page.contains(said), "{said} in {page}");
    }
    assert!(!page.contains("takes no traffic"), "{page}");
    assert!(page.contains("data-tone=\"watch\""), "{page}");
}

#[test]
fn shut_models_are_counted_and_paths_that_serve_with_them() {
    let said = |paths: &[Value]| headline(&json!({"paths": paths})).1.join(" ");
    let (one, two) = (partly_shut("a@direct", &["x"]), partly_shut("b@direct", &["x", "y"]));
    assert_eq!(said(std::slice::from_ref(&two)), "2 models of b@direct are shut.");
    assert_eq!(said(&[one.clone(), two.clone()]), "Some models of a@direct and b@direct are shut.");
    assert_eq!(said(&[one.clone(), two.clone(), one.clone()]), "Some models of 3 of 3 paths are shut.");
    let mut shut = two;
    shut["own_state"] = "open".into();
    assert_eq!(said(&[shut, one]), "b@direct takes no traffic. One model of a@direct is shut.");
}

#[test]
fn a_faulty_reload_is_shown_with_its_places() {
    let status = json!({"config": {"hash": "abc", "file": "tidegate.yaml", "last_reload": {"at": "2026-11-21T10:00:00Z",
        "successful": false, "trigger": "file", "faults": [{"line": 14, "column": 3, "text": "unknown key `retires`"}]}}});
    let page = page_of(&status);
    assert!(page.contains("tidegate.yaml:14:3"), "{page}");
    assert!(page.contains("unknown key `retires`"), "{page}");
    assert!(page.contains("The last reload failed"), "{page}");
}

#[test]
fn the_policy_lets_the_pages_own_script_run_and_nothing_else() {
    let response = page(&hostile());
    let name = header::CONTENT_SECURITY_POLICY;
    assert_eq!(part(&hostile()).headers().get(&name), response.headers().get(&name));
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for text in [SCRIPT, STYLE] {
        assert!(!text.contains("</"), "it would end its own element");
        assert!(
            !text.contains("url(") && !text.contains("@import") && !text.contains("http"),
            "nothing is fetched"
        );
    }
}
