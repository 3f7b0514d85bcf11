//! A request fitted to a fallback model: another name, the operator's system prompt, a shorter answer, fewer turns.
//! What the model is not able to do is refused here in one word, so that the client hears of the outage and not of a
//! fault it did not make. Bytes that need no change stay as they came. Not here: which model that is, and when it
//! stands in. Tokens are estimated from text alone, since the model's own tokenizer is not at hand.

mod turns;

use bytes::Bytes;
use serde_json::{Value, json};

use turns::{Size, Turns};

use crate::answer::Dialect;
use crate::body::{self, Body, filled, given};
use crate::request::{peek, replace_model};

/// Where the client's own system prompt goes in the operator's.
const ORIGINAL: &str = "{original_system}";

/// Room kept for an answer whose length nobody bounds, in tokens.
const UNBOUNDED_ANSWER: usize = 256;

/// The most prompts of one request that are given a system prompt each: a list of empty ones would grow by its length
/// for every two bytes the client sent. OpenAI takes 2048 inputs.
const MAX_PROMPTS: usize = 2048;

/// What is changed about a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adaptation<'a> {
    /// Named instead of what the client asked for.
    pub model: Option<&'a str>,
    /// The system prompt; each `{original_system}` in it becomes the client's. Nothing is sent when it comes out
    /// empty.
    pub system: Option<&'a str>,
    /// The most tokens the answer may have; a lower bound of the client's stays.
    pub max_tokens: Option<u32>,
    /// How many turns stay, at least 1. A turn is a user message and all up to the next one; what comes before the
    /// turns that stay goes with the others, system messages excepted.
    pub keep_last_turns: Option<usize>,
}

/// What a model is able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Able {
    /// Calling the client's functions, and reading earlier calls.
    pub tools: bool,
    /// Answering in JSON, to a schema or not.
    pub json_schema: bool,
    /// Images, audio, files.
    pub vision: bool,
    /// Going on with a last message of its own.
    pub prefill: bool,
    /// Tokens of prompt and answer together. `None`: not bounded here.
    pub context_window: Option<usize>,
}

/// Why the model cannot serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unable {
    /// It needs tools.
    Tools,
    /// It needs an answer in JSON.
    JsonSchema,
    /// It holds images, audio or files.
    Vision,
    /// It ends in an answer to be gone on with.
    Prefill,
    /// Its last turn and the answer exceed the context window.
    TooLong,
    /// It rests on what another upstream keeps.
    Stateful,
    /// It is not of the endpoint's documented shape, or written in the tokens of another model.
    Unreadable,
}

impl Unable {
    /// One word, for metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::JsonSchema => "json_schema",
            Self::Vision => "vision",
            Self::Prefill => "prefill",
            Self::TooLong => "too_long",
            Self::Stateful => "stateful",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Fits a request to a model. The same bytes come back when nothing needs to change, and all but the model's name
/// stay when that alone does; fields unknown here always stay. Where the context window is too small the oldest turns
/// go. Of embeddings and other endpoints only the model is changed.
///
/// # Errors
/// Every [`Unable`].
pub fn adapt(
    dialect: Dialect,
    body: &Bytes,
    adaptation: &Adaptation<'_>,
    able: &Able,
) -> Result<Bytes, Unable> {
    let field = peek(body).map_err(|_| Unable::Unreadable)?.model;
    let mut whole = body::read(body).ok_or(Unable::Unreadable)?;
    judge(dialect, &whole, able)?;
    let model = adaptation.model.filter(|model| field.as_ref().is_none_or(|field| field.name != *model));
    let changed = fit(dialect, &mut whole, &Adaptation { model, ..*adaptation }, able)?;
    match (model, field) {
        (None, _) if !changed => return Ok(body.clone()),
        (Some(model), Some(field)) if !changed => return Ok(replace_model(body, &field, model)),
        (Some(model), _) => {
            // One in another letter case would stand beside it, and which counts depends on the reader.
            whole.retain(|key, _| !key.eq_ignore_ascii_case("model"));
            whole.insert("model".to_owned(), model.into());
        }
        (None, _) => {}
    }
    Ok(body::write(whole))
}

/// What the fields beside the prompt ask for.
fn judge(dialect: Dialect, body: &Body, able: &Able) -> Result<(), Unable> {
    if body::is_stateful(dialect, body) {
        return Err(Unable::Stateful);
    }
    let calls = |tools: &str, choice: &str| {
        filled(body.get(tools)) && body.get(choice).is_none_or(|choice| choice != "none")
    };
    if !able.tools && (calls("tools", "tool_choice") || calls("functions", "function_call")) {
        return Err(Unable::Tools);
    }
    let formats = [body.get("response_format"), body.get("text").and_then(|text| text.get("format"))];
    let json = |format: &Value| {
        format.get("type").is_some_and(|kind| kind == "json_schema" || kind == "json_object")
    };
    if !able.json_schema && formats.into_iter().flatten().any(json) {
        return Err(Unable::JsonSchema);
    }
    let sounds = given(body, "modalities").is_some_and(|all| *all != json!(["text"]));
    if !able.vision && (sounds || given(body, "audio").is_some_and(Value::is_object)) {
        return Err(Unable::Vision);
    }
    Ok(())
}

/// Changes all but the model, and tells whether it changed anything.
fn fit(dialect: Dialect, body: &mut Body, adaptation: &Adaptation<'_>, able: &Able) -> Result<bool, Unable> {
    let capped = adaptation.max_tokens.is_some_and(|most| body::cap(dialect, body, most));
    let Some(key) = body::prompt_key(dialect) else { return Ok(false) };
    let mut prompt = body.remove(key).ok_or(Unable::Unreadable)?;
    let changed = match (dialect, &mut prompt) {
        (Dialect::Chat | Dialect::Responses, Value::Array(items)) => {
            fit_turns(dialect, body, items, adaptation, able)?
        }
        (Dialect::Responses, Value::String(text)) => {
            let changed = adaptation.system.is_some_and(|template| instruct(body, template));
            within(beside(body).and(Size::of_text(text)), room(dialect, body, able))?;
            changed
        }
        (Dialect::Completions | Dialect::Embeddings, prompt) => {
            fit_prompts(dialect, body, prompt, adaptation, able)?
        }
        _ => return Err(Unable::Unreadable),
    };
    body.insert(key.to_owned(), prompt);
    Ok(capped || changed)
}

fn fit_turns(
    dialect: Dialect,
    body: &mut Body,
    items: &mut Vec<Value>,
    adaptation: &Adaptation<'_>,
    able: &Able,
) -> Result<bool, Unable> {
    let mut turns = Turns(items);
    let mut changed = adaptation.keep_last_turns.is_some_and(|count| turns.keep_last(count));
    // What goes need not be understood by the model.
    let makeup = body::makeup(dialect, turns.0).ok_or(Unable::Unreadable)?;
    if makeup.references {
        return Err(Unable::Stateful);
    }
    if makeup.hosted || (makeup.tools && !able.tools) {
        return Err(Unable::Tools);
    }
    if makeup.media && !able.vision {
        return Err(Unable::Vision);
    }
    changed |= match (adaptation.system, dialect) {
        (None, _) => false,
        (Some(template), Dialect::Responses) => instruct(body, template),
        (Some(template), _) => {
            let system = render(template, &turns.system());
            turns.set_system(&system)
        }
    };
    if !able.prefill && turns.end_in_an_answer() {
        return Err(Unable::Prefill);
    }
    if turns.0.is_empty() {
        return Err(Unable::Unreadable);
    }
    changed |= turns.fit(beside(body), room(dialect, body, able)).ok_or(Unable::TooLong)?;
    Ok(changed)
}

/// Prompts without turns: one text, or several that are answered apart. Tokens instead of text mean something only to
/// the model they were made for.
fn fit_prompts(
    dialect: Dialect,
    body: &Body,
    prompt: &mut Value,
    adaptation: &Adaptation<'_>,
    able: &Able,
) -> Result<bool, Unable> {
    let system =
        adaptation.system.filter(|_| dialect == Dialect::Completions).map(|template| render(template, ""));
    let system = system.filter(|system| !system.is_empty());
    let room = room(dialect, body, able);
    let all = match prompt {
        Value::Array(all) if all.is_empty() => return Err(Unable::Unreadable),
        Value::Array(all) if !all.iter().all(Value::is_string) => {
            if all.iter().any(Value::is_object) || adaptation.model.is_some() || system.is_some() {
                return Err(Unable::Unreadable);
            }
            let longest = all.iter().filter_map(Value::as_array).map(Vec::len).max().unwrap_or(all.len());
            return if longest <= room { Ok(false) } else { Err(Unable::TooLong) };
        }
        Value::Array(all) if all.len() > MAX_PROMPTS && system.is_some() => return Err(Unable::TooLong),
        Value::Array(all) => all.as_mut_slice(),
        text @ Value::String(_) => std::slice::from_mut(text),
        _ => return Err(Unable::Unreadable),
    };
    for one in all {
        let Value::String(text) = one else { continue };
        if let Some(system) = &system {
            *text = format!("{system}\n\n{text}");
        }
        within(Size::of_text(text), room)?;
    }
    Ok(system.is_some())
}

/// Puts the system prompt where a Responses request has it.
fn instruct(body: &mut Body, template: &str) -> bool {
    let original = given(body, "instructions").map(turns::text).unwrap_or_default();
    let system = render(template, &original);
    let before = given(body, "instructions");
    if before.map_or(system.is_empty(), |before| *before == *system) {
        return false;
    }
    if system.is_empty() {
        body.remove("instructions");
    } else {
        body.insert("instructions".to_owned(), system.into());
    }
    true
}

fn render(template: &str, original: &str) -> String {
    template.replace(ORIGINAL, original).trim().to_owned()
}

/// What the model reads besides the prompt.
fn beside(body: &Body) -> Size {
    ["instructions", "tools", "functions"].iter().filter_map(|key| given(body, key)).map(Size::of).sum()
}

/// Tokens left for the prompt. A window too small for the answer alone has no room at all, not even for an empty one.
fn room(dialect: Dialect, body: &Body, able: &Able) -> usize {
    let Some(window) = able.context_window else { return usize::MAX };
    let keys = body::limit_keys(dialect);
    let bounds = keys.iter().filter_map(|key| body.get(*key)?.as_f64()).filter(|n| *n >= 0.0);
    let answer = match bounds.fold(None, |most: Option<f64>, n| Some(most.map_or(n, |most| most.max(n)))) {
        Some(most) => most as usize,
        None if keys.is_empty() => 0,
        None => UNBOUNDED_ANSWER,
    };
    window.saturating_sub(answer)
}

fn within(size: Size, room: usize) -> Result<(), Unable> {
    if size.tokens() <= room { Ok(()) } else { Err(Unable::TooLong) }
}

#[cfg(test)]
mod tests;
