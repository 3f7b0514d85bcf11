use super::*;
use crate::sse::Splitter;

fn parsed(body: &str) -> (Option<String>, Option<String>, String) {
    let error = parse_error(body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
    (error.code, error.kind, error.message)
}

fn told(code: &str, kind: &str, message: &str) -> (Option<String>, Option<String>, String) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (some(code), some(kind), message.to_owned())
}

#[test]
fn every_shape_of_an_error_is_read() {
    for (body, expected) in [
        // OpenAI
        (
            r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            told("model_not_found", "invalid_request_error", "no"),
        ),
        // vLLM, new and old; the code is a number
        (
            r#"{"error":{"message":"no","type":"NotFoundError","param":null,"code":404}}"#,
            told("404", "NotFoundError", "no"),
        ),
        (
            r#"{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}"#,
            told("400", "BadRequestError", "no"),
        ),
        // Anthropic
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#,
            told("", "overloaded_error", "Overloaded"),
        ),
        // Google's OpenAI endpoint
        (
            r#"[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}]"#,
            told("429", "RESOURCE_EXHAUSTED", "slow"),
        ),
        // Ollama, Hugging Face, AWS-like
        (
            r#"{"error":"model \"x\" not found, try pulling it first"}"#,
            told("", "", "model \"x\" not found, try pulling it first"),
        ),
        (
            r#"{"error":"Model is overloaded","error_type":"overloaded"}"#,
            told("", "overloaded", "Model is overloaded"),
        ),
        (
            r#"{"error":"Unauthorized","message":"key unknown","code":17}"#,
            told("17", "", "Unauthorized: key unknown"),
        ),
        (r#"{"message":"Too many requests"}"#, told("", "", "Too many requests")),
        // FastAPI
        (r#"{"detail":"Not Found"}"#, told("", "", "Not Found")),
        (
            r#"{"detail":[{"loc":["body"],"msg":"field required","type":"missing"}]}"#,
            told("", "", "field required"),
        ),
        (r#"{"detail":{"error":"queue full"}}"#, told("", "", "queue full")),
        (r#"{"detail":{"x":1}}"#, told("", "", r#"{"x":1}"#)),
        // Odd, and still an error
        (r#"{"error":{"x":1e999}}"#, told("", "", r#"{"x":1e999}"#)),
        (
            r#"{"error":{"message":["a"],"code":null,"type":7}}"#,
            told("", "7", r#"{"message":["a"],"code":null,"type":7}"#),
        ),
        ("\u{feff}{\"error\":{\"message\":\"\\ud83d!\"}}", told("", "", "\u{fffd}\u{fffd}\u{fffd}!")),
    ] {
        assert_eq!(parsed(body), expected, "{body}");
    }
}

#[test]
fn other_bodies_are_no_errors() {
    for body in [
        "",
        "null",
        "<html>502 Bad Gateway</html>",
        "{}",
        "[]",
        "\"error\"",
        r#"{"choices":[]}"#,
        r#"{"error":null}"#,
        r#"{"error":""}"#,
        r#"{"detail":[]}"#,
        "[[{\"error\":\"x\"}]]",
        "{\"error\":\"x\"",
    ] {
        assert_eq!(parse_error(body.as_bytes()), None, "{body}");
    }
    assert_eq!(parse_error(b"{\"error\":\"\xff\"}"), None);
}

/// quota, model not found, context length, content filter
fn meaning(body: &str) -> [bool; 4] {
    let error = parse_error(body.as_bytes()).unwrap();
    [error.is_quota(), error.is_model_not_found(), error.is_context_length(), error.is_content_filter()]
}

#[test]
fn errors_mean_what_upstreams_mean_by_them() {
    const QUOTA: [bool; 4] = [true, false, false, false];
    const MODEL: [bool; 4] = [false, true, false, false];
    const CONTEXT: [bool; 4] = [false, false, true, false];
    const FILTER: [bool; 4] = [false, false, false, true];
    for (body, expected) in [
        (
            r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            QUOTA,
        ),
        (r#"{"error":{"message":"x","code":"billing_hard_limit_reached"}}"#, QUOTA),
        (r#"{"error":{"message":"x","type":"billing_not_active"}}"#, QUOTA),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
            QUOTA,
        ),
        (
            r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#,
            QUOTA,
        ),
        (
            r#"{"error":{"message":"The model `x` does not exist or you do not have access to it.","code":"model_not_found"}}"#,
            MODEL,
        ),
        (r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}"#, MODEL),
        (r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}"#, MODEL),
        (
            r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}"#,
            MODEL,
        ),
        (r#"{"error":"model 'x' not found"}"#, MODEL),
        (
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","code":"context_length_exceeded"}}"#,
            CONTEXT,
        ),
        (
            r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#,
            CONTEXT,
        ),
        (
            r#"{"object":"error","message":"This model's maximum context length is 2048 tokens. However, you requested 3000.","type":"BadRequestError","code":400}"#,
            CONTEXT,
        ),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            CONTEXT,
        ),
        (
            r#"{"error":{"code":"content_filter","message":"The response was filtered due to Azure OpenAI's content management policy."}}"#,
            FILTER,
        ),
        (
            r#"{"error":{"code":"content_policy_violation","message":"Your request was rejected as a result of our safety system."}}"#,
            FILTER,
        ),
        (
            r#"{"error":{"message":"Rate limit reached for requests","type":"requests","code":"rate_limit_exceeded"}}"#,
            [false; 4],
        ),
        (r#"{"error":{"message":"The model is overloaded","type":"server_error"}}"#, [false; 4]),
    ] {
        assert_eq!(meaning(body), expected, "{body}");
    }
}

#[test]
fn an_error_of_ours_has_openais_shape() {
    assert_eq!(
        error_body("a \"b\"\n", "rate_limit_error", "rate_limit_exceeded", Some("tokens")),
        r#"{"error":{"message":"a \"b\"\n","type":"rate_limit_error","param":"tokens","code":"rate_limit_exceeded"}}"#
    );
    assert_eq!(
        error_body("m", "t", "c", None),
        r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#
    );
}

#[test]
fn an_error_event_is_one_event_that_reads_as_an_error() {
    let hostile = "broke off\r\n\r\ndata: [DONE]\n\n";
    for dialect in
        [Dialect::Chat, Dialect::Completions, Dialect::Embeddings, Dialect::Responses, Dialect::Other]
    {
        let bytes = error_event(dialect, hostile, "upstream_error", "stream_interrupted");
        let mut splitter = Splitter::new(4096);
        splitter.push(bytes.clone());
        let event = splitter.next_event().unwrap().unwrap();
        assert_eq!(event.raw, bytes);
        assert_eq!(event.name(), (dialect == Dialect::Responses).then_some(&b"error"[..]));
        let crate::answer::Chunk::Event(peek) = crate::answer::peek_chunk(dialect, &event.data().unwrap())
        else {
            panic!("{dialect:?}: not an object");
        };
        let error = peek.error.unwrap();
        assert_eq!((error.code.as_deref(), error.message.as_str()), (Some("stream_interrupted"), hostile));
    }
    let numbered = responses_error_event("m", "t", "c", 8);
    assert_eq!(
        numbered,
        "event: error\ndata: {\"type\":\"error\",\"code\":\"c\",\"message\":\"m\",\"param\":null,\"sequence_number\":8,\
         \"error\":{\"message\":\"m\",\"type\":\"t\",\"param\":null,\"code\":\"c\"}}\n\n"
    );
}
