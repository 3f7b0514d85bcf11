//! `tidegate check`: says whether a node could serve with this file, and every reason why not; on request also what
//! it would change on a running node.
//!
//! Owns how the file's name is found, too, for the commands that only read it.

mod against;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::parser::ValueSource;
use tidegate_config::{Fault, Purpose};

/// Read when nothing says which.
pub const FILE_DEFAULT: &str = "tidegate.yaml";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate check --config tidegate.yaml\n  TIDEGATE_CONFIG=/etc/tidegate/tidegate.yaml tidegate check\n  tidegate check --config tidegate.yaml --against http://127.0.0.1:9090\n\nEach fault is one line on stderr, FILE:LINE:COLUMN: what is wrong, what is meant. What can be\nused but is hardly meant is a line with `warning:`, and stops nothing. A secret that is absent here is such a\nwarning, because whoever checks a file need not hold the keys; `serve` needs it.\n\n--against prints what the file would change on a running node: `~` another value, `+` new, `-` gone. Variables are\nfilled in from this shell, not from the node's.\n\nExit status: 0 when the file is sound, 1 when the node cannot be asked, 2 when the file is not sound."
)]
pub struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG", default_value = FILE_DEFAULT, value_parser = ConfigFile)]
    config: PathBuf,
    /// Admin address of a running node, as http://127.0.0.1:9090: print what this file would change there
    #[arg(long, value_name = "URL", value_parser = against::target)]
    against: Option<against::Target>,
}

/// The path of a configuration. A variable that is set to nothing, as compose files leave it, is as unset; an empty
/// `--config` is a slip and stays one.
#[derive(Debug, Clone)]
pub struct ConfigFile;

impl TypedValueParser for ConfigFile {
    type Value = PathBuf;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<PathBuf, clap::Error> {
        PathBufValueParser::new().parse_ref(command, arg, value)
    }

    fn parse_ref_(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<PathBuf, clap::Error> {
        if source == ValueSource::EnvVariable && value.is_empty() {
            return Ok(PathBuf::from(FILE_DEFAULT));
        }
        self.parse_ref(command, arg, value)
    }
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let result = tidegate_config::load(&args.config, Purpose::Check);
    let mut stderr = io::stderr().lock();
    match result {
        Ok(loaded) => {
            print_warnings(&loaded.warnings, &mut stderr);
            let mut stdout = io::stdout().lock();
            let written = writeln!(stdout, "ok");
            let Some(target) = args.against else { return printed(written, &mut stderr) };
            match against::ask(&target) {
                Ok(running) => {
                    let file = &loaded.config.effective;
                    printed(written.and_then(|()| against::tell(&running, file, &mut stdout)), &mut stderr)
                }
                Err(error) => {
                    let _ = writeln!(stderr, "tidegate check: {target} cannot be asked: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        // Last stands what has to change before anything works.
        Err(faults) => {
            print_warnings(faults.warnings(), &mut stderr);
            let _ = writeln!(stderr, "{faults}");
            ExitCode::from(2)
        }
    }
}

fn print_warnings(warnings: &[Fault], to: &mut impl Write) {
    for warning in warnings {
        let _ = writeln!(to, "{}", as_warning(&warning.to_string(), warning.text()));
    }
}

/// How a command ends that has written its answer to stdout; a full disk or a closed pipe is told.
pub fn printed(written: io::Result<()>, stderr: &mut impl Write) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr, "tidegate: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `FILE:LINE:COLUMN: warning: text`, as compilers mark what does not stop them.
fn as_warning(whole: &str, text: &str) -> String {
    match whole.strip_suffix(text) {
        Some(place) => format!("{place}warning: {text}"),
        None => format!("warning: {whole}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::process::ExitCode;

    use clap::builder::TypedValueParser as _;
    use clap::parser::ValueSource;
    use tidegate_config::{Purpose, parse};

    use super::{ConfigFile, as_warning, print_warnings, printed};

    #[test]
    fn a_warning_keeps_its_place_and_says_what_it_is() {
        assert_eq!(as_warning("f:1:2: text", "text"), "f:1:2: warning: text");
    }

    #[test]
    fn warnings_of_a_faulty_file_are_printed() {
        let text = "upstreams: [{name: u, base_url: 'https://u', egress: [gone]}]\nroutes: [{match: {model: m}, to: [u]}]\n";
        let environment = std::collections::BTreeMap::new();
        let faults = parse("f", text.as_bytes(), &environment, Purpose::Check).unwrap_err();
        let mut out = Vec::new();
        print_warnings(faults.warnings(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "f:1:33: warning: this address has no path, and most APIs live under /v1, as in https://api.openai.com/v1\n"
        );
    }

    #[test]
    fn an_answer_that_cannot_be_written_is_told() {
        let mut told = Vec::new();
        assert_eq!(printed(Ok(()), &mut told), ExitCode::SUCCESS);
        assert!(told.is_empty());
        assert_eq!(printed(Err(io::Error::from(io::ErrorKind::StorageFull)), &mut told), ExitCode::FAILURE);
        assert_eq!(String::from_utf8(told).unwrap(), "tidegate: cannot write to stdout: no storage space\n");
    }

    #[test]
    fn an_empty_variable_is_as_unset_and_an_empty_argument_is_not() {
        let command = clap::Command::new("tidegate");
        let parsed = |value: &str, source| ConfigFile.parse_ref_(&command, None, value.as_ref(), source);
        assert_eq!(parsed("", ValueSource::EnvVariable).unwrap(), Path::new("tidegate.yaml"));
        assert_eq!(parsed("a.yaml", ValueSource::EnvVariable).unwrap(), Path::new("a.yaml"));
        assert_eq!(parsed("b.yaml", ValueSource::CommandLine).unwrap(), Path::new("b.yaml"));
        assert_eq!(parsed("", ValueSource::CommandLine).unwrap_err().exit_code(), 2);
    }
}
