//! Chat templates: the Jinja file of a model folder, rendered as `transformers` renders it, with the authors of the
//! text.

use crate::chat::{Message, Role, ToolCall, ToolDefinition};
use crate::error::TextError;
use crate::guard::{Depth, GENERATED_END, GENERATED_START, Guard, Unmasked};
use crate::python;
use crate::render::{Part, Source, Span};
use crate::tokenizer::{Tokenizer, read_optional_json};
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, syntax::SyntaxConfig};
use serde_json::{Map, Value as Json, json};
use std::ops::Range;
use std::path::Path;

/// Our own template: the text of the released Qwen3-Coder template, with generation blocks and reasoning.
const QWEN3_CODER: &str = include_str!("../templates/qwen3_coder.jinja");

const NAME: &str = "chat_template";

/// A template may loop, but not for ever.
const FUEL: u64 = 20_000_000;

/// A compiled chat template.
pub struct Template {
    source: String,
    environment: Environment<'static>,
    has_generation_blocks: bool,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("bytes", &self.source.len()).finish_non_exhaustive()
    }
}

/// What a rendering is for.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// End with the header of an assistant turn, for the model to continue.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Json>,
}

impl RenderOptions {
    /// For inference: end with the assistant's header.
    pub fn prompt() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

/// A conversation as text. All ranges are of bytes, sorted and disjoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// What the assistant says, one range for each generation block.
    pub generated: Vec<Range<usize>>,
    /// What users, tools and models wrote, as against the template.
    pub authored: Vec<(Range<usize>, Source)>,
    /// Where the marked spans came to stand.
    pub marked: Vec<(Range<usize>, u16)>,
}

impl Rendered {
    /// The ranges in which no control token may be recognised.
    pub fn protected(&self) -> Vec<Range<usize>> {
        self.authored.iter().map(|(range, _)| range.clone()).collect()
    }
}

/// A conversation with what is to be found again in its text.
pub(crate) struct Said<'a> {
    pub(crate) messages: &'a [Message],
    pub(crate) tools: &'a [ToolDefinition],
    pub(crate) spans: &'a [Span],
}

impl Said<'_> {
    /// The spans of one part of a message, in order.
    fn spans_of(&self, message: usize, part: Part) -> Vec<(Range<usize>, u16)> {
        let own = self.spans.iter().filter(|span| span.message == message && span.part == part);
        let mut own: Vec<(Range<usize>, u16)> = own.map(|span| (span.range.clone(), span.mark)).collect();
        own.sort_by_key(|(range, _)| range.start);
        own
    }

    fn span_marks(&self) -> usize {
        let mut marks: Vec<u16> = self.spans.iter().map(|span| span.mark).collect();
        marks.sort_unstable();
        marks.dedup();
        marks.len()
    }
}

impl Template {
    /// The built-in template.
    pub fn embedded() -> Self {
        Self::from_source(QWEN3_CODER.into(), "built in").expect("the built-in template is valid")
    }

    /// Reads the template of a model folder.
    pub fn open(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("chat_template.jinja");
        match std::fs::read_to_string(&path) {
            Ok(source) => return Self::from_source(source, &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(TextError::Read { path, source }),
        }
        let path = folder.join("tokenizer_config.json");
        let config = read_optional_json(&path)?;
        let field = config.as_ref().and_then(|config| config.get("chat_template"));
        let source = match field {
            Some(Json::String(source)) => Some(source.as_str()),
            // Several named templates: [{"name": "default", "template": …}, …]
            Some(Json::Array(named)) => {
                named.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str())
            }
            _ => None,
        };
        let source = source.ok_or_else(|| TextError::NoTemplate { folder: folder.into() })?;
        Self::from_source(source.to_owned(), &path.display().to_string())
    }

    /// Compiles a template; `origin` is named in errors.
    pub fn from_source(source: String, origin: &str) -> Result<Self, TextError> {
        let (rewritten, has_generation_blocks) = rewrite_generation_blocks(&source);
        let mut environment = environment();
        environment
            .add_template_owned(NAME, rewritten)
            .map_err(|error| TextError::Template { origin: origin.into(), reason: describe(&error) })?;
        Ok(Self { source, environment, has_generation_blocks })
    }

    /// Writes `chat_template.jinja`.
    pub fn save(&self, folder: &Path) -> Result<(), TextError> {
        let path = folder.join("chat_template.jinja");
        std::fs::write(&path, &self.source).map_err(|source| TextError::Write { path, source })
    }

    /// Does the template say which text is the assistant's?
    pub fn has_generation_blocks(&self) -> bool {
        self.has_generation_blocks
    }

    /// Renders a conversation. The text is what `apply_chat_template` gives; the tokenizer says which strings are
    /// control tokens, so that what others wrote is kept apart from them.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[ToolDefinition],
        options: &RenderOptions,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, TextError> {
        self.render_spans(&Said { messages, tools, spans: &[] }, options, tokenizer)
    }

    /// The same, with parts of messages that are to be found again in the text.
    pub(crate) fn render_spans(
        &self,
        said: &Said<'_>,
        options: &RenderOptions,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, TextError> {
        let render = |depth| self.render_guarded(said, options, tokenizer, depth);
        let plain = render(Depth::Marks)?;
        let exact = render(Depth::Everything);
        let unmasked = match exact {
            Ok(exact) if exact.text == plain.text && exact.generated == plain.generated => exact,
            _ if !said.spans.is_empty() => return Err(TextError::SpansLost),
            // The template looks into what others wrote; see `guard`.
            _ => render(Depth::Punctuation)?,
        };
        let Unmasked { text, authored, marked, generated } = unmasked;
        Ok(Rendered { text, generated, authored, marked })
    }

    fn render_guarded(
        &self,
        said: &Said<'_>,
        options: &RenderOptions,
        tokenizer: &Tokenizer,
        depth: Depth,
    ) -> Result<Unmasked, TextError> {
        let names = tokenizer.control_tokens().map(|(name, _)| name);
        let mut guard = Guard::new(depth, names, said.span_marks());
        let mut context = options.variables.clone();
        for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            if let Some(text) = tokenizer.config_token_text(key) {
                context.insert(key.into(), json!(text));
            }
        }
        let messages = said.messages.iter().enumerate();
        let messages: Vec<Json> = messages.map(|(at, message)| message_value(message, at, said, &mut guard)).collect();
        let tools: Vec<Json> = said.tools.iter().map(|tool| tool_value(tool, &mut guard)).collect();
        context.insert("messages".into(), Json::Array(messages));
        context.insert("tools".into(), if tools.is_empty() { Json::Null } else { Json::Array(tools) });
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), json!(options.add_generation_prompt));
        let template = self.environment.get_template(NAME).expect("the template was added when it was compiled");
        let text = template
            .render(Value::from(Serde(&context)))
            .map_err(|error| TextError::Refused { reason: describe(&error) })?;
        Ok(guard.unmask(&text))
    }
}

/// Jinja with the settings, filters and functions that `transformers` gives to chat templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", |value: &Value, arguments: Kwargs| python::to_json(value, arguments));
    environment.add_filter("string", |value: &Value| python::as_text(value));
    environment.add_filter("lateen_generated", |body: String| format!("{GENERATED_START}{body}{GENERATED_END}"));
    // As in Python: nothing iterates over None, but over the characters of a string.
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::String | ValueKind::Undefined
        )
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
    environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    });
    environment.add_function("strftime_now", |format: String| calendar::format_now(&format));
    environment.set_formatter(|out, _state, value| {
        out.write_str(&python::as_text(value)).map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    environment
}

fn describe(error: &Error) -> String {
    let place = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    format!("{detail}{place}")
}

/// Exchanges `{% generation %}` blocks, which our Jinja does not know, for filter blocks, which treat white space
/// alike.
fn rewrite_generation_blocks(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut found = false;
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        rest = tag;
        let Some(length) = tag.find("%}").map(|end| end + 2) else { break };
        let inner = &tag[2..length - 2];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        let replacement = match word {
            "generation" => "filter lateen_generated",
            "endgeneration" => "endfilter",
            _ => {
                out.push_str("{%");
                rest = &tag[2..];
                continue;
            }
        };
        found = true;
        out.push_str(&tag[..length].replacen(word, replacement, 1));
        rest = &tag[length..];
    }
    out.push_str(rest);
    (out, found)
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

fn message_value(message: &Message, at: usize, said: &Said<'_>, guard: &mut Guard) -> Json {
    let source = match message.role {
        Role::System => Source::System,
        Role::User => Source::User,
        Role::Assistant => Source::AssistantContent,
        Role::Tool => Source::Tool,
    };
    let mut value = Map::new();
    value.insert("role".into(), json!(role_name(message.role)));
    let content = guard.mask_spans(&message.content, source, &said.spans_of(at, Part::Content));
    value.insert("content".into(), json!(content));
    if let Some(reasoning) = &message.reasoning_content {
        let spans = said.spans_of(at, Part::Reasoning);
        let reasoning = guard.mask_spans(reasoning, Source::AssistantReasoning, &spans);
        value.insert("reasoning_content".into(), json!(reasoning));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| call_value(call, guard)).collect();
        value.insert("tool_calls".into(), Json::Array(calls));
    }
    Json::Object(value)
}

fn call_value(call: &ToolCall, guard: &mut Guard) -> Json {
    let source = Source::AssistantToolCall;
    let arguments = masked_object(&call.arguments, guard, source);
    json!({"type": "function", "function": {"name": guard.mask(&call.name, source), "arguments": arguments}})
}

fn tool_value(tool: &ToolDefinition, guard: &mut Guard) -> Json {
    let mut function = Map::new();
    function.insert("name".into(), json!(guard.mask(&tool.name, Source::System)));
    if !tool.description.is_empty() {
        function.insert("description".into(), json!(guard.mask(&tool.description, Source::System)));
    }
    if !tool.parameters.is_null() {
        function.insert("parameters".into(), masked_schema(&tool.parameters, guard));
    }
    json!({"type": "function", "function": function})
}

/// All strings of a value, keys too.
fn masked(value: &Json, guard: &mut Guard, source: Source) -> Json {
    match value {
        Json::String(text) => Json::String(guard.mask(text, source)),
        Json::Array(items) => items.iter().map(|item| masked(item, guard, source)).collect(),
        Json::Object(fields) => Json::Object(masked_object(fields, guard, source)),
        other => other.clone(),
    }
}

fn masked_object(fields: &Map<String, Json>, guard: &mut Guard, source: Source) -> Map<String, Json> {
    fields.iter().map(|(key, value)| (guard.mask(key, source), masked(value, guard, source))).collect()
}

/// A JSON schema: templates know its keywords and types by name, everything else is somebody's text.
fn masked_schema(schema: &Json, guard: &mut Guard) -> Json {
    let source = Source::System;
    let Json::Object(fields) = schema else { return masked(schema, guard, source) };
    let field = |(key, value): (&String, &Json)| {
        let value = match (key.as_str(), value) {
            ("type", Json::String(name)) => Json::String(guard.mask_keyword(name, source)),
            ("properties", Json::Object(properties)) => {
                let named =
                    properties.iter().map(|(name, inner)| (guard.mask(name, source), masked_schema(inner, guard)));
                Json::Object(named.collect())
            }
            ("enum" | "default" | "const" | "examples", value) => masked(value, guard, source),
            (_, Json::Array(items)) => items.iter().map(|item| masked_schema(item, guard)).collect(),
            (_, value) => masked_schema(value, guard),
        };
        (guard.mask_keyword(key, source), value)
    };
    Json::Object(fields.iter().map(field).collect())
}

mod calendar {
    //! Today's date for templates that write it, in UTC.

    use std::time::{SystemTime, UNIX_EPOCH};

    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

    pub(super) fn format_now(format: &str) -> String {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        format_time(format, seconds)
    }

    /// The directives of `strftime` that templates use; any other stays as it is written.
    pub(super) fn format_time(format: &str, seconds: u64) -> String {
        let days = seconds / 86_400;
        let (year, month, day) = date_of(days);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let month_name = MONTHS[month as usize - 1];
        let day_name = DAYS[(days % 7) as usize];
        let mut out = String::new();
        let mut characters = format.chars().peekable();
        while let Some(c) = characters.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let is_unpadded = characters.next_if_eq(&'-').is_some();
            let pad = |number: u64| if is_unpadded { number.to_string() } else { format!("{number:02}") };
            match characters.next() {
                Some('Y') => out.push_str(&format!("{year:04}")),
                Some('y') => out.push_str(&pad(year % 100)),
                Some('m') => out.push_str(&pad(month)),
                Some('d') => out.push_str(&pad(day)),
                Some('H') => out.push_str(&pad(hour)),
                Some('M') => out.push_str(&pad(minute)),
                Some('S') => out.push_str(&pad(second)),
                Some('B') => out.push_str(month_name),
                Some('b') => out.push_str(&month_name[..3]),
                Some('A') => out.push_str(day_name),
                Some('a') => out.push_str(&day_name[..3]),
                Some('F') => out.push_str(&format!("{year:04}-{month:02}-{day:02}")),
                Some('%') => out.push('%'),
                Some(other) => out.extend(['%', other]),
                None => out.push('%'),
            }
        }
        out
    }

    /// Year, month and day of a number of days since 1970-01-01, by eras of 400 years that begin in March.
    fn date_of(days: u64) -> (u64, u64, u64) {
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        (era * 400 + year_of_era + u64::from(month <= 2), month, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_are_exchanged_with_their_white_space() {
        let (out, found) = rewrite_generation_blocks("a{%- generation -%}x{% endgeneration +%}{% if generation %}{%");
        assert!(found);
        assert_eq!(out, "a{%- filter lateen_generated -%}x{% endfilter +%}{% if generation %}{%");
        assert_eq!(rewrite_generation_blocks("{{ x }}"), ("{{ x }}".to_owned(), false));
    }

    #[test]
    fn dates_are_right() {
        // `date -u -d @…` of GNU coreutils.
        assert_eq!(calendar::format_time("%Y-%m-%d %H:%M:%S %A %b", 0), "1970-01-01 00:00:00 Thursday Jan");
        assert_eq!(calendar::format_time("%F %a %-d %B %y%%", 951_782_400), "2000-02-29 Tue 29 February 00%");
        assert_eq!(calendar::format_time("%d %b %Y %-H", 1_795_222_923), "21 Nov 2026 1");
        assert_eq!(calendar::format_time("%Q", 0), "%Q");
    }
}
