//! From a recipe's table to samples: weights on the right tokens, mixing, caps, duplicates, leaks, and determinism.

mod support;

use environment::{EpisodeKind, Split, task};
use numeric::Rng;
use prepare::{
    DataRecipe, Dataset, Fit, Kind, NoRoots, Packing, PrepareError, Roots, Statistics, Unwatched, fingerprint, load,
};
use serde_json::Value;
use std::path::PathBuf;
use support::{Folder, fixtures, tokenizer};
use text::{Document, FillOrder, Message, Renderer, Role, Template};

const FIT: Fit = Fit { sequence_length: 1024, packing: Packing::BestFit };

fn try_prepare(toml: &str, fit: Fit, roots: &dyn Roots) -> Result<Dataset, PrepareError> {
    let recipe: DataRecipe = toml::from_str(&format!("checked_against = 1\n{toml}")).expect("a sound table");
    let (tokenizer, template) = (tokenizer(), Template::embedded());
    load(&recipe, &Renderer::new(&tokenizer, &template), fit, roots, &Unwatched)
}

fn prepare(toml: &str) -> Dataset {
    try_prepare(toml, FIT, &NoRoots).expect("data")
}

impl Roots for Folder {
    fn find(&self, name: &str) -> Option<PathBuf> {
        (name == "here").then(|| self.0.clone())
    }
}

/// TRL's labels of six conversations, tools and all: the same tokens count, no others.
#[test]
fn trained_tokens_are_those_of_trl() {
    let text = std::fs::read_to_string(fixtures().join("trl/samples.json")).expect("fixture");
    let samples: Value = serde_json::from_str(&text).expect("JSON");
    let lines: Vec<String> = samples
        .as_array()
        .expect("array")
        .iter()
        .map(|s| serde_json::json!({"messages": s["messages"], "tools": s["tools"]}).to_string())
        .collect();
    let folder = Folder::new("trl");
    let path = folder.write("chats.jsonl", lines.join("\n"));
    let fit = Fit { sequence_length: 4096, ..FIT };
    let data = try_prepare(&format!("validation = 0\n[[source]]\ntype = \"jsonl\"\npath = \"{path}\""), fit, &NoRoots);
    let data = data.expect("data");
    let mut compared = 0;
    for sample in samples.as_array().expect("array") {
        let list = |key: &str| -> Vec<i64> {
            sample["tiny"][key].as_array().expect("array").iter().map(|n| n.as_i64().expect("number")).collect()
        };
        let (ids, labels) = (list("input_ids"), list("labels"));
        // One sample holds control tokens inside a user's text; ours stay text there, so its ids differ on purpose.
        let ours = data.samples.iter().find(|s| s.tokens.iter().map(|&t| i64::from(t)).eq(ids.iter().copied()));
        let Some(ours) = ours else { continue };
        let trained: Vec<bool> = ours.weights.iter().map(|&weight| weight > 0.0).collect();
        assert_eq!(trained, labels.iter().map(|&label| label != -100).collect::<Vec<_>>());
        compared += 1;
    }
    assert_eq!((data.samples.len(), compared), (6, 5));
}

#[test]
fn katas_of_every_kind_weigh_what_the_recipe_says() {
    let table = "validation = 30\nweights = { review = 0.25 }\n[[source]]\ntype = \"kata\"\nepisodes = 150";
    let fit = Fit { sequence_length: 8192, ..FIT };
    let data = try_prepare(table, fit, &NoRoots).expect("data");
    let Statistics { by_kind, sources, .. } = &data.statistics;
    assert_eq!(by_kind.len(), 6, "{by_kind:?}");
    assert!(by_kind.values().all(|kind| kind.trained_tokens > 0 && kind.trained_tokens < kind.tokens));
    let report = sources[0].kata.as_ref().expect("a kata source");
    assert_eq!((report.contaminated, report.checked_against), (0, 3 * 6), "{:?}", report.examples);
    assert_eq!(report.episodes, 150);
    assert!(data.samples.len() + sources[0].total.duplicates == 150 && !data.validation.is_empty());
    for sample in &data.samples {
        let wanted = if sample.kind == Kind::Review { 0.25 } else { 1.0 };
        assert!(sample.weights.iter().all(|&weight| weight == 0.0 || weight == wanted));
    }
    let again = try_prepare(table, fit, &NoRoots).expect("data");
    assert_eq!(fingerprint(&data.samples), fingerprint(&again.samples));
    let other = try_prepare(&format!("seed = 1\n{table}"), fit, &NoRoots).expect("data");
    assert_ne!(fingerprint(&data.samples), fingerprint(&other.samples));
}

#[test]
fn new_families_are_other_tasks_and_checked_as_all_are() {
    let table = "validation = 30\n[[source]]\ntype = \"kata\"\nepisodes = 150";
    let known = try_prepare(table, FIT, &NoRoots).expect("data");
    let new = try_prepare(&format!("{table}\nnew_families = true"), FIT, &NoRoots).expect("data");
    let report = new.statistics.sources[0].kata.as_ref().expect("a kata source");
    assert_eq!((report.episodes + report.contaminated, report.checked_against), (150, 3 * 6));
    assert!(new.samples.iter().all(|sample| known.samples.iter().all(|other| other.tokens != sample.tokens)));
    let is_shown = |held: &prepare::Sample| new.samples.iter().any(|sample| sample.tokens == held.tokens);
    assert!(new.validation.len() > 20 && !new.validation.iter().any(is_shown));
}

#[test]
fn what_tools_and_users_say_is_never_trained() {
    let (tokenizer, template) = (tokenizer(), Template::embedded());
    let renderer = Renderer::new(&tokenizer, &template);
    let weighing = prepare::Weighing::default();
    for seed in 0..3 {
        let document = task(EpisodeKind::Replay, Split::Train, seed).demonstration();
        let Document::Chat { messages, .. } = &document else { panic!("a replay is a conversation") };
        let sample =
            weighing.sample(&renderer.document(&document, FillOrder::PrefixFirst).expect("renders"), Kind::Replay, 1.0);
        let trained: Vec<u32> =
            sample.tokens.iter().zip(&sample.weights).filter(|(_, w)| **w > 0.0).map(|(&token, _)| token).collect();
        let said = tokenizer.decode(&trained);
        for message in messages {
            let content = message.content.trim();
            match message.role {
                Role::Assistant => {
                    assert!(said.contains(content) && !message.tool_calls.iter().any(|c| !said.contains(&c.name)))
                }
                _ if content.len() > 60 => assert!(!said.contains(content), "trained on: {content}"),
                _ => {}
            }
        }
    }
}

#[test]
fn code_is_read_in_an_order_of_the_seed_and_capped() {
    let folder = Folder::new("code");
    let mut rng = Rng::new(1);
    for i in 0..40 {
        let body: String =
            (0..30).map(|_| format!("value_{} = compute({})\n", rng.below(1000), rng.below(1000))).collect();
        folder.write(&format!("package/module_{i}.py"), &body);
    }
    folder.write("package/gpl.py", "# GNU General Public License\nx = 1\n");
    folder.write("package/huge.py", "x = 1\n".repeat(60_000));
    folder.write("package/binary.py", "x = '\u{0}'\n");
    std::fs::write(folder.0.join("package/latin.py"), [0x78, 0xE9, 0x0A]).expect("write");
    folder.write("package/notes.txt", "not code");
    folder.write("target/built.py", "generated = True\n");
    let table = r#"
        validation = 10
        [[source]]
        type = "kata"
        episodes = 60
        [[source]]
        type = "code"
        roots = ["$here", "$nowhere"]
        share_max = 0.25
        fill_share = 0.5
        piece_bytes_max = 400
    "#;
    let data = try_prepare(table, FIT, &folder).expect("data");
    let code = &data.statistics.sources[1];
    assert_eq!((code.skipped.licence, code.skipped.too_large, code.skipped.not_text), (1, 1, 1));
    assert_eq!(code.skipped.missing_roots, ["$nowhere"]);
    assert!(code.share <= 0.25 && code.share > 0.2 && code.total.over_share > 0, "{code:?}");
    let kinds = &data.statistics.by_kind;
    assert!(kinds["plain"].samples > 0 && kinds["code_infilling"].samples > 0);
    let again = try_prepare(table, FIT, &folder).expect("data");
    assert_eq!(fingerprint(&data.samples), fingerprint(&again.samples));
}

#[test]
fn long_empty_doubled_and_leaking_samples_are_counted() {
    let folder = Folder::new("counts");
    let answer = task(EpisodeKind::Solve, Split::Test, 5);
    let chat = |user: &str, assistant: &str| {
        let messages = [Message::new(Role::User, user), Message::new(Role::Assistant, assistant)];
        serde_json::json!({ "messages": messages }).to_string()
    };
    let words = |n: usize| (0..n).map(|i| format!("w{} ", i * 7919 % 1000)).collect::<String>();
    let test_line = serde_json::to_string(&answer.record()).expect("JSON");
    let lines = [
        chat("a", "b"),
        chat("a", "b"),
        chat("short", &words(900)),
        chat(&words(900), "never seen"),
        chat("c", "d"),
        test_line,
    ];
    let path = folder.write("lines.jsonl", lines.join("\n"));
    let data = prepare(&format!("validation = 0\n[[source]]\ntype = \"jsonl\"\npath = \"{path}\""));
    let source = &data.statistics.sources[0];
    let total = &source.total;
    assert_eq!((total.documents, total.samples), (5, 3));
    assert_eq!((total.truncated, total.unreachable, total.duplicates, source.skipped.measured), (2, 1, 1, 1));
    assert!(data.samples.iter().any(|sample| sample.tokens.len() == FIT.sequence_length));
}

#[test]
fn what_cannot_work_is_said() {
    for (table, wanted) in [
        ("", "no source"),
        ("[[source]]\ntype = \"kata\"\nrepeat = 0.0", "repeat"),
        ("[[source]]\ntype = \"code\"", "roots"),
        ("suffix_first = 2.0\n[[source]]\ntype = \"kata\"\nepisodes = 1", "suffix_first"),
        ("[[source]]\ntype = \"kata\"\nmix = { solve = -1.0 }", "mix"),
        ("[[source]]\ntype = \"jsonl\"\npath = \"/nowhere/at/all.jsonl\"", "/nowhere/at/all.jsonl"),
    ] {
        let error = try_prepare(table, FIT, &NoRoots).expect_err(table).to_string();
        assert!(error.contains(wanted), "{table:?} gave {error:?}");
    }
    assert!(toml::from_str::<DataRecipe>("[[source]]\ntype = \"kata\"\nepisods = 5").is_err(), "a typo is an error");
}

#[test]
fn episodes_go_to_a_file_and_come_back() {
    let folder = Folder::new("episodes");
    let path = folder.0.join("episodes.jsonl");
    let kata = prepare::KataRecipe { episodes: 40, ..prepare::KataRecipe::default() };
    let report = kata.write_episodes(Split::Train, 3, &[], &path, &|_, _| {}).expect("written");
    assert_eq!((report.episodes, report.by_kind.values().sum::<usize>()), (40, 40));
    let direct = kata.read(Split::Train, 3, &|_, _| {}).expect("read").0;
    let table = format!("[[source]]\ntype = \"jsonl\"\npath = \"{}\"", path.display());
    let recipe: DataRecipe = toml::from_str(&table).expect("table");
    let prepare::SourceRecipe::File(file) = &recipe.sources[0] else { panic!("a file") };
    let back: Result<Vec<prepare::Raw>, PrepareError> = file.documents(0).expect("opened").collect();
    let back = back.expect("read back");
    assert_eq!(back.len(), direct.len());
    assert!(back.iter().zip(&direct).all(|(a, b)| (&a.document, a.kind) == (&b.document, b.kind)));
    let nowhere = folder.0.join("missing/folder/x.jsonl");
    assert!(kata.write_episodes(Split::Train, 3, &[], &nowhere, &|_, _| {}).is_err());
}

#[test]
fn a_tokenizer_of_ones_own_shortens_what_it_was_trained_on() {
    let recipe: DataRecipe = toml::from_str("[[source]]\ntype = \"kata\"\nepisodes = 400").expect("table");
    let template = Template::embedded();
    let vocabulary = prepare::Vocabulary { size: 600, episodes: 60 };
    let train = || prepare::train_tokenizer(vocabulary, &recipe, &template, &NoRoots, &Unwatched).expect("trained");
    let ours = train();
    assert_eq!(ours.vocabulary_size(), 600);
    let program = "def total(items):\n    return sum(items)\n";
    assert!(ours.encode(program).len() * 2 < program.len(), "{} tokens", ours.encode(program).len());
    assert_eq!(ours.decode(&ours.encode(program)), program);
    assert_eq!(ours.encode(program), train().encode(program), "the same each time");
}
