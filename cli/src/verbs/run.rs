//! `lateen run`: one answer, or a conversation.

use crate::failure::{Interrupted, Problem};
use crate::interrupt;
use crate::memory::{ContextArguments, KvArguments};
use crate::place::{AdapterArguments, Outlined, Speaking, WeightArguments};
use crate::speech::{Said, SamplingArguments, speak};
use crate::terminal::{put, say};
use anyhow::{Context, Result};
use clap::Args;
use engine::{EngineError, Finish, Request, Session};
use evaluate::table::{bytes_in_words, count_in_words};
use models::PlanSettings;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use text::{Message, Role};

/// Talk to a model: with a prompt it answers and ends, without one it is a conversation
#[derive(Args)]
pub(crate) struct Arguments {
    /// A model folder, a GGUF file, a run, or the name of a fixture
    #[arg(default_value = "tiny")]
    model: String,
    /// What to say; standard input is added to it if it is not a terminal
    prompt: Vec<String>,
    /// A message that sets the scene
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the prompt as plain text, without the chat template
    #[arg(long)]
    raw: bool,
    /// Say how long everything took
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    weights: WeightArguments,
    #[command(flatten)]
    adapter: AdapterArguments,
    #[command(flatten)]
    kv: KvArguments,
    #[command(flatten)]
    context: ContextArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
}

const ANSWER_TOKENS: usize = 1024;

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let prompt = prompt_of(&arguments)?;
    let began = Instant::now();
    let outlined = Outlined::look_with(&arguments.model, arguments.weights.loading(), &arguments.adapter)?;
    let settings = settings(&arguments, &outlined, prompt.as_deref())?;
    let planned = outlined.planned(settings);
    let speaking = outlined.open_within(&planned)?;
    let load = began.elapsed();
    let cancel = interrupt::listen("")?;
    let mut chat = Chat::new(&speaking, &arguments, settings, cancel)?;
    chat.load = load;
    match prompt {
        Some(prompt) => {
            let said = chat.answer(&prompt)?;
            put("\n")?;
            match said.generation.finish {
                Finish::Cancelled if said.stopped_by.is_none() => Err(Interrupted { hint: String::new() }.into()),
                _ => Ok(()),
            }
        }
        None => converse(&mut chat),
    }
}

/// What is planned for: the prompt with its answer, if it is known.
fn settings(arguments: &Arguments, outlined: &Outlined, prompt: Option<&str>) -> Result<PlanSettings> {
    let tokens = match prompt {
        None => 0,
        Some(prompt) if arguments.raw => outlined.tokenizer.encode(prompt).len(),
        Some(prompt) => {
            let system = arguments.system.iter().map(|system| Message::new(Role::System, system.clone()));
            let messages: Vec<Message> = system.chain([Message::new(Role::User, prompt)]).collect();
            outlined.renderer().prompt(&messages, &[])?.len()
        }
    };
    let answer = arguments.sampling.max_tokens.unwrap_or(ANSWER_TOKENS);
    arguments.context.settings(tokens + answer, arguments.kv, &outlined.model.config)
}

/// The words of the command line and of standard input; `None` where a person sits at the terminal and said nothing.
fn prompt_of(arguments: &Arguments) -> Result<Option<String>> {
    let mut prompt = arguments.prompt.join(" ");
    if !std::io::stdin().is_terminal() {
        let mut piped = String::new();
        std::io::stdin().read_to_string(&mut piped).context("cannot read standard input as text")?;
        if !prompt.is_empty() && !piped.trim().is_empty() {
            prompt.push_str("\n\n");
        }
        prompt.push_str(&piped);
        if prompt.trim().is_empty() {
            return Err(Problem::new("the prompt is empty", "lateen run MODEL \"your question\"").into());
        }
    }
    Ok((!prompt.trim().is_empty()).then_some(prompt))
}

/// A conversation so far.
struct Chat<'a> {
    speaking: &'a Speaking,
    session: Session,
    messages: Vec<Message>,
    system: Option<String>,
    settings: SamplingArguments,
    raw: bool,
    verbose: bool,
    cancel: &'static AtomicBool,
    load: Duration,
}

impl<'a> Chat<'a> {
    fn new(
        speaking: &'a Speaking,
        arguments: &Arguments,
        planned: PlanSettings,
        cancel: &'static AtomicBool,
    ) -> Result<Self> {
        arguments.sampling.sampling(&speaking.place)?;
        let mut chat = Self {
            speaking,
            session: Session::new(&speaking.model.config, planned.kv).limited(planned.context),
            messages: Vec::new(),
            system: arguments.system.clone(),
            settings: arguments.sampling.clone(),
            raw: arguments.raw,
            verbose: arguments.verbose,
            cancel,
            load: Duration::ZERO,
        };
        chat.clear();
        Ok(chat)
    }

    fn clear(&mut self) {
        self.messages = self.system.iter().map(|system| Message::new(Role::System, system.clone())).collect();
    }

    /// Says something and streams the answer to standard output. If the prompt does not fit, it is not taken in.
    fn answer(&mut self, prompt: &str) -> Result<Said> {
        let speaking = self.speaking;
        self.messages.push(Message::new(Role::User, prompt));
        let tokens = match self.raw {
            true => speaking.tokenizer.encode(prompt),
            false => speaking.renderer().prompt(&self.messages, &[])?,
        };
        if let Err(error) = self.session.sync(&speaking.model.config, &tokens) {
            self.messages.pop();
            let hint = match error {
                EngineError::PromptTooLong { .. } => {
                    "/clear begins a new conversation, and --context makes room for a longer one"
                }
                _ => "check that the tokenizer belongs to the model",
            };
            return Err(Problem::new("the prompt cannot be read", hint).because(error).into());
        }
        let request = Request {
            sampling: self.settings.sampling(&speaking.place)?,
            max_tokens: self.settings.max_tokens.unwrap_or(ANSWER_TOKENS),
            stop: speaking.tokenizer.end_tokens().to_vec(),
        };
        let stops = self.settings.stop.clone();
        let said = speak(speaking, &mut self.session, &request, &stops, self.cancel, put)?;
        self.messages.push(Message::new(Role::Assistant, said.text.clone()));
        if self.verbose {
            say(&format!("\n{}", said.timings(self.load)));
        }
        Ok(said)
    }

    fn describe(&self) -> String {
        let model = &self.speaking.model;
        format!(
            "{}: {} parameters, {}, context of {} tokens, {} of them used",
            self.speaking.place.display(),
            count_in_words(model.parameter_count() as u64),
            bytes_in_words(model.bytes() as u64),
            self.session.context_max(),
            self.session.tokens().len()
        )
    }

    /// `/set NAME VALUE`.
    fn set(&mut self, words: &[&str]) -> Result<String> {
        let [name, value] = words else {
            anyhow::bail!(
                "/set NAME VALUE, with temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens or system"
            );
        };
        let mut next = self.settings.clone();
        let wrong = || format!("{name} cannot be {value:?}");
        match *name {
            "temperature" => next.temperature = Some(value.parse().with_context(wrong)?),
            "top_k" => next.top_k = Some(value.parse().with_context(wrong)?),
            "top_p" => next.top_p = Some(value.parse().with_context(wrong)?),
            "min_p" => next.min_p = Some(value.parse().with_context(wrong)?),
            "repetition_penalty" => next.repetition_penalty = Some(value.parse().with_context(wrong)?),
            "seed" => next.seed = Some(value.parse().with_context(wrong)?),
            "max_tokens" => next.max_tokens = Some(value.parse().with_context(wrong)?),
            other => anyhow::bail!("there is no setting {other:?}"),
        }
        next.sampling(&self.speaking.place)?;
        self.settings = next;
        Ok(format!("{name} is {value}"))
    }
}

const HELP: &str = "/clear             forget the conversation
/set NAME VALUE    temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens
/set system TEXT   set the scene, and forget the conversation
/show              the model and the conversation's length
/verbose           say how long answers take, or no longer
/bye               leave (also Ctrl-D)
\"\"\"                begin a text of several lines, and end it
Ctrl-C stops an answer, not the program.";

/// Reads lines until the person leaves.
fn converse(chat: &mut Chat<'_>) -> Result<()> {
    let mut editor = DefaultEditor::new().context("this terminal cannot be used for a conversation")?;
    let history = history_path();
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    say(&chat.describe());
    say("/help shows what else can be typed here");
    while let Some(line) = read_entry(&mut editor)? {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        // A history that cannot be kept is no reason to stop talking.
        let _ = editor.add_history_entry(line);
        if line == "/bye" || line == "/exit" {
            break;
        }
        let done = if line.starts_with('/') { command(chat, line) } else { talk(chat, line) };
        if let Err(error) = done {
            crate::failure::report(&error);
        }
    }
    if let Some(path) = &history {
        let _ = path.parent().map(std::fs::create_dir_all);
        let _ = editor.save_history(path);
    }
    Ok(())
}

fn talk(chat: &mut Chat<'_>, line: &str) -> Result<()> {
    interrupt::take();
    let said = chat.answer(line);
    put("\n")?;
    let was_stopped = matches!(&said, Ok(said) if said.finish() == "cancelled");
    if interrupt::take() && was_stopped {
        say("(stopped)");
    }
    said.map(|_| ())
}

fn command(chat: &mut Chat<'_>, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["/help" | "/?", ..] => say(HELP),
        ["/clear"] => {
            chat.clear();
            say("the conversation is forgotten");
        }
        ["/set", "system", ..] => {
            let text = line.split_once("system").map_or("", |(_, text)| text.trim());
            chat.system = (!text.is_empty()).then(|| text.to_owned());
            chat.clear();
            say("the scene is set and the conversation forgotten");
        }
        ["/set", rest @ ..] => say(&chat.set(rest)?),
        ["/show", ..] => say(&chat.describe()),
        ["/verbose"] => {
            chat.verbose = !chat.verbose;
            say(if chat.verbose { "verbose" } else { "quiet" });
        }
        _ => return Err(Problem::new(format!("there is no command {line:?}"), "/help lists them").into()),
    }
    Ok(())
}

/// A line, or the lines between two `"""`; `None` when the person leaves.
fn read_entry(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut text = String::new();
    let mut open = false;
    loop {
        let line = match editor.readline(if open { "... " } else { ">>> " }) {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(None),
            Err(ReadlineError::Interrupted) => {
                say("(/bye or Ctrl-D leaves)");
                (text, open) = (String::new(), false);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut parts = line.split("\"\"\"");
        text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            open = !open;
            text.push_str(part);
        }
        if !open {
            return Ok(Some(text));
        }
        text.push('\n');
    }
}

/// Where lines are remembered: `$XDG_STATE_HOME/lateen/history`.
fn history_path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".local/state"));
    Some(state.or_else(home)?.join("lateen/history"))
}
