//! A curve in characters: each is a field of two by four dots (Braille patterns, U+2800 on).

/// Dots of a character, by column and row (Unicode's numbering of the patterns).
const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// A curve with the values of its top and its bottom row.
pub(super) struct Curve {
    pub(super) rows: Vec<String>,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

/// Draws points in the order of their places, as a line through the mean of each dot column, `width` by `height`
/// characters. Nothing where there is no point or no room.
pub(super) fn draw(points: &[(f64, f64)], width: usize, height: usize) -> Option<Curve> {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(_, y)| y.is_finite()).collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    if width == 0 || height == 0 {
        return None;
    }
    let columns = means(&points, (first, last), 2 * width);
    let heights = columns.iter().flatten().copied();
    let (low, high) = heights.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    // A level line stands in the middle.
    let (bottom, top) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
    let dots_high = 4 * height - 1;
    let place = |y: f64| dots_high - ((y - bottom) / (top - bottom) * dots_high as f64).round() as usize;

    let mut cells = vec![vec![0u8; width]; height];
    let mut before: Option<usize> = None;
    for (column, mean) in columns.iter().enumerate() {
        let Some(row) = mean.map(place) else { continue };
        // Down or up from where the last column was, so that the line has no gaps.
        let from =
            before.map_or(row, |before| if before < row { before + 1 } else { before.saturating_sub(1).max(row) });
        for dot in from.min(row)..=from.max(row) {
            cells[dot / 4][column / 2] |= DOTS[column % 2][dot % 4];
        }
        before = Some(row);
    }
    let character = |&dots: &u8| char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ');
    let rows = cells.iter().map(|row| row.iter().map(character).collect()).collect();
    Some(Curve { rows, top, bottom })
}

/// The mean of the points that fall into each of `count` columns.
fn means(points: &[(f64, f64)], (first, last): (f64, f64), count: usize) -> Vec<Option<f64>> {
    let span = (last - first).max(f64::MIN_POSITIVE);
    let mut sums = vec![(0.0, 0usize); count];
    for (x, y) in points {
        let column = ((x - first) / span * (count - 1) as f64).round() as usize;
        let (sum, number) = &mut sums[column.min(count - 1)];
        *sum += y;
        *number += 1;
    }
    sums.into_iter().map(|(sum, number)| (number > 0).then(|| sum / number as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_goes_from_the_upper_left_to_the_lower_right() {
        let points: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), 2.0 - f64::from(i) / 99.0)).collect();
        let curve = draw(&points, 10, 3).expect("there are points");
        assert_eq!((curve.rows.len(), curve.rows[0].chars().count()), (3, 10));
        assert!((curve.top - 2.0).abs() < 0.1 && (curve.bottom - 1.0).abs() < 0.1);
        let first: Vec<char> = curve.rows.iter().map(|row| row.chars().next().expect("a character")).collect();
        let last: Vec<char> = curve.rows.iter().map(|row| row.chars().last().expect("a character")).collect();
        assert!(first[0] != '\u{2800}' && first[2] == '\u{2800}', "{:?}", curve.rows);
        assert!(last[0] == '\u{2800}' && last[2] != '\u{2800}', "{:?}", curve.rows);
        // Every column of characters has something in it.
        for column in 0..10 {
            assert!(curve.rows.iter().any(|row| row.chars().nth(column) != Some('\u{2800}')), "{:?}", curve.rows);
        }
    }

    #[test]
    fn few_points_level_lines_and_what_is_no_number_are_drawn_too() {
        assert!(draw(&[], 10, 3).is_none() && draw(&[(1.0, f64::NAN)], 10, 3).is_none());
        assert!(draw(&[(1.0, 1.0)], 0, 3).is_none());
        let level = draw(&[(1.0, 1.0), (2.0, 1.0), (3.0, f64::NAN)], 4, 2).expect("two points");
        assert_eq!((level.top, level.bottom), (1.5, 0.5));
        let spike = draw(&[(0.0, 0.0), (0.5, 7.0), (1.0, 0.0)], 1, 1).expect("three points");
        assert_eq!(spike.rows.len(), 1);
    }
}
