//! Every command of docs/getting-started.md, in its order and in one shell, prints what the page says.
//!
//! The ports of the page are exchanged for free ones, in commands and in what is to come out alike. Of what comes out
//! each line of the page has to be there, in its order; `...` stands for anything within a line.

use std::process::Stdio;
use std::time::Duration;

use tidegate_tests::node::binary;
use tidegate_tests::parts::{program, root};
use tidegate_tests::port::Reserved;
use tidegate_tests::within;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The slowest block waits for a drain and for two nodes to meet.
const BLOCK_MAX: Duration = Duration::from_secs(90);
const PORTS: [&str; 9] = ["8001", "9001", "8002", "9002", "8080", "9090", "8081", "9091", "6380"];

#[derive(Debug, PartialEq)]
struct Block {
    section: String,
    commands: String,
    /// `None`: nothing is said of it.
    output: Option<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut section, mut open): (&str, Option<(&str, String)>) = ("", None);
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```sh" | "```text") => open = Some((line, String::new())),
            (None, _) => {
                assert!(!line.starts_with("```"), "a block of another kind: {line}");
                section = line.strip_prefix("## ").unwrap_or(section);
            }
            (Some((kind, text)), "```") => {
                let text = std::mem::take(text);
                if *kind == "```sh" {
                    blocks.push(Block { section: section.to_owned(), commands: text, output: None });
                } else {
                    let last = blocks.last_mut().filter(|last| last.output.is_none());
                    last.expect("output stands below its commands").output = Some(text);
                }
                open = None;
            }
            (Some((_, text)), line) => *text += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

/// Whether the pieces between `...` stand in the line in their order, the first at its begin and the last at its end.
fn fits(want: &str, line: &str) -> bool {
    let mut pieces = want.split("...");
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, inner)) = pieces.split_last() else { return rest.is_empty() };
    for piece in inner {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// The first line of the page that is missing.
fn missing<'w>(want: &'w str, output: &str) -> Option<&'w str> {
    let mut lines = output.lines();
    want.lines().find(|want| !lines.any(|line| fits(want, line.trim_end())))
}

/// One shell for the whole page. Dropping it ends what the page started.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    async fn start(folder: &std::path::Path) -> Self {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(folder).env_clear().process_group(0);
        command.env("PATH", format!("{}:{path}", binary().parent().unwrap().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        input.write_all(b"exec 2>&1\n").await.unwrap();
        Self { child, input, output }
    }

    /// The status of the last command, and what came out.
    async fn run(&mut self, commands: &str) -> (i32, String) {
        const END: &str = "--- the end of the block: ";
        let line = format!("{commands}printf '\\n{END}%d\\n' $?\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
        let mut printed = String::new();
        loop {
            let line = match tokio::time::timeout(BLOCK_MAX, self.output.next_line()).await {
                Ok(Ok(Some(line))) => line,
                ended => panic!("{ended:?} in the middle of\n{commands}\nafter\n{printed}"),
            };
            if let Some(status) = line.strip_prefix(END) {
                return (status.parse().unwrap(), printed);
            }
            printed += &format!("{line}\n");
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = self.child.id() {
            let line = format!("kill -s KILL -- -{group}");
            let _ = std::process::Command::new("sh").args(["-c", &line]).status();
        }
    }
}

/// The logs of the page, for a failure that they explain.
fn logs(folder: &std::path::Path) -> String {
    let last = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{name}:\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"))
    };
    ["one.log", "two.log", "node.log", "a.log", "b.log", "redis.log"].map(last).concat()
}

#[tokio::test]
async fn every_command_of_the_page_does_what_the_page_says() {
    if ["bash", "curl", "redis-server"].iter().any(|name| program(name).is_none()) {
        return;
    }
    let mut page = std::fs::read_to_string(root().join("docs/getting-started.md")).unwrap();
    // Kept until the end: one of them is left and taken again.
    let reserved: Vec<Reserved> = PORTS.iter().map(|_| Reserved::new()).collect();
    // By way of names, because the kernel may choose a port of the page.
    for (index, port) in PORTS.iter().enumerate() {
        assert!(page.contains(port), "{port}");
        page = page.replace(port, &format!("<{index}>"));
    }
    for (index, port) in reserved.iter().enumerate() {
        page = page.replace(&format!("<{index}>"), &port.address().port().to_string());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut shell = Shell::start(folder.path()).await;
    let mut run = 0;
    for block in &blocks(&page) {
        let (status, printed) = within(BLOCK_MAX, &block.commands, shell.run(&block.commands)).await;
        let lacks = missing(block.output.as_deref().unwrap_or_default(), &printed);
        assert!(
            status == 0 && lacks.is_none(),
            "{}\nends with {status} and lacks {lacks:?}:\n{printed}\n{}",
            block.commands,
            logs(folder.path())
        );
        run += 1;
    }
    assert!(run >= 17, "{run} blocks");
    assert_eq!(shell.run("jobs\n").await.1.trim(), "", "the page ends what it starts");
}

#[test]
fn blocks_are_found_with_what_they_print() {
    let block = |section: &str, commands: &str, output: Option<&str>| Block {
        section: section.to_owned(),
        commands: commands.to_owned(),
        output: output.map(str::to_owned),
    };
    let page = "# T\n```sh\na\n```\n## S\nwords\n```sh\nb\nc\n```\n\n```text\n## d\n```\n";
    assert_eq!(blocks(page), [block("", "a\n", None), block("S", "b\nc\n", Some("## d\n"))]);
}

#[test]
fn a_line_with_a_gap_fits_what_has_its_pieces_in_order() {
    for (want, line, yes) in [
        ("ok", "ok", true),
        ("ok", "ok.", false),
        ("a...c", "abc", true),
        ("a...c", "ab", false),
        ("...x...", "1x2", true),
        ("...x...y", "1y2x3", false),
        ("data: {...", "data: {\"a\": 1}", true),
    ] {
        assert_eq!(fits(want, line), yes, "{want} {line}");
    }
    assert_eq!(missing("a\nb", "x\na\nb\n"), None);
    assert_eq!(missing("a\nb", "b\na\n"), Some("b"));
}
