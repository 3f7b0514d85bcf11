//! `tidegate keygen`: a new client key, and the YAML entry that holds only its hash.
//!
//! The key exists on this process's stdout and nowhere else: whoever loses it makes a new one.

use std::io::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::check::printed;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate keygen --name team-a\n\nThe first line is the key: give it to the client, it is shown this once. The rest goes under `clients:` in the\nconfiguration, which needs no hiding, because the key cannot be found from its hash."
)]
pub struct Args {
    /// The client's name, a label in metrics and logs
    #[arg(long, value_name = "NAME", default_value = "client-1", value_parser = name)]
    name: String,
}

fn name(text: &str) -> Result<String, String> {
    if tidegate_config::is_label(text) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 letters, digits, `.`, `_` and `-` are meant".to_owned())
    }
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let mut random = [0; 32];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        let _ = writeln!(std::io::stderr().lock(), "tidegate: the system gives no random numbers");
        return ExitCode::FAILURE;
    }
    let key = format!("tg-{}", URL_SAFE_NO_PAD.encode(random));
    let written = write!(std::io::stdout().lock(), "{key}\n\n{}", entry(&args.name, &key));
    printed(written, &mut std::io::stderr().lock())
}

/// The entry, indented as it stands under `clients:`.
fn entry(name: &str, key: &str) -> String {
    let hash: String = tidegate_config::hash_key(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("  - name: \"{name}\"\n    key_sha256: {hash}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_config::{Purpose, hash_key, parse};

    use super::entry;

    #[test]
    fn the_entry_admits_its_key_once_it_is_pasted() {
        let sound = "upstreams: [{name: u, base_url: 'https://u'}]\nroutes: [{match: {model: m}, to: [u]}]\n";
        let file = format!("{sound}clients:\n{}", entry("2024", "tg-k"));
        let config = parse("f", file.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
        let [client] = config.clients.as_deref().unwrap() else { panic!("one client") };
        assert_eq!((client.name.as_str(), client.key_sha256), ("2024", hash_key("tg-k")));
    }
}
