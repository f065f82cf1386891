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
