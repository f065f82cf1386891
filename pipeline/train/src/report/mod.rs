//! Reports: HTML files with a run's curves, or those of several, readable in light and dark, nothing fetched from
//! anywhere.

pub mod chart;
mod comparison;
mod heat;
mod record;
mod single;

pub use comparison::render as render_several;
pub use single::render;

use crate::error::TrainError;
use crate::metrics;
use std::path::Path;

/// The file's name in a run's folder.
pub const REPORT: &str = "report.html";

/// Reads a metrics file and writes its report.
pub fn write(title: &str, metrics_path: &Path, report_path: &Path) -> Result<(), TrainError> {
    let html = render(title, &metrics::read(metrics_path)?);
    formats::write_atomically(report_path, |file| file.write_all(html.as_bytes()))?;
    Ok(())
}

/// A whole page that stands alone, from HTML.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{}</title><style>{}</style></head>\
         <body><main>{body}</main></body></html>\n",
        escape(title),
        include_str!("style.css")
    )
}

/// Text as HTML shows it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A class of `style.css` for the line number `index` of many.
fn colour(index: usize) -> &'static str {
    const COLOURS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];
    COLOURS[index % COLOURS.len()]
}

#[cfg(test)]
mod tests;
