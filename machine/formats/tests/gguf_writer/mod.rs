//! A small writer of GGUF files for tests, which can also write what no writer should. Other crates' tests use it too.
#![allow(dead_code, reason = "each test program uses its own part of this file")]

use formats::Gguf;
use formats::gguf::{Value, name_of};

/// A file in the making. Everything is public: a test may spoil any of it.
#[derive(Clone)]
pub(crate) struct GgufWriter {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    /// Name, number of the kind, and the value's bytes.
    pub(crate) keys: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufEntry>,
}

#[derive(Clone)]
pub(crate) struct GgufEntry {
    pub(crate) name: String,
    pub(crate) kind: u32,
    /// Innermost first, as the file has them.
    pub(crate) sizes: Vec<u64>,
    /// If there is one, it is written in place of the true one.
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The bytes of an array: the kind of its elements, their number, and themselves.
pub(crate) fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
}

/// The number of a value's kind, and its bytes.
fn encoded(value: Value<'_>) -> (u32, Vec<u8>) {
    let bytes = match value {
        Value::U8(v) => vec![v],
        Value::I8(v) => v.to_le_bytes().to_vec(),
        Value::U16(v) => v.to_le_bytes().to_vec(),
        Value::I16(v) => v.to_le_bytes().to_vec(),
        Value::U32(v) => v.to_le_bytes().to_vec(),
        Value::I32(v) => v.to_le_bytes().to_vec(),
        Value::F32(v) => v.to_le_bytes().to_vec(),
        Value::Bool(v) => vec![u8::from(v)],
        Value::String(v) => string(v),
        Value::Array(v) => array(v.kind as u32, &v.values().map(|value| encoded(value).1).collect::<Vec<_>>()),
        Value::U64(v) => v.to_le_bytes().to_vec(),
        Value::I64(v) => v.to_le_bytes().to_vec(),
        Value::F64(v) => v.to_le_bytes().to_vec(),
    };
    (value.kind() as u32, bytes)
}

/// The number that a file has for a kind of tensor.
pub(crate) fn tensor_kind(name: &str) -> u32 {
    let known = [("F32", 0), ("F16", 1), ("Q4_0", 2), ("Q8_0", 8), ("Q4_K", 12), ("Q5_K", 13), ("Q6_K", 14)];
    let newer = [("IQ4_NL", 20), ("IQ4_XS", 23), ("BF16", 30), ("MXFP4", 39), ("NVFP4", 40)];
    let found = known.iter().chain(&newer).find(|kind| kind.0 == name);
    found.unwrap_or_else(|| panic!("no kind of tensor is called {name}")).1
}

impl GgufWriter {
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    /// All of a file that was read, to be changed.
    pub(crate) fn copy_of(file: &Gguf) -> Self {
        let mut writer = Self::new();
        for key in file.keys() {
            let (kind, bytes) = encoded(file.value(key).expect("every key has its value"));
            writer.key(key, kind, bytes);
        }
        for tensor in file.tensors() {
            writer.tensor(tensor.name, tensor_kind(name_of(tensor.format)), tensor.shape, tensor.bytes.to_vec());
        }
        writer
    }

    pub(crate) fn entry(&mut self, name: &str) -> &mut GgufEntry {
        let entry = self.tensors.iter_mut().find(|entry| entry.name == name);
        entry.unwrap_or_else(|| panic!("no tensor {name} to change"))
    }

    pub(crate) fn without_key(mut self, name: &str) -> Self {
        self.keys.retain(|key| key.0 != name);
        self
    }

    pub(crate) fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|entry| entry.name != name);
        self
    }

    pub(crate) fn key(&mut self, name: &str, kind: u32, bytes: Vec<u8>) -> &mut Self {
        self.keys.push((name.to_owned(), kind, bytes));
        self
    }

    pub(crate) fn number(&mut self, name: &str, value: u32) -> &mut Self {
        self.key(name, 4, value.to_le_bytes().to_vec())
    }

    pub(crate) fn float(&mut self, name: &str, value: f32) -> &mut Self {
        self.key(name, 6, value.to_le_bytes().to_vec())
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.key(name, 7, vec![u8::from(value)])
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.key(name, 8, string(value))
    }

    pub(crate) fn texts(&mut self, name: &str, values: &[&str]) -> &mut Self {
        self.key(name, 9, array(8, &values.iter().map(|value| string(value)).collect::<Vec<_>>()))
    }

    pub(crate) fn integers(&mut self, name: &str, values: &[i32]) -> &mut Self {
        self.key(name, 9, array(5, &values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>()))
    }

    /// `shape` is outermost first, as it is in memory.
    pub(crate) fn tensor(&mut self, name: &str, kind: u32, shape: &[usize], bytes: Vec<u8>) -> &mut Self {
        let sizes = shape.iter().rev().map(|&size| size as u64).collect();
        self.tensors.push(GgufEntry { name: name.to_owned(), kind, sizes, offset: None, bytes });
        self
    }

    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        self.tensor(name, 0, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// The file's bytes.
    pub(crate) fn written(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (name, kind, bytes) in &self.keys {
            out.extend(string(name));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        let mut offset = 0;
        for entry in &self.tensors {
            out.extend(string(&entry.name));
            out.extend((entry.sizes.len() as u32).to_le_bytes());
            entry.sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(entry.kind.to_le_bytes());
            out.extend(entry.offset.unwrap_or(offset as u64).to_le_bytes());
            offset += entry.bytes.len().next_multiple_of(self.alignment);
        }
        for entry in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&entry.bytes);
        }
        out
    }
}
