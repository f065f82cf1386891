//! How experts are used, as maps: a row for each layer, a column for each expert or for each record in time.

use std::fmt::Write;

const WIDTH: f64 = 1020.0;
const LEFT: f64 = 56.0;
/// Below the rows, for what the columns are.
const FOOT: f64 = 14.0;

/// One place of a map: how strong its colour is, from 0 to 1, and what it says when pointed at.
struct Cell {
    strength: f64,
    title: String,
}

/// `layers[l][e]`: share of layer `l`'s choices. An even load is a pale, even surface; a cell twice as busy as an even
/// share is full colour.
pub(crate) fn figure(title: &str, layers: &[Vec<f32>]) -> String {
    let cell = |l: usize, e: usize, share: f32, experts: usize| {
        let relative = f64::from(share) * experts as f64;
        Cell { strength: relative / 2.0, title: format!("layer {l}, expert {e}: {relative:.2}×") }
    };
    let row = |(l, shares): (usize, &Vec<f32>)| -> Vec<Cell> {
        shares.iter().enumerate().map(|(e, &share)| cell(l, e, share, shares.len())).collect()
    };
    let rows: Vec<Vec<Cell>> = layers.iter().enumerate().map(row).collect();
    let unused = layers.iter().flatten().filter(|&&share| share == 0.0).count();
    let note = format!(
        "Rows are layers with experts, columns experts. Colour: load as a multiple of an even share, full at 2×; \
         unused experts: {unused}."
    );
    map(title, &rows, &note, None)
}

/// `records[i]`: a step and, for each layer, the busiest expert's load as a multiple of an even share.
pub(crate) fn over_steps(title: &str, records: &[(usize, Vec<f64>)]) -> String {
    let layers = records.iter().map(|(_, layers)| layers.len()).max().unwrap_or(0);
    let cell = |l: usize, (step, layers): &(usize, Vec<f64>)| {
        let times = layers.get(l).copied().unwrap_or(0.0);
        Cell { strength: (times - 1.0) / 4.0, title: format!("layer {l}, step {step}: {times:.2}×") }
    };
    let rows: Vec<Vec<Cell>> = (0..layers).map(|l| records.iter().map(|record| cell(l, record)).collect()).collect();
    let note = "Rows are layers with experts, columns records in time. Colour: the busiest expert's load as a multiple \
                of an even share, none at 1×, full at 5×.";
    let ends = records.first().zip(records.last()).map(|(first, last)| (first.0, last.0));
    map(title, &rows, note, ends)
}

/// `ends` are the steps of the first and the last column.
fn map(title: &str, rows: &[Vec<Cell>], note: &str, ends: Option<(usize, usize)>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 {
        return String::new();
    }
    let (cell_width, row_height) = ((WIDTH - LEFT) / columns as f64, if rows.len() > 24 { 9.0 } else { 16.0 });
    let below = rows.len() as f64 * row_height;
    let height = below + if ends.is_some() { FOOT } else { 4.0 };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">");
    let gap = if cell_width > 4.0 { 1.0 } else { 0.0 };
    for (l, cells) in rows.iter().enumerate() {
        let y = l as f64 * row_height;
        write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{l}</text>", LEFT - 7.0, y + row_height * 0.72)
            .expect("string");
        for (column, Cell { strength, title }) in cells.iter().enumerate() {
            let opacity = 0.06 + 0.94 * strength.clamp(0.0, 1.0);
            let (x, width, tall) = (LEFT + column as f64 * cell_width, cell_width - gap, row_height - 1.0);
            write!(
                svg,
                "<rect class=\"heat\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{tall:.1}\" \
                 fill-opacity=\"{opacity:.2}\"><title>{title}</title></rect>"
            )
            .expect("string");
        }
    }
    if let Some((first, last)) = ends {
        let y = below + FOOT - 3.0;
        write!(svg, "<text x=\"{LEFT}\" y=\"{y:.1}\">step {first}</text>").expect("string");
        write!(svg, "<text x=\"{WIDTH}\" y=\"{y:.1}\" text-anchor=\"end\">step {last}</text>").expect("string");
    }
    format!(
        "<figure class=\"wide\"><figcaption><h2>{title}</h2></figcaption>{svg}</svg><p class=\"note\">{note}</p>\
         </figure>"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cell_for_each_expert_and_a_count_of_the_unused() {
        let html = super::figure("Load", &[vec![0.5, 0.5, 0.0, 0.0], vec![0.25; 4]]);
        assert_eq!(html.matches("<rect").count(), 8);
        assert!(html.contains("expert 0: 2.00×") && html.contains("unused experts: 2"));
        assert_eq!(super::figure("Load", &[]), "");
    }

    #[test]
    fn a_column_for_each_record_with_the_steps_at_both_ends() {
        let html = super::over_steps("Busiest", &[(10, vec![1.0, 5.0]), (20, vec![2.0, 9.0]), (30, vec![1.0, 1.0])]);
        assert_eq!(html.matches("<rect").count(), 6);
        assert!(html.contains("layer 1, step 20: 9.00×") && html.contains(">step 10<") && html.contains(">step 30<"));
        assert_eq!(html.matches("fill-opacity=\"0.06\"").count(), 3, "even loads have no colour");
        assert_eq!(html.matches("fill-opacity=\"1.00\"").count(), 2, "and full colour is the most");
        assert_eq!(super::over_steps("Busiest", &[]), "");
    }
}
