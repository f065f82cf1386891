//! Rows of a Parquet file as JSON values, one row group at a time.
//!
//! Pages packed with zstd and gzip are unpacked here, by the same libraries that unpack whole files: the Parquet
//! library would use C for the one. It is therefore told that they are not packed, and what it gives is unpacked
//! afterwards.

use super::open::{ungzip, unzstd};
use parquet::basic::Compression;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::RowGroupReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::record::reader::{ReaderIter, RowIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};
use std::fs::File;
use std::sync::Arc;

/// A page that unpacks to more is damaged, or made to harm.
const PAGE_BYTES_MAX: u64 = 1 << 30;

pub(super) struct ParquetRows {
    file: Arc<File>,
    metadata: ParquetMetaData,
    next_group: usize,
    rows: Option<ReaderIter>,
    number: usize,
}

impl ParquetRows {
    pub(super) fn open(file: File) -> Result<Self> {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file)?;
        Ok(Self { file: Arc::new(file), metadata, next_group: 0, rows: None, number: 0 })
    }

    /// The next row with its number, from 1 on.
    pub(super) fn next(&mut self) -> Result<Option<(usize, Value)>> {
        loop {
            if let Some(row) = self.rows.as_mut().and_then(Iterator::next) {
                self.number += 1;
                return Ok(Some((self.number, object(&row?))));
            }
            if self.next_group >= self.metadata.num_row_groups() {
                return Ok(None);
            }
            let group = Group { file: self.file.clone(), metadata: self.metadata.row_group(self.next_group) };
            let schema = self.metadata.file_metadata().schema_descr_ptr();
            self.rows = Some(TreeBuilder::new().as_iter(schema, &group)?);
            self.next_group += 1;
        }
    }

    /// The row that is read next.
    pub(super) fn number(&self) -> usize {
        self.number + 1
    }
}

struct Group<'a> {
    file: Arc<File>,
    metadata: &'a RowGroupMetaData,
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.metadata
    }

    fn num_columns(&self) -> usize {
        self.metadata.num_columns()
    }

    fn get_column_page_reader(&self, index: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata.column(index);
        let rows = usize::try_from(self.metadata.num_rows())?;
        let unpack: Unpack = match column.compression() {
            Compression::ZSTD(_) => unzstd,
            Compression::GZIP(_) => ungzip,
            Compression::UNCOMPRESSED | Compression::SNAPPY => {
                return Ok(Box::new(SerializedPageReader::new(self.file.clone(), column, rows, None)?));
            }
            other => {
                let what = format!("its pages are packed with {other}; write it again with snappy, zstd or gzip");
                return Err(ParquetError::NYI(what));
            }
        };
        let as_it_is = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let pages = SerializedPageReader::new(self.file.clone(), &as_it_is, rows, None)?;
        Ok(Box::new(Unpacking { pages, unpack }))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

type Unpack = fn(&[u8], u64) -> std::io::Result<Vec<u8>>;

struct Unpacking {
    pages: SerializedPageReader<File>,
    unpack: Unpack,
}

impl Unpacking {
    fn unpacked(&self, mut page: Page) -> Result<Page> {
        let (buffer, levels) = match &mut page {
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => (buf, 0),
            // The levels in front are never packed.
            Page::DataPageV2 { buf, is_compressed: true, def_levels_byte_len, rep_levels_byte_len, .. } => {
                (buf, (*def_levels_byte_len + *rep_levels_byte_len) as usize)
            }
            Page::DataPageV2 { .. } => return Ok(page),
        };
        if levels > buffer.len() {
            return Err(ParquetError::General("a page is shorter than its levels".to_owned()));
        }
        if buffer.len() > levels {
            let values = (self.unpack)(&buffer[levels..], PAGE_BYTES_MAX)?;
            *buffer = [&buffer[..levels], &values].concat().into();
        }
        Ok(page)
    }
}

impl Iterator for Unpacking {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Unpacking {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.pages.get_next_page()?.map(|page| self.unpacked(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.pages.take_deferred_dictionary()?.map(|page| self.unpacked(page)).transpose()
    }
}

/// A row as an object. Columns give every row all fields of all rows; those without a value are left out, so that a
/// call keeps only the arguments that it has.
fn object(row: &Row) -> Value {
    let fields = row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    Value::Object(fields.map(|(name, field)| (name.clone(), value(field))).collect())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) | Field::Date(value) => (*value).into(),
        Field::Long(value) | Field::TimestampMillis(value) | Field::TimestampMicros(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => f32::from(*value).into(),
        Field::Float(value) => (*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let name = |key: &Field| match value(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(key, of)| (name(key), value(of))).collect::<Map<_, _>>())
        }
        other => other.to_string().into(),
    }
}
