//! Lies: about numbers, kinds, lengths, places and names.

use super::super::gguf_writer::{GgufWriter, array, string};
use numeric::Rng;

/// One number that is at the edge of something, or any.
pub(crate) fn edge(rng: &mut Rng) -> u64 {
    let edges = [0, 1, 2, 31, 32, 33, 255, 1 << 16, 1 << 24, 1 << 31, u64::from(u32::MAX), 1 << 40, 1 << 63, u64::MAX];
    match rng.below(4) {
        0 => rng.next_u64(),
        1 => edges[rng.below(edges.len())].wrapping_sub(rng.below(3) as u64),
        _ => edges[rng.below(edges.len())],
    }
}

/// A value of any kind, its lengths mostly true.
pub(crate) fn any_value(rng: &mut Rng, kind: u32, depth: usize) -> Vec<u8> {
    let sizes = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
    match kind {
        8 if rng.below(8) == 0 => edge(rng).to_le_bytes().to_vec(),
        8 => string(&"é".repeat(rng.below(5))),
        9 if rng.below(8) == 0 => [&(rng.below(14) as u32).to_le_bytes()[..], &edge(rng).to_le_bytes()].concat(),
        9 => {
            let inner = if depth > 5 { 0 } else { rng.below(13) as u32 };
            let elements: Vec<Vec<u8>> = (0..rng.below(4)).map(|_| any_value(rng, inner, depth + 1)).collect();
            array(inner, &elements)
        }
        kind => (0..sizes.get(kind as usize).copied().unwrap_or(4)).map(|_| rng.next_u64() as u8 & 1).collect(),
    }
}

/// Templates that want too much.
const TEMPLATES: [&str; 8] = [
    "{% for x in range(1000000000) %}{% for y in range(1000000000) %}.{% endfor %}{% endfor %}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "{{ 'x' * 1000000000 }}",
    "{% set x = 'xxxxxxxxxxxxxxxx' %}{% for i in range(60) %}{% set x = x ~ x %}{{ x }}{% endfor %}",
    "{{ messages[99].content.split('').join(messages) | length }}{{ missing.field.field }}",
    "{% if",
    "{{ raise_exception('no') }}",
    "",
];

/// Tells one lie.
pub(crate) fn tell(rng: &mut Rng, writer: &mut GgufWriter) {
    match rng.below(10) {
        0..=2 => number(rng, writer),
        3 | 4 => value(rng, writer),
        5 => text(rng, writer),
        6 => keys(rng, writer),
        _ => tensor(rng, writer),
    }
}

/// A number at an edge, in the place of another.
fn number(rng: &mut Rng, writer: &mut GgufWriter) {
    let numbers: Vec<usize> = (0..writer.keys.len()).filter(|&at| !matches!(writer.keys[at].1, 8 | 9)).collect();
    if numbers.is_empty() {
        return;
    }
    let key = &mut writer.keys[numbers[rng.below(numbers.len())]];
    let told = match rng.below(3) {
        // Small numbers are those that are mostly believed.
        0 => rng.below(70) as u64,
        1 => 1 << rng.below(26),
        _ => edge(rng),
    };
    let bytes = key.2.len().min(8);
    key.2[..bytes].copy_from_slice(&told.to_le_bytes()[..bytes]);
}

/// A value of another kind, under a name that means something or under its own.
fn value(rng: &mut Rng, writer: &mut GgufWriter) {
    let kind = if rng.below(20) == 0 { edge(rng) as u32 } else { rng.below(13) as u32 };
    let bytes = any_value(rng, kind, 0);
    let known = ["attention.recurrent_layers", "nextn_predict_layers", "attention.sliding_window", "rope.scaling.type"];
    match rng.below(3) {
        0 => {
            let at = rng.below(known.len());
            writer.key(&format!("qwen3next.{}", known[at]), kind, bytes);
        }
        1 => drop(writer.key("a.key", kind, bytes)),
        _ if writer.keys.is_empty() => {}
        _ => {
            let at = rng.below(writer.keys.len());
            (writer.keys[at].1, writer.keys[at].2) = (kind, bytes);
        }
    }
}

/// Other words: a template, tokens, merges, or the length of a list of them.
fn text(rng: &mut Rng, writer: &mut GgufWriter) {
    let words = ["", "a", "a a", " ", "aa", "\u{0}", "<|im_end|>", "é é", "Ġ Ġ", "a  b", "ab c d"];
    let name = ["tokenizer.chat_template", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"][rng.below(3)];
    let Some(key) = writer.keys.iter_mut().find(|key| key.0 == name) else { return };
    if name == "tokenizer.chat_template" || key.2.len() < 12 {
        key.2 = string(TEMPLATES[rng.below(TEMPLATES.len())]);
    } else if rng.below(3) == 0 {
        key.2[4..12].copy_from_slice(&edge(rng).to_le_bytes());
    } else {
        let more: Vec<Vec<u8>> = (0..1 + rng.below(4)).map(|_| string(words[rng.below(words.len())])).collect();
        let count = u64::from_le_bytes(key.2[4..12].try_into().expect("eight bytes")).wrapping_add(more.len() as u64);
        key.2[4..12].copy_from_slice(&count.to_le_bytes());
        key.2.extend(more.concat());
    }
}

/// A key too few, one twice, or another order.
fn keys(rng: &mut Rng, writer: &mut GgufWriter) {
    if writer.keys.is_empty() {
        return;
    }
    let at = rng.below(writer.keys.len());
    match rng.below(4) {
        0 => writer.keys.push(writer.keys[at].clone()),
        1 => writer.keys.swap(0, at),
        2 => writer.alignment = 1 << rng.below(13),
        _ => drop(writer.keys.remove(at)),
    }
}

/// A tensor of another size, kind, place or name.
fn tensor(rng: &mut Rng, writer: &mut GgufWriter) {
    if writer.tensors.is_empty() {
        return;
    }
    let (at, other) = (rng.below(writer.tensors.len()), rng.below(writer.tensors.len()));
    let name = writer.tensors[other].name.clone();
    let entry = &mut writer.tensors[at];
    match rng.below(8) {
        0 if !entry.sizes.is_empty() => {
            let dimension = rng.below(entry.sizes.len());
            entry.sizes[dimension] = edge(rng);
        }
        0 | 1 => entry.sizes = (0..rng.below(6)).map(|_| edge(rng)).collect(),
        // The same bytes, the dimensions the other way round.
        2 => entry.sizes.reverse(),
        3 => entry.kind = if rng.below(4) == 0 { edge(rng) as u32 } else { rng.below(42) as u32 },
        4 => entry.offset = Some(if rng.below(2) == 0 { edge(rng) } else { edge(rng) & !31 }),
        5 => entry.name = name,
        6 => drop(writer.tensors.remove(at)),
        _ => entry.bytes.truncate(rng.below(entry.bytes.len() + 1)),
    }
}

/// Flips bits, cuts the end off, or changes one of the counts at the front.
pub(crate) fn spoil(rng: &mut Rng, bytes: &mut Vec<u8>) {
    match rng.below(6) {
        0 => bytes.truncate(rng.below(bytes.len() + 1)),
        1 if bytes.len() >= 24 => {
            let (at, count) = (8 * (1 + rng.below(2)), edge(rng));
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        }
        // Heads are where bytes mean something.
        more => {
            let head = if more < 5 { bytes.len().min(8192) } else { bytes.len() };
            for _ in 0..head.min(1 + rng.below(3)) {
                bytes[rng.below(head)] ^= 1 << rng.below(8);
            }
        }
    }
}
