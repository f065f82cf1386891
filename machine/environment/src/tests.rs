//! What the world promises of its tasks, checked over many of them.

use std::collections::HashSet;

use numeric::Rng;
use text::chat::{Document, Message, Role};

use crate::draft::Draft;
use crate::families::families;
use crate::kata::Kata;
use crate::source::{Sort, extract_code, tokens};
use crate::split::Split;
use crate::{EpisodeKind, Prompt, Sandbox, Task, overlaps, task};

fn tasks(kind: EpisodeKind, split: Split, seeds: std::ops::Range<u64>) -> Vec<Task> {
    seeds.map(|seed| task(kind, split, seed)).collect()
}

fn user_text(task: &Task) -> String {
    match task.prompt() {
        Prompt::Chat { messages, .. } => messages.iter().map(|message| message.content.as_str()).collect(),
        Prompt::FillInTheMiddle { .. } => panic!("{} has no user message", task.id),
    }
}

fn messages(task: &Task) -> Vec<Message> {
    match task.demonstration() {
        Document::Chat { messages, .. } => messages,
        other => panic!("{} is no conversation: {other:?}", task.id),
    }
}

fn final_answer(task: &Task) -> String {
    messages(task).pop().expect("a conversation has an end").content
}

#[test]
fn there_are_enough_families() {
    assert!(families(false).len() >= 36, "{} known families", families(false).len());
    assert!(families(true).len() >= 6, "{} held-out families", families(true).len());
    let names: HashSet<&str> = families(false).into_iter().chain(families(true)).map(|family| family.name).collect();
    assert_eq!(names.len(), families(false).len() + families(true).len(), "family names are unique");
}

#[test]
fn references_pass_their_tests_and_descriptions_say_all() {
    let sandbox = Sandbox::in_process();
    for unseen in [false, true] {
        for family in families(unseen) {
            for seed in 0..20 {
                let split = match (unseen, seed % 10) {
                    (true, _) => Split::UnseenFamilies,
                    (false, 0) => Split::Validation,
                    (false, 1) => Split::Test,
                    (false, _) => Split::Train,
                };
                let kata = Kata::draw_from(family, split, &mut Rng::new(seed));
                let verdict = kata.judge(&sandbox, &kata.program);
                assert!(verdict.passed && verdict.exact, "{}: {}\n{}", family.name, verdict.detail, kata.program);
                assert!((4..=8).contains(&kata.tests.len()), "{}: {} tests", family.name, kata.tests.len());
                assert!(kata.description.contains(&kata.name), "{}", kata.description);
                assert!(kata.description.split_whitespace().count() <= 60, "{}", kata.description);
                assert!((2..=16).contains(&kata.program.lines().count()), "{}", kata.program);
                for token in tokens(&kata.program) {
                    let text = token.of(&kata.program);
                    let is_constant = token.sort == Sort::Number && text.len() > 1;
                    let is_word =
                        token.sort == Sort::Text && text.len() > 3 && text != "'aeiou'" && !text.starts_with('f');
                    if is_constant || is_word {
                        let said = kata.description.contains(text.trim_matches('\''));
                        assert!(said, "{text} is not in: {}", kata.description);
                    }
                }
            }
        }
    }
}

#[test]
fn families_have_a_thousand_instances() {
    for family in families(false).into_iter().chain(families(true)) {
        let mut distinct: HashSet<String> = HashSet::new();
        for seed in 0..3000 {
            let sketch = (family.build)(Draft::new(Rng::new(seed), false));
            distinct.insert(format!("{}\n{}", sketch.description, sketch.program));
            if distinct.len() == 1000 {
                break;
            }
        }
        assert_eq!(distinct.len(), 1000, "{} has too few instances", family.name);
    }
}

#[test]
fn the_same_arguments_give_the_same_task() {
    for kind in EpisodeKind::ALL {
        for split in Split::ALL {
            let (one, two) = (task(kind, split, 11), task(kind, split, 11));
            assert_eq!(one.record(), two.record());
            assert_ne!(one.record().document, task(kind, split, 12).record().document);
            assert_eq!(one.split, split);
        }
    }
}

#[test]
fn records_survive_json() {
    for kind in EpisodeKind::ALL {
        let record = task(kind, Split::Train, 5).record();
        let line = serde_json::to_string(&record).expect("a record is plain data");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<crate::Episode>(&line).expect("what was written can be read"), record);
    }
}

#[test]
fn solve_accepts_the_reference_only() {
    let sandbox = Sandbox::in_process();
    for task in tasks(EpisodeKind::Solve, Split::Test, 0..60) {
        assert!(task.judge(&sandbox, &final_answer(&task)).passed);
        assert!(task.judge(&sandbox, task.program()).passed, "bare code is accepted too");
        for wrong in ["", "```python\n```", "I cannot do this.", "```python\ndef f(x):\n    return None\n```"] {
            let verdict = task.judge(&sandbox, wrong);
            assert!(!verdict.passed && !verdict.detail.is_empty(), "{}: {wrong:?}", task.id);
        }
    }
}

#[test]
fn debugging_shows_a_program_that_fails() {
    let sandbox = Sandbox::in_process();
    for task in tasks(EpisodeKind::Debugging, Split::Train, 0..150) {
        let request = user_text(&task);
        let verdict = task.judge(&sandbox, &request);
        assert!(!verdict.passed, "the program shown in {} passes", task.id);
        assert_ne!(extract_code(&request), task.program());
        assert!(task.judge(&sandbox, &final_answer(&task)).passed, "{}", task.id);
    }
}

#[test]
fn review_needs_the_verdict_and_the_line() {
    let sandbox = Sandbox::in_process();
    let mut approvals = 0;
    let all = tasks(EpisodeKind::Review, Split::Train, 0..200);
    for task in &all {
        let answer = final_answer(task);
        assert!(task.judge(&sandbox, &answer).passed, "{}: {answer}", task.id);
        assert!(!task.judge(&sandbox, "").passed);
        let verdict = answer.lines().next().expect("an answer has a first line");
        if verdict == "approve" {
            approvals += 1;
            assert!(!task.judge(&sandbox, "request changes\nLine 2 should be `pass`.").passed);
        } else {
            assert_eq!(verdict, "request changes");
            assert!(!task.judge(&sandbox, "approve\nThe change does what is asked.").passed);
            assert!(!task.judge(&sandbox, "request changes\nLine 99 is wrong.").passed, "the line must be right");
            assert!(!task.judge(&sandbox, "request changes").passed, "the line must be named");
        }
        assert!(user_text(task).contains("\n@@ -1,"), "{}", user_text(task));
    }
    assert!((70..=130).contains(&approvals), "{approvals} of {} are approvals", all.len());
}

#[test]
fn a_filled_hole_passes_and_an_empty_one_does_not() {
    let sandbox = Sandbox::in_process();
    for task in tasks(EpisodeKind::FillInTheMiddle, Split::Train, 0..150) {
        let Document::FillInTheMiddle { prefix, middle, suffix } = task.demonstration() else {
            panic!("{} has no hole", task.id);
        };
        assert!(!middle.trim().is_empty() && (prefix + &middle + &suffix).ends_with(task.program()));
        let verdict = task.judge(&sandbox, &middle);
        assert!(verdict.passed && verdict.exact, "{}: {}", task.id, verdict.detail);
        let verdict = task.judge(&sandbox, "@");
        assert!(!verdict.passed && !verdict.exact, "{}", task.id);
    }
}

#[test]
fn reasoning_is_judged_by_the_value() {
    let sandbox = Sandbox::in_process();
    for task in tasks(EpisodeKind::Reasoning, Split::Train, 0..150) {
        let answer = final_answer(&task);
        let verdict = task.judge(&sandbox, &answer);
        assert!(verdict.passed && verdict.exact, "{}: {}", task.id, verdict.detail);
        assert!(!task.judge(&sandbox, "It returns `-987654`.").passed);
        assert!(!task.judge(&sandbox, "").passed);
        let steps = messages(&task).pop().and_then(|message| message.reasoning_content).unwrap_or_default();
        assert!(!steps.is_empty(), "{} has no steps", task.id);
        let value = answer.trim_start_matches("It returns `").trim_end_matches("`.");
        let last = steps.lines().last().unwrap_or_default();
        assert!(last.starts_with("return ") && last.ends_with(value), "{}: {last} for {value}", task.id);
    }
}

#[test]
fn replays_re_enacted_give_the_recorded_results_and_solve() {
    let sandbox = Sandbox::in_process();
    for split in Split::ALL {
        for task in tasks(EpisodeKind::Replay, split, 0..60) {
            let mut repository = task.repository().expect("a replay has files");
            assert!(!repository.solved(&sandbox), "{} is solved before it begins", task.id);
            let turns = messages(&task);
            let calls = turns.iter().map(|turn| turn.tool_calls.len()).sum::<usize>();
            assert!((3..=7).contains(&calls), "{}: {calls} calls", task.id);
            for pair in turns.windows(2).filter(|pair| pair[1].role == Role::Tool) {
                assert_eq!(repository.call(&sandbox, &pair[0].tool_calls[0]), pair[1].content, "{}", task.id);
            }
            assert!(repository.solved(&sandbox), "{}", task.id);
            let Document::Chat { tools, .. } = task.demonstration() else { panic!("a replay is a conversation") };
            assert_eq!(tools.len(), 5);
        }
    }
}

#[test]
fn splits_share_no_program_and_no_description() {
    let gather = |split: Split, count: u64| -> Vec<Task> {
        EpisodeKind::ALL.into_iter().flat_map(|kind| tasks(kind, split, 0..count)).collect()
    };
    let train = gather(Split::Train, 500);
    assert!(!overlaps(&train, &train[..10]).is_empty(), "the check sees what is shared");
    for (split, count) in [(Split::Test, 150), (Split::Validation, 150), (Split::UnseenFamilies, 60)] {
        let found = overlaps(&train, &gather(split, count));
        assert!(found.is_empty(), "{} overlaps: {found:#?}", found.len());
    }
}

#[test]
fn unseen_families_stay_unseen() {
    let unseen: HashSet<&str> = families(true).into_iter().map(|family| family.name).collect();
    for kind in EpisodeKind::ALL {
        for seed in 0..40 {
            assert!(unseen.contains(task(kind, Split::UnseenFamilies, seed).family));
            let known = task(kind, Split::Train, seed);
            assert!(known.exercise_families().iter().all(|family| !unseen.contains(family)), "{}", known.id);
        }
    }
}
