//! Tool calls: written as the template writes them, read as models write them.

mod support;

use serde_json::{Value, json};
use support::{Dice, samples, tiny};
use text::tool_calls::{self, CallProblem};
use text::{Message, RenderOptions, Role, Template, ToolCall, ToolDefinition};

fn tools() -> Vec<ToolDefinition> {
    let parameters = json!({"type": "object", "properties": {
        "path": {"type": "string"}, "text": {"type": "string"}, "line": {"type": "integer"}, "all": {"type": "boolean"},
        "list": {"type": "array"}, "map": {"type": "object"}, "rate": {"type": "number"},
        "maybe": {"type": ["string", "null"]},
    }});
    vec![ToolDefinition { name: "edit".into(), description: "Edits.".into(), parameters }]
}

fn call(arguments: Value) -> ToolCall {
    ToolCall { name: "edit".into(), arguments: arguments.as_object().unwrap().clone() }
}

fn read_one(text: &str) -> ToolCall {
    let parsed = tool_calls::parse(text, &tools());
    assert_eq!(parsed.problems, [], "{text}");
    assert_eq!(parsed.calls.len(), 1, "{text}");
    parsed.calls.into_iter().next().unwrap()
}

#[test]
fn calls_are_written_as_the_template_does() {
    let tokenizer = tiny();
    let template = Template::embedded();
    let arguments =
        json!({"path": "é <b>", "line": 3, "all": true, "maybe": null, "list": [1, {"a": "\"ü"}], "rate": 1e-7});
    let mut message = Message::new(Role::Assistant, "");
    message.tool_calls = vec![call(arguments), call(json!({}))];
    let written = message.tool_calls.iter().map(tool_calls::write).collect::<Vec<_>>().join("\n");
    let rendered = template.render(&[message], &[], &RenderOptions::default(), &tokenizer).unwrap().text;
    assert_eq!(rendered, format!("<|im_start|>assistant\n{written}<|im_end|>\n"));
}

#[test]
fn what_is_written_is_read_again() {
    let mut dice = Dice(8);
    for round in 0..200 {
        let arguments = json!({
            "path": dice.text(10), "text": format!("\n{}\n\n", dice.text(10)), "line": round, "all": round % 2 == 0,
            "list": [dice.text(3), 1.5, null], "map": {dice.text(2): true}, "rate": 0.5, "maybe": null,
        });
        let original = call(arguments);
        assert_eq!(read_one(&tool_calls::write(&original)), original);
    }
}

#[test]
fn the_samples_come_apart_again() {
    for sample in samples() {
        for message in sample.messages.iter().filter(|message| !message.tool_calls.is_empty()) {
            let calls: Vec<String> = message.tool_calls.iter().map(tool_calls::write).collect();
            let text = format!("<think>\nhm\n</think>\n\n{}\n\n{}", message.content, calls.join("\n"));
            let (read, problems) = tool_calls::message_from_generated(&text, &sample.tools);
            assert_eq!(problems, []);
            assert_eq!(read.content, message.content.trim());
            assert_eq!(read.tool_calls, message.tool_calls);
            assert_eq!(read.reasoning_content.as_deref(), Some("hm"));
        }
    }
}

#[test]
fn habits_of_models_are_understood() {
    let body = "<function=edit>\n<parameter=path>\na\n</parameter>\n<parameter=line>\n3.0\n</parameter>\n</function>";
    let expected = call(json!({"path": "a", "line": 3}));
    let compact =
        "<tool_call><function=edit><parameter=path>a</parameter><parameter=line>3</parameter></function></tool_call>";
    for text in [
        format!("<tool_call>\n{body}\n</tool_call>"),
        body.to_owned(),
        format!("{body}\n</tool_call>"),
        format!("<tool_call>\n{body}"),
        format!("<tool_call>\n{}\n</tool_call>", body.replace("\n</function>", "")),
        format!("<tool_call>\n{}\n</tool_call>", body.replace("3.0\n</parameter>\n", "3\n")),
        compact.to_owned(),
        "<tool_call>\n{\"name\": \"edit\", \"arguments\": {\"path\": \"a\", \"line\": 3}}\n</tool_call>".to_owned(),
    ] {
        assert_eq!(read_one(&text), expected, "{text}");
    }
}

#[test]
fn values_are_opaque() {
    for value in [
        "</parameter>",
        "<a>&amp;</b>",
        "x\n</parameter>\nmore",
        "</function>",
        "\n\nx\n",
        "",
        "<parameter=a>",
        "</tool_call>",
    ] {
        let original = call(json!({"text": value, "path": "p"}));
        assert_eq!(read_one(&tool_calls::write(&original)), original, "{value:?}");
    }
}

#[test]
fn text_around_calls_is_content() {
    let one = tool_calls::write(&call(json!({"path": "a"})));
    let two = tool_calls::write(&call(json!({"path": "b"})));
    let parsed = tool_calls::parse(&format!("  Look.\n\n{one}\n{two}\n"), &tools());
    assert_eq!((parsed.content.as_str(), parsed.calls.len()), ("Look.", 2));
    let plain = "  no call, <function=unknown> here \n";
    let parsed = tool_calls::parse(plain, &tools());
    assert_eq!((parsed.content.as_str(), parsed.calls.len(), parsed.problems.len()), (plain, 0, 0));
    // In its tags, an unknown name is a call: whoever runs it says that there is no such tool.
    let unknown = "<tool_call>\n<function=other>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>";
    assert_eq!(tool_calls::parse(unknown, &tools()).calls[0].arguments["x"], json!("1"));
}

#[test]
fn a_cut_off_call_stays_text_with_a_problem() {
    let whole = format!("Look.\n\n{}", tool_calls::write(&call(json!({"path": "a b", "line": 3}))));
    let complete = whole.find("</function>").unwrap();
    let opened = whole.find("<tool_call>").unwrap() + "<tool_call>".len();
    for cut in opened..complete {
        let parsed = tool_calls::parse(&whole[..cut], &tools());
        assert_eq!(parsed.calls, [], "{:?}", &whole[..cut]);
        assert_eq!(parsed.content, whole[..cut]);
        assert!(
            matches!(parsed.problems[..], [CallProblem::Truncated { .. }]),
            "{:?} {:?}",
            &whole[..cut],
            parsed.problems
        );
    }
    let message = tool_calls::parse(&whole[..complete - 20], &tools()).problems[0].to_string();
    assert!(message.contains("\"edit\"") && message.contains("cut off"), "{message}");
}

#[test]
fn a_malformed_call_does_not_hide_the_next() {
    let good = tool_calls::write(&call(json!({"path": "a"})));
    for bad in [
        "<tool_call>\nedit(path)\n</tool_call>",
        "<tool_call>\n<function=>\n",
        "<tool_call>\n{\"nome\": 1}</tool_call>",
    ] {
        let parsed = tool_calls::parse(&format!("{bad}\n{good}"), &tools());
        assert_eq!(parsed.calls.len(), 1, "{bad}");
        assert!(matches!(parsed.problems[..], [CallProblem::Malformed { .. }]), "{bad}");
        assert!(parsed.content.starts_with("<tool_call>"));
    }
}

#[test]
fn nothing_makes_the_reader_fail() {
    const PARTS: &[&str] = &[
        "<tool_call>",
        "</tool_call>",
        "<function=edit>",
        "<function=",
        "</function>",
        "<parameter=path>",
        "<parameter=",
        "</parameter>",
        "\n",
        "text",
        ">",
        "{",
        "\"",
        "é",
        "<think>",
        "</think>",
        " ",
    ];
    let mut dice = Dice(21);
    for _ in 0..20_000 {
        let text: String = (0..dice.below(14)).map(|_| dice.pick(PARTS)).collect();
        let (message, problems) = tool_calls::message_from_generated(&text, &tools());
        // Either it was a call, or its text is still there, or there was nothing but white space and thinking.
        let is_lost =
            message.content.is_empty() && message.tool_calls.is_empty() && message.reasoning_content.is_none();
        assert!(
            !is_lost || text.replace("<think>", "").replace("</think>", "").trim().is_empty(),
            "{text:?}: {problems:?}"
        );
    }
}

#[test]
fn reasoning_is_taken_off_the_front() {
    let split = |text| tool_calls::split_reasoning(text);
    assert_eq!(split("<think>\na\n</think>\n\nb"), (Some("a".into()), "b"));
    assert_eq!(split("a</think>b"), (Some("a".into()), "b"));
    assert_eq!(split("<think>\n\n</think>\n\nb"), (None, "b"));
    assert_eq!(split("<think>cut"), (Some("cut".into()), ""));
    assert_eq!(split("no <think> here"), (None, "no <think> here"));
}
