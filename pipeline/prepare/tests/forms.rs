//! Every dialect that is read, case by case: the record, and the document or the refusal that it must become.

mod support;

use prepare::{Broken, FileRecipe, Kind, PrepareError, Raw, WrittenAs};
use serde_json::{Value, json};
use support::{Folder, documents};
use text::{Document, Message, Part, Role, ToolCall};

fn read_with(records: &[Value], change: impl FnOnce(&mut FileRecipe)) -> Result<Vec<Raw>, PrepareError> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = Folder::new(&format!("forms-{number}"));
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let mut recipe = FileRecipe::new(folder.write("data.jsonl", lines.join("\n")));
    change(&mut recipe);
    documents(&recipe)
}

fn read(record: Value) -> Raw {
    let shown = record.to_string();
    let mut raws = read_with(&[record], |_| {}).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(raws.len(), 1, "{shown}");
    raws.remove(0)
}

fn refusal(record: Value) -> String {
    let shown = record.to_string();
    read_with(&[json!({"text": "before"}), record], |_| {}).expect_err(&shown).to_string()
}

fn messages(raw: &Raw) -> &[Message] {
    let Document::Chat { messages, .. } = &raw.document else { panic!("a conversation, not {:?}", raw.document) };
    messages
}

fn said(raw: &Raw) -> Vec<(Role, &str)> {
    messages(raw).iter().map(|message| (message.role, message.content.as_str())).collect()
}

fn call(name: &str, arguments: Value) -> ToolCall {
    ToolCall { name: name.into(), arguments: arguments.as_object().expect("an object").clone() }
}

use Role::{Assistant, System, Tool, User};

#[test]
fn messages_with_tools_in_all_their_spellings() {
    let raw = read(json!({
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be "}, "brief"]},
            {"role": "user", "content": "what is in a?"},
            {"role": "assistant", "content": null, "reasoning_content": "I must look.", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "read", "arguments": "{\"path\": \"a\"}"}},
                {"type": "function", "function": {"name": "read", "arguments": {"path": "b", "line": 3}}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "x = 1"},
            {"role": "function", "name": "read", "content": "y = 2"},
            {"role": "assistant", "content": null, "function_call": {"name": "stop", "arguments": ""}},
            {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nTwo numbers."},
        ],
        "tools": [
            {"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": {}}},
            {"name": "stop", "input_schema": {"type": "object"}},
        ],
        "kind": "debugging", "weight": 2, "id": 17,
    }));
    let Document::Chat { tools, messages } = &raw.document else { panic!("a conversation") };
    assert_eq!(tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["read", "stop"]);
    assert_eq!((raw.kind, raw.weight, raw.origin.as_str()), (Kind::Debugging, 2.0, "data.jsonl:1"));
    assert_eq!((messages[0].role, messages[0].content.as_str()), (System, "be brief"));
    let calls = [call("read", json!({"path": "a"})), call("read", json!({"path": "b", "line": 3}))];
    assert_eq!(messages[2].tool_calls, calls);
    assert_eq!(messages[2].reasoning_content.as_deref(), Some("I must look."));
    assert_eq!((messages[3].role, messages[4].role), (Tool, Tool));
    assert_eq!(messages[5].tool_calls, [call("stop", json!({}))]);
    assert_eq!(messages[6].reasoning_content.as_deref(), Some("Easy."));
    assert_eq!(messages[6].content, "Two numbers.");
}

#[test]
fn sharegpt_in_both_dialects() {
    let call_text = r#"{"name": "f", "arguments": {"x": 1}}"#;
    let tools = json!([{"name": "f", "description": "d", "parameters": {"type": "object"}}]).to_string();
    let raw = read(json!({
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "I call."},
            {"from": "function_call", "value": call_text},
            {"from": "function_call", "value": {"name": "g", "arguments": {}}},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "b"},
        ],
        "system": "s", "tools": tools,
    }));
    assert_eq!(said(&raw), [(System, "s"), (User, "a"), (Assistant, "I call."), (Tool, "1"), (Assistant, "b")]);
    assert_eq!(messages(&raw)[2].tool_calls, [call("f", json!({"x": 1})), call("g", json!({}))]);
    let Document::Chat { tools, .. } = &raw.document else { panic!("a conversation") };
    assert_eq!(tools.len(), 1, "tools as a text");

    let roles = read(json!({"conversations": [
        {"role": "user", "content": "a"}, {"role": "bot", "content": "b"}, {"role": "user", "content": "c"},
    ]}));
    assert_eq!(said(&roles), [(User, "a"), (Assistant, "b"), (User, "c")]);
    let turned = read(json!({"messages": [{"from": "system", "value": "s"}, {"from": "chatgpt", "value": "b"}]}));
    assert_eq!(said(&turned), [(System, "s"), (Assistant, "b")]);
}

#[test]
fn calls_written_into_the_content_are_calls() {
    let hermes = read(json!({"conversations": [
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "So:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>"},
        {"from": "tool", "value": "<tool_response>\n{\"y\": 2}\n</tool_response>"},
        {"from": "gpt", "value": "y is 2"},
    ]}));
    assert_eq!(messages(&hermes)[1].tool_calls, [call("f", json!({"x": 1}))]);
    assert_eq!(said(&hermes)[1..3], [(Assistant, "So:"), (Tool, "{\"y\": 2}")]);
    let ours = "<tool_call>\n<function=f>\n<parameter=x>\nhi\n</parameter>\n</function>\n</tool_call>";
    let ours = read(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ours}]}));
    assert_eq!(messages(&ours)[1].tool_calls, [call("f", json!({"x": "hi"}))]);
    let prose = "write <tool_call> and a name";
    let prose = read(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": prose}]}));
    assert_eq!(said(&prose)[1].1, "write <tool_call> and a name");
}

#[test]
fn several_system_texts_are_one_and_other_roles_in_a_row_stay() {
    let raw = read(json!({"messages": [
        {"role": "system", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"},
        {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}, {"role": "assistant", "content": "f"},
    ]}));
    let wanted = [(System, "a\n\nb"), (User, "c"), (User, "d"), (Assistant, "e"), (Assistant, "f")];
    assert_eq!(said(&raw), wanted);
}

#[test]
fn alpaca_with_its_history_and_its_own_template() {
    let record = json!({
        "instruction": "do", "input": "this", "output": "done", "system": "s", "history": [["q", "a"]],
    });
    let raw = read(record.clone());
    let wanted = [(System, "s"), (User, "q"), (Assistant, "a"), (User, "do\n\nthis"), (Assistant, "done")];
    assert_eq!(said(&raw), wanted);
    assert_eq!(said(&read(json!({"instruction": "do", "input": "", "output": "x"}))), [(User, "do"), (Assistant, "x")]);
    let raws = read_with(&[record], |recipe| recipe.written_as = Some(WrittenAs::Text)).expect("read");
    let Document::Completion { prompt, completion } = &raws[0].document else { panic!("a text to continue") };
    assert!(prompt.starts_with("Below is an instruction that describes a task, paired with an input"));
    assert!(prompt.ends_with("### Instruction:\ndo\n\n### Input:\nthis\n\n### Response:\n") && completion == "done");
}

#[test]
fn prompt_and_completion_as_text_and_as_messages() {
    let texts = json!({"prompt": "a", "completion": "b"});
    let raw = read(texts.clone());
    assert_eq!(raw.document, Document::Completion { prompt: "a".into(), completion: "b".into() });
    assert_eq!(raw.kind, Kind::Plain);
    let raws = read_with(&[texts], |recipe| recipe.written_as = Some(WrittenAs::Chat)).expect("read");
    assert_eq!(said(&raws[0]), [(User, "a"), (Assistant, "b")]);
    let user = |text: &str| json!({"role": "user", "content": text});
    let turns = read(json!({
        "prompt": [user("a"), {"role": "assistant", "content": "b"}, user("c")],
        "completion": [{"role": "assistant", "content": "d"}],
    }));
    assert_eq!(said(&turns), [(User, "a"), (Assistant, "b"), (User, "c"), (Assistant, "d")]);
    assert_eq!(turns.parts.messages, [(1, 0.0)], "only the completion is learnt");
}

#[test]
fn of_a_pair_the_better_answer_is_learnt_with_its_own_weight() {
    let pair = |record: Value| {
        let mut raws = read_with(&[record], |recipe| recipe.pair_weight = 3.0).expect("read");
        raws.remove(0)
    };
    let plain = pair(json!({"prompt": "q", "chosen": "good", "rejected": "bad", "weight": 0.5}));
    assert_eq!((said(&plain), plain.weight), (vec![(User, "q"), (Assistant, "good")], 1.5));
    let taught = pair(json!({"prompt": "q", "wrong": "bad", "right": "good", "feedback": "it fails"}));
    assert_eq!(said(&taught), [(User, "q"), (Assistant, "bad"), (User, "it fails"), (Assistant, "good")]);
    assert_eq!(taught.parts.messages, [(1, 0.0)], "the wrong way is seen, not learnt");
    let user = json!({"role": "user", "content": "q"});
    let answer = |text: &str| json!({"role": "assistant", "content": text});
    let whole = pair(json!({
        "prompt": "q",
        "chosen": [user, answer("first"), user, answer("good")],
        "rejected": [user, answer("first"), user, answer("bad")],
    }));
    assert_eq!(said(&whole).len(), 4);
    assert_eq!(whole.parts.messages, [(1, 0.0)], "what both have in common is the prompt");
    let turns = pair(json!({"prompt": [user], "chosen": [answer("good")], "rejected": [answer("bad")]}));
    assert_eq!(said(&turns), [(User, "q"), (Assistant, "good")]);
}

#[test]
fn holes_code_and_text() {
    let raw = read(json!({"prefix": "a", "middle": "b", "suffix": "c", "kind": "fim"}));
    assert_eq!(raw.kind, Kind::FillInTheMiddle);
    assert_eq!(raw.document, Document::FillInTheMiddle { prefix: "a".into(), middle: "b".into(), suffix: "c".into() });
    let raw = read(json!({"text": "plain"}));
    assert_eq!((raw.kind, raw.document), (Kind::Plain, Document::Plain { text: "plain".into() }));
    let lines: String = (0..40).map(|line| format!("value_{line} = {line}\n")).collect();
    let code = json!({"content": lines, "path": "a.py"});
    let holes = |share: f64| {
        let change = |recipe: &mut FileRecipe| (recipe.fill_share, recipe.piece_bytes_max) = (share, 200);
        read_with(std::slice::from_ref(&code), change).expect("read")
    };
    assert!(holes(0.0).iter().all(|raw| matches!(raw.document, Document::Plain { .. })));
    let all = holes(1.0);
    assert!(all.len() > 2 && all.iter().all(|raw| matches!(raw.document, Document::FillInTheMiddle { .. })));
    assert_eq!(all, holes(1.0), "the same seed makes the same holes");
}

#[test]
fn weights_of_messages_and_of_their_parts() {
    let raw = read(json!({"messages": [
        {"role": "user", "content": "a", "weight": 0},
        {"role": "assistant", "content": "b", "weight": 0.25},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "c", "train": false},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "text", "text": "äb", "weight": 0}, {"type": "text", "text": "cd"}]},
        {"role": "assistant", "reasoning_content": "hmm", "content": "ünd so", "spans": [
            {"start": 0, "end": 3, "weight": 2}, {"start": 1, "end": 3, "weight": 0, "field": "reasoning_content"},
        ]},
        {"role": "assistant", "content": "0123456789", "train": false, "train_detail": [
            {"begin_offset": 2, "end_offset": 4, "train": true},
        ]},
    ]}));
    assert_eq!(raw.parts.messages, [(0, 0.0), (1, 0.25), (3, 0.0), (7, 0.0)]);
    let weight = |mark: u16| raw.parts.span_weights[usize::from(mark)];
    let spans = raw.parts.spans.iter();
    let spans: Vec<_> = spans.map(|span| (span.message, span.part, span.range.clone(), weight(span.mark))).collect();
    let wanted = [
        (5, Part::Content, 0..3, 0.0),
        (6, Part::Content, 0..4, 2.0),
        (6, Part::Reasoning, 1..3, 0.0),
        (7, Part::Content, 2..5, 1.0),
    ];
    assert_eq!(spans, wanted, "characters became bytes");
    let text = read(json!({"text": "abc def", "spans": [{"start": 4, "end": 7, "weight": 0}]}));
    assert_eq!((text.parts.spans[0].range.clone(), text.parts.span_weights), (4..7, vec![0.0]));
}

#[test]
fn kinds_come_from_the_record_then_the_source_then_the_form() {
    for (name, kind) in [
        ("replay", Kind::Replay),
        ("debugging", Kind::Debugging),
        ("review", Kind::Review),
        ("fim", Kind::FillInTheMiddle),
        ("reasoning", Kind::Reasoning),
    ] {
        assert_eq!(read(json!({"text": "a", "kind": name})).kind, kind);
    }
    let of_source =
        |record: Value| read_with(&[record], |recipe| recipe.kind = Some(Kind::Review)).expect("read").remove(0).kind;
    assert_eq!(of_source(json!({"text": "a"})), Kind::Review);
    assert_eq!(of_source(json!({"text": "a", "kind": "replay"})), Kind::Replay);
    assert_eq!(of_source(json!({"text": "a", "kind": "poem"})), Kind::Review, "the data's own word");
}

#[test]
fn fields_with_other_names_and_a_form_that_is_said() {
    let record = json!({"question": "q", "answer": "a", "text": "not this"});
    let raws = read_with(&[record], |recipe| {
        recipe.fields = [("instruction", "question"), ("output", "answer")]
            .map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned()))
            .into();
    });
    assert_eq!(said(&raws.expect("read")[0]), [(User, "q"), (Assistant, "a")]);
    let record = json!({"text": "x", "code": "y = 1\n"});
    let as_text =
        read_with(std::slice::from_ref(&record), |recipe| recipe.format = Some(prepare::Format::Text)).expect("read");
    assert_eq!(as_text[0].document, Document::Plain { text: "x".into() });
    assert_eq!(read(record).document, Document::Plain { text: "y = 1\n".into() });
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_field() {
    let chat = |message: Value| json!({"messages": [{"role": "user", "content": "a"}, message]});
    let cases = [
        (json!({"txt": "b"}), "its fields [\"txt\"]"),
        (json!(["a"]), "want an object, found a list"),
        (json!({"messages": []}), "no messages"),
        (json!({"messages": "a"}), "messages: want a list"),
        (chat(json!({"role": "nobody", "content": "a"})), "messages[1]: the role"),
        (chat(json!({"content": "a"})), "messages[1]: it says neither"),
        (chat(json!("a")), "messages[1]: want an object"),
        (chat(json!({"role": "assistant", "content": null})), "messages[1]: the assistant says nothing"),
        (chat(json!({"role": "assistant", "content": 3})), "messages[1]: the content"),
        (chat(json!({"role": "assistant", "content": [{"type": "image_url"}]})), "images are not read"),
        (
            chat(json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]})),
            "the arguments of f",
        ),
        (chat(json!({"role": "assistant", "content": "a", "weight": -1})), "messages[1]: weight must be"),
        (chat(json!({"role": "user", "content": "a", "train": true})), "only what the assistant says"),
        (
            chat(json!({"role": "assistant", "content": "abc", "spans": [{"start": 1, "end": 9, "weight": 1}]})),
            "messages[1]: spans[0]: 1..9 is no part of a text of 3 characters",
        ),
        (
            chat(json!({"role": "assistant", "content": "abc", "spans": [
                {"start": 0, "end": 2, "weight": 1}, {"start": 1, "end": 3, "weight": 1}]})),
            "overlap",
        ),
        (
            json!({"conversations": [{"from": "function_call", "value": "{"}]}),
            "conversations[0]: a call that is not JSON",
        ),
        (json!({"messages": [{"role": "assistant", "content": "a"}], "tools": [{}]}), "tools[0]"),
        (json!({"messages": [{"role": "assistant", "content": "a"}], "tools": "["}), "tools, a text"),
        (json!({"text": "a", "kind": "poem"}), "kind: no kind is called \"poem\""),
        (json!({"text": "a", "weight": "much"}), "weight must be a number"),
        (json!({"text": " \n"}), "text: it is empty"),
        (json!({"instruction": 3, "output": "a"}), "instruction: want a text"),
        (json!({"instruction": "a", "output": ""}), "output: the assistant says nothing"),
        (json!({"prompt": "a", "completion": ""}), "completion: it is empty"),
        (json!({"chosen": "a", "rejected": "b"}), "no prompt"),
        (json!({"prefix": "a", "middle": ""}), "middle: it is empty"),
        (json!({"code": "\n\n"}), "code: there is nothing"),
    ];
    for (record, wanted) in cases {
        let shown = record.to_string();
        let error = refusal(record);
        assert!(error.contains("data.jsonl, line 2: ") && error.contains(wanted), "{shown}: {error}");
    }
}

#[test]
fn broken_records_can_be_left_out_and_are_counted() {
    let folder = Folder::new("broken");
    let good = |n: usize| json!({"text": format!("text {n}")}).to_string();
    let mut lines: Vec<String> = (0..50).map(good).collect();
    lines[20] = "{\"text\": \"cut".to_owned();
    lines[30] = "{\"words\": 3}".to_owned();
    let mut recipe = FileRecipe::new(folder.write("data.jsonl", lines.join("\n")));
    let error = documents(&recipe).expect_err("the first is named").to_string();
    assert!(error.contains("line 21: not JSON"), "{error}");
    recipe.broken = Broken::Skip;
    let mut found = recipe.documents(0).expect("opened");
    assert_eq!(found.by_ref().filter_map(Result::ok).count(), 48);
    assert_eq!((found.skipped.broken, found.report.records), (2, 50));
    assert!(found.report.broken[1].contains("line 31"), "{:?}", found.report.broken);
}
