//! What becomes of the documents of files: weights on the right tokens, duplicates, leaks, caps, portions, refusals.

mod support;

use numeric::Rng;
use prepare::{
    Cursor, DataRecipe, Dataset, Fit, Loader, LoaderSettings, NoRoots, Packing, PrepareError, Sample, Unwatched,
    fingerprint, load,
};
use serde_json::{Value, json};
use support::{Folder, tokenizer};
use text::{Renderer, Template};

const FIT: Fit = Fit { sequence_length: 1024, packing: Packing::BestFit };

fn try_with(template: &Template, table: &str) -> Result<Dataset, PrepareError> {
    let recipe: DataRecipe = toml::from_str(&format!("checked_against = 0\nvalidation = 0\n{table}")).expect("a table");
    load(&recipe, &Renderer::new(&tokenizer(), template), FIT, &NoRoots, &Unwatched)
}

fn prepare(table: &str) -> Dataset {
    try_with(&Template::embedded(), table).unwrap_or_else(|error| panic!("{error}"))
}

fn source(path: &str) -> String {
    format!("[[source]]\ntype = \"file\"\npath = \"{path}\"\n")
}

fn lines(records: impl IntoIterator<Item = Value>) -> String {
    records.into_iter().map(|record| format!("{record}\n")).collect()
}

fn words(rng: &mut Rng, count: usize) -> String {
    (0..count).map(|_| format!("w{} ", rng.below(50_000))).collect()
}

/// The text of all tokens of one weight.
fn said(sample: &Sample, weight: f32) -> String {
    let tokens: Vec<u32> =
        sample.tokens.iter().zip(&sample.weights).filter(|(_, w)| **w == weight).map(|(token, _)| *token).collect();
    tokenizer().decode(&tokens)
}

fn one_chat(messages: Value) -> Sample {
    let folder = Folder::new(&format!("one-{}", messages.to_string().len()));
    let path = folder.write("chat.jsonl", json!({ "messages": messages }).to_string());
    let mut data = prepare(&source(&path));
    assert_eq!(data.samples.len(), 1);
    data.samples.remove(0)
}

#[test]
fn weights_reach_the_tokens_of_their_messages_and_spans() {
    let sample = one_chat(json!([
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "alpha \"beta\" gamma", "weight": 0.5,
         "spans": [{"start": 7, "end": 11, "weight": 3.0}]},
        {"role": "user", "content": "second question"},
        {"role": "assistant", "reasoning_content": "quick thought", "weight": 0.25, "content": "calling",
         "tool_calls": [{"name": "lookup", "arguments": {"key": "value"}}]},
        {"role": "tool", "content": "result"},
        {"role": "assistant", "content": "delta"},
        {"role": "user", "content": "third"},
        {"role": "assistant", "content": "epsilon", "train": false},
    ]));
    assert_eq!(said(&sample, 3.0), "beta");
    let half = said(&sample, 0.5);
    assert!(half.contains("alpha") && half.contains("gamma") && half.ends_with("<|im_end|>\n"), "{half:?}");
    assert!(!half.contains("beta"), "{half:?}");
    let quarter = said(&sample, 0.25);
    for part in ["<think>", "quick thought", "calling", "<tool_call>", "lookup", "value", "</tool_call>", "<|im_end|>"]
    {
        assert!(quarter.contains(part), "{part} in {quarter:?}");
    }
    assert_eq!(said(&sample, 1.0), "delta<|im_end|>\n");
    let nothing = said(&sample, 0.0);
    for part in ["first question", "second question", "result", "epsilon", "<|im_start|>assistant"] {
        assert!(nothing.contains(part), "{part} in {nothing:?}");
    }
}

#[test]
fn parts_of_a_content_and_of_a_plain_text_weigh_their_own() {
    let sample = one_chat(json!([
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "guessing wildly ", "weight": 0}, {"type": "text", "text": "and then right"},
        ]},
    ]));
    assert_eq!(said(&sample, 1.0).trim_start(), "and then right<|im_end|>\n");
    let folder = Folder::new("plain-spans");
    let record = json!({"text": "header body footer", "spans": [{"start": 0, "end": 6, "weight": 0}]});
    let path = folder.write("text.jsonl", record.to_string());
    let data = prepare(&source(&path));
    assert_eq!(
        (said(&data.samples[0], 0.0).as_str(), said(&data.samples[0], 1.0).as_str()),
        ("header", " body footer<|endoftext|>")
    );
}

#[test]
fn a_prompt_as_text_is_given_and_its_completion_learnt() {
    let folder = Folder::new("completion");
    let path = folder.write("c.jsonl", json!({"prompt": "two plus two is", "completion": " four"}).to_string());
    let sample = &prepare(&source(&path)).samples[0];
    assert_eq!((said(sample, 0.0).as_str(), said(sample, 1.0).as_str()), ("two plus two is", " four<|endoftext|>"));
}

#[test]
fn weights_that_a_template_hides_are_refused_and_can_be_left_out() {
    let folder = Folder::new("hiding");
    let chat = |message: Value| json!({"messages": [{"role": "user", "content": "a"}, message]});
    let records = lines([
        chat(json!({"role": "assistant", "content": "plain words"})),
        chat(json!({"role": "assistant", "content": "weighed words", "weight": 0.5})),
        chat(json!({"role": "assistant", "content": "spanned words", "spans": [{"start": 0, "end": 3, "weight": 0}]})),
    ]);
    let path = folder.write("chats.jsonl", records);
    let template = |inside: &str| {
        let all =
            format!("{{% for m in messages %}}{{% if m.role == 'assistant' %}}{inside}{{% endif %}}{{% endfor %}}");
        Template::from_source(all, "a test").expect("valid")
    };
    let two_blocks =
        template("{% generation %}{{ m.content }}{% endgeneration %};{% generation %}!{% endgeneration %}");
    let error = try_with(&two_blocks, &source(&path)).expect_err("whose block is it?").to_string();
    assert!(error.contains("chats.jsonl:2") && error.contains("generation"), "{error}");
    let looking =
        template("{% generation %}{{ m.content if 'x' in m.content or 'w' in m.content }}!{% endgeneration %}");
    let error = try_with(&looking, &source(&path)).expect_err("what became of the span?").to_string();
    assert!(error.contains("chats.jsonl:3") && error.contains("spans"), "{error}");
    let skipping = source(&path) + "broken = \"skip\"\n";
    let data = try_with(&looking, &skipping).expect("two are left");
    assert_eq!((data.samples.len(), data.statistics.sources[0].total.refused), (2, 1));
}

#[test]
fn copies_and_near_copies_are_found_across_sources() {
    let (folder, mut rng) = (Folder::new("copies"), Rng::new(5));
    let texts: Vec<String> = (0..40).map(|_| words(&mut rng, 100)).collect();
    let chat = |answer: &str| {
        json!({"messages": [
            {"role": "system", "content": "The same long system text in every conversation. ".repeat(40)},
            {"role": "user", "content": "Write."}, {"role": "assistant", "content": answer},
        ]})
    };
    let one = folder.write("one.jsonl", lines(texts.iter().map(|text| chat(text))));
    let near = |text: &String| chat(&text.replacen('w', "v", 1));
    let other = lines(texts[..10].iter().map(|text| chat(text)).chain(texts[10..30].iter().map(near)));
    let two = folder.write("two.jsonl", other + &lines([chat(&words(&mut rng, 100))]));
    let table = source(&one) + &source(&two);
    let data = prepare(&table);
    let total = &data.statistics.sources[1].total;
    assert_eq!((total.duplicates, total.near_duplicates, total.samples), (10, 20, 1));
    assert_eq!(data.statistics.sources[0].total.samples, 40, "what all share in their system texts does not count");
    let exact = prepare(&format!("near_duplicates = 1.0\n{table}"));
    assert_eq!(exact.statistics.sources[1].total.samples, 21);
    assert_eq!(fingerprint(&data.samples), fingerprint(&prepare(&table).samples));
}

#[test]
fn what_is_measured_with_is_left_out_and_reported() {
    let (folder, mut rng) = (Folder::new("leaks"), Rng::new(6));
    let problem = words(&mut rng, 30);
    let evaluation = json!({"task_id": "x/1", "prompt": problem, "test": {"cases": [words(&mut rng, 20)]}, "n": 3});
    let evaluation = folder.write("evaluation.jsonl", lines([evaluation, json!({"prompt": "too short"})]));
    let twelve: String = problem.split_whitespace().skip(3).take(12).map(|word| format!("{word} ")).collect();
    let thirteen: String = problem.split_whitespace().skip(3).take(13).map(|word| format!("({word}), ")).collect();
    let records = lines([
        json!({"text": format!("before {} after", thirteen.to_uppercase())}),
        json!({"text": format!("before {twelve} after")}),
        json!({"messages": [{"role": "user", "content": problem}, {"role": "assistant", "content": "solved"}]}),
        json!({"text": words(&mut rng, 60)}),
    ]);
    let path = folder.write("data.jsonl", records);
    let data = prepare(&format!("evaluation_files = [\"{evaluation}\"]\n{}", source(&path)));
    let found = &data.statistics.sources[0];
    assert_eq!((found.total.contaminated, found.total.samples), (2, 2));
    let hits: Vec<(&str, &str)> =
        found.contamination.iter().map(|hit| (hit.origin.as_str(), hit.evaluation.as_str())).collect();
    assert_eq!(hits, [("data.jsonl:1", "evaluation.jsonl:1"), ("data.jsonl:3", "evaluation.jsonl:1")]);
    assert_eq!(found.contamination[0].shared.split(' ').count(), 13);
    assert!(
        data.statistics.notes.iter().any(|note| note.contains("fewer than 13 words")),
        "{:?}",
        data.statistics.notes
    );
    let looser = format!("evaluation_words = 14\nevaluation_files = [\"{evaluation}\"]\n{}", source(&path));
    assert_eq!(prepare(&looser).statistics.sources[0].total.contaminated, 1);
}

/// Files of texts, with so many texts in each.
fn files(folder: &Folder, counts: &[usize]) -> Vec<String> {
    let mut rng = Rng::new(7);
    let mut file = |(index, count): (usize, &usize)| {
        let records: Vec<Value> = (0..*count).map(|_| json!({"text": words(&mut rng, 20)})).collect();
        source(&folder.write(&format!("{index}.jsonl"), lines(records)))
    };
    counts.iter().enumerate().map(&mut file).collect()
}

#[test]
fn five_sources_are_capped_and_fewer_are_told_why_not() {
    let folder = Folder::new("caps");
    let six = files(&folder, &[200, 40, 40, 40, 40, 40]);
    let data = prepare(&six.concat());
    let first = &data.statistics.sources[0];
    assert!(first.share <= 0.2 && first.share > 0.18 && first.total.over_share > 100, "{first:?}");
    assert_eq!(first.total.samples + first.total.over_share, 200);
    assert!(data.statistics.notes[0].contains("samples left out, so that it is at most 20 %"));
    let two = prepare(&six[..2].concat());
    assert_eq!(two.statistics.sources[0].total.over_share, 0);
    let notes = &two.statistics.notes;
    assert!(notes[0].contains("2 sources cannot all stay within the usual 20 %"), "{notes:?}");
    let said = prepare(&(six[0].clone() + "share_max = 0.5\n" + &six[1]));
    assert!(said.statistics.sources[0].total.over_share > 100 && said.statistics.sources[0].share <= 0.5);
    assert!(prepare(&six[0]).statistics.notes.is_empty(), "one source is all there is");
}

#[test]
fn portions_mix_the_same_way_each_time_and_go_on_where_they_stopped() {
    let folder = Folder::new("portions");
    let two = files(&folder, &[30, 90]);
    let table = two[0].clone() + "portion = 3.0\n" + &two[1] + "portion = 1.0\n";
    let data = prepare(&table);
    let shares: Vec<f64> = data.statistics.sources.iter().map(|source| source.share).collect();
    assert!((shares[0] - 0.75).abs() < 0.01 && (shares[1] - 0.25).abs() < 0.01, "{shares:?}");
    assert_eq!(data.samples.len(), 120, "an epoch shows some of them several times, others in another epoch");
    assert_eq!(fingerprint(&data.samples), fingerprint(&prepare(&table).samples));
    let settings = LoaderSettings { sequence_length: 256, sequences: 1, packing: Packing::BestFit, seed: 1 };
    let mut whole = Loader::new(&data.samples, settings, Cursor::default());
    (0..7).for_each(|_| drop(whole.next_batch()));
    let again = prepare(&table);
    let mut resumed = Loader::new(&again.samples, settings, whole.cursor());
    (0..60).for_each(|_| assert_eq!(whole.next_batch(), resumed.next_batch()));
    assert!(whole.cursor().epoch > 0, "across epochs too");
    for wrong in [format!("{table}repeat = 2.0\n"), two[0].clone() + "portion = 0.0\n"] {
        assert!(try_with(&Template::embedded(), &wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_kind_and_refusal_is_counted() {
    let folder = Folder::new("kinds");
    let chat = |kind: &str, answer: &str| {
        json!({"kind": kind, "messages": [
            {"role": "user", "content": format!("{kind}?")}, {"role": "assistant", "content": answer},
        ]})
    };
    let mut records: Vec<Value> = ["replay", "debugging", "review", "reasoning"].map(|kind| chat(kind, kind)).into();
    records.push(json!({"kind": "fim", "prefix": "a", "middle": "b", "suffix": "c"}));
    records.push(json!({"messages": [{"role": "user", "content": "and?"}]}));
    let path = folder.write("kinds.jsonl", lines(records));
    let table = format!("weights = {{ review = 0.5, fill_in_the_middle = 2.0 }}\n{}", source(&path));
    let data = prepare(&table);
    let source = &data.statistics.sources[0];
    assert_eq!((source.total.documents, source.total.samples, source.total.untrained), (6, 5, 1));
    assert_eq!(source.left_out(), [("nothing to learn", 1)]);
    let kinds: Vec<&str> = source.by_kind.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["chat", "debugging", "fill_in_the_middle", "reasoning", "replay", "review"]);
    let of = |kind: &str| &source.by_kind[kind];
    assert_eq!(of("review").weight * 2.0, of("review").trained_tokens as f64);
    assert_eq!(of("fill_in_the_middle").weight, 2.0 * of("fill_in_the_middle").trained_tokens as f64);
    assert_eq!((of("chat").untrained, of("chat").samples), (1, 0));
    assert!(of("replay").lengths.longest > of("replay").trained_tokens as u32);
    let file = source.file.as_ref().expect("a file");
    assert_eq!((file.records, file.formats["chat"], file.formats["fill_in_the_middle"]), (6, 5, 1));
    let none = folder.write("none.jsonl", json!({"messages": [{"role": "user", "content": "a"}]}).to_string());
    let error = try_with(&Template::embedded(), &self::source(&none)).expect_err("nothing is left").to_string();
    assert!(error.contains("1 documents, 1 nothing to learn"), "{error}");
}
