//! A model that answers as the demonstrations do passes every kind of task, through the same path as any other.

use super::*;
use engine::Timings;
use environment::{EpisodeKind, Sandbox, Split, task};
use models::{Config, Model};
use std::path::PathBuf;
use text::chat::Document;
use text::{Renderer, Template, Tokenizer, tool_calls};

fn model() -> Model {
    let config = r#"{"model_type": "qwen3", "head_dim": 8, "hidden_size": 16, "intermediate_size": 16,
        "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 1, "vocab_size": 32}"#;
    Model::random(Config::from_json(config).expect("the configuration is valid"), 1)
}

/// What the assistant says in a demonstration, turn by turn, as a model would write it.
fn answers(document: &Document) -> Vec<String> {
    match document {
        Document::FillInTheMiddle { middle, .. } => vec![middle.clone()],
        Document::Chat { messages, .. } => {
            let assistant = messages.iter().filter(|message| message.role == Role::Assistant);
            let spoken = |message: &Message| {
                let thought = message.reasoning_content.iter().map(|text| format!("<think>\n{text}\n</think>\n\n"));
                let calls = message.tool_calls.iter().map(|call| format!("\n{}", tool_calls::write(call)));
                thought.chain([message.content.clone()]).chain(calls).collect::<String>()
            };
            assistant.map(spoken).collect()
        }
        other => panic!("no demonstration is of this form: {other:?}"),
    }
}

fn said(tokenizer: &Tokenizer, text: &str) -> Generation {
    let tokens = tokenizer.encode_with_control(text);
    Generation { tokens, finish: Finish::Stop(0), timings: Timings::default() }
}

#[test]
fn demonstrations_pass_and_other_answers_do_not() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/tokenizer_tiny");
    let tokenizer = Tokenizer::open(&folder).expect("the fixture opens");
    let template = Template::open(&folder).expect("the fixture opens");
    let (model, sandbox) = (model(), Sandbox::in_process());
    let subject = Subject { model: &model, renderer: Renderer::new(&tokenizer, &template), sandbox: &sandbox };
    let settings = TaskSettings { max_turns: 30, ..TaskSettings::default() };
    for kind in EpisodeKind::ALL {
        for seed in 0..4 {
            let task = task(kind, Split::Test, seed);
            let begin = || Attempt::begin(&subject, &settings, &task, 0, None).expect("the prompt renders").0;
            let mut attempt = begin();
            let mut judging = None;
            for answer in answers(&task.demonstration()) {
                match attempt.advance(&subject, &settings, &said(&tokenizer, &answer)).expect("it renders") {
                    Next::Continue(prompt) => assert!(!prompt.is_empty()),
                    Next::Judge(last) => judging = Some(last),
                }
            }
            let passed = |judging| match judging {
                Judging::Answer(text) => task.judge(&sandbox, &text).passed,
                Judging::Repository(repository) => repository.solved(&sandbox),
            };
            assert!(
                passed(judging.expect("the last answer is judged")),
                "{}: its demonstration does not pass",
                task.id
            );
            let mut silent = begin();
            let Next::Judge(nothing) =
                silent.advance(&subject, &settings, &said(&tokenizer, "I do not know.")).expect("ok")
            else {
                panic!("{}: an answer without a call ends the try", task.id);
            };
            assert!(!passed(nothing), "{}: an empty answer passes", task.id);
        }
    }
}

#[test]
fn a_call_that_cannot_be_read_is_answered_with_the_reason() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/tokenizer_tiny");
    let tokenizer = Tokenizer::open(&folder).expect("the fixture opens");
    let template = Template::open(&folder).expect("the fixture opens");
    let (model, sandbox) = (model(), Sandbox::in_process());
    let subject = Subject { model: &model, renderer: Renderer::new(&tokenizer, &template), sandbox: &sandbox };
    let settings = TaskSettings { max_turns: 2, ..TaskSettings::default() };
    let task = task(EpisodeKind::Replay, Split::Test, 1);
    let mut attempt = Attempt::begin(&subject, &settings, &task, 0, None).expect("the prompt renders").0;
    let broken = said(&tokenizer, "<tool_call>\n<function=read_file>\n<parameter=path>\nsrc");
    let Next::Continue(prompt) = attempt.advance(&subject, &settings, &broken).expect("ok") else {
        panic!("the model gets another turn");
    };
    assert!(tokenizer.decode(&prompt).contains("cut off"));
    assert!(matches!(attempt.advance(&subject, &settings, &broken), Ok(Next::Judge(_))), "turns are limited");
}
