//! Lines of JSON in the forms in use: our own episodes and documents, chats, ShareGPT, Alpaca, prompt and completion,
//! fill-in-the-middle, and plain text.

use crate::error::PrepareError;
use crate::kind::Kind;
use crate::source::{Raw, Skipped};
use environment::{Episode, Split};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use text::{Document, Message, Role, ToolDefinition};

/// A source of lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlRecipe {
    pub path: PathBuf,
    /// What the lines teach, where they do not say so themselves.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// How often an epoch shows each line, on average.
    #[serde(default = "one")]
    pub repeat: f32,
    /// The largest share of all tokens that may come from here.
    #[serde(default)]
    pub share_max: Option<f64>,
}

fn one() -> f32 {
    1.0
}

impl JsonlRecipe {
    /// All lines of the file; empty ones are passed over, and episodes of a split that is measured are left out.
    pub fn read(&self, skipped: &mut Skipped) -> Result<Vec<Raw>, PrepareError> {
        let fail = |source| PrepareError::Io { action: "read", path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(fail)?;
        let mut documents = Vec::new();
        for (index, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(fail)?;
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |what| PrepareError::Line { path: self.path.clone(), line: index + 1, what };
            let value: Value = serde_json::from_str(&line).map_err(|error| wrong(format!("not JSON: {error}")))?;
            match self.raw(value, index + 1).map_err(wrong)? {
                Some(raw) => documents.push(raw),
                None => skipped.contaminated += 1,
            }
        }
        Ok(documents)
    }

    fn raw(&self, value: Value, line: usize) -> Result<Option<Raw>, String> {
        let weight = match value.get("weight") {
            None => 1.0,
            Some(weight) => {
                weight.as_f64().filter(|w| *w >= 0.0 && w.is_finite()).ok_or("weight must be a number from 0 on")?
            }
        };
        let name = value.get("kind").and_then(Value::as_str);
        let (document, kind) = if value.get("document").is_some() && value.get("split").is_some() {
            let episode: Episode = serde_json::from_value(value).map_err(|error| format!("an episode: {error}"))?;
            if episode.split != Split::Train {
                return Ok(None);
            }
            (episode.document, Some(Kind::of_episode(episode.kind)))
        } else {
            let kind = name.map(|name| Kind::from_name(name).ok_or_else(|| format!("no kind is called {name:?}")));
            (document(&value)?, kind.transpose()?)
        };
        let kind = kind.or(self.kind).unwrap_or(match &document {
            Document::Chat { .. } => Kind::Chat,
            Document::FillInTheMiddle { .. } => Kind::CodeInfilling,
            Document::Repository { fill: Some(_), .. } => Kind::CodeInfilling,
            Document::Repository { .. } | Document::Plain { .. } => Kind::Plain,
        });
        let file = self.path.file_name().map(Path::new).unwrap_or(&self.path);
        Ok(Some(Raw { document, kind, weight: weight as f32, origin: format!("{}:{line}", file.display()) }))
    }
}

/// Reads one line in whichever form its keys show.
fn document(value: &Value) -> Result<Document, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    if text("type").is_some() {
        return serde_json::from_value(value.clone()).map_err(|error| format!("a document: {error}"));
    }
    if let Some(messages) = value.get("messages") {
        return chat(list(messages, "messages")?.iter().map(message).collect::<Result<_, _>>()?, value);
    }
    if let Some(turns) = value.get("conversations") {
        return chat(list(turns, "conversations")?.iter().map(turn).collect::<Result<_, _>>()?, value);
    }
    if let (Some(instruction), Some(output)) = (text("instruction"), text("output")) {
        return Ok(alpaca(instruction, text("input").unwrap_or_default(), output, text("system").unwrap_or_default()));
    }
    if let (Some(prefix), Some(middle)) = (text("prefix"), text("middle")) {
        let [prefix, middle, suffix] = [prefix, middle, text("suffix").unwrap_or_default()].map(str::to_owned);
        return Ok(Document::FillInTheMiddle { prefix, middle, suffix });
    }
    if let (Some(prompt), Some(completion)) = (text("prompt"), text("completion")) {
        return Ok(alpaca(prompt, "", completion, ""));
    }
    if let Some(text) = text("text") {
        return Ok(Document::Plain { text: text.to_owned() });
    }
    let keys: Vec<&String> = value.as_object().map(|object| object.keys().collect()).unwrap_or_default();
    Err(format!(
        "its keys {keys:?} are none of: messages; conversations; instruction and output; prompt and completion; \
         prefix, middle and suffix; text"
    ))
}

fn chat(messages: Vec<Message>, value: &Value) -> Result<Document, String> {
    let tools = match value.get("tools") {
        None | Some(Value::Null) => Vec::new(),
        Some(tools) => {
            let read = |tool| ToolDefinition::from_json(tool).map_err(|error| error.to_string());
            list(tools, "tools")?.iter().map(read).collect::<Result<_, _>>()?
        }
    };
    if messages.is_empty() {
        return Err("it has no messages".to_owned());
    }
    Ok(Document::Chat { tools, messages })
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{name} must be a list"))
}

fn message(value: &Value) -> Result<Message, String> {
    Message::from_json(value).map_err(|error| error.to_string())
}

/// A turn of ShareGPT: `from` and `value`.
fn turn(value: &Value) -> Result<Message, String> {
    let from = value.get("from").and_then(Value::as_str).unwrap_or_default();
    let said = value.get("value").and_then(Value::as_str).ok_or("a turn of conversations must have a text `value`")?;
    if from == "function_call" {
        let call: Value = serde_json::from_str(said).map_err(|error| format!("a function_call: {error}"))?;
        let call = serde_json::json!({"role": "assistant", "content": "", "tool_calls": [call]});
        return message(&call);
    }
    let role = Role::from_name(from).ok_or_else(|| format!("nobody is called {from:?} in conversations"))?;
    Ok(Message::new(role, said))
}

fn alpaca(instruction: &str, input: &str, output: &str, system: &str) -> Document {
    let request = if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n\n{input}") };
    let mut messages = vec![Message::new(Role::User, request), Message::new(Role::Assistant, output)];
    if !system.is_empty() {
        messages.insert(0, Message::new(Role::System, system));
    }
    Document::Chat { tools: Vec::new(), messages }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Raw>, PrepareError> {
        let path = std::env::temp_dir().join(format!("lateen-jsonl-{}-{:p}.jsonl", std::process::id(), text));
        std::fs::write(&path, text).expect("write");
        let recipe = JsonlRecipe { path: path.clone(), kind: None, repeat: 1.0, share_max: None };
        let result = recipe.read(&mut Skipped::default());
        std::fs::remove_file(&path).expect("remove");
        result
    }

    #[test]
    fn all_forms_are_read() {
        let lines = [
            concat!(
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"#,
                r#""weight":2.5,"kind":"review"}"#
            ),
            concat!(
                r#"{"conversations":[{"from":"human","value":"a"},"#,
                r#"{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},"#,
                r#"{"from":"observation","value":"1"},{"from":"gpt","value":"b"}]}"#
            ),
            r#"{"instruction":"do","input":"this","output":"done","system":"be brief"}"#,
            "",
            r#"{"prompt":"a","completion":"b"}"#,
            r#"{"prefix":"a","middle":"b","suffix":"c"}"#,
            r#"{"text":"plain"}"#,
            r#"{"type":"plain","text":"ours"}"#,
        ];
        let raws = read(&lines.join("\n")).expect("all are sound");
        let kinds: Vec<Kind> = raws.iter().map(|raw| raw.kind).collect();
        use Kind::*;
        assert_eq!(kinds, [Review, Chat, Chat, Chat, CodeInfilling, Plain, Plain]);
        assert_eq!((raws[0].weight, raws[1].weight), (2.5, 1.0));
        assert!(raws[3].origin.ends_with(":5"), "{}", raws[3].origin);
        let Document::Chat { messages, .. } = &raws[1].document else { panic!("a chat") };
        assert_eq!((messages.len(), messages[1].tool_calls[0].name.as_str()), (4, "f"));
        let Document::Chat { messages, .. } = &raws[2].document else { panic!("a chat") };
        assert_eq!((messages[0].role, messages[1].content.as_str()), (Role::System, "do\n\nthis"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, wanted) in [
            ("{\"text\":\"a\"}\n{\"txt\":\"b\"}", "line 2: its keys [\"txt\"]"),
            ("{\"text\":", "line 1: not JSON"),
            ("{\"messages\":[{\"role\":\"nobody\"}]}", "nobody"),
            ("{\"messages\":[]}", "no messages"),
            ("{\"text\":\"a\",\"kind\":\"poem\"}", "poem"),
            ("{\"text\":\"a\",\"weight\":-1}", "weight"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
