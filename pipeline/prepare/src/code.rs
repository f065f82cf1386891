//! Source code as it lies in folders: whole pieces to read on, and pieces with a hole to fill.

use crate::error::PrepareError;
use crate::kind::Kind;
use crate::source::{Raw, Roots, Skipped};
use numeric::Rng;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use text::Document;

/// Licence words that keep a file out, unless `any_licence`: what they allow does not mix with everything.
const COPYLEFT: [&str; 5] =
    ["GNU GENERAL PUBLIC", "GNU AFFERO", "GNU LESSER", "SPDX-LICENSE-IDENTIFIER: GPL", "ALL RIGHTS RESERVED"];
/// Folders that hold nothing a person wrote to be read.
const SKIPPED_FOLDERS: [&str; 8] =
    ["target", "node_modules", "__pycache__", "vendor", "site-packages", "dist-packages", "lib2to3", "test_data"];
/// A shorter piece has no room for a hole.
const HOLED_BYTES_MIN: usize = 32;
/// Longer files are cut.
pub(crate) const PIECE_BYTES_MAX: usize = 2_000;
/// Licences stand at the top of a file.
const LICENCE_BYTES: usize = 4096;

/// A source of code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeRecipe {
    /// Folders; `$rust` and `$python` are the standard libraries' sources where the program finds them.
    pub roots: Vec<String>,
    pub extensions: Vec<String>,
    pub file_bytes_max: u64,
    /// Of all pieces together.
    pub total_bytes_max: u64,
    /// Longer files are cut between lines.
    pub piece_bytes_max: usize,
    /// The share of pieces that get a hole.
    pub fill_share: f64,
    pub any_licence: bool,
    /// How often an epoch shows each piece, on average.
    pub repeat: f32,
    /// How much of what is learnt comes from here, in proportion to the `portion` of the other sources.
    pub portion: Option<f64>,
    /// The largest share of all trained tokens that may come from here.
    pub share_max: Option<f64>,
}

impl Default for CodeRecipe {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            extensions: vec!["py".into(), "rs".into()],
            file_bytes_max: 200_000,
            total_bytes_max: 8_000_000,
            piece_bytes_max: PIECE_BYTES_MAX,
            fill_share: 0.5,
            any_licence: false,
            repeat: 1.0,
            portion: None,
            share_max: None,
        }
    }
}

/// A file found, with the name that does not depend on where the root lies.
struct Found {
    name: String,
    path: PathBuf,
}

impl CodeRecipe {
    pub fn check(&self) -> Result<(), PrepareError> {
        let wrong = |what: &str| Err(PrepareError::Recipe { what: format!("a code source: {what}") });
        if self.roots.is_empty() || self.extensions.is_empty() {
            return wrong("roots and extensions must name something");
        }
        if !(0.0..=1.0).contains(&self.fill_share) || self.piece_bytes_max < 64 {
            return wrong("fill_share must lie in [0, 1] and piece_bytes_max be at least 64");
        }
        Ok(())
    }

    /// Reads files in an order of the seed until the byte limit is reached.
    pub fn read(&self, seed: u64, roots: &dyn Roots, skipped: &mut Skipped) -> Result<Vec<Raw>, PrepareError> {
        self.check()?;
        let mut files = Vec::new();
        for root in &self.roots {
            match root.strip_prefix('$').map(|name| roots.find(name)) {
                Some(None) => skipped.missing_roots.push(root.clone()),
                Some(Some(folder)) => self.walk(&folder, root, &mut files, skipped)?,
                None => self.walk(Path::new(root), root, &mut files, skipped)?,
            }
        }
        // The same files in the same order on every machine, wherever the roots lie and however a folder is listed.
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut rng = Rng::new(seed);
        rng.shuffle(&mut files);
        let (mut documents, mut bytes) = (Vec::new(), 0);
        for file in files {
            if bytes >= self.total_bytes_max {
                break;
            }
            let Some(text) = self.text(&file.path, skipped)? else { continue };
            for piece in pieces(&text, self.piece_bytes_max) {
                bytes += piece.len() as u64;
                let (document, kind) = document(piece, self.fill_share, &mut rng);
                documents.push(Raw::new(document, kind, file.name.as_str()));
            }
        }
        Ok(documents)
    }

    fn walk(
        &self,
        folder: &Path,
        name: &str,
        found: &mut Vec<Found>,
        skipped: &mut Skipped,
    ) -> Result<(), PrepareError> {
        let fail = |source| PrepareError::Io { action: "read the folder", path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let (path, name) = (entry.path(), format!("{name}/{file_name}"));
            let kind = entry.file_type().map_err(fail)?;
            // Links are not followed: they could lead out of the root, or round in a circle.
            if kind.is_dir() && !file_name.starts_with('.') && !SKIPPED_FOLDERS.contains(&file_name.as_str()) {
                self.walk(&path, &name, found, skipped)?;
            } else if kind.is_file() && self.wants(&path) {
                if entry.metadata().map_err(fail)?.len() > self.file_bytes_max {
                    skipped.too_large += 1;
                } else {
                    found.push(Found { name, path });
                }
            }
        }
        Ok(())
    }

    fn wants(&self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| self.extensions.iter().any(|wanted| wanted == extension))
    }

    fn text(&self, path: &Path, skipped: &mut Skipped) -> Result<Option<String>, PrepareError> {
        let bytes =
            fs::read(path).map_err(|source| PrepareError::Io { action: "read", path: path.to_owned(), source })?;
        let Ok(text) = String::from_utf8(bytes) else {
            skipped.not_text += 1;
            return Ok(None);
        };
        if !self.any_licence && is_copyleft(&text) {
            skipped.licence += 1;
            return Ok(None);
        }
        Ok(Some(text))
    }
}

/// A piece of code to read on, or with a hole.
pub(crate) fn document(piece: &str, fill_share: f64, rng: &mut Rng) -> (Document, Kind) {
    match rng.chance(fill_share) && piece.len() >= HOLED_BYTES_MIN {
        true => (hole(piece, rng), Kind::CodeInfilling),
        false => (Document::Plain { text: piece.to_owned() }, Kind::Plain),
    }
}

/// Whether the top of a file says that it may not be mixed with everything.
pub(crate) fn is_copyleft(text: &str) -> bool {
    let mut top = text.len().min(LICENCE_BYTES);
    while !text.is_char_boundary(top) {
        top -= 1;
    }
    let top = text[..top].to_uppercase();
    COPYLEFT.iter().any(|word| top.contains(word))
}

/// Cuts a text between lines into pieces of at most `bytes_max`; a longer line is left out, as are blank pieces.
pub(crate) fn pieces(text: &str, bytes_max: usize) -> Vec<&str> {
    let (mut pieces, mut start, mut end) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        if end + line.len() - start > bytes_max {
            pieces.push(&text[start..end]);
            start = end;
        }
        end += line.len();
        if line.len() > bytes_max {
            start = end;
        }
    }
    pieces.push(&text[start..end]);
    pieces.retain(|piece| !piece.trim().is_empty());
    pieces
}

/// Takes a part out of a text: half of the time whole lines, else from any character to any other, at most a third.
fn hole(text: &str, rng: &mut Rng) -> Document {
    let places: Vec<usize> = if rng.chance(0.5) {
        text.char_indices()
            .map(|(at, c)| (at, c == '\n'))
            .filter(|(_, newline)| *newline)
            .map(|(at, _)| at + 1)
            .collect()
    } else {
        text.char_indices().map(|(at, _)| at).collect()
    };
    let places = if places.len() < 3 { text.char_indices().map(|(at, _)| at).collect() } else { places };
    let first = rng.below(places.len() - 1);
    let length = 1 + rng.below((places.len() / 3).max(1));
    let (start, end) = (places[first], places[(first + length).min(places.len() - 1)]);
    Document::FillInTheMiddle {
        prefix: text[..start].to_owned(),
        middle: text[start..end].to_owned(),
        suffix: text[end..].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_lines_and_leave_only_overlong_lines_out() {
        let long = "y".repeat(50);
        let text = format!("aaa\nbbb\nccc\n{long}\nddd\n\n\neee");
        let cut = pieces(&text, 8);
        assert_eq!(cut, ["aaa\nbbb\n", "ccc\n", "ddd\n\n\n", "eee"]);
        assert!(pieces("\n\n", 8).is_empty());
    }

    #[test]
    fn a_hole_puts_the_text_together_again_and_is_never_empty() {
        let mut rng = Rng::new(4);
        for text in
            ["def f(x):\n    return x + 1\n\n\ndef g():\n    return f(2)\n", "ünïcödé ohne eine einzige neue Zeile"]
        {
            for _ in 0..200 {
                let Document::FillInTheMiddle { prefix, middle, suffix } = hole(text, &mut rng) else {
                    panic!("a hole")
                };
                assert!(!middle.is_empty() && middle.len() <= text.len() / 2 + 4, "{middle:?}");
                assert_eq!(format!("{prefix}{middle}{suffix}"), text);
            }
        }
    }
}
