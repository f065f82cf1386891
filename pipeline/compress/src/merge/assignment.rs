//! The linear assignment problem, solved exactly: which column each row takes, so that the sum of costs is least.
//!
//! Column reduction, augmenting row reduction, then shortest augmenting paths, with potentials of the columns in f64
//! (Jonker & Volgenant 1987). A row's own potential is the reduced cost of the column that it has.
//!
//! All time goes into passes over one row of costs. They go eight columns at a time and choose by minima, so that the
//! compiler makes vectors of them; where the minimum stands is looked up afterwards. And since potentials only fall,
//! reduced costs only rise: the few columns that were a row's nearest once hold the nearest for a while.

use std::borrow::Cow;

const NONE: usize = usize::MAX;

/// Columns that are looked at side by side.
const LANES: usize = 8;

/// Bids in one round of augmenting row reduction, for each row: rows that fight over a few columns could lower
/// potentials by ever less.
const BIDS: usize = 20;

/// Lanes whose nearest columns a row remembers.
const NEAR: usize = 8;

/// A solution, with the potentials that prove it: no cost is below the sum of its row's and its column's.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) column_of_row: Vec<usize>,
    /// What proves it, in tests.
    #[cfg_attr(not(test), allow(dead_code))]
    column_potentials: Vec<f64>,
}

/// The cheapest assignment of `n` rows to as many columns; `costs` `[n, n]` must be finite.
pub(crate) fn assign(costs: &[f32], n: usize) -> Assignment {
    assert_eq!(costs.len(), n * n, "a cost for every pair");
    let width = n.next_multiple_of(LANES);
    let mut solver = Solver {
        costs: in_whole_lanes(costs, n, width),
        n,
        width,
        column_of_row: vec![NONE; n],
        row_of_column: vec![NONE; n],
        potentials: vec![0.0; width],
        reduced: vec![0.0; width],
        least: vec![0.0; width / LANES],
        near: vec![Near { columns: Vec::new(), bound: f64::NEG_INFINITY }; n],
    };
    let free = solver.reduce_columns();
    let free = solver.reduce_rows(free);
    let free = solver.reduce_rows(free);
    let mut search = Search {
        distances: vec![0.0; width],
        before: vec![0; width],
        potentials: vec![0.0; width],
        closed: Vec::with_capacity(n),
    };
    free.into_iter().for_each(|row| solver.augment(row, &mut search));
    solver.potentials.truncate(n);
    Assignment { column_of_row: solver.column_of_row, column_potentials: solver.potentials }
}

/// Rows of `width` costs, with columns at their ends that nobody takes.
fn in_whole_lanes(costs: &[f32], n: usize, width: usize) -> Cow<'_, [f32]> {
    if n == width {
        return Cow::Borrowed(costs);
    }
    let mut padded = vec![f32::INFINITY; n * width];
    for (padded, costs) in padded.chunks_exact_mut(width).zip(costs.chunks_exact(n)) {
        padded[..n].copy_from_slice(costs);
    }
    Cow::Owned(padded)
}

struct Solver<'a> {
    /// `[n, width]`.
    costs: Cow<'a, [f32]>,
    n: usize,
    width: usize,
    column_of_row: Vec<usize>,
    row_of_column: Vec<usize>,
    potentials: Vec<f64>,
    /// Of the row that was looked at last: reduced costs, and the least of each eight.
    reduced: Vec<f64>,
    least: Vec<f64>,
    near: Vec<Near>,
}

/// Columns of a row with small reduced costs; of all others they are at least `bound`.
#[derive(Debug, Clone)]
struct Near {
    columns: Vec<usize>,
    bound: f64,
}

/// The memory of one search for a path, kept between searches.
struct Search {
    /// Of every open column from the free row; of closed ones infinity.
    distances: Vec<f64>,
    /// The row from which a column is reached.
    before: Vec<usize>,
    /// The columns' potentials, of closed ones −∞, so that no way to them is ever shorter.
    potentials: Vec<f64>,
    /// Columns whose distance is final, and that.
    closed: Vec<(usize, f64)>,
}

// One instruction of a vector, which `f64::min` is not.
fn lesser(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

/// The place of the first of whole lanes of numbers that is this one.
fn place(values: &[f64], wanted: f64) -> usize {
    let is_in = |lanes: &[f64; LANES]| lanes.iter().fold(false, |found, &value| found | (value == wanted));
    let (lanes, _) = values.as_chunks::<LANES>();
    let at = lanes.iter().position(is_in).expect("the number was found among these");
    LANES * at + lanes[at].iter().position(|&value| value == wanted).expect("it is in these lanes")
}

impl Solver<'_> {
    fn row(&self, row: usize) -> &[f32] {
        &self.costs[row * self.width..(row + 1) * self.width]
    }

    fn reduced(&self, row: usize, column: usize) -> f64 {
        f64::from(self.costs[row * self.width + column]) - self.potentials[column]
    }

    fn take(&mut self, row: usize, column: usize) {
        self.column_of_row[row] = column;
        self.row_of_column[column] = row;
    }

    /// Each column's potential is its smallest cost, and its row takes it if that has none. Returns the rows without.
    fn reduce_columns(&mut self) -> Vec<usize> {
        let n = self.n;
        let (mut smallest, mut rows) = (vec![f32::INFINITY; n], vec![0u32; n]);
        for (row, costs) in self.costs.chunks_exact(self.width).enumerate() {
            for ((smallest, taker), &cost) in smallest.iter_mut().zip(&mut rows).zip(costs) {
                let is_less = cost < *smallest;
                *taker = if is_less { row as u32 } else { *taker };
                *smallest = if is_less { cost } else { *smallest };
            }
        }
        let mut wanted = vec![0; n];
        for column in (0..n).rev() {
            assert!(smallest[column].is_finite(), "costs are finite");
            self.potentials[column] = f64::from(smallest[column]);
            let row = rows[column] as usize;
            wanted[row] += 1;
            if self.column_of_row[row] == NONE {
                self.take(row, column);
            }
        }
        (0..n).filter(|&row| wanted[row] == 1).for_each(|row| self.transfer(row));
        (0..n).filter(|&row| self.column_of_row[row] == NONE).collect()
    }

    /// A row that is the cheapest of one column alone: what it would lose by giving that up is taken off the column's
    /// potential, so that others can better be drawn to their own.
    fn transfer(&mut self, row: usize) {
        let own = self.column_of_row[row];
        let [best, other] = self.two_best(row);
        let second = if best.0 == own { other.1 } else { best.1 };
        if second.is_finite() {
            self.potentials[own] -= second;
        }
    }

    /// Each free row takes its best column, and pays as much as that is better than its second best; who loses the
    /// column goes on at once, if something was paid, or is left for later.
    fn reduce_rows(&mut self, free: Vec<usize>) -> Vec<usize> {
        let mut left = Vec::new();
        let mut bids_left = BIDS * self.n;
        for first in free {
            let mut next = Some(first);
            while let Some(row) = next.take() {
                let [(mut best, least), (second, more)] = self.two_best(row);
                let mut loser = self.row_of_column[best];
                let pays = least < more;
                if pays && bids_left == 0 {
                    left.push(row);
                    continue;
                }
                if pays {
                    bids_left -= 1;
                    self.potentials[best] -= more - least;
                } else if loser != NONE {
                    // As good, and perhaps free.
                    best = second;
                    loser = self.row_of_column[best];
                }
                self.take(row, best);
                if loser != NONE {
                    self.column_of_row[loser] = NONE;
                    if pays { next = Some(loser) } else { left.push(loser) }
                }
            }
        }
        left
    }

    /// The two columns of smallest reduced cost, each with it.
    fn two_best(&mut self, row: usize) -> [(usize, f64); 2] {
        loop {
            let (mut best, mut second) = ((0, f64::INFINITY), (0, f64::INFINITY));
            for &column in &self.near[row].columns {
                let reduced = self.reduced(row, column);
                if reduced < second.1 {
                    second = (column, reduced);
                    if reduced < best.1 {
                        (best, second) = (second, best);
                    }
                }
            }
            if second.1 <= self.near[row].bound {
                return [best, second];
            }
            self.find_near(row);
        }
    }

    /// Finds a row's nearest columns anew.
    fn find_near(&mut self, row: usize) {
        let Self { costs, width, potentials, reduced, least, near, .. } = self;
        let (costs, _) = costs[row * *width..(row + 1) * *width].as_chunks::<LANES>();
        let (potentials, _) = potentials.as_chunks::<LANES>();
        let (reduced, _) = reduced.as_chunks_mut::<LANES>();
        let eights = reduced.iter_mut().zip(least.iter_mut()).zip(costs.iter().zip(potentials));
        for ((reduced, least), (costs, potentials)) in eights {
            for lane in 0..LANES {
                reduced[lane] = f64::from(costs[lane]) - potentials[lane];
            }
            let half: [f64; LANES / 2] = std::array::from_fn(|lane| lesser(reduced[lane], reduced[lane + LANES / 2]));
            *least = half.into_iter().fold(f64::INFINITY, lesser);
        }
        let near = &mut near[row];
        near.bound = f64::INFINITY;
        if least.len() > NEAR {
            // There are more than two below it: of each of these eights one.
            near.bound = *least.clone().select_nth_unstable_by(NEAR, f64::total_cmp).1;
        }
        near.columns.clear();
        for (eight, (reduced, _)) in
            reduced.iter().zip(least).enumerate().filter(|(_, (_, least))| **least <= near.bound)
        {
            let columns = (0..LANES).filter(|&lane| reduced[lane] <= near.bound);
            near.columns.extend(columns.map(|lane| LANES * eight + lane));
        }
    }

    /// Gives a free row a column, along the shortest path of exchanges that ends in a free one (Dijkstra).
    fn augment(&mut self, free: usize, search: &mut Search) {
        search.begin(&self.potentials);
        let (mut row, mut offset) = (free, 0.0);
        let (end, length) = loop {
            let (column, length) = search.reach(row, self.row(row), offset);
            let owner = self.row_of_column[column];
            if owner == NONE {
                break (column, length);
            }
            search.close(column, length);
            (row, offset) = (owner, length - self.reduced(owner, column));
        };
        for &(column, distance) in &search.closed {
            self.potentials[column] += distance - length;
        }
        let mut column = end;
        loop {
            let row = search.before[column];
            let given_up = self.column_of_row[row];
            self.take(row, column);
            if row == free {
                return;
            }
            column = given_up;
        }
    }
}

impl Search {
    fn begin(&mut self, potentials: &[f64]) {
        self.distances.fill(f64::INFINITY);
        self.potentials.copy_from_slice(potentials);
        self.closed.clear();
    }

    fn close(&mut self, column: usize, distance: f64) {
        self.closed.push((column, distance));
        self.distances[column] = f64::INFINITY;
        self.potentials[column] = f64::NEG_INFINITY;
    }

    /// Shortens distances by ways through this row. Returns the nearest open column, and how far it is.
    fn reach(&mut self, row: usize, costs: &[f32], offset: f64) -> (usize, f64) {
        let (costs, _) = costs.as_chunks::<LANES>();
        let (potentials, _) = self.potentials.as_chunks::<LANES>();
        let (distances, _) = self.distances.as_chunks_mut::<LANES>();
        let (before, _) = self.before.as_chunks_mut::<LANES>();
        let mut least = [f64::INFINITY; LANES];
        for ((costs, potentials), (distances, before)) in
            costs.iter().zip(potentials).zip(distances.iter_mut().zip(before))
        {
            let (mut through, mut nearest) = ([0.0; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                through[lane] = f64::from(costs[lane]) - potentials[lane] + offset;
                nearest[lane] = lesser(through[lane], distances[lane]);
                least[lane] = lesser(nearest[lane], least[lane]);
            }
            // Few ways are shorter, once there are some.
            if nearest != *distances {
                for lane in 0..LANES {
                    if through[lane] < distances[lane] {
                        (distances[lane], before[lane]) = (through[lane], row);
                    }
                }
            }
        }
        let least = least.into_iter().fold(f64::INFINITY, lesser);
        (place(&self.distances, least), least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    fn total(costs: &[f32], columns: &[usize]) -> f64 {
        let n = columns.len();
        columns.iter().enumerate().map(|(row, &column)| f64::from(costs[row * n + column])).sum()
    }

    /// The least sum over all permutations.
    fn by_trying(costs: &[f32], n: usize, row: usize, taken: &mut Vec<bool>) -> f64 {
        if row == n {
            return 0.0;
        }
        let mut least = f64::INFINITY;
        for column in 0..n {
            if !taken[column] {
                taken[column] = true;
                least = least.min(f64::from(costs[row * n + column]) + by_trying(costs, n, row + 1, taken));
                taken[column] = false;
            }
        }
        least
    }

    #[test]
    fn nothing_is_cheaper_up_to_seven() {
        let mut rng = Rng::new(1);
        for round in 0..700 {
            let n = 1 + round % 7;
            // Some with many ties, some with large and negative costs.
            let cost = |rng: &mut Rng| match round % 3 {
                0 => rng.below(3) as f32,
                1 => rng.normal() as f32,
                _ => (1e6 * rng.normal()) as f32,
            };
            let costs: Vec<f32> = (0..n * n).map(|_| cost(&mut rng)).collect();
            let found = assign(&costs, n).column_of_row;
            let wanted = by_trying(&costs, n, 0, &mut vec![false; n]);
            let scale = costs.iter().fold(1.0f32, |most, cost| most.max(cost.abs()));
            assert!((total(&costs, &found) - wanted).abs() <= 1e-6 * f64::from(scale), "round {round}: {found:?}");
        }
    }

    /// Potentials under which no pair costs less than nothing, and every assigned one nothing, prove a solution.
    #[test]
    fn potentials_prove_large_solutions() {
        let mut rng = Rng::new(2);
        for (n, ties) in [(64, false), (64, true), (150, false), (257, false)] {
            let costs: Vec<f32> =
                (0..n * n).map(|_| if ties { rng.below(5) as f32 } else { rng.uniform() as f32 }).collect();
            let Assignment { column_of_row, column_potentials } = assign(&costs, n);
            let mut taken = column_of_row.clone();
            taken.sort_unstable();
            assert!(taken.iter().enumerate().all(|(column, &taken)| column == taken), "each column once");
            for (row, &own) in column_of_row.iter().enumerate() {
                let reduced = |column: usize| f64::from(costs[row * n + column]) - column_potentials[column];
                let least = (0..n).map(reduced).fold(f64::INFINITY, f64::min);
                assert!(reduced(own) - least < 1e-9, "row {row} of {n} would rather have another column");
            }
        }
    }

    #[test]
    fn a_shuffled_diagonal_is_found() {
        let mut rng = Rng::new(3);
        let n = 100;
        let mut wanted: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut wanted);
        let mut costs = vec![1.0f32; n * n];
        wanted.iter().enumerate().for_each(|(row, &column)| costs[row * n + column] = 0.0);
        assert_eq!(assign(&costs, n).column_of_row, wanted);
    }
}
