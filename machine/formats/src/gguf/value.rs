//! Metadata values: typed, lent from the file, decoded when somebody asks. An array of a vocabulary's strings costs
//! nothing until it is walked.

use std::fmt;

/// The kinds of a metadata value, in the order of their numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// Each kind with its name and the least bytes that one value takes; what is not a string or an array takes just them.
const KINDS: [(ValueKind, &str, usize); 13] = [
    (ValueKind::U8, "u8", 1),
    (ValueKind::I8, "i8", 1),
    (ValueKind::U16, "u16", 2),
    (ValueKind::I16, "i16", 2),
    (ValueKind::U32, "u32", 4),
    (ValueKind::I32, "i32", 4),
    (ValueKind::F32, "f32", 4),
    (ValueKind::Bool, "bool", 1),
    (ValueKind::String, "string", 8),
    (ValueKind::Array, "array", 12),
    (ValueKind::U64, "u64", 8),
    (ValueKind::I64, "i64", 8),
    (ValueKind::F64, "f64", 8),
];

/// Arrays of arrays of arrays are legal; deeper ones have no use and would cost stack.
const ARRAY_DEPTH_MAX: usize = 4;

impl ValueKind {
    fn from_id(id: u32) -> Option<Self> {
        KINDS.get(id as usize).map(|kind| kind.0)
    }

    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }

    fn bytes_least(self) -> usize {
        KINDS[self as usize].2
    }
}

/// One metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    pub fn kind(&self) -> ValueKind {
        match self {
            Self::U8(_) => ValueKind::U8,
            Self::I8(_) => ValueKind::I8,
            Self::U16(_) => ValueKind::U16,
            Self::I16(_) => ValueKind::I16,
            Self::U32(_) => ValueKind::U32,
            Self::I32(_) => ValueKind::I32,
            Self::F32(_) => ValueKind::F32,
            Self::Bool(_) => ValueKind::Bool,
            Self::String(_) => ValueKind::String,
            Self::Array(_) => ValueKind::Array,
            Self::U64(_) => ValueKind::U64,
            Self::I64(_) => ValueKind::I64,
            Self::F64(_) => ValueKind::F64,
        }
    }

    /// The value of an integer of any width that is not negative: writers do not agree on widths.
    pub fn as_u64(&self) -> Option<u64> {
        u64::try_from(self.integer()?).ok()
    }

    /// The value of an integer of any width.
    pub fn as_i64(&self) -> Option<i64> {
        i64::try_from(self.integer()?).ok()
    }

    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value of either kind of float.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(v) = *self { Some(v) } else { None }
    }

    pub fn as_str(&self) -> Option<&'a str> {
        if let Self::String(v) = *self { Some(v) } else { None }
    }

    pub fn as_array(&self) -> Option<Array<'a>> {
        if let Self::Array(v) = *self { Some(v) } else { None }
    }
}

/// As an error or a listing shows it: strings shortened, arrays by their kind and length.
impl fmt::Display for Value<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(v) => out.write_str(&crate::error::shown(v)),
            Self::Array(v) => write!(out, "an array of {} × {}", v.len, v.kind.name()),
            Self::Bool(v) => write!(out, "{v}"),
            Self::F32(v) => write!(out, "{v}"),
            Self::F64(v) => write!(out, "{v}"),
            other => write!(out, "{}", other.integer().unwrap_or_default()),
        }
    }
}

/// Values of one kind, checked when the file was opened and decoded while they are walked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub kind: ValueKind,
    pub len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor::new(self.bytes);
        // The bytes were walked before, so nothing can fail unless the file changed under its map.
        (0..self.len).map_while(move |_| cursor.value(self.kind, 0).ok())
    }

    /// The elements if all of them are strings.
    pub fn strings(self) -> Option<Vec<&'a str>> {
        self.values().map(|value| value.as_str()).collect()
    }

    /// The elements if all of them are integers that fit.
    pub fn integers(self) -> Option<Vec<i64>> {
        self.values().map(|value| value.as_i64()).collect()
    }

    /// The elements if all of them are booleans.
    pub fn bools(self) -> Option<Vec<bool>> {
        self.values().map(|value| value.as_bool()).collect()
    }
}

/// Why bytes cannot be read on.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// They end; so many would be needed from the beginning.
    End { wanted: u64 },
    /// They say something that cannot be.
    Bad(String),
}

/// Reads forwards. Whatever a length says, no byte beyond the end is touched and nothing is allocated for it.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// At `at`, where an earlier reading stood.
    pub(crate) fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Refuses unless `count` more things of at least `bytes_each` bytes can follow.
    pub(crate) fn expect(&self, count: u64, bytes_each: usize) -> Result<(), Flaw> {
        let wanted = count.saturating_mul(bytes_each as u64);
        if wanted > self.bytes.len().saturating_sub(self.at) as u64 {
            return Err(Flaw::End { wanted: wanted.saturating_add(self.at as u64) });
        }
        Ok(())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Flaw> {
        self.expect(count, 1)?;
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut taken = [0; N];
        taken.copy_from_slice(self.take(N as u64)?);
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Flaw> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Flaw> {
        self.fixed().map(u64::from_le_bytes)
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, Flaw> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        str::from_utf8(bytes).map_err(|error| Flaw::Bad(format!("a string that is not UTF-8: {error}")))
    }

    pub(crate) fn kind(&mut self) -> Result<ValueKind, Flaw> {
        let id = self.u32()?;
        let wanted = KINDS.len() - 1;
        ValueKind::from_id(id)
            .ok_or_else(|| Flaw::Bad(format!("wanted a kind of value from 0 to {wanted}, found {id}")))
    }

    /// A value of `kind` that stands inside of `depth` arrays.
    pub(crate) fn value(&mut self, kind: ValueKind, depth: usize) -> Result<Value<'a>, Flaw> {
        Ok(match kind {
            ValueKind::U8 => Value::U8(u8::from_le_bytes(self.fixed()?)),
            ValueKind::I8 => Value::I8(i8::from_le_bytes(self.fixed()?)),
            ValueKind::U16 => Value::U16(u16::from_le_bytes(self.fixed()?)),
            ValueKind::I16 => Value::I16(i16::from_le_bytes(self.fixed()?)),
            ValueKind::U32 => Value::U32(self.u32()?),
            ValueKind::I32 => Value::I32(i32::from_le_bytes(self.fixed()?)),
            ValueKind::F32 => Value::F32(f32::from_le_bytes(self.fixed()?)),
            ValueKind::Bool => match self.fixed()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Flaw::Bad(format!("wanted a boolean, 0 or 1, found {other}"))),
            },
            ValueKind::String => Value::String(self.string()?),
            ValueKind::Array => Value::Array(self.array(depth)?),
            ValueKind::U64 => Value::U64(self.u64()?),
            ValueKind::I64 => Value::I64(i64::from_le_bytes(self.fixed()?)),
            ValueKind::F64 => Value::F64(f64::from_le_bytes(self.fixed()?)),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array<'a>, Flaw> {
        if depth == ARRAY_DEPTH_MAX {
            return Err(Flaw::Bad(format!("arrays nested deeper than {ARRAY_DEPTH_MAX}")));
        }
        let kind = self.kind()?;
        let count = self.u64()?;
        self.expect(count, kind.bytes_least())?;
        let start = self.at;
        match kind {
            ValueKind::String | ValueKind::Array | ValueKind::Bool => {
                for _ in 0..count {
                    self.value(kind, depth + 1)?;
                }
            }
            plain => drop(self.take(count * plain.bytes_least() as u64)?),
        }
        // As many elements as there are bytes at most, so the count fits.
        Ok(Array { kind, len: count as usize, bytes: &self.bytes[start..self.at] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (id, (kind, name, _)) in KINDS.into_iter().enumerate() {
            assert_eq!((ValueKind::from_id(id as u32), kind.name()), (Some(kind), name));
        }
        assert_eq!(ValueKind::from_id(13), None);
    }

    #[test]
    fn numbers_are_read_by_what_they_are_not_by_their_width() {
        assert_eq!(Value::U16(7).as_u64(), Some(7));
        assert_eq!(Value::I8(-7).as_u64(), None);
        assert_eq!(Value::I8(-7).as_i64(), Some(-7));
        assert_eq!(Value::U64(u64::MAX).as_i64(), None);
        assert_eq!(Value::F32(0.5).as_f64(), Some(0.5));
        assert_eq!((Value::U32(1).as_f64(), Value::U32(1).as_bool(), Value::Bool(true).as_u64()), (None, None, None));
        assert_eq!(Value::I8(-7).to_string(), "-7");
    }

    #[test]
    fn an_array_ends_where_its_bytes_do() {
        let mut bytes = 5u32.to_le_bytes().to_vec();
        bytes.extend(3u64.to_le_bytes());
        bytes.extend([1i32, -2, 3].map(i32::to_le_bytes).concat());
        let value = Cursor::new(&bytes).value(ValueKind::Array, 0).expect("sound");
        assert_eq!(value.as_array().and_then(Array::integers), Some(vec![1, -2, 3]));
        assert_eq!(value.as_array().and_then(Array::bools), None);
        for n in 0..bytes.len() {
            assert!(matches!(Cursor::new(&bytes[..n]).value(ValueKind::Array, 0), Err(Flaw::End { .. })));
        }
    }
}
