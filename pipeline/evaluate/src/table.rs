//! Tables: for a terminal, and for a page that needs nothing but a browser.

use serde::{Deserialize, Serialize};

/// Headings, and rows of as many cells. The first column is text and stands left, the others right.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    pub headings: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { headings: headings.iter().map(|&heading| heading.to_owned()).collect(), rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.headings.len(), "a row has a cell for each heading");
        self.rows.push(row);
    }

    /// Columns as wide as their widest cell, two spaces between them, a rule under the headings.
    pub fn to_text(&self) -> String {
        let widths = self.widths(std::iter::once(&self.headings).chain(&self.rows));
        let rule = widths.iter().map(|&width| "─".repeat(width)).collect::<Vec<_>>().join("  ");
        let aligned = |line: &Vec<String>| aligned(line, &widths, |column| column > 0);
        let rows: String = self.rows.iter().map(aligned).collect();
        format!("{}{rule}\n{rows}", aligned(&self.headings))
    }

    /// The rows alone, everything to the left: for names and what they stand for.
    pub fn to_list(&self) -> String {
        let widths = self.widths(self.rows.iter());
        self.rows.iter().map(|line| aligned(line, &widths, |_| false)).collect()
    }

    fn widths<'a>(&self, lines: impl Iterator<Item = &'a Vec<String>>) -> Vec<usize> {
        lines.fold(vec![0; self.headings.len()], |mut widths, line| {
            widths.iter_mut().zip(line).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
            widths
        })
    }

    pub fn to_html(&self) -> String {
        let line = |cells: &[String], tag: &str| {
            let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let rows: String = self.rows.iter().map(|row| line(row, "td")).collect();
        format!("<table>\n<thead>{}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n", line(&self.headings, "th"))
    }
}

/// One line, without spaces at its end.
fn aligned(line: &[String], widths: &[usize], is_right: impl Fn(usize) -> bool) -> String {
    let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, &width))| {
        let gap = " ".repeat(width - cell.chars().count());
        if is_right(column) { format!("{gap}{cell}") } else { format!("{cell}{gap}") }
    });
    format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
}

/// A whole page: a title, and parts that are HTML already.
pub fn page(title: &str, parts: &[String]) -> String {
    const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;\
        color:#1c2733;background:#fff}h1,h2{font-weight:600;line-height:1.2}h2{margin-top:2.2rem}\
        table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
        th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #d8dee6;white-space:nowrap}\
        th{border-bottom:2px solid #8a97a6}th:first-child,td:first-child{text-align:left;padding-left:0}\
        pre{background:#f4f6f8;padding:.8rem;overflow:auto}p.note{color:#5b6875}\
        @media(prefers-color-scheme:dark){body{background:#12181f;color:#dbe3ec}pre{background:#1b232c}\
        th,td{border-color:#2d3946}p.note{color:#93a1b0}}";
    let title = escape(title);
    let head = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n\
         <body>\n<h1>{title}</h1>\n"
    );
    format!("{head}{}</body></html>\n", parts.concat())
}

/// Text as HTML shows it.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(character),
        }
    }
    out
}

/// `12.3 MB`: powers of ten, as disks and downloads are sold.
pub fn bytes_in_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `4.13 M`: how many parameters.
pub fn count_in_words(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", count as f64 / 1e6),
        _ => format!("{:.2} B", count as f64 / 1e9),
    }
}

/// `1 h 02 min`, `3 min 20 s`, `4.2 s`, `17 ms`.
pub fn duration_in_words(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", 1e3 * s),
        s if s < 59.95 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {:02} min", s as u64 / 3600, s as u64 / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn columns_line_up_whatever_the_characters() {
        let mut table = Table::new(&["stage", "size", "pass@1"]);
        table.push(vec!["base".into(), "8.1 MB".into(), "3.0 %".into()]);
        table.push(vec!["künstlich".into(), "—".into(), "61.5 %".into()]);
        let wanted = "stage        size  pass@1\n─────────  ──────  ──────\nbase       8.1 MB   3.0 %\n\
                      künstlich       —  61.5 %\n";
        assert_eq!(table.to_text(), wanted);
        assert_eq!(table.to_list(), "base       8.1 MB  3.0 %\nkünstlich  —       61.5 %\n");
    }

    #[test]
    fn a_page_shows_text_and_runs_nothing() {
        let mut table = Table::new(&["a"]);
        table.push(vec!["<script>\"&\"".into()]);
        let page = page("x < y", &[table.to_html()]);
        assert!(page.contains("&lt;script&gt;&quot;&amp;&quot;") && page.contains("<title>x &lt; y</title>"));
        assert!(!page.contains("<script"));
    }

    #[test]
    fn numbers_in_words() {
        assert_eq!(bytes_in_words(999), "999 B");
        assert_eq!(bytes_in_words(999_600), "1.0 MB");
        assert_eq!(bytes_in_words(21_700_000_000), "21.7 GB");
        assert_eq!(bytes_in_words(341_000_000), "341 MB");
        assert_eq!(count_in_words(4_131_000), "4.13 M");
        assert_eq!(count_in_words(80_000_000_000), "80.00 B");
        assert_eq!(duration_in_words(Duration::from_millis(17)), "17 ms");
        assert_eq!(duration_in_words(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration_in_words(Duration::from_secs(3725)), "1 h 02 min");
    }
}
