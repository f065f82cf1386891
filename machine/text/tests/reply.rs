//! An answer taken apart while it arrives, against taking it apart whole.

mod support;

use serde_json::json;
use support::Dice;
use text::ToolDefinition;
use text::reply::{ReplyPart, ReplyStream};
use text::tool_calls;

#[test]
fn any_cut_gives_the_parts_of_the_whole() {
    const PARTS: &[&str] = &[
        "<tool_call>",
        "</tool_call>\n",
        "\n<function=edit>\n",
        "<function=editor>",
        "<function=",
        "</function>\n",
        "<parameter=path>\n",
        "\n</parameter>\n",
        "</parameter>",
        "\n",
        "text",
        ">",
        "é 🦀",
        " ",
        "<tool_",
        "{\"name\": \"edit\"}",
        "<tool_call>\n<function=edit>\n<parameter=path>\na <b>\n</parameter>\n</function>\n</tool_call>\n",
    ];
    let parameters = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    let tools = vec![ToolDefinition { name: "edit".into(), description: String::new(), parameters }];
    let mut dice = Dice(33);
    let mut calls_seen = 0;
    for round in 0..5000 {
        let head = ["", "<think>\nhm  so\n</think>\n\n", "<think>unfinished", " \n<thin"][round % 4];
        let text = head.to_owned() + &(0..dice.below(8)).map(|_| dice.pick(PARTS)).collect::<String>();
        let (whole, problems) = tool_calls::message_from_generated(&text, &tools);
        let mut stream = ReplyStream::new(tools.clone());
        let mut parts = Vec::new();
        let characters: Vec<char> = text.chars().collect();
        let mut rest = characters.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + dice.below(rest.len().min(12)));
            parts.extend(stream.push(&piece.iter().collect::<String>()));
            rest = after;
        }
        parts.extend(stream.finish());
        let (mut reasoning, mut content, mut calls, mut troubles) = (String::new(), String::new(), vec![], 0);
        for part in parts {
            match part {
                ReplyPart::Reasoning(text) => reasoning += &text,
                ReplyPart::Content(text) => content += &text,
                ReplyPart::Call(call) => calls.push(call),
                ReplyPart::Problem(_) => troubles += 1,
            }
        }
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(reasoning, whole.reasoning_content.unwrap_or_default(), "{text:?}");
        assert_eq!(calls, whole.tool_calls, "{text:?}");
        assert_eq!(bare(&content), bare(&whole.content), "{text:?}");
        assert_eq!(troubles, problems.len(), "{text:?}");
        calls_seen += calls.len();
    }
    assert!(calls_seen > 300);
}
