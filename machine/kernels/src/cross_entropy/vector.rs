//! Cross entropy and divergence over vectors. V is the vocabulary.

use super::IGNORED;
use crate::simd::{Simd, exp, largest, scale_in_place, variants};

/// Σ e^{x − most}
#[inline(always)]
fn sum_exp<S: Simd>(s: S, logit_v: &[f32], most: f32) -> f32 {
    let most = s.splat(most);
    let mut sum = s.zero();
    let whole = logit_v.chunks_exact(S::LANES);
    let last = whole.remainder();
    for logit in whole {
        sum = s.add(sum, exp(s, s.sub(s.load(logit), most)));
    }
    s.sum(sum) + last_exp(s, last, most)
}

/// The share of the values after the last whole vector; missing lanes count as nothing.
#[inline(always)]
fn last_exp<S: Simd>(s: S, last: &[f32], most: S::V) -> f32 {
    // More lanes than any instruction set has.
    let mut values = [f32::NEG_INFINITY; 16];
    values[..last.len()].copy_from_slice(last);
    let mut sum = s.zero();
    for values in values.chunks_exact(S::LANES) {
        sum = s.add(sum, exp(s, s.sub(s.load(values), most)));
    }
    s.sum(sum)
}

#[inline(always)]
fn log_sum_exp<S: Simd>(s: S, logit_v: &[f32]) -> f32 {
    let most = largest(s, logit_v);
    most + sum_exp(s, logit_v, most).ln()
}

#[inline(always)]
fn forward<S: Simd>(s: S, losses: &mut [f32], logits: &[f32], targets: &[u32], vocabulary: usize) {
    for ((loss, &target), logit_v) in losses.iter_mut().zip(targets).zip(logits.chunks_exact(vocabulary)) {
        *loss = match target {
            IGNORED => 0.0,
            target => log_sum_exp(s, logit_v) - logit_v[target as usize],
        };
    }
}
variants! { fn forward_rows(losses: &mut [f32], logits: &[f32], targets: &[u32], vocabulary: usize) = forward }

#[inline(always)]
fn forward_backward<S: Simd>(
    s: S,
    losses: &mut [f32],
    logits: &mut [f32],
    targets: &[u32],
    weights: &[f32],
    vocabulary: usize,
) {
    let rows = losses.iter_mut().zip(logits.chunks_exact_mut(vocabulary));
    for ((loss, logit_v), (&target, &weight)) in rows.zip(targets.iter().zip(weights)) {
        *loss = 0.0;
        if weight == 0.0 || target == IGNORED {
            logit_v.fill(0.0);
            continue;
        }
        let most = largest(s, logit_v);
        let chosen = logit_v[target as usize];
        let splat = s.splat(most);
        let mut sums = s.zero();
        let mut whole = logit_v.chunks_exact_mut(S::LANES);
        for logit in whole.by_ref() {
            let value = exp(s, s.sub(s.load(logit), splat));
            sums = s.add(sums, value);
            s.store(logit, value);
        }
        let last = whole.into_remainder();
        let sum = s.sum(sums) + last_exp(s, last, splat);
        let value = exp(s, s.sub(s.load(last), splat));
        s.store(last, value);
        *loss = most + sum.ln() - chosen;
        scale_in_place(s, logit_v, weight / sum);
        logit_v[target as usize] -= weight;
    }
}
variants! {
    fn forward_backward_rows(
        losses: &mut [f32],
        logits: &mut [f32],
        targets: &[u32],
        weights: &[f32],
        vocabulary: usize,
    ) = forward_backward
}

#[inline(always)]
fn divergence<S: Simd>(
    s: S,
    losses: &mut [f32],
    student: &mut [f32],
    teacher: &[f32],
    weights: &[f32],
    vocabulary: usize,
) {
    let rows = student.chunks_exact_mut(vocabulary).zip(teacher.chunks_exact(vocabulary));
    for ((loss, &weight), (student_v, teacher_v)) in losses.iter_mut().zip(weights).zip(rows) {
        *loss = 0.0;
        if weight == 0.0 {
            student_v.fill(0.0);
            continue;
        }
        let (total_q, total_p) = (log_sum_exp(s, student_v), log_sum_exp(s, teacher_v));
        let (total_q, total_p, factor) = (s.splat(total_q), s.splat(total_p), s.splat(weight));
        let mut sums = s.zero();
        let mut last = 0.0;
        for (student, teacher) in student_v.chunks_mut(S::LANES).zip(teacher_v.chunks(S::LANES)) {
            let (log_q, log_p) = (s.sub(s.load(student), total_q), s.sub(s.load(teacher), total_p));
            let (q, p) = (exp(s, log_q), exp(s, log_p));
            let terms = s.mul(p, s.sub(log_p, log_q));
            if student.len() < S::LANES {
                // The lanes beyond the vocabulary hold something: only what is stored counts.
                let mut values = [0.0; 16];
                s.store(&mut values[..student.len()], terms);
                last = values.iter().sum();
            } else {
                sums = s.add(sums, terms);
            }
            s.store(student, s.mul(factor, s.sub(q, p)));
        }
        *loss = s.sum(sums) + last;
    }
}
variants! {
    fn divergence_rows(
        losses: &mut [f32],
        student: &mut [f32],
        teacher: &[f32],
        weights: &[f32],
        vocabulary: usize,
    ) = divergence
}
