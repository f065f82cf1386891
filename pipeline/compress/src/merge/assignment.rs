//! The linear assignment problem, solved exactly: which column each row takes, so that the sum of costs is least.
//!
//! Column reduction, augmenting row reduction, then shortest augmenting paths, with potentials of the columns in f64
//! (Jonker & Volgenant 1987). A row's own potential is the reduced cost of the column that it has.

const NONE: usize = usize::MAX;

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
    let mut solver =
        Solver { costs, n, column_of_row: vec![NONE; n], row_of_column: vec![NONE; n], potentials: vec![0.0; n] };
    let free = solver.reduce_columns();
    let free = solver.reduce_rows(free);
    let free = solver.reduce_rows(free);
    let mut search = Search { distances: vec![0.0; n], before: vec![0; n], open: vec![0; n], closed: Vec::new() };
    free.into_iter().for_each(|row| solver.augment(row, &mut search));
    Assignment { column_of_row: solver.column_of_row, column_potentials: solver.potentials }
}

struct Solver<'a> {
    costs: &'a [f32],
    n: usize,
    column_of_row: Vec<usize>,
    row_of_column: Vec<usize>,
    potentials: Vec<f64>,
}

/// The memory of one search for a path, kept between searches.
struct Search {
    /// Of every column from the free row.
    distances: Vec<f64>,
    /// The row from which a column is reached.
    before: Vec<usize>,
    /// Columns whose distance may still fall.
    open: Vec<usize>,
    /// Columns whose distance is final.
    closed: Vec<usize>,
}

impl Solver<'_> {
    fn row(&self, row: usize) -> &[f32] {
        &self.costs[row * self.n..(row + 1) * self.n]
    }

    fn reduced(&self, row: usize, column: usize) -> f64 {
        f64::from(self.costs[row * self.n + column]) - self.potentials[column]
    }

    fn take(&mut self, row: usize, column: usize) {
        self.column_of_row[row] = column;
        self.row_of_column[column] = row;
    }

    /// Each column's potential is its smallest cost, and its row takes it if that has none. Returns the rows without.
    fn reduce_columns(&mut self) -> Vec<usize> {
        let n = self.n;
        let mut smallest = vec![f32::INFINITY; n];
        let mut rows = vec![0; n];
        for row in 0..n {
            for (column, &cost) in self.costs[row * n..(row + 1) * n].iter().enumerate() {
                if cost < smallest[column] {
                    (smallest[column], rows[column]) = (cost, row);
                }
            }
        }
        let mut wanted = vec![0; n];
        for column in (0..n).rev() {
            assert!(smallest[column].is_finite(), "costs are finite");
            self.potentials[column] = f64::from(smallest[column]);
            wanted[rows[column]] += 1;
            if self.column_of_row[rows[column]] == NONE {
                self.take(rows[column], column);
            }
        }
        (0..n).filter(|&row| wanted[row] == 1).for_each(|row| self.transfer(row));
        (0..n).filter(|&row| self.column_of_row[row] == NONE).collect()
    }

    /// A row that is the cheapest of one column alone: what it would lose by giving that up is taken off the column's
    /// potential, so that others can better be drawn to their own.
    fn transfer(&mut self, row: usize) {
        let own = self.column_of_row[row];
        let others = (0..self.n).filter(|&column| column != own).map(|column| self.reduced(row, column));
        let second = others.fold(f64::INFINITY, f64::min);
        if second.is_finite() {
            self.potentials[own] -= second;
        }
    }

    /// Each free row takes its best column, and pays as much as that is better than its second best; who loses the
    /// column goes on at once, if something was paid, or is left for later.
    fn reduce_rows(&mut self, free: Vec<usize>) -> Vec<usize> {
        if self.n < 2 {
            return free;
        }
        let mut left = Vec::new();
        // Rounding could let two rows outbid each other for ever by nothing.
        let mut bids_left = 20 * self.n;
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

    /// The columns of the smallest and second smallest reduced cost.
    fn two_best(&self, row: usize) -> [(usize, f64); 2] {
        let mut best = (0, f64::INFINITY);
        let mut second = best;
        for (column, (&cost, potential)) in self.row(row).iter().zip(&self.potentials).enumerate() {
            let reduced = f64::from(cost) - potential;
            if reduced < second.1 {
                second = (column, reduced);
                if reduced < best.1 {
                    (best, second) = (second, best);
                }
            }
        }
        [best, second]
    }

    /// Gives a free row a column, along the shortest path of exchanges that ends in a free one (Dijkstra).
    fn augment(&mut self, free: usize, search: &mut Search) {
        let n = self.n;
        search.closed.clear();
        search.open.clear();
        search.open.extend(0..n);
        for column in 0..n {
            search.distances[column] = self.reduced(free, column);
            search.before[column] = free;
        }
        let (end, length) = loop {
            let (place, column) = search.nearest();
            search.open.swap_remove(place);
            let length = search.distances[column];
            let row = self.row_of_column[column];
            if row == NONE {
                break (column, length);
            }
            search.closed.push(column);
            let offset = length - self.reduced(row, column);
            let costs = self.row(row);
            for &column in &search.open {
                let distance = f64::from(costs[column]) - self.potentials[column] + offset;
                if distance < search.distances[column] {
                    search.distances[column] = distance;
                    search.before[column] = row;
                }
            }
        };
        for &column in &search.closed {
            self.potentials[column] += search.distances[column] - length;
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
    /// The open column at the smallest distance, and its place among the open ones.
    fn nearest(&self) -> (usize, usize) {
        let mut nearest = (0, self.open[0]);
        let mut least = self.distances[self.open[0]];
        for (place, &column) in self.open.iter().enumerate().skip(1) {
            if self.distances[column] < least {
                least = self.distances[column];
                nearest = (place, column);
            }
        }
        nearest
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
