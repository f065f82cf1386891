//! A row for a router with which an expert is never chosen.
//!
//! Legend: T tokens, H hidden width, E experts, k experts that a token takes.
//!
//! A router has no bias, so such a row has to lose by its products with what comes in. It begins as the mean of all
//! rows: where k is small beside E, the mean of a token's logits is below its k-th largest, whichever token it is. What
//! some tokens lack is taken off, `row = mean − w`, with the shortest w for which all tokens have the margin that is
//! wanted, `w·x ≥ margin − (k-th largest − mean·x)`. The shortest, because a token that nobody has seen may lie on its
//! wrong side: there it lifts the row's logit by its length.

use crate::merge::Routed;
use kernels::pool;
use numeric::{Format, bf16, dot, f16};
use ops::{Buffer, Linear, Moe};

/// What a router thought of some tokens.
pub(super) struct Routes<'a> {
    /// What came into the mixture, `[T, H]`.
    x: &'a Buffer,
    /// Of each token the k-th largest logit.
    last: Vec<f64>,
    /// Tokens that chose each expert.
    counts: Vec<u64>,
}

/// Rows that are looked at together.
const PIECE_ROWS: usize = 2048;

impl<'a> Routes<'a> {
    pub(super) fn of(x: &'a Buffer, moe: &Moe) -> Self {
        let (mut last, mut counts) = (Vec::with_capacity(x.rows), vec![0; moe.experts.len()]);
        for piece in x.chunks(PIECE_ROWS * x.width) {
            let routed = Routed::of(&Buffer::from_values(x.width, piece.to_vec()), moe);
            for (row, chosen) in routed.indices.chunks_exact(moe.top_k).enumerate() {
                chosen.iter().for_each(|&expert| counts[expert as usize] += 1);
                // The most probable come first.
                last.push(f64::from(routed.logits.row(row)[chosen[moe.top_k - 1] as usize]));
            }
        }
        Self { x, last, counts }
    }

    /// How far the logit of such a row is below each token's k-th largest, in nats.
    pub(super) fn margins(&self, row: &[f32]) -> Vec<f64> {
        let mut margins = products(self.x, row);
        margins.iter_mut().zip(&self.last).for_each(|(product, last)| *product = last - *product);
        margins
    }

    /// The expert that most tokens choose.
    pub(super) fn busiest(&self) -> usize {
        (0..self.counts.len()).max_by_key(|&expert| (self.counts[expert], std::cmp::Reverse(expert))).unwrap_or(0)
    }
}

/// `x·row` of all tokens.
fn products(x: &Buffer, row: &[f32]) -> Vec<f64> {
    let mut products = vec![0.0; x.rows];
    pool::for_each_chunk(&mut products, PIECE_ROWS, |piece, products| {
        let rows = x[piece * PIECE_ROWS * x.width..].chunks_exact(x.width);
        products.iter_mut().zip(rows).for_each(|(product, values)| *product = dot(row, values));
    });
    products
}

/// A row, in numbers of this format, whose logit is below the k-th largest of every token by one of these ascending
/// margins, in nats; nothing where not even the first is found for all tokens. The margin is the one with which tokens
/// come out best that were not fitted, each quarter in turn: a larger one asks for a longer w, which may do more harm
/// to them than good.
pub(super) fn losing_row(routes: &Routes, router: &Linear, margins: &[f64], stored: Format) -> Option<Vec<f32>> {
    let mean = mean_row(router);
    let slack = routes.margins(&mean);
    let wanted = |margin: f64, without: Option<usize>| -> Vec<f64> {
        let of_token = |(token, slack): (usize, &f64)| match Some(quarter(token)) == without {
            true => f64::NEG_INFINITY,
            false => margin - slack,
        };
        slack.iter().enumerate().map(of_token).collect()
    };
    let row = |program: &Program| -> Vec<f32> {
        let pairs = mean.iter().zip(&program.w);
        pairs.map(|(mean, w)| rounded((f64::from(*mean) - w) as f32, stored)).collect()
    };
    // The least of tokens that were not fitted, for each margin.
    let mut least = vec![f64::INFINITY; margins.len()];
    for without in 0..QUARTERS {
        let mut program = Program::new(routes.x);
        for (place, &margin) in margins.iter().enumerate() {
            if !program.reach(&wanted(margin, Some(without)), TOLERANCE * margin) {
                least[place..].fill(f64::NEG_INFINITY);
                break;
            }
            let found = routes.margins(&row(&program)).into_iter().enumerate();
            let unseen = found.filter(|&(token, _)| quarter(token) == without).map(|(_, margin)| margin);
            least[place] = unseen.fold(least[place], f64::min);
        }
    }
    // From the best on downwards: a margin that three quarters reach may be too much for all.
    let mut order: Vec<usize> = (0..margins.len()).filter(|&place| least[place] > f64::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| least[b].total_cmp(&least[a]).then(a.cmp(&b)));
    order.iter().find_map(|&place| {
        let mut program = Program::new(routes.x);
        program.reach(&wanted(margins[place], None), TOLERANCE * margins[place]).then(|| row(&program))
    })
}

const QUARTERS: usize = 4;

/// Which quarter a token belongs to: stretches of some sentences, in turn.
fn quarter(token: usize) -> usize {
    token / 256 % QUARTERS
}

fn mean_row(router: &Linear) -> Vec<f32> {
    assert!(router.bias.is_none(), "routers of this family have no bias");
    let matrix = router.weight.matrix.view();
    let (mut sum, mut values) = (vec![0.0f64; matrix.columns], vec![0.0; matrix.columns]);
    for row in 0..matrix.rows {
        matrix.dequantize_row(row, &mut values);
        sum.iter_mut().zip(&values).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sum.into_iter().map(|sum| (sum / matrix.rows as f64) as f32).collect()
}

fn rounded(value: f32, stored: Format) -> f32 {
    match stored {
        Format::Bf16 => bf16::from_f32(value).to_f32(),
        Format::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// What of a margin may be missing.
const TOLERANCE: f64 = 0.02;
/// Multiply-adds after which no w is thought to exist, and rows that were set: some seconds of either.
const WORK_MAX: usize = 3_000_000_000;
const VISITS_MAX: usize = 5_000_000;
/// Rows that are looked at, in f32 and by all threads, in the time in which one is set.
const LOOKED_AT: usize = 8;
/// Tokens that are taken in at a time, those that lack most.
const TAKEN_IN: usize = 512;
const SWEEPS: usize = 100;

/// The shortest w with `w·x ≥ wanted` for all rows of x, by Hildreth's method (1957): `w = Σ pull·x` with pulls that
/// are not negative, each set in turn so that its own row has what it wants. Rows that want nothing are left out of the
/// sweeps until they do.
struct Program<'a> {
    x: &'a Buffer,
    w: Vec<f64>,
    pulls: Vec<f64>,
    active: Vec<usize>,
}

impl<'a> Program<'a> {
    fn new(x: &'a Buffer) -> Self {
        Self { x, w: vec![0.0; x.width], pulls: vec![0.0; x.rows], active: Vec::new() }
    }

    /// Goes on from the w that is there, which was the answer to less; false where no w is found.
    fn reach(&mut self, wanted: &[f64], tolerance: f64) -> bool {
        let mut visits = (WORK_MAX / self.x.width).min(VISITS_MAX);
        loop {
            let w: Vec<f32> = self.w.iter().map(|&w| w as f32).collect();
            let missing: Vec<f64> = products(self.x, &w).iter().zip(wanted).map(|(is, wanted)| wanted - is).collect();
            let mut lacking: Vec<usize> = (0..missing.len()).filter(|&row| missing[row] > tolerance).collect();
            if lacking.is_empty() {
                return true;
            }
            // What is nothing has no product with anything.
            let is_nothing = |&row: &usize| self.x.row(row).iter().all(|&value| value == 0.0);
            if visits == 0 || lacking.iter().any(is_nothing) {
                return false;
            }
            lacking.sort_unstable_by(|&a, &b| missing[b].total_cmp(&missing[a]).then(a.cmp(&b)));
            lacking.truncate(TAKEN_IN);
            self.active.retain(|&row| self.pulls[row] > 0.0);
            self.active.extend(lacking);
            self.active.sort_unstable();
            self.active.dedup();
            visits = self.sweep(wanted, tolerance, visits.saturating_sub(self.x.rows / LOOKED_AT));
        }
    }

    /// Goes over the active rows until none moves much; returns the visits that are left.
    fn sweep(&mut self, wanted: &[f64], tolerance: f64, mut visits: usize) -> usize {
        let widened = |&row: &usize| self.x.row(row).iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
        let rows: Vec<Vec<f64>> = self.active.iter().map(widened).collect();
        let squares: Vec<f64> = rows.iter().map(|values| dot(values, values)).collect();
        for _ in 0..SWEEPS {
            let mut moved = 0.0f64;
            for ((&row, values), &square) in self.active.iter().zip(&rows).zip(&squares) {
                let pull = (self.pulls[row] + (wanted[row] - dot(&self.w, values)) / square).max(0.0);
                let change = pull - self.pulls[row];
                if change != 0.0 {
                    self.pulls[row] = pull;
                    self.w.iter_mut().zip(values).for_each(|(w, value)| *w += change * value);
                    moved = moved.max(change.abs() * square);
                }
            }
            visits = visits.saturating_sub(rows.len());
            if moved <= tolerance / 2.0 || visits == 0 {
                break;
            }
        }
        visits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::{Matrix, Rng};
    use ops::{Expert, Parameter};

    fn linear(rows: usize, columns: usize, values: Vec<f32>) -> Linear {
        let (name, shape) = (String::new(), vec![rows, columns]);
        let matrix = Matrix::from_f32(rows, columns, values);
        Linear { weight: Parameter { id: 0, name, shape, trained: false, matrix }, bias: None, adapter: None }
    }

    /// A mixture of which only the router is asked.
    fn routing(router: Linear, top_k: usize) -> Moe {
        let [experts, width] = [router.output_width(), router.input_width()];
        let expert = || Expert {
            gate: linear(1, width, vec![0.0; width]),
            up: linear(1, width, vec![0.0; width]),
            down: linear(width, 1, vec![0.0; width]),
        };
        let experts = (0..experts).map(|_| expert()).collect();
        Moe { layer: 0, router, experts, adapters: [None, None, None], top_k, normalize: true }
    }

    fn normal(rng: &mut Rng, len: usize) -> Vec<f32> {
        (0..len).map(|_| rng.normal() as f32).collect()
    }

    fn least(margins: &[f64]) -> f64 {
        margins.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The KKT conditions: w is a sum of rows with pulls ≥ 0, and rows that pull have what they want and no more.
    #[test]
    fn the_shortest_is_found() {
        let mut rng = Rng::new(1);
        let (rows, width) = (400, 10);
        let mut values = normal(&mut rng, rows * width);
        values.chunks_exact_mut(width).for_each(|row| row[0] += 5.0);
        let x = Buffer::from_values(width, values);
        let wanted: Vec<f64> = (0..rows).map(|_| 1.0 + rng.uniform()).collect();
        let mut program = Program::new(&x);
        assert!(program.reach(&wanted, 1e-6));
        let has = |row: usize| x.row(row).iter().zip(&program.w).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
        let mut w = vec![0.0; width];
        for (row, (wanted, pull)) in wanted.iter().zip(&program.pulls).enumerate() {
            assert!(has(row) >= wanted - 1e-5 && *pull >= 0.0);
            assert!(*pull == 0.0 || (has(row) - wanted).abs() < 1e-4, "row {row}");
            w.iter_mut().zip(x.row(row)).for_each(|(w, x)| *w += pull * f64::from(*x));
        }
        assert!(w.iter().zip(&program.w).all(|(a, b)| (a - b).abs() < 1e-9));
        assert!(program.pulls.iter().any(|&pull| pull > 0.0));
    }

    #[test]
    fn where_tokens_agree_on_a_direction_any_margin_is_reached() {
        let mut rng = Rng::new(2);
        let (rows, width, experts) = (1900, 12, 6);
        let mut values = normal(&mut rng, rows * width);
        values.chunks_exact_mut(width).for_each(|row| row[3] = 2.0 + row[3].abs());
        let x = Buffer::from_values(width, values);
        let moe = routing(linear(experts, width, normal(&mut rng, experts * width)), 4);
        let routes = Routes::of(&x, &moe);
        assert_eq!(routes.counts.iter().sum::<u64>(), 4 * rows as u64);
        for margins in [&[0.5][..], &[0.5, 2.0, 32.0]] {
            let row = losing_row(&routes, &moe.router, margins, Format::Bf16).expect("there is a direction");
            assert!(row.iter().all(|&value| value == bf16::from_f32(value).to_f32()));
            let least = least(&routes.margins(&row));
            assert!(margins.iter().any(|wanted| least > 0.9 * wanted && least < 1.1 * wanted + 0.5), "{least}");
        }
    }

    /// Tokens that point everywhere: no direction tells them apart, but few of many experts are taken.
    #[test]
    fn the_mean_of_many_rows_loses_without_a_direction() {
        let mut rng = Rng::new(3);
        let (width, experts) = (16, 40);
        let mut values = normal(&mut rng, 500 * width);
        let turned: Vec<f32> = values.iter().map(|value| -value).collect();
        values.extend(turned);
        let x = Buffer::from_values(width, values);
        let moe = routing(linear(experts, width, normal(&mut rng, experts * width)), 3);
        let routes = Routes::of(&x, &moe);
        let row = losing_row(&routes, &moe.router, &[0.25, 0.5], Format::F32).expect("the mean nearly does");
        assert!(least(&routes.margins(&row)) > 0.24);
        // A token's row would have to be 32 below its opposite's, and the other way round.
        assert_eq!(losing_row(&routes, &moe.router, &[32.0], Format::F32), None);
    }

    /// Tokens take all experts, and there are their opposites: whatever the row, one of the two likes it more.
    #[test]
    fn where_no_row_loses_there_is_none() {
        let moe = routing(linear(2, 2, vec![1.0, 0.0, -1.0, 0.0]), 2);
        for values in [vec![1.0, 0.5, -1.0, -0.5], vec![1.0, 0.5, 0.0, 0.0]] {
            let x = Buffer::from_values(2, values);
            let routes = Routes::of(&x, &moe);
            assert_eq!(losing_row(&routes, &moe.router, &[0.25], Format::F32), None);
            assert_eq!(routes.busiest(), 0);
        }
    }
}
