//! Cross entropy and divergence, the definition. T rows, V vocabulary.

use crate::real::Real;

fn log_sum_exp<R: Real>(logit_v: &[R]) -> R {
    let most = logit_v.iter().fold(logit_v[0], |most, &logit| most.larger(logit));
    let mut sum = R::zero();
    for &logit in logit_v {
        sum += (logit - most).exp();
    }
    most + sum.ln()
}

/// −log p(target) in nats; rows whose target is [`super::IGNORED`] get 0.
pub fn forward<R: Real>(losses: &mut [R], logits: &[R], targets: &[u32], vocabulary: usize) {
    for (t, logit_v) in logits.chunks_exact(vocabulary).enumerate() {
        losses[t] = match targets[t] {
            super::IGNORED => R::zero(),
            target => log_sum_exp(logit_v) - logit_v[target as usize],
        };
    }
}

/// The losses, and logits ← weight·(softmax − onehot); a row of weight 0 has loss 0 and gradient 0.
pub fn forward_backward<R: Real>(
    losses: &mut [R],
    logits: &mut [R],
    targets: &[u32],
    weights: &[R],
    vocabulary: usize,
) {
    for (t, logit_v) in logits.chunks_exact_mut(vocabulary).enumerate() {
        losses[t] = R::zero();
        if weights[t] == R::zero() || targets[t] == super::IGNORED {
            logit_v.fill(R::zero());
            continue;
        }
        let total = log_sum_exp(logit_v);
        losses[t] = total - logit_v[targets[t] as usize];
        for logit in logit_v.iter_mut() {
            *logit = weights[t] * (*logit - total).exp();
        }
        logit_v[targets[t] as usize] -= weights[t];
    }
}

/// Σ p·(log p − log q) with p the teacher's softmax and q the student's; student ← weight·(q − p).
pub fn divergence<R: Real>(losses: &mut [R], student: &mut [R], teacher: &[R], weights: &[R], vocabulary: usize) {
    for (t, (student_v, teacher_v)) in
        student.chunks_exact_mut(vocabulary).zip(teacher.chunks_exact(vocabulary)).enumerate()
    {
        losses[t] = R::zero();
        if weights[t] == R::zero() {
            student_v.fill(R::zero());
            continue;
        }
        let (total_q, total_p) = (log_sum_exp(student_v), log_sum_exp(teacher_v));
        for (student, &teacher) in student_v.iter_mut().zip(teacher_v) {
            let (log_q, log_p) = (*student - total_q, teacher - total_p);
            losses[t] += log_p.exp() * (log_p - log_q);
            *student = weights[t] * (log_q.exp() - log_p.exp());
        }
    }
}

/// As [`divergence`] led by the student. With `beta` below 1: `(1 − β)·KL(q ‖ m) + β·KL(p ‖ m)`, m = (1 − β)·q + β·p;
/// with 1: KL(q ‖ p). The gradient is q·(g − Σ q·g) with g the divergence's slope for q: what m does to it cancels.
pub fn mixed<R: Real>(losses: &mut [R], student: &mut [R], teacher: &[R], weights: &[R], vocabulary: usize, beta: R) {
    let rows = student.chunks_exact_mut(vocabulary).zip(teacher.chunks_exact(vocabulary));
    for (t, (student_v, teacher_v)) in rows.enumerate() {
        losses[t] = R::zero();
        if weights[t] == R::zero() {
            student_v.fill(R::zero());
            continue;
        }
        let (total_q, total_p) = (log_sum_exp(student_v), log_sum_exp(teacher_v));
        let (mut slopes, mut mean) = (Vec::with_capacity(vocabulary), R::zero());
        for (&student, &teacher) in student_v.iter().zip(teacher_v) {
            let (log_q, log_p) = (student - total_q, teacher - total_p);
            let slope = if beta == R::one() {
                log_q - log_p
            } else {
                let log_m = ((R::one() - beta) * log_q.exp() + beta * log_p.exp()).ln();
                losses[t] += beta * log_p.exp() * (log_p - log_m);
                (R::one() - beta) * (log_q - log_m)
            };
            mean += log_q.exp() * slope;
            slopes.push(slope);
        }
        losses[t] += mean;
        for (student, slope) in student_v.iter_mut().zip(slopes) {
            *student = weights[t] * (*student - total_q).exp() * (slope - mean);
        }
    }
}

/// Parts of a teacher's distribution, as numbers of any kind: see [`super::Parts`].
pub struct Parts<'a, R> {
    pub tokens: &'a [u32],
    pub shares: &'a [R],
    pub logs: &'a [R],
    pub rest: &'a [R],
}

/// Σₖ shareₖ·(logₖ − log qₖ) + rest·(log rest − log q_rest); student ← weight·(its slope).
pub fn parts<R: Real>(losses: &mut [R], student: &mut [R], parts: &Parts<R>, weights: &[R], vocabulary: usize) {
    let per_row = parts.tokens.len() / losses.len().max(1);
    for (t, student_v) in student.chunks_exact_mut(vocabulary).enumerate() {
        losses[t] = R::zero();
        if weights[t] == R::zero() {
            student_v.fill(R::zero());
            continue;
        }
        let places = t * per_row..(t + 1) * per_row;
        let (tokens, rest) = (&parts.tokens[places.clone()], parts.rest[t]);
        let total = log_sum_exp(student_v);
        let mut wanted = R::zero();
        for (&token, place) in tokens.iter().zip(places.clone()) {
            losses[t] += parts.shares[place] * (parts.logs[place] - (student_v[token as usize] - total));
            wanted += parts.shares[place];
        }
        let is_part = |v: usize| tokens.iter().any(|&token| token as usize == v);
        let mut others = R::zero();
        for v in (0..vocabulary).filter(|&v| !is_part(v)) {
            others += (student_v[v] - total).exp();
        }
        if rest > R::zero() {
            losses[t] += rest * (rest.ln() - others.ln());
            wanted += rest;
        }
        for (v, student) in student_v.iter_mut().enumerate() {
            let q = (*student - total).exp();
            let mut slope = wanted * q;
            if rest > R::zero() && !is_part(v) {
                slope -= rest * q / others;
            }
            for (&token, place) in tokens.iter().zip(places.clone()) {
                if token as usize == v {
                    slope -= parts.shares[place];
                }
            }
            *student = weights[t] * slope;
        }
    }
}
