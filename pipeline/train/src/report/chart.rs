//! Line charts as SVG, styled by the page they stand in.

use std::fmt::Write;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 24.0;
/// More points than pixels help nobody: longer lines are thinned to the lowest and highest of each stretch.
const STRETCHES: usize = 400;

/// One line of a chart; `style` is a class of `style.css`.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    pub label: &'a str,
    pub style: &'a str,
    pub points: Vec<(f64, f64)>,
    /// Draw a dot at each point, for lines of few points.
    pub dots: bool,
}

/// A figure with a title, a key and all lines over the same axes. `from_zero`: the vertical axis begins at 0.
pub(crate) fn figure(title: &str, lines: &[Line<'_>], from_zero: bool, wide: bool) -> String {
    figure_over("step", title, lines, from_zero, wide)
}

/// As [`figure`], with a name for what the horizontal axis counts. `title`, `across` and labels are HTML already.
pub fn figure_over(across: &str, title: &str, lines: &[Line<'_>], from_zero: bool, wide: bool) -> String {
    let lines: Vec<Line<'_>> = lines.iter().map(finite).filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut html = format!("<figure{}><figcaption><h2>{title}</h2>", if wide { " class=\"wide\"" } else { "" });
    if lines.len() > 1 {
        for line in &lines {
            write!(html, "<span class=\"key\"><i class=\"{}\"></i>{}</span>", line.style, line.label).expect("string");
        }
    }
    let height = if wide { HEIGHT * 0.62 } else { HEIGHT };
    let plot = Plot::new(across, &lines, from_zero, height, if wide { WIDTH * 1.35 } else { WIDTH });
    write!(html, "</figcaption>{}</figure>", plot.svg(title, &lines)).expect("string");
    html
}

fn finite<'a>(line: &Line<'a>) -> Line<'a> {
    let points = line.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    Line { points, ..line.clone() }
}

struct Plot<'a> {
    across: &'a str,
    x: (f64, f64),
    y: (f64, f64),
    tick: f64,
    height: f64,
    width: f64,
}

impl<'a> Plot<'a> {
    fn new(across: &'a str, lines: &[Line<'_>], from_zero: bool, height: f64, width: f64) -> Self {
        let span = |of: fn(&(f64, f64)) -> f64| {
            let values = lines.iter().flat_map(|line| &line.points).map(of);
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let (mut x, mut y) = (span(|p| p.0), span(|p| p.1));
        if from_zero {
            y.0 = y.0.min(0.0);
        }
        if x.1 <= x.0 {
            x = (x.0 - 0.5, x.0 + 0.5);
        }
        if y.1 <= y.0 {
            let margin = if y.0 == 0.0 { 1.0 } else { y.0.abs() * 0.1 };
            y = (y.0 - margin, y.1 + margin);
        }
        let tick = tick_of(y.1 - y.0, 5.0);
        let y = ((y.0 / tick).floor() * tick, (y.1 / tick).ceil() * tick);
        Self { across, x, y, tick, height, width }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let across = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        (LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM))
    }

    fn svg(&self, title: &str, lines: &[Line<'_>]) -> String {
        let (width, height) = (self.width, self.height);
        let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">");
        self.axes(&mut svg);
        for line in lines {
            self.line(&mut svg, line);
        }
        svg.push_str("</svg>");
        svg
    }

    fn axes(&self, svg: &mut String) {
        let right = self.width - RIGHT;
        let count = ((self.y.1 - self.y.0) / self.tick).round() as usize;
        for i in 0..=count {
            let value = self.y.0 + i as f64 * self.tick;
            let (_, y) = self.place((self.x.0, value));
            let style = if i == 0 { "axis" } else { "grid" };
            write!(svg, "<line class=\"{style}\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>")
                .expect("string");
            let (x, y, value) = (LEFT - 7.0, y + 3.5, number(value, self.tick));
            write!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{value}</text>").expect("string");
        }
        let tick = tick_of(self.x.1 - self.x.0, 6.0).max(1.0);
        let mut value = (self.x.0 / tick).ceil() * tick;
        while value <= self.x.1 {
            let (x, _) = self.place((value, self.y.0));
            let (y, anchor) = (self.height - 7.0, if x > right - 14.0 { "end" } else { "middle" });
            write!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", number(value, tick))
                .expect("string");
            value += tick;
        }
    }

    fn line(&self, svg: &mut String, line: &Line<'_>) {
        let points = thinned(&line.points);
        let mut path = String::with_capacity(points.len() * 12);
        for (i, &point) in points.iter().enumerate() {
            let (x, y) = self.place(point);
            write!(path, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' }).expect("string");
        }
        write!(svg, "<path class=\"curve {}\" d=\"{path}\"/>", line.style).expect("string");
        if line.dots && line.points.len() <= 60 {
            for &point in &line.points {
                let (x, y) = self.place(point);
                let label = number(point.1, point.1.abs() / 100.0);
                let title = format!("{} {}: {label}", self.across, point.0);
                write!(
                    svg,
                    "<circle class=\"dot {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"><title>{title}</title></circle>",
                    line.style,
                )
                .expect("string");
            }
        }
    }
}

/// The first, lowest, highest and last point of each stretch, in order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * STRETCHES {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(4 * STRETCHES);
    for stretch in points.chunks(points.len().div_ceil(STRETCHES)) {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = stretch.iter().min_by(by_height).expect("chunks are not empty");
        let high = stretch.iter().max_by(by_height).expect("chunks are not empty");
        let (a, b) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        kept.extend([stretch[0], *a, *b, stretch[stretch.len() - 1]]);
    }
    kept.dedup();
    kept
}

/// A round distance (1, 2 or 5 times a power of ten) that cuts `span` into about `parts`.
fn tick_of(span: f64, parts: f64) -> f64 {
    let rough = span / parts;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

/// A number with as many digits as its neighbours, `tick` away, need to differ.
pub fn number(value: f64, tick: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if magnitude < 1e-3 {
        return format!("{value:.1e}");
    }
    if magnitude >= 1e4 {
        let (scaled, unit) = if magnitude >= 1e6 { (value / 1e6, "M") } else { (value / 1e3, "k") };
        let text = format!("{scaled:.2}");
        return format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'));
    }
    let decimals = if tick > 0.0 { (-tick.log10().floor()).clamp(0.0, 6.0) as usize } else { 3 };
    format!("{value:.decimals$}")
}

/// An exponential moving average over points, corrected for its start.
pub(crate) fn smoothed(points: &[(f64, f64)], forget: f64) -> Vec<(f64, f64)> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let finite = points.iter().filter(|(_, y)| y.is_finite());
    finite
        .map(|&(x, y)| {
            sum = forget * sum + (1.0 - forget) * y;
            weight = forget * weight + (1.0 - forget);
            (x, sum / weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_numbers_short() {
        assert_eq!(tick_of(10.0, 5.0), 2.0);
        assert_eq!(tick_of(0.7, 5.0), 0.2);
        assert_eq!(number(0.30000000000000004, 0.1), "0.3");
        assert_eq!(number(1_500_000.0, 1.0), "1.5M");
        assert_eq!(number(2e-5, 1e-5), "2.0e-5");
        assert_eq!(number(1200.0, 200.0), "1200");
    }

    #[test]
    fn smoothing_has_no_bias_at_its_start_and_skips_what_is_no_number() {
        let points: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i), if i == 7 { f64::NAN } else { 3.0 })).collect();
        let smooth = smoothed(&points, 0.9);
        assert_eq!(smooth.len(), 19);
        assert!(smooth.iter().all(|&(_, y)| (y - 3.0).abs() < 1e-12));
    }

    #[test]
    fn thinning_keeps_the_spikes_and_the_ends() {
        let mut points: Vec<(f64, f64)> = (0..5000).map(|i| (f64::from(i), 1.0)).collect();
        points[1234].1 = 9.0;
        let kept = thinned(&points);
        assert!(kept.len() < 2000 && kept.contains(&(1234.0, 9.0)));
        assert_eq!((kept[0], kept[kept.len() - 1]), (points[0], points[4999]));
    }

    #[test]
    fn constant_and_single_points_are_drawn_without_infinities() {
        for points in [vec![(1.0, 2.0)], vec![(1.0, 0.0), (2.0, 0.0)], vec![(1.0, f64::NAN), (2.0, 5.0)]] {
            let html = figure("t", &[Line { label: "a", style: "main", points, dots: true }], true, false);
            assert!(html.contains("<path") && !html.contains("NaN") && !html.contains("inf"), "{html}");
        }
        assert_eq!(figure("t", &[Line { label: "a", style: "main", points: vec![], dots: false }], true, false), "");
    }
}
