//! Attention around the ring.

use super::round::{Part, Share};
use super::{Ring, Round};
use crate::attention::{of, page_shape};
use crate::{AttentionShape, Buffer, KvCache};
use kernels::attention::{self as kernel, Cached, Gradients, Inputs, KeyGradients};
use numeric::wire::{Message, Reading};
use std::ops::Range;

/// What backward needs besides q, k, v and the output.
pub(crate) struct Saved {
    /// `[T, query_heads]`, of the whole softmax.
    log_sum_exp: Buffer,
    /// What this rank keeps of the round's sequences.
    kept: Vec<KvCache>,
}

/// Attention of this rank's tokens over those of all. `past` comes with what the rank has of the sequence that goes on
/// from the round before, and is left with what it has of the one that goes on.
pub(crate) fn forward(
    qkv: [&Buffer; 3],
    shape: &AttentionShape,
    round: &Round,
    past: &mut KvCache,
    ring: &mut dyn Ring,
) -> (Buffer, Saved) {
    let [q, k, v] = qkv;
    let mut output = Buffer::unwritten(q.rows, q.width);
    let mut log_sum_exp = Buffer::unwritten(q.rows, shape.query_heads);
    for (rows, lengths) in round.fresh().into_iter().filter(|(rows, _)| !rows.is_empty()) {
        let inputs = Inputs { q: &q[of(q, &rows)], k: &k[of(k, &rows)], v: &v[of(v, &rows)] };
        let (out, sums) = (of(&output, &rows), of(&log_sum_exp, &rows));
        kernel::forward_packed(&mut output[out], &mut log_sum_exp[sums], inputs, lengths, shape);
    }
    let shares = round.shares_of(ring.rank());
    let kept = keep([k, v], shape, (round, &shares), past);
    let mut look = |is_home: bool, shares: &[Share], caches: &[KvCache]| {
        for part in round.continued().into_iter().flatten() {
            let Some((index, tokens)) = seen(round, (shares, caches), &part) else { continue };
            let (queries, sums) = (of(q, &part.rows), of(&log_sum_exp, &part.rows));
            let (out, sums) = (&mut output[queries.clone()], &mut log_sum_exp[sums]);
            let cache = Cached { is_past: !is_home, ..caches[index].first(tokens) };
            kernel::cached_saved(out, sums, &q[queries], cache, shape);
        }
    };
    look(true, &shares, &kept);
    if round.is_shared() {
        let mut travelling = kept.clone();
        for other in others(ring) {
            let mut message = Message::default();
            travelling.iter().for_each(|cache| cache.put(&mut message));
            let bytes = ring.pass(message);
            let (shares, mut reading) = (round.shares_of(other), Reading::new(&bytes));
            travelling = shares.iter().map(|_| KvCache::take(&mut reading, page_shape(shape))).collect();
            reading.end();
            look(false, &shares, &travelling);
        }
    }
    let goes_on = shares.iter().position(|share| share.sequence == round.last_sequence());
    *past = goes_on.filter(|_| round.goes_on()).map_or_else(|| past.emptied(), |index| kept[index].clone());
    (output, Saved { log_sum_exp, kept })
}

/// Adds to the gradients of q, k and v. `carried` comes with what later rounds ask of this rank's keys and values of
/// the sequence that goes on, and is left with what is asked of those that it had before.
pub(crate) fn backward(
    dqkv: [&mut Buffer; 3],
    doutput: &Buffer,
    (output, saved): (&Buffer, &Saved),
    [q, k, v]: [&Buffer; 3],
    (round, shape): (&Round, &AttentionShape),
    carried: &mut KeyGradients,
    ring: &mut dyn Ring,
) {
    let [dq, dk, dv] = dqkv;
    let Saved { log_sum_exp, kept } = saved;
    let saved_of = |rows: &Range<usize>| kernel::Saved {
        out: &output[of(output, rows)],
        log_sum_exp: &log_sum_exp[of(log_sum_exp, rows)],
    };
    for (rows, lengths) in round.fresh().into_iter().filter(|(rows, _)| !rows.is_empty()) {
        let (queries, keys) = (of(q, &rows), of(k, &rows));
        let inputs = Inputs { q: &q[queries.clone()], k: &k[keys.clone()], v: &v[keys.clone()] };
        let gradients = Gradients { dq: &mut dq[queries.clone()], dk: &mut dk[keys.clone()], dv: &mut dv[keys] };
        kernel::backward_packed(gradients, &doutput[queries], saved_of(&rows), inputs, lengths, shape);
    }
    let shares = round.shares_of(ring.rank());
    let mut look = |is_home: bool, shares: &[Share], caches: &[KvCache], sums: &mut [KeyGradients]| {
        for part in round.continued().into_iter().flatten() {
            let Some((index, tokens)) = seen(round, (shares, caches), &part) else { continue };
            let queries = of(q, &part.rows);
            let into = (&mut dq[queries.clone()], &mut sums[index]);
            let cache = Cached { is_past: !is_home, ..caches[index].first(tokens) };
            let (doutput, saved) = (&doutput[queries.clone()], saved_of(&part.rows));
            kernel::cached_backward(into, doutput, saved, &q[queries], cache, shape);
        }
    };
    let mut sums: Vec<KeyGradients> = kept.iter().map(|cache| KeyGradients::zeros(cache.tokens(), shape)).collect();
    let later = std::mem::take(carried);
    let goes_on = shares.iter().position(|share| share.sequence == round.last_sequence());
    if let Some(index) = goes_on.filter(|_| !later.is_empty()) {
        sums[index] = later;
    }
    look(true, &shares, kept, &mut sums);
    if round.is_shared() {
        let mut travelling = kept.clone();
        for other in others(ring) {
            (travelling, sums) = pass((&travelling, &sums), round.shares_of(other).len(), shape, ring);
            look(false, &round.shares_of(other), &travelling, &mut sums);
        }
        (_, sums) = pass((&[], &sums), shares.len(), shape, ring);
    }
    for ((share, cache), sums) in shares.iter().zip(kept).zip(&sums) {
        bring_home([dk, dv], sums, (share, cache), shape);
    }
    if round.continues() {
        *carried = sums.swap_remove(0);
    }
}

/// Adds what is asked of the round's keys and values to the gradients of their rows.
fn bring_home(
    [dk, dv]: [&mut Buffer; 2],
    sums: &KeyGradients,
    (share, cache): (&Share, &KvCache),
    shape: &AttentionShape,
) {
    let mut first = cache.tokens() - share.tokens();
    for part in &share.parts {
        let (keys, values) = (of(dk, &part.rows), of(dv, &part.rows));
        sums.add_to([&mut dk[keys], &mut dv[values]], first, shape);
        first += part.rows.len();
    }
}

/// Gives what travels to the next rank and takes what comes, so many of each; caches stay where nobody looks any more.
fn pass(
    (caches, sums): (&[KvCache], &[KeyGradients]),
    coming: usize,
    shape: &AttentionShape,
    ring: &mut dyn Ring,
) -> (Vec<KvCache>, Vec<KeyGradients>) {
    let mut message = Message::default();
    message.put(caches.len() as u64);
    caches.iter().for_each(|cache| cache.put(&mut message));
    sums.iter().for_each(|sums| sums.put(&mut message));
    let bytes = ring.pass(message);
    let mut reading = Reading::new(&bytes);
    let caches = (0..reading.take()).map(|_| KvCache::take(&mut reading, page_shape(shape))).collect();
    let sums = (0..coming).map(|_| KeyGradients::take(&mut reading)).collect();
    reading.end();
    (caches, sums)
}

/// The other ranks, in the order in which what they keep comes by.
fn others(ring: &dyn Ring) -> Vec<usize> {
    let (rank, size) = (ring.rank(), ring.size());
    (1..size).map(|hop| (rank + size - hop) % size).collect()
}

/// Which of a rank's caches a part looks back on, and how many of its tokens it sees; nothing where there are none.
fn seen(round: &Round, (shares, caches): (&[Share], &[KvCache]), by: &Part) -> Option<(usize, usize)> {
    let (index, of_round) = round.seen(shares, by)?;
    let tokens = caches[index].tokens() - shares[index].tokens() + of_round;
    (tokens > 0).then_some((index, tokens))
}

/// What this rank keeps of the round's sequences, as its shares say.
fn keep(
    [k, v]: [&Buffer; 2],
    shape: &AttentionShape,
    (round, shares): (&Round, &[Share]),
    past: &KvCache,
) -> Vec<KvCache> {
    let keep = |share: &Share| {
        let mut cache = if share.sequence == 0 && round.continues() { past.clone() } else { past.emptied() };
        for part in &share.parts {
            cache.extend(&k[of(k, &part.rows)], &v[of(v, &part.rows)], page_shape(shape));
        }
        cache
    };
    shares.iter().map(keep).collect()
}
