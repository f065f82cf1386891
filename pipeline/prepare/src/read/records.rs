//! Records of JSON: lines, the elements of one long list, or whole values one after the other; each as soon as it is
//! read, none kept.

use serde_json::Value;
use std::io::{self, BufRead, Read};

/// A longer record is no record but a file of another kind.
const RECORD_BYTES_MAX: usize = 256 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One record: its value, or why it is none.
pub(super) struct Record {
    pub(super) number: usize,
    pub(super) value: Result<Value, String>,
}

type Reader = Box<dyn BufRead + Send>;

/// How the records of a file are set apart.
enum Layout {
    Lines,
    /// `[…, …]`
    List,
    /// Values that may span lines.
    Values,
}

/// The records of a JSON file in order.
pub(super) struct JsonRecords {
    reader: Reader,
    layout: Layout,
    /// The line that is read next.
    line: usize,
    is_over: bool,
}

impl JsonRecords {
    /// The lines of a `.jsonl` file.
    pub(super) fn lines(reader: Reader) -> io::Result<Self> {
        let reader = without_mark(reader)?;
        Ok(Self { reader, layout: Layout::Lines, line: 1, is_over: false })
    }

    /// A `.json` file: a list, or values. People call files of lines `.json` too; if the first line is a value, it is
    /// one of those, and then a broken line costs only itself.
    pub(super) fn any(reader: Reader) -> io::Result<Self> {
        let mut reader = without_mark(reader)?;
        let mut first = Vec::new();
        let mut lines = 0;
        while first.trim_ascii().is_empty() {
            lines += 1;
            if reader.by_ref().take(RECORD_BYTES_MAX as u64).read_until(b'\n', &mut first)? == 0 {
                break;
            }
        }
        let start = first.trim_ascii_start();
        let skipped = first.len() - start.len();
        let is_list = start.first() == Some(&b'[');
        let is_value = !is_list && serde_json::from_slice::<serde::de::IgnoredAny>(start).is_ok();
        let layout = match (is_list, is_value) {
            (true, _) => Layout::List,
            (false, true) => Layout::Lines,
            (false, false) => Layout::Values,
        };
        first.drain(..skipped + usize::from(is_list));
        let line = lines.max(1);
        let reader: Reader = Box::new(io::BufReader::new(io::Cursor::new(first).chain(reader)));
        Ok(Self { reader, layout, line, is_over: false })
    }

    /// The next record. An error is one of reading, after which there is nothing more; the number of the line that
    /// could not be read comes with it.
    pub(super) fn next(&mut self) -> Result<Option<Record>, (usize, io::Error)> {
        if self.is_over {
            return Ok(None);
        }
        let line = self.line;
        let bytes = match self.layout {
            Layout::Lines => self.line(),
            Layout::List | Layout::Values => self.value(),
        };
        let found = bytes.map_err(|error| (self.line.max(line), error));
        self.is_over = !matches!(found, Ok(Some(_)));
        Ok(found?.map(|(number, bytes)| Record { number, value: parse(&bytes) }))
    }

    /// The next line that is not empty.
    fn line(&mut self) -> io::Result<Option<(usize, Vec<u8>)>> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let count = self.reader.by_ref().take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
            if count == 0 {
                return Ok(None);
            }
            if count > RECORD_BYTES_MAX {
                return Err(too_long());
            }
            self.line += 1;
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some((self.line - 1, bytes)));
            }
        }
    }

    /// The next value with the line that it begins in: up to the comma or bracket that ends an element, or of values
    /// one after the other up to where brackets are closed.
    fn value(&mut self) -> io::Result<Option<(usize, Vec<u8>)>> {
        let is_list = matches!(self.layout, Layout::List);
        let mut scan = Scan::default();
        let mut begun = self.line;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                let is_cut_off = is_list || scan.is_inside();
                return if is_cut_off { Err(cut_off()) } else { Ok(scan.finish().map(|bytes| (begun, bytes))) };
            }
            let mut used = 0;
            let mut end = None;
            for &byte in buffer {
                used += 1;
                self.line += usize::from(byte == b'\n');
                if scan.bytes.is_empty() && (byte.is_ascii_whitespace() || (is_list && byte == b',')) {
                    begun = self.line;
                    continue;
                }
                end = scan.take(byte, is_list);
                if end.is_some() {
                    break;
                }
            }
            self.reader.consume(used);
            if scan.bytes.len() > RECORD_BYTES_MAX {
                return Err(too_long());
            }
            match end {
                None => {}
                Some(End::Element) => return Ok(scan.finish().map(|bytes| (begun, bytes))),
                Some(End::List) => {
                    // What follows the list is nothing, or the file is not what it seems.
                    self.layout = Layout::Values;
                    let last = scan.finish().map(|bytes| (begun, bytes));
                    return if last.is_some() { Ok(last) } else { self.value() };
                }
            }
        }
    }
}

enum End {
    Element,
    List,
}

/// Where in a value the reading stands.
#[derive(Default)]
struct Scan {
    bytes: Vec<u8>,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
}

impl Scan {
    fn take(&mut self, byte: u8, is_list: bool) -> Option<End> {
        if self.in_text {
            self.bytes.push(byte);
            self.in_text = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return None;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b']' if is_list && self.depth == 0 => return Some(End::List),
            b',' if is_list && self.depth == 0 => return Some(End::Element),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.bytes.push(byte);
        (!is_list && self.depth == 0 && matches!(byte, b'}' | b']')).then_some(End::Element)
    }

    fn is_inside(&self) -> bool {
        self.depth > 0 || self.in_text
    }

    fn finish(self) -> Option<Vec<u8>> {
        (!self.bytes.trim_ascii().is_empty()).then_some(self.bytes)
    }
}

fn without_mark(mut reader: Reader) -> io::Result<Reader> {
    if reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    Ok(reader)
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let hint = if bytes.contains(&0) { "; is the file in UTF-16?" } else { "" };
        format!("not UTF-8 (at byte {}){hint}", error.valid_up_to())
    })?;
    serde_json::from_str(text.trim()).map_err(|error| format!("not JSON: {error}"))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends inside a value: it is cut off")
}

fn too_long() -> io::Error {
    let what = format!("a record is longer than {} MB; is this a file of JSON lines?", RECORD_BYTES_MAX >> 20);
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: io::Result<JsonRecords>) -> (Vec<(usize, String)>, Option<usize>) {
        let mut records = records.expect("opened");
        let mut found = Vec::new();
        loop {
            match records.next() {
                Ok(Some(record)) => found.push((record.number, record.value.map_or_else(|e| e, |v| v.to_string()))),
                Ok(None) => return (found, None),
                Err((line, _)) => return (found, Some(line)),
            }
        }
    }

    fn any(text: &str) -> (Vec<(usize, String)>, Option<usize>) {
        read(JsonRecords::any(Box::new(io::Cursor::new(text.as_bytes().to_vec()))))
    }

    fn lines(text: &[u8]) -> (Vec<(usize, String)>, Option<usize>) {
        read(JsonRecords::lines(Box::new(io::Cursor::new(text.to_vec()))))
    }

    fn owned(list: &[(usize, &str)]) -> Vec<(usize, String)> {
        list.iter().map(|(line, text)| (*line, (*text).to_owned())).collect()
    }

    #[test]
    fn lines_have_numbers_marks_and_line_ends_of_any_system() {
        let (found, cut) = lines(b"\xEF\xBB\xBF{\"a\":1}\r\n\r\n \n{\"b\":2}");
        assert_eq!((found, cut), (owned(&[(1, "{\"a\":1}"), (4, "{\"b\":2}")]), None));
        let (found, _) = lines(b"{\"a\":1}\n{\"a\":\n\xFF\xFE{\n3\n");
        assert!(found[1].1.starts_with("not JSON") && found[2].1.starts_with("not UTF-8"), "{found:?}");
        assert_eq!(found[3], (4, "3".to_owned()));
    }

    #[test]
    fn lists_and_values_are_read_element_by_element() {
        let list = "\n [ {\"a\": \"],{\\\"\"},\n\n  {\"b\": [1, {\"c\": 2}]}, 3,\n \"x, y\" ]\n";
        let wanted = owned(&[(2, "{\"a\":\"],{\\\"\"}"), (4, "{\"b\":[1,{\"c\":2}]}"), (4, "3"), (5, "\"x, y\"")]);
        assert_eq!(any(list), (wanted, None));
        assert!(any("[]").0.is_empty() && any("").0.is_empty());
        assert_eq!(any("{\n\"a\": 1\n}\n{\n\"b\": 2}").0, owned(&[(1, "{\"a\":1}"), (4, "{\"b\":2}")]));
        assert_eq!(any("{\"a\": 1}\n{broken\n{\"b\": 2}").0.len(), 3);
    }

    #[test]
    fn a_file_that_is_cut_off_says_where() {
        assert_eq!(any("[{\"a\":1},\n{\"b\"").1, Some(2));
        assert_eq!(any("[{\"a\":1},\n{\"b\":2}\n").1, Some(3));
        assert_eq!(any("{\n\"a\": [1,\n2").1, Some(3));
        let (found, _) = any("[1] rubbish");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].1.starts_with("not JSON"));
    }
}
