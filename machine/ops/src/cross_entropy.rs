//! Losses over the vocabulary, a chunk of rows at a time: whole logits of a batch never exist.
//!
//! A loss ends a graph, so its gradient is taken while the logits are at hand: the same pass that gives the losses
//! gives `dhidden` and adds to the head's gradient.

use crate::{Buffer, Gradients, Linear, Precision, Teacher, linear};
use kernels::cross_entropy as kernel;

/// Rows of logits alive at once.
pub(crate) const CHUNK_ROWS: usize = 256;

/// What the hidden states are compared with.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// −log p of these tokens.
    Tokens(&'a [u32]),
    /// KL from this teacher's distribution.
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
        let chunk = gather(hidden, rows);
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
        Target::Teacher(teacher) => {
            let width = teacher.head.input_width();
            let hidden = rows.iter().flat_map(|&row| &teacher.hidden[row * width..(row + 1) * width]);
            let hidden = Buffer::from_values(width, hidden.copied().collect());
            let (teacher_logits, _) = linear::forward(&hidden, teacher.head, Precision::F32);
            kernel::divergence_forward_backward(losses, logits, &teacher_logits, weights, vocabulary);
        }
    }
}

fn gather(x: &Buffer, rows: &[usize]) -> Buffer {
    let mut y = Buffer::unwritten(rows.len(), x.width);
    for (to, &from) in rows.iter().enumerate() {
        y.row_mut(to).copy_from_slice(x.row(from));
    }
    y
}
