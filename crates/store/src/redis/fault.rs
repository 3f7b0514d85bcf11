//! What an error of the crate means here: whether the connection is of any use, and what may be said of it.
//!
//! A server's text can repeat what it was sent, so only its code and its beginning are passed on.

use redis::{ErrorKind, RedisError};

/// Characters of a server's own text that are passed on.
const SAID: usize = 100;
/// The server is not one to write to, or not for us: another one may be.
const ELSEWHERE: [&str; 8] =
    ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS", "CLUSTERDOWN", "MOVED", "ASK"];
/// It is what this one call sent, or what lies under its key.
const OF_ONE_CALL: [&str; 5] =
    ["out of range", "not an integer", "not a valid float", "invalid expire", "attempt to "];
/// Up to 6.2 an error inside of a script comes wrapped in one of the script.
const WRAPPED: [&str; 8] =
    ["OOM ", "READONLY ", "MISCONF ", "NOPERM ", "NOREPLICAS ", "CLUSTERDOWN ", "WRONGTYPE ", "MASTERDOWN "];

/// What an error means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is broken.
    Broken,
    /// The server answered that it cannot.
    Refused {
        /// Another server may.
        elsewhere: bool,
        /// It is the server's state; else it is what lies under this one key.
        state: bool,
    },
}

/// Classifies `error`.
pub(super) fn fault(error: &RedisError) -> Fault {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound => Fault::Broken,
        ErrorKind::AuthenticationFailed => Fault::Refused { elsewhere: true, state: true },
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let (code, detail) = parts(error);
            let of_one_call = code == "WRONGTYPE"
                || (code == "ERR" && OF_ONE_CALL.iter().any(|text| detail.contains(text)));
            Fault::Refused { elsewhere: ELSEWHERE.contains(&code), state: !of_one_call }
        }
        _ => Fault::Refused { elsewhere: false, state: true },
    }
}

/// The error for people: its code and its beginning, without what the server was sent.
pub(super) fn said(error: &RedisError) -> String {
    let text = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let (code, detail) = parts(error);
            format!("{code} {}", without_args(detail))
        }
        ErrorKind::AuthenticationFailed => {
            format!("authentication failed: {}", without_args(error.detail().unwrap_or_default()))
        }
        _ => error.to_string(),
    };
    text.trim().chars().take(SAID).collect()
}

fn without_args(detail: &str) -> &str {
    detail.split(", with args").next().unwrap_or_default()
}

/// Code and text, those inside where they are wrapped.
fn parts(error: &RedisError) -> (&str, &str) {
    let (code, detail) = (error.code().unwrap_or("ERR"), error.detail().unwrap_or_default());
    if code != "ERR" || !detail.contains("script") {
        return (code, detail);
    }
    let inner = |code: &&'static str| detail.split_once(*code).map(|(_, rest)| (code.trim_end(), rest));
    WRAPPED.iter().find_map(inner).unwrap_or((code, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, detail: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
    }

    #[test]
    fn what_was_sent_is_not_repeated() {
        let e = server("ERR", "unknown command 'EVAL', with args beginning with: 'sk-secret'");
        assert_eq!(said(&e), "ERR unknown command 'EVAL'");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(said(&server("OOM", &"x".repeat(500))).chars().count(), SAID);
    }

    #[test]
    fn an_error_wrapped_by_a_script_is_known() {
        let e = server(
            "ERR",
            "Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only replica.",
        );
        assert_eq!(fault(&e), Fault::Refused { elsewhere: true, state: true });
        assert_eq!(said(&e), "READONLY You can't write against a read only replica.");
    }

    #[test]
    fn what_was_sent_or_lies_under_a_key_says_nothing_of_the_server() {
        for text in [
            "value is not an integer or out of range script: fcaa, on @user_script:1.",
            "value is not a valid float script: a8f2, on @user_script:1.",
            "invalid expire time in 'set' command script: a8f2, on @user_script:1.",
            "user_script:1: attempt to compare number with nil script: c6b4, on @user_script:1.",
        ] {
            assert_eq!(
                fault(&server("ERR", text)),
                Fault::Refused { elsewhere: false, state: false },
                "{text}"
            );
        }
        let state = Fault::Refused { elsewhere: false, state: true };
        assert_eq!(fault(&server("ERR", "unknown command 'EVALSHA'")), state);
        assert_eq!(fault(&server("OOM", "command not allowed when used memory > 'maxmemory'")), state);
    }

    #[test]
    fn a_foreign_key_says_nothing_of_the_server() {
        let e = server("WRONGTYPE", "Operation against a key holding the wrong kind of value");
        assert_eq!(fault(&e), Fault::Refused { elsewhere: false, state: false });
    }
}
