//! Cross entropy and divergence over vectors. V is the vocabulary.

use super::{IGNORED, Parts};
use crate::simd::{Simd, dot, exp, largest, scale_in_place, variants};

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

/// `beta` as in `scalar.rs`. Logarithms of sums have no vector form here, so those of m are taken one by one.
#[inline(always)]
fn mixed<S: Simd>(
    s: S,
    losses: &mut [f32],
    student: &mut [f32],
    teacher: &[f32],
    weights: &[f32],
    vocabulary: usize,
    beta: f32,
) {
    let (mut slope_v, mut p_v) = (vec![0.0; vocabulary], vec![0.0; vocabulary]);
    let rows = student.chunks_exact_mut(vocabulary).zip(teacher.chunks_exact(vocabulary));
    for ((loss, &weight), (student_v, teacher_v)) in losses.iter_mut().zip(weights).zip(rows) {
        *loss = 0.0;
        if weight == 0.0 {
            student_v.fill(0.0);
            continue;
        }
        let (total_q, total_p) = (log_sum_exp(s, student_v), log_sum_exp(s, teacher_v));
        let (splat_q, splat_p) = (s.splat(total_q), s.splat(total_p));
        let places = slope_v.chunks_mut(S::LANES).zip(p_v.chunks_mut(S::LANES));
        for ((slope, p), (student, teacher)) in
            places.zip(student_v.chunks_mut(S::LANES).zip(teacher_v.chunks(S::LANES)))
        {
            let (log_q, log_p) = (s.sub(s.load(student), splat_q), s.sub(s.load(teacher), splat_p));
            s.store(student, exp(s, log_q));
            s.store(p, exp(s, log_p));
            s.store(slope, if beta == 1.0 { s.sub(log_q, log_p) } else { log_q });
        }
        let mut others = 0.0f64;
        if beta < 1.0 {
            for (((slope, &q), &p), &teacher) in slope_v.iter_mut().zip(&*student_v).zip(&p_v).zip(teacher_v) {
                let log_m = ((1.0 - beta) * q + beta * p).max(f32::MIN_POSITIVE).ln();
                others += f64::from(beta * p * (teacher - total_p - log_m));
                *slope = (1.0 - beta) * (*slope - log_m);
            }
        }
        let mean = dot(s, student_v, &slope_v);
        *loss = mean + others as f32;
        let (mean, factor) = (s.splat(mean), s.splat(weight));
        for (q, slope) in student_v.chunks_mut(S::LANES).zip(slope_v.chunks(S::LANES)) {
            let across = s.sub(s.load(slope), mean);
            let dq = s.mul(factor, s.mul(s.load(q), across));
            s.store(q, dq);
        }
    }
}
variants! {
    fn mixed_rows(
        losses: &mut [f32],
        student: &mut [f32],
        teacher: &[f32],
        weights: &[f32],
        vocabulary: usize,
        beta: f32,
    ) = mixed
}

/// x ← e^{x − most}
#[inline(always)]
fn exp_in_place<S: Simd>(s: S, x: &mut [f32], most: f32) {
    let most = s.splat(most);
    for x in x.chunks_mut(S::LANES) {
        let value = exp(s, s.sub(s.load(x), most));
        s.store(x, value);
    }
}

#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let whole = x.chunks_exact(S::LANES);
    let last: f32 = whole.remainder().iter().sum();
    let mut sums = s.zero();
    for x in whole {
        sums = s.add(sums, s.load(x));
    }
    s.sum(sums) + last
}

/// With a rest, the parts are set aside while the others are summed, so that nothing is subtracted from one.
#[inline(always)]
fn in_parts<S: Simd>(s: S, losses: &mut [f32], student: &mut [f32], parts: Parts, weights: &[f32], vocabulary: usize) {
    let per_row = parts.tokens.len() / losses.len().max(1);
    let mut kept = vec![[0.0f32; 2]; per_row];
    for (t, (loss, student_v)) in losses.iter_mut().zip(student.chunks_exact_mut(vocabulary)).enumerate() {
        let (weight, rest, places) = (weights[t], parts.rest[t], t * per_row..(t + 1) * per_row);
        *loss = 0.0;
        if weight == 0.0 {
            student_v.fill(0.0);
            continue;
        }
        let (tokens, shares) = (&parts.tokens[places.clone()], &parts.shares[places.clone()]);
        let most = largest(s, student_v);
        kept.iter_mut().zip(tokens).for_each(|(kept, &token)| kept[0] = student_v[token as usize] - most);
        exp_in_place(s, student_v, most);
        kept.iter_mut().zip(tokens).for_each(|(kept, &token)| kept[1] = student_v[token as usize]);
        let (total, others) = if rest > 0.0 {
            tokens.iter().for_each(|&token| student_v[token as usize] = 0.0);
            let others = sum(s, student_v).max(f32::MIN_POSITIVE);
            (others + kept.iter().map(|kept| kept[1]).sum::<f32>(), others)
        } else {
            (sum(s, student_v), 1.0)
        };
        let (log_total, wanted) = (total.ln(), rest + shares.iter().sum::<f32>());
        let of_parts = kept.iter().zip(shares).zip(&parts.logs[places]);
        *loss = of_parts.map(|((kept, share), log)| share * (log - (kept[0] - log_total))).sum();
        if rest > 0.0 {
            *loss += rest * (rest.ln() - (others.ln() - log_total));
            scale_in_place(s, student_v, weight * (wanted / total - rest / others));
            let values = kept.iter().map(|kept| weight * wanted * kept[1] / total);
            tokens.iter().zip(values).for_each(|(&token, value)| student_v[token as usize] = value);
        } else {
            scale_in_place(s, student_v, weight * wanted / total);
        }
        tokens.iter().zip(shares).for_each(|(&token, share)| student_v[token as usize] -= weight * share);
    }
}
variants! {
    fn parts_rows(losses: &mut [f32], student: &mut [f32], parts: Parts, weights: &[f32], vocabulary: usize) = in_parts
}
