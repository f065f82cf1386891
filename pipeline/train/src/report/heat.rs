//! The load of every expert as a map: a row for each layer, a column for each expert.

use std::fmt::Write;

const WIDTH: f64 = 1020.0;
const LEFT: f64 = 56.0;

/// `layers[l][e]`: share of layer `l`'s choices. An even load is a pale, even surface; a cell twice as busy as an even
/// share is full colour.
pub(crate) fn figure(title: &str, layers: &[Vec<f32>]) -> String {
    let experts = layers.iter().map(Vec::len).max().unwrap_or(0);
    if experts == 0 {
        return String::new();
    }
    let (cell_width, row) = ((WIDTH - LEFT) / experts as f64, if layers.len() > 24 { 9.0 } else { 16.0 });
    let height = row * layers.len() as f64 + 4.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">");
    let gap = if cell_width > 4.0 { 1.0 } else { 0.0 };
    for (l, shares) in layers.iter().enumerate() {
        let y = l as f64 * row;
        write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{l}</text>", LEFT - 7.0, y + row * 0.72)
            .expect("string");
        for (e, &share) in shares.iter().enumerate() {
            let relative = f64::from(share) * shares.len() as f64;
            let opacity = 0.06 + 0.94 * (relative / 2.0).min(1.0);
            let (x, width, tall) = (LEFT + e as f64 * cell_width, cell_width - gap, row - 1.0);
            write!(
                svg,
                "<rect class=\"heat\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{tall:.1}\" \
                 fill-opacity=\"{opacity:.2}\"><title>layer {l}, expert {e}: {relative:.2}×</title></rect>"
            )
            .expect("string");
        }
    }
    svg.push_str("</svg>");
    format!(
        "<figure class=\"wide\"><figcaption><h2>{title}</h2></figcaption>{svg}<p class=\"note\">Rows are layers with \
         experts, columns experts. Colour: load as a multiple of an even share, full at 2×; unused \
         experts: {}.</p></figure>",
        layers.iter().flatten().filter(|&&share| share == 0.0).count()
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
}
