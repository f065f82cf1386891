//! What P learns from some tokens of a step: how much of the teacher's mixtures the student's experts miss with it, as
//! they are now.

use super::{pull, through_softmax};
use crate::objective::distill::teacher::Mixed;
use ops::{Buffer, Moe, every_expert};

/// What P misses of the outputs, as a share of them, and KL(P ‖ P₀) in nats, the mean over columns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::objective::distill) struct Shares {
    pub(in crate::objective::distill) missed: f64,
    pub(in crate::objective::distill) drift: f64,
}

/// Both, and the slopes of `missed + anchor · drift` for the logits of the columns, `[E_t][E_s]`.
pub(super) fn of(
    columns: &[Vec<f64>],
    begun: &[Vec<f64>],
    mixed: &Mixed,
    student: &Moe,
    anchor: f64,
) -> (Shares, Vec<Vec<f64>>) {
    let (missed, of_outputs) = missed(columns, mixed, student);
    let pairs = columns.iter().flatten().zip(begun.iter().flatten());
    let drift = pairs.map(|(share, begun)| share * (share / begun).ln()).sum::<f64>() / columns.len() as f64;
    let slopes = columns.iter().zip(begun).zip(of_outputs).map(|((column, begun), slopes)| {
        let pulled = column.iter().zip(begun).map(|(share, begun)| anchor * pull(*share, *begun, columns.len()));
        let slopes: Vec<f64> = slopes.iter().zip(pulled).map(|(slope, pull)| slope + pull).collect();
        through_softmax(column, &slopes)
    });
    (Shares { missed, drift }, slopes.collect())
}

/// `Σ ‖y − Σₛ (P·p)ₛ·fₛ(x)‖² / Σ ‖y‖²` over the tokens, and its slopes for P, column by column.
fn missed(columns: &[Vec<f64>], mixed: &Mixed, student: &Moe) -> (f64, Vec<Vec<f64>>) {
    let (n, width, experts) = (mixed.inputs.rows, mixed.inputs.width, student.experts.len());
    let outputs = every_expert(&mixed.inputs, student);
    let output = |s: usize, row: usize| outputs.row(s * n + row);
    // Σₛ (P·p)ₛ·fₛ(x) − y
    let mut off = Buffer::unwritten(n, width);
    off.for_each_row(|row, off| {
        let mut weights = vec![0.0f64; experts];
        for (column, &p) in columns.iter().zip(mixed.probabilities.row(row)) {
            weights.iter_mut().zip(column).for_each(|(weight, share)| *weight += share * f64::from(p));
        }
        off.iter_mut().zip(mixed.outputs.row(row)).for_each(|(off, y)| *off = -y);
        for (s, weight) in weights.into_iter().enumerate() {
            off.iter_mut().zip(output(s, row)).for_each(|(off, f)| *off += weight as f32 * f);
        }
    });
    let square = |buffer: &Buffer| buffer.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    let size = square(&mixed.outputs).max(f64::MIN_POSITIVE);
    let mut along = Buffer::unwritten(n, experts);
    along.for_each_row(|row, along| {
        for (s, along) in along.iter_mut().enumerate() {
            let pairs = output(s, row).iter().zip(off.row(row));
            *along = pairs.map(|(f, off)| f64::from(*f) * f64::from(*off)).sum::<f64>() as f32;
        }
    });
    let mut slopes = vec![vec![0.0; experts]; columns.len()];
    for row in 0..n {
        for (slopes, &p) in slopes.iter_mut().zip(mixed.probabilities.row(row)) {
            let factor = 2.0 * f64::from(p) / size;
            slopes.iter_mut().zip(along.row(row)).for_each(|(slope, &along)| *slope += factor * f64::from(along));
        }
    }
    (square(&off) / size, slopes)
}
