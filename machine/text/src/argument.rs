//! An argument of a tool call: raw text to a value of the type that the tool's schema names.

use serde_json::{Number, Value};

/// The types that a schema allows.
#[derive(Debug, Default, Clone, Copy)]
struct Types {
    null: bool,
    boolean: bool,
    integer: bool,
    number: bool,
    array: bool,
    object: bool,
    string: bool,
}

impl Types {
    fn any(self) -> bool {
        self.null || self.boolean || self.integer || self.number || self.array || self.object || self.string
    }

    fn add_name(&mut self, name: &str) {
        match name {
            "null" => self.null = true,
            "boolean" | "bool" => self.boolean = true,
            "integer" | "int" => self.integer = true,
            "number" | "float" => self.number = true,
            "array" | "list" => self.array = true,
            "object" | "dict" => self.object = true,
            _ => self.string = true,
        }
    }

    fn add_type_of(&mut self, value: &Value) {
        match value {
            Value::Null => self.null = true,
            Value::Bool(_) => self.boolean = true,
            Value::Number(number) if number.is_f64() => self.number = true,
            Value::Number(_) => self.integer = true,
            Value::Array(_) => self.array = true,
            Value::Object(_) => self.object = true,
            Value::String(_) => self.string = true,
        }
    }

    fn add_schema(&mut self, schema: &Value) {
        match schema.get("type") {
            Some(Value::String(name)) => self.add_name(name),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(|name| self.add_name(name)),
            _ => {
                schema
                    .get("enum")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .for_each(|value| self.add_type_of(value));
                schema.get("const").into_iter().for_each(|value| self.add_type_of(value));
            }
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            schema.get(key).and_then(Value::as_array).into_iter().flatten().for_each(|inner| self.add_schema(inner));
        }
        self.null |= schema.get("nullable") == Some(&Value::Bool(true));
    }
}

/// The value of a parameter. Narrow types are tried before wide ones; text that fits no allowed type stays a string,
/// for the tool to refuse. A parameter that the schema does not know is a string; one without a type may be anything.
pub(crate) fn typed(raw: &str, schema: Option<&Value>) -> Value {
    let as_string = || Value::String(raw.to_owned());
    let Some(schema) = schema else { return as_string() };
    let mut types = Types::default();
    types.add_schema(schema);
    let text = raw.trim();
    if !types.any() {
        return serde_json::from_str(text).unwrap_or_else(|_| as_string());
    }
    // "None" for a number can only mean that there is none; for a string it may be the text.
    if (types.null || !types.string) && (text.eq_ignore_ascii_case("null") || text == "None") {
        return Value::Null;
    }
    let scalar = [
        types.boolean.then(|| boolean(text)).flatten(),
        types.integer.then(|| integer(text)).flatten(),
        types.number.then(|| number(text)).flatten(),
    ];
    if let Some(value) = scalar.into_iter().flatten().next() {
        return value;
    }
    if (types.array && text.starts_with('[')) || (types.object && text.starts_with('{')) {
        let parsed = serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&python_to_json(text)).ok());
        if let Some(value) = parsed {
            return value;
        }
    }
    as_string()
}

fn boolean(text: &str) -> Option<Value> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    (is("true") || is("false")).then(|| Value::Bool(is("true")))
}

/// An integer, also one written as `3.0`.
fn integer(text: &str) -> Option<Value> {
    if let Ok(value) = text.parse::<i64>() {
        return Some(value.into());
    }
    if let Ok(value) = text.parse::<u64>() {
        return Some(value.into());
    }
    let (whole, fraction) = text.split_once('.')?;
    let is_whole = !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0');
    if is_whole { whole.parse::<i64>().ok().map(Value::from) } else { None }
}

fn number(text: &str) -> Option<Value> {
    let number: Option<Number> = serde_json::from_str(text).ok();
    number.or_else(|| Number::from_f64(text.parse().ok()?)).map(Value::Number)
}

/// Python's way of writing lists and dicts as JSON: `True`, `False`, `None`, and strings in single quotes. What is not
/// of that form comes out as something that is not JSON either.
fn python_to_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut word = String::new();
    while let Some(c) = characters.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        flush_word(&mut out, &mut word);
        if c != '\'' && c != '"' {
            out.push(c);
            continue;
        }
        out.push('"');
        while let Some(inner) = characters.next() {
            match inner {
                _ if inner == c => break,
                // JSON knows no escaped single quote.
                '\\' if characters.peek() == Some(&'\'') => out.extend(characters.next()),
                '\\' => {
                    out.push('\\');
                    out.extend(characters.next());
                }
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    flush_word(&mut out, &mut word);
    out
}

fn flush_word(out: &mut String, word: &mut String) {
    out.push_str(match word.as_str() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    });
    word.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_takes_the_type_of_the_schema() {
        let cases = [
            ("3", json!({"type": "string"}), json!("3")),
            ("3", json!({"type": "integer"}), json!(3)),
            ("3.0", json!({"type": "integer"}), json!(3)),
            ("18446744073709551615", json!({"type": "integer"}), json!(u64::MAX)),
            ("3", json!({"type": "number"}), json!(3)),
            ("-2.5e3", json!({"type": "number"}), json!(-2500.0)),
            (".5", json!({"type": "number"}), json!(0.5)),
            ("three", json!({"type": "integer"}), json!("three")),
            ("True", json!({"type": "boolean"}), json!(true)),
            ("false", json!({"type": "boolean"}), json!(false)),
            ("None", json!({"type": ["integer", "null"]}), json!(null)),
            ("None", json!({"type": "integer"}), json!(null)),
            ("None", json!({"type": "string"}), json!("None")),
            ("null", json!({"type": ["string", "null"]}), json!(null)),
            ("7", json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!(7)),
            ("7a", json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!("7a")),
            ("[1, \"a\"]", json!({"type": "array"}), json!([1, "a"])),
            ("['it\\'s', \"x'y\", True, None]", json!({"type": "array"}), json!(["it's", "x'y", true, null])),
            ("{'a': {'True': \"b\"}}", json!({"type": "object"}), json!({"a": {"True": "b"}})),
            ("{broken", json!({"type": "object"}), json!("{broken")),
            ("2", json!({"enum": [1, 2]}), json!(2)),
            ("a", json!({"enum": ["a", 2]}), json!("a")),
            (" x \n", json!({"type": "string"}), json!(" x \n")),
            ("{\"a\": 1}", json!({}), json!({"a": 1})),
            ("words", json!({}), json!("words")),
        ];
        for (raw, schema, expected) in cases {
            assert_eq!(typed(raw, Some(&schema)), expected, "{raw:?} as {schema}");
        }
        assert_eq!(typed("3", None), json!("3"));
    }
}
