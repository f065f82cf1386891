//! Losses over the vocabulary, a chunk of rows at a time: whole logits of a batch never exist.
//!
//! A loss ends a graph, so its gradient is taken while the logits are at hand: the same pass that gives the losses
//! gives `dhidden` and adds to the head's gradient.

use crate::{Buffer, Gradients, Linear, Parts, Precision, Says, Teacher, linear};
use kernels::cross_entropy as kernel;

/// Rows of logits alive at once.
pub const CHUNK_ROWS: usize = 256;

/// What the hidden states are compared with.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// −log p of these tokens.
    Tokens(&'a [u32]),
    /// How far this teacher's distribution is.
    Teacher(Teacher<'a>),
}

/// What a backward pass wants: the loss's gradient for `hidden`, and the head's into `gradients`.
pub(crate) struct Wanted<'a> {
    pub(crate) dhidden: &'a mut Buffer,
    pub(crate) gradients: &'a mut Gradients,
}

/// Losses of all rows, unweighted; rows of weight zero are left out and have loss zero.
pub(crate) fn run(
    hidden: &Buffer,
    head: &Linear,
    target: Target,
    weights: &[f32],
    precision: Precision,
    mut wanted: Option<Wanted>,
) -> Vec<f32> {
    assert_eq!(hidden.rows, weights.len(), "one weight per row");
    let chosen: Vec<usize> = (0..hidden.rows).filter(|&row| weights[row] != 0.0).collect();
    let mut losses = vec![0.0; hidden.rows];
    for rows in chosen.chunks(CHUNK_ROWS) {
        let chunk = hidden.gathered(rows);
        let row_weights: Vec<f32> = rows.iter().map(|&row| weights[row]).collect();
        let mut chunk_losses = vec![0.0; rows.len()];
        let (mut logits, adapter_hidden) = linear::forward(&chunk, head, precision);
        compare(&mut chunk_losses, &mut logits, target, rows, &row_weights);
        rows.iter().zip(chunk_losses).for_each(|(&row, loss)| losses[row] = loss);
        if let Some(Wanted { dhidden, gradients }) = &mut wanted {
            let mut dchunk = Buffer::zeros(chunk.rows, chunk.width);
            linear::backward(Some(&mut dchunk), &logits, &chunk, &adapter_hidden, head, precision, gradients);
            for (from, &to) in rows.iter().enumerate() {
                dhidden.row_mut(to).copy_from_slice(dchunk.row(from));
            }
        }
    }
    losses
}

/// Fills the chunk's losses and turns its logits into `weight · dloss/dlogits`.
fn compare(losses: &mut [f32], logits: &mut Buffer, target: Target, rows: &[usize], weights: &[f32]) {
    let vocabulary = logits.width;
    match target {
        Target::Tokens(targets) => {
            let targets: Vec<u32> = rows.iter().map(|&row| targets[row]).collect();
            kernel::forward_backward(losses, logits, &targets, weights, vocabulary);
        }
        Target::Teacher(teacher) => learn(losses, logits, teacher, rows, weights),
    }
}

/// Fills the losses `τ²·D` of the chunk and turns its logits into their weighted slope, `τ` times that of D for z/τ.
fn learn(losses: &mut [f32], logits: &mut Buffer, teacher: Teacher, rows: &[usize], weights: &[f32]) {
    let (vocabulary, temperature) = (logits.width, teacher.temperature);
    let weights: Vec<f32> = weights.iter().map(|weight| weight * temperature).collect();
    cool(logits, temperature);
    match teacher.says {
        Says::Hidden { hidden, head, divergence } => {
            let width = head.input_width();
            let hidden = rows.iter().flat_map(|&row| &hidden[row * width..(row + 1) * width]);
            let hidden = Buffer::from_values(width, hidden.copied().collect());
            let (mut wanted, _) = linear::forward(&hidden, head, Precision::F32);
            cool(&mut wanted, temperature);
            kernel::divergence_forward_backward(losses, logits, &wanted, &weights, (vocabulary, divergence));
        }
        Says::Parts(parts) => {
            let per_row = parts.per_row();
            let tokens: Vec<u32> = of_rows(parts.tokens, rows, per_row);
            let (shares, logs) = (of_rows(parts.shares, rows, per_row), of_rows(parts.logs, rows, per_row));
            let rest = of_rows(parts.rest, rows, 1);
            let parts = Parts { tokens: &tokens, shares: &shares, logs: &logs, rest: &rest };
            kernel::parts_forward_backward(losses, logits, parts, &weights, vocabulary);
        }
    }
    losses.iter_mut().for_each(|loss| *loss *= temperature * temperature);
}

fn cool(logits: &mut Buffer, temperature: f32) {
    if temperature != 1.0 {
        logits.for_each_row(|_, row| row.iter_mut().for_each(|logit| *logit /= temperature));
    }
}

fn of_rows<T: Copy>(values: &[T], rows: &[usize], per_row: usize) -> Vec<T> {
    rows.iter().flat_map(|&row| &values[row * per_row..(row + 1) * per_row]).copied().collect()
}
