//! The page holds what the events say, escapes what it quotes, and fetches nothing.

use super::*;
use crate::event::{Begin, Ending, Event, Step, Validation, Warning};

fn events(steps: usize) -> Vec<Event> {
    let begin = Begin {
        step: 0,
        steps,
        parameters: 2_500_000,
        trained_parameters: 2_500_000,
        samples: 1000,
        trained_tokens: 90_000,
        validation_samples: 20,
        batch_tokens: 8192,
        auxiliary_coefficient: 0.001,
        method: "LoRA of rank 8 on q_proj".to_owned(),
        ..Begin::default()
    };
    let mut events = vec![Event::Begin(begin)];
    for step in 1..=steps {
        let decay = (-(step as f64) / 80.0).exp();
        events.push(Event::Step(Step {
            step,
            loss: 0.6 + 5.0 * decay + 0.1 * ((step * 37 % 11) as f64 / 11.0),
            losses: [("write".to_owned(), 0.5 + decay), ("review".to_owned(), 0.7 + decay)].into(),
            terms: [("self_correction".to_owned(), 0.2 * decay)].into(),
            learning_rate: 1e-3 * decay,
            gradient_norm: 1.0 + decay,
            skipped: step == 7,
            expert_imbalance: 1.4,
            router_entropy: 2.0 - decay,
            tokens: 8192,
            trained_tokens: 3000,
            tokens_per_second: 4000.0,
            seconds: step as f64 * 2.0,
            epoch: 0,
            peak_memory_bytes: Some(1_500_000_000),
        }));
        if step % 50 == 0 {
            let losses = [("write".to_owned(), 0.8), ("review".to_owned(), 0.9)].into();
            events.push(Event::Validation(Validation { step, loss: 0.7 + 5.0 * decay, losses, seconds: 1.0 }));
        }
    }
    for step in [steps / 2, steps] {
        let layers = (0..4).map(|l| (0..16).map(|e| if e == l { 0.2 } else { 0.8 / 15.0 }).collect()).collect();
        events.push(Event::ExpertLoad { step, layers, entropies: vec![1.0; 4] });
        events.push(Event::Tasks { step, scores: [("solve".to_owned(), 0.25)].into(), seconds: 3.0 });
    }
    let message = "loss < 0.3 & \"falling\"".to_owned();
    events.push(Event::Warning { step: steps, warning: Warning::Memorising, message });
    events.push(Event::End { step: steps, outcome: Ending::Finished, seconds: 2.0 * steps as f64 });
    events
}

#[test]
fn a_page_stands_alone_and_says_what_happened() {
    let page = render("base <tiny>", &events(300));
    for wanted in [
        "base &lt;tiny&gt;",
        "300 of 300 steps, finished",
        "loss &lt; 0.3 &amp;",
        "Expert load",
        "10 min 00 s",
        "LoRA of rank 8 on q_proj",
        "1 updates left out",
        "1.50 GB",
        "Tasks solved",
        "Router entropy",
        "Objective: self correction",
        "layer 3, step 150: 3.20×",
    ] {
        assert!(page.contains(wanted), "missing {wanted:?}");
    }
    assert_eq!(page.matches("<svg").count(), 12, "ten charts and two maps");
    assert!(page.contains("prefers-color-scheme: dark"));
    for foreign in ["http://", "https://", "<script", "<link", "url("] {
        assert!(!page.contains(foreign), "the page must not reach outside: {foreign}");
    }
    assert!(!page.contains("NaN") && page.contains("<td>write</td>"));
}

#[test]
fn a_run_that_has_not_begun_or_not_ended_is_a_page_too() {
    assert!(render("empty", &[]).contains("Nothing has happened yet"));
    let half: Vec<Event> = events(20).into_iter().take(12).collect();
    assert!(render("half", &half).contains("11 of 20 steps, running"));
}

#[test]
fn several_runs_share_their_axes_and_a_table() {
    let runs = [("full".to_owned(), events(100)), ("<lora>".to_owned(), events(50)), ("empty".to_owned(), Vec::new())];
    let page = render_several("A & B", &runs);
    for wanted in ["A &amp; B", "&lt;lora&gt;", "3 runs", "(step 100)", "i class=\"c1\"", "Validation: write"] {
        assert!(page.contains(wanted), "missing {wanted:?}");
    }
    assert_eq!(page.matches("<tr>").count(), 4, "a head and three runs");
    let loss = page.find("Loss, smoothed").expect("the first chart");
    let first = &page[loss..loss + page[loss..].find("</svg>").expect("its end")];
    assert_eq!(first.matches("<path").count(), 2, "one line for each run that has steps");
    assert!(page.contains("Expert load of &lt;lora&gt;, step 50") && !page.contains("NaN") && !page.contains("<lora>"));
    for foreign in ["http://", "https://", "<script", "<link", "url("] {
        assert!(!page.contains(foreign), "the page must not reach outside: {foreign}");
    }
}
