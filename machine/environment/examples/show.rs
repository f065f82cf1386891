//! Prints a few tasks of each kind, as a model meets them: `cargo run -p environment --example show -- [kind] [split]
//! [count]`.
#![allow(clippy::print_stdout)]

use environment::{EpisodeKind, Sandbox, Split, task};
use text::chat::{Document, Role};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = words.first().map_or("all", String::as_str);
    let split = words.get(1).and_then(|name| Split::ALL.into_iter().find(|split| split.name() == name));
    let count: u64 = words.get(2).and_then(|count| count.parse().ok()).unwrap_or(3);
    for kind in EpisodeKind::ALL.into_iter().filter(|kind| wanted == "all" || kind.name() == wanted) {
        for seed in 0..count {
            let task = task(kind, split.unwrap_or(Split::Train), seed);
            println!("━━━ {} ━━━", task.id);
            show(&task.demonstration());
            if let Some(repository) = task.repository() {
                println!("(untouched repository solved: {})", repository.solved(&Sandbox::in_process()));
            }
        }
    }
}

fn show(document: &Document) {
    match document {
        Document::Chat { messages, .. } => {
            for message in messages {
                let who = match message.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                    Role::Tool => "tool",
                };
                println!("[{who}]");
                if let Some(reasoning) = &message.reasoning_content {
                    println!("<think>\n{reasoning}\n</think>");
                }
                if !message.content.is_empty() {
                    println!("{}", message.content);
                }
                for call in &message.tool_calls {
                    println!("→ {} {}", call.name, serde_json::Value::Object(call.arguments.clone()));
                }
            }
        }
        Document::FillInTheMiddle { prefix, middle, suffix } => println!("{prefix}⟦{middle}⟧{suffix}"),
        other => println!("{other:?}"),
    }
}
