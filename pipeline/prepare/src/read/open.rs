//! Files as a stream of bytes, whatever they are packed in: told by their first bytes, not by their names.

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER_BYTES: usize = 1 << 17;
const GZIP: &[u8] = &[0x1F, 0x8B];
const PARQUET: &[u8] = b"PAR1";

/// What a file is, once unpacked.
pub(super) enum Opened {
    Bytes(Box<dyn BufRead + Send>),
    /// Parquet is read from its end, so it is no stream.
    Parquet(File),
}

/// Opens a file; what is read of it is added to `bytes_read`.
pub(super) fn open(path: &Path, bytes_read: &Arc<AtomicU64>) -> io::Result<Opened> {
    let file = File::open(path)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, Counted { file, bytes_read: bytes_read.clone() });
    let start = reader.fill_buf()?;
    if start.starts_with(PARQUET) {
        return Ok(Opened::Parquet(File::open(path)?));
    }
    if start.starts_with(GZIP) {
        let unpacked = MultiGzDecoder::new(reader);
        return Ok(Opened::Bytes(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked))));
    }
    if frame_of(start).is_some() {
        let unpacked = ZstdFrames { between: Some(reader), frame: None };
        return Ok(Opened::Bytes(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked))));
    }
    Ok(Opened::Bytes(Box::new(reader)))
}

struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

enum Frame {
    Data,
    Skippable,
}

/// The kind of zstd frame that begins here (RFC 8878, 3.1).
fn frame_of(start: &[u8]) -> Option<Frame> {
    let magic = u32::from_le_bytes(start.get(..4)?.try_into().ok()?);
    match magic {
        0xFD2F_B528 => Some(Frame::Data),
        0x184D_2A50..=0x184D_2A5F => Some(Frame::Skippable),
        _ => None,
    }
}

/// All frames of a zstd file, one after the other: parallel compressors and `cat` write several.
struct ZstdFrames<R: BufRead> {
    between: Option<R>,
    frame: Option<Box<StreamingDecoder<R, FrameDecoder>>>,
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer).map_err(cut_off_if_so)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            if let Some(frame) = self.frame.take() {
                let (reader, decoder) = frame.into_parts();
                let wanted = decoder.get_checksum_from_data();
                if wanted.is_some() && wanted != decoder.get_calculated_checksum() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "what was unpacked has another checksum"));
                }
                self.between = Some(reader);
            }
            let Some(mut reader) = self.between.take() else { return Ok(0) };
            let start = reader.fill_buf()?;
            if start.is_empty() {
                self.between = Some(reader);
                return Ok(0);
            }
            match frame_of(start) {
                Some(Frame::Data) => {
                    let frame = StreamingDecoder::new(reader).map_err(io::Error::other).map_err(cut_off_if_so)?;
                    self.frame = Some(Box::new(frame));
                }
                Some(Frame::Skippable) => {
                    skip_frame(&mut reader)?;
                    self.between = Some(reader);
                }
                None => return Err(io::Error::new(io::ErrorKind::InvalidData, "what follows is not zstd")),
            }
        }
    }
}

/// The decoder wraps the end of its input in errors of its own; people are to know that the file is cut off.
fn cut_off_if_so(error: io::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends inside a zstd frame");
        }
        cause = error.source();
    }
    error
}

fn skip_frame(reader: &mut impl BufRead) -> io::Result<()> {
    let mut header = [0; 8];
    reader.read_exact(&mut header)?;
    let length = u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]));
    let skipped = io::copy(&mut reader.take(length), &mut io::sink())?;
    if skipped < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Unpacks a piece that is in memory, up to a limit.
fn unpack(packed: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    packed.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it unpacks to more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

pub(super) fn unzstd(packed: &[u8], bytes_max: u64) -> io::Result<Vec<u8>> {
    unpack(ZstdFrames { between: Some(packed), frame: None }, bytes_max)
}

pub(super) fn ungzip(packed: &[u8], bytes_max: u64) -> io::Result<Vec<u8>> {
    unpack(MultiGzDecoder::new(packed), bytes_max)
}
