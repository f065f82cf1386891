//! Python's way of writing values, which chat templates are written against: `json.dumps`, `str` and `repr`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

/// `json.dumps(value, ensure_ascii=False)`: `", "` and `": "` between things, no HTML escapes.
pub(crate) fn to_json(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let sort_keys: bool = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ensure_ascii: bool = arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    arguments.assert_all_used()?;
    let (item, key) = match (&separators, indent) {
        (Some(pair), _) if pair.len() == 2 => (pair[0].clone(), pair[1].clone()),
        (_, Some(_)) => (",".to_owned(), ": ".to_owned()),
        (_, None) => (", ".to_owned(), ": ".to_owned()),
    };
    let writer = JsonWriter { item, key, indent, sort_keys, ensure_ascii };
    let mut out = String::new();
    writer.value(&mut out, value, 0)?;
    Ok(out)
}

/// How a tool call writes an argument: JSON for lists and objects, `str` for scalars.
pub(crate) fn as_text_or_json(value: &Value) -> String {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
        return as_text(value);
    }
    let defaults = Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
    to_json(value, defaults).expect("a value that came from JSON can be written as JSON")
}

struct JsonWriter {
    item: String,
    key: String,
    indent: Option<usize>,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl JsonWriter {
    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.bracketed(out, ('[', ']'), depth, items, |out, item| self.value(out, &item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.bracketed(out, ('{', '}'), depth, keys, |out, key| {
                    self.string(out, &as_text(&key));
                    out.push_str(&self.key);
                    self.value(out, &value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let reason = format!("a value of kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn bracketed(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: Vec<Value>,
        mut write_item: impl FnMut(&mut String, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let is_empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.new_line(out, depth + 1);
            write_item(out, item)?;
        }
        if !is_empty {
            self.new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' => write_unit(out, c as u16),
                c if self.ensure_ascii && !c.is_ascii() => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| write_unit(out, unit));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn write_unit(out: &mut String, unit: u16) {
    write!(out, "\\u{unit:04x}").expect("a String takes all writes");
}

/// `str(value)`.
pub(crate) fn as_text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Undefined => String::new(),
        ValueKind::Number => number(value),
        ValueKind::Seq | ValueKind::Map => representation(value),
        _ => value.to_string(),
    }
}

/// `repr(value)`, for what is inside a list or a dict.
fn representation(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value.kind() {
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items = value.try_iter().map(|items| items.map(|item| representation(&item)).collect());
            format!("[{}]", joined(items.unwrap_or_default()))
        }
        ValueKind::Map => {
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", representation(&key), representation(&item))
            };
            let entries = value.try_iter().map(|keys| keys.map(entry).collect());
            format!("{{{}}}", joined(entries.unwrap_or_default()))
        }
        _ => as_text(value),
    }
}

/// A string in the quotes that Python would choose.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => write!(out, "\\x{:02x}", c as u32).expect("a String takes all writes"),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A number as Python writes it: integers plainly, floats with the fewest digits that read back the same.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_text(float),
        _ => value.to_string(),
    }
}

/// `repr(float)`: positional from 1e-4 up to 1e16, otherwise with an exponent of at least two digits.
pub(crate) fn float_text(float: f64) -> String {
    if float.is_nan() {
        return "NaN".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = float.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(json: serde_json::Value) -> Value {
        Value::from(minijinja::value::Serde(json))
    }

    fn dumps(json: serde_json::Value) -> String {
        to_json(&value(json), Kwargs::from_iter(std::iter::empty::<(&str, Value)>())).unwrap()
    }

    // The right-hand sides are what CPython 3.12 prints.
    #[test]
    fn json_is_written_as_python_does() {
        assert_eq!(
            dumps(json!({"b": [1, 2.0, 1e-7, true, null], "a": "é\"\\\n<\u{1}"})),
            "{\"b\": [1, 2.0, 1e-07, true, null], \"a\": \"é\\\"\\\\\\n<\\u0001\"}"
        );
        assert_eq!(dumps(json!({"e": [], "o": {}})), r#"{"e": [], "o": {}}"#);
        let indented = Kwargs::from_iter([("indent", Value::from(2))]);
        assert_eq!(
            to_json(&value(json!({"a": [1], "e": {}})), indented).unwrap(),
            "{\n  \"a\": [\n    1\n  ],\n  \"e\": {}\n}"
        );
        let ascii = Kwargs::from_iter([("ensure_ascii", Value::from(true))]);
        assert_eq!(to_json(&value(json!("é🦀")), ascii).unwrap(), r#""\u00e9\ud83e\udd80""#);
        assert!(to_json(&Value::UNDEFINED, Kwargs::from_iter(std::iter::empty::<(&str, Value)>())).is_err());
    }

    #[test]
    fn scalars_are_written_as_python_does() {
        for (float, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5e+300"),
        ] {
            assert_eq!(float_text(float), text);
        }
        assert_eq!(as_text(&value(json!([true, null, "it's", "a\"b'", 1]))), r#"[True, None, "it's", 'a"b\'', 1]"#);
        assert_eq!(as_text(&value(json!({"a": {"b": 1.0}}))), "{'a': {'b': 1.0}}");
        assert_eq!(as_text(&value(json!(null))), "None");
        assert_eq!(as_text(&value(json!(18446744073709551615u64))), "18446744073709551615");
    }
}
