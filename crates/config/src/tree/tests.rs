use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Kind, Node, grow};
use crate::fault::Collector;

fn grown(text: &str) -> Result<Arc<Node>, String> {
    let mut faults = Collector::new("f");
    let root = grow(text, &BTreeMap::new(), &mut faults);
    match faults.finish() {
        Ok(_) => root.ok_or_else(|| "empty".to_owned()),
        Err(faults) => Err(faults.to_string()),
    }
}

fn said(node: &Node) -> String {
    match &node.kind {
        Kind::Broken => "?".to_owned(),
        Kind::Scalar(scalar) => scalar.text.clone(),
        Kind::List(items) => format!("[{}]", items.iter().map(|i| said(i)).collect::<Vec<_>>().join(",")),
        Kind::Mapping(entries) => format!(
            "{{{}}}",
            entries.iter().map(|e| format!("{}:{}", e.key, said(&e.value))).collect::<Vec<_>>().join(",")
        ),
    }
}

#[test]
fn aliases_merges_and_defaults_unfold() {
    let text = "a: &a {x: 1, y: \"${N:-2}\"}\nb: {<<: *a, y: 3}\nc: [*a, 'q']\n";
    assert_eq!(said(&grown(text).unwrap()), "{a:{x:1,y:2},b:{y:3,x:1},c:[{x:1,y:2},q]}");
}

#[test]
fn what_is_not_a_tree_is_refused_with_its_place() {
    for (text, want) in [
        ("a: 1\na: 2\n", "f:2:1: `a` is said twice, first in line 1: keep one"),
        ("a: &x [*x]\n", "f:1:8: an alias inside of what it names: it would never end"),
        ("a: !t 1\n", "f:1:7: tags (`!name`) are not used here: remove it"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second document begins here: one file is one configuration"),
        ("? [x]\n: 1\n", "f:1:3: a key is one word, not a list or a section"),
        ("a: *nope\n", "f:1:4: not valid YAML: `*` names an anchor that is not defined above"),
        ("a: [1\n", "f:1:4: not valid YAML: unclosed bracket '['"),
        (
            "a: {b: ${C}}\n",
            "f:1:9: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'; between [ ] or { }, ${VAR} must stand in quotes",
        ),
        ("%YAML 1.2\n---\na: 1\n", "f:1:1: a line that begins with % is not used here: remove it"),
        ("a: {<<: 7}\n", "f:1:9: `<<` takes a section (or a list of sections) under an alias"),
    ] {
        assert_eq!(grown(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn wrong_indentation_is_called_that() {
    for (text, place) in [
        ("a:\n  - b: 1\n   c: 2\n", "3:4"),
        ("a:\n    b: 1\n  c: 2\n", "3:3"),
        ("a:\n  b: 1\n c: 2\n", "3:2"),
        ("a:\n  - b\n - c\n", "3:2"),
        ("  a: 1\nb: 2\n", "2:1"),
    ] {
        let want = format!(
            "f:{place}: not valid YAML: this line or the one above is indented wrongly: keys of one section start in one column, and so do the `-` of one list"
        );
        assert_eq!(grown(text).unwrap_err(), want, "{text}");
    }
    for (text, place) in [("a:\n  b: 1\n    c: 2\n", "3:6"), ("a: 1\n  b: 2\n", "2:4"), ("a: b: c\n", "1:5")]
    {
        let want = format!(
            "f:{place}: not valid YAML: either this line is indented too far, or a text with `: ` in it must stand in quotes"
        );
        assert_eq!(grown(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn bombs_cost_nothing() {
    let mut wide = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let alias = format!("*a{}", n - 1);
        wide.push_str(&format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 10].join(", ")));
    }
    let fault = grown(&wide).unwrap_err();
    assert!(fault.ends_with("more than 100000 values, those under aliases included"), "{fault}");

    let fault = grown(&"[".repeat(20_000)).unwrap_err();
    assert!(fault.ends_with("nested more than 64 deep: nothing in this file needs that"), "{fault}");

    let mut deep = "a0: &a0 [x]\n".to_owned();
    for n in 1..100 {
        deep.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
    }
    let fault = grown(&deep).unwrap_err();
    assert!(fault.ends_with("nested more than 64 deep: nothing in this file needs that"), "{fault}");
}
