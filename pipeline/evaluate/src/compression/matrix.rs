//! Heat maps of pairs of experts, with those that became one beside each other.
//!
//! Legend: E experts.

use super::fates::LayerFates;
use compress::LayerStatistics;
use std::fmt::Write;

const SIDE: f64 = 520.0;
const LEFT: f64 = 26.0;
const TOP: f64 = 16.0;
/// Where there are more experts, a cell is the mean of several.
const CELLS_MAX: usize = 96;
/// Shades of the colour.
const LEVELS: usize = 16;

/// The colour's full strength in maps of similarity: the largest cosine of two experts of any layer.
pub(super) fn full_similarity(statistics: &[LayerStatistics]) -> f64 {
    let pairs = statistics.iter().flat_map(|found| {
        let n_experts = found.experts.len();
        found.output_similarity.iter().enumerate().filter(move |(at, _)| at / n_experts != at % n_experts)
    });
    pairs.map(|(_, &cosine)| f64::from(cosine)).fold(0.0, f64::max)
}

/// Cosines of the outputs of every two experts; nothing where they were not compared.
pub(super) fn similarity(layer: &LayerFates<'_>, statistics: &LayerStatistics, full: f64) -> String {
    let n_experts = statistics.experts.len();
    if statistics.output_similarity.iter().all(|&cosine| cosine == 0.0) || n_experts != layer.order.len() {
        return String::new();
    }
    let full = full.max(f64::MIN_POSITIVE);
    let strength = |a: usize, b: usize| f64::from(statistics.output_similarity[a * n_experts + b]) / full;
    let title = format!("Layer {}: similarity of outputs", layer.plan.layer);
    let note =
        format!("Mean cosine of what two experts say of the same tokens: no colour at 0 and below, full at {full:.2}.");
    figure(&title, layer, &note, &strength)
}

/// How much more often than by chance two experts are chosen by one token.
pub(super) fn co_activation(layer: &LayerFates<'_>, statistics: &LayerStatistics) -> String {
    if statistics.experts.len() != layer.order.len() {
        return String::new();
    }
    // A quarter as often as by chance is no colour, four times as often full colour.
    let strength = |a: usize, b: usize| match statistics.lift(a, b) {
        lift if lift > 0.0 => 0.5 + lift.log2() / 4.0,
        _ => 0.0,
    };
    let title = format!("Layer {}: co-activation", layer.plan.layer);
    let note = "Tokens that choose both experts, as a multiple of what chance would give (lift), by logarithm: no \
                colour at ¼× and below, half at 1×, full at 4×.";
    figure(&title, layer, note, &strength)
}

/// The shade of each cell `[cells, cells]`; none where nothing but an expert with itself would be there.
fn shades(order: &[usize], block: usize, strength: &dyn Fn(usize, usize) -> f64) -> Vec<Option<usize>> {
    let blocks: Vec<&[usize]> = order.chunks(block).collect();
    let shade = |rows: &[usize], columns: &[usize]| {
        let pairs = rows.iter().flat_map(|&a| columns.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b);
        let (sum, count) =
            pairs.fold((0.0, 0), |(sum, count), (a, b)| (sum + strength(a, b).clamp(0.0, 1.0), count + 1));
        (count > 0).then(|| (sum / f64::from(count) * (LEVELS - 1) as f64).round() as usize)
    };
    blocks.iter().flat_map(|rows| blocks.iter().map(|columns| shade(rows, columns))).collect()
}

fn figure(title: &str, layer: &LayerFates<'_>, note: &str, strength: &dyn Fn(usize, usize) -> f64) -> String {
    let n_experts = layer.order.len();
    let block = n_experts.div_ceil(CELLS_MAX).max(1);
    let cells = n_experts.div_ceil(block);
    let expert = (SIDE - LEFT - 2.0) / n_experts as f64;
    let bottom = TOP + SIDE - LEFT;
    let mut svg = format!("<svg viewBox=\"0 0 {SIDE} {bottom}\" role=\"img\" aria-label=\"{title}\">");
    numbers(&mut svg, layer, (expert, block));
    let cell = expert * block as f64;
    write!(svg, "<g transform=\"translate({LEFT} {TOP}) scale({cell:.4})\" shape-rendering=\"crispEdges\">")
        .expect("string");
    for (level, path) in paths(&shades(&layer.order, block, strength), cells).into_iter().enumerate() {
        if !path.is_empty() {
            let opacity = 0.06 + 0.94 * level as f64 / (LEVELS - 1) as f64;
            write!(svg, "<path class=\"heat\" fill-opacity=\"{opacity:.2}\" d=\"{path}\"/>").expect("string");
        }
    }
    svg.push_str("</g>");
    for group in &layer.groups {
        let (x, y) = (LEFT + group.start as f64 * expert, TOP + group.start as f64 * expert);
        let side = group.len() as f64 * expert;
        write!(svg, "<rect class=\"outline\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"/>")
            .expect("string");
    }
    let (edge, end) = (layer.staying as f64 * expert, n_experts as f64 * expert);
    let (x, y, right, low) = (LEFT + edge, TOP + edge, LEFT + end, TOP + end);
    write!(
        svg,
        "<line class=\"outline\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{low:.1}\"/><line class=\"outline\" \
         x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/></svg>"
    )
    .expect("string");
    let blocks =
        if block > 1 { format!(" A cell is the mean over {block} by {block} experts.") } else { String::new() };
    format!(
        "<figure><figcaption><h2>{title}</h2></figcaption>{svg}<p class=\"note\">{note}{blocks} Frames: experts that \
         became one. Beyond the lines: experts that go.</p></figure>"
    )
}

/// Experts' numbers along both sides, as many as there is room for.
fn numbers(svg: &mut String, layer: &LayerFates<'_>, (expert, block): (f64, usize)) {
    let n_experts = layer.order.len();
    let size = (0.8 * expert * block as f64).clamp(7.0, 10.0);
    let digits = (n_experts - 1).to_string().len() as f64;
    // A digit is some 0.6 of its height wide.
    let (in_rows, in_columns) =
        ((size / expert).ceil() as usize, ((0.6 * digits * size + 2.0) / expert).ceil() as usize);
    for place in (0..n_experts).step_by(in_rows.max(1)) {
        let y = TOP + (place as f64 + 0.5) * expert + 0.36 * size;
        text(svg, (LEFT - 4.0, y), "end", size, layer.order[place]);
    }
    for place in (0..n_experts).step_by(in_columns.max(1)) {
        text(svg, (LEFT + (place as f64 + 0.5) * expert, TOP - 5.0), "middle", size, layer.order[place]);
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: f64, expert: usize) {
    write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" style=\"font-size:{size:.1}px\">{expert}</text>"
    )
    .expect("string");
}

/// For each shade the cells that have it, those beside each other as one.
fn paths(shades: &[Option<usize>], cells: usize) -> Vec<String> {
    let mut paths = vec![String::new(); LEVELS];
    for (row, shades) in shades.chunks_exact(cells).enumerate() {
        let mut column = 0;
        while column < cells {
            let run = shades[column..].iter().take_while(|shade| **shade == shades[column]).count();
            if let Some(level) = shades[column] {
                write!(paths[level], "M{column} {row}h{run}v1h-{run}z").expect("string");
            }
            column += run;
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_beside_each_other_are_one_path_and_the_diagonal_is_blank() {
        let alike = |a: usize, b: usize| if a / 2 == b / 2 { 1.0 } else { 0.0 };
        let found = shades(&[2, 3, 0, 1], 1, &alike);
        let none = Some(0);
        let full = Some(LEVELS - 1);
        let wanted = [None, full, none, none, full, None, none, none, none, none, None, full, none, none, full, None];
        assert_eq!(found, wanted);
        let paths = paths(&found, 4);
        assert_eq!(paths[0], "M2 0h2v1h-2zM2 1h2v1h-2zM0 2h2v1h-2zM0 3h2v1h-2z");
        assert_eq!(paths[LEVELS - 1], "M1 0h1v1h-1zM0 1h1v1h-1zM3 2h1v1h-1zM2 3h1v1h-1z");
        // Means of two by two: pairs of an expert with itself do not count.
        assert_eq!(shades(&[2, 3, 0, 1], 2, &alike), [full, none, none, full]);
    }
}
