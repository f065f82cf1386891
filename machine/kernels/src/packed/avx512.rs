//! AVX-512 with VNNI: lanes are the sixteen rows of a panel, four columns a step.
//!
//! SAFETY: runs only where `Cpu` has found AVX-512 VNNI; a part's panels, rows and tokens are those of its job, whose
//! sizes `run_with` has checked; activations have whole groups, which rows of whole blocks ensure.

use super::activations::{RUN, Run};
use super::codes::{Bytes, Codes, FiveBits, Nibbles, SixBits, Table};
use super::scales::{E4m3, Halves, KScales, Powers, Scales, SignedBytes};
use super::{MANY, Part};
use numeric::{AlignedVec, Format, PANEL};
use std::arch::x86_64::*;
use std::ops::Range;

/// # Safety
/// The machine has AVX-512 VNNI; the part's sizes agree.
pub(super) unsafe fn multiply(part: &Part) {
    // SAFETY: as promised by the caller.
    unsafe {
        match (part.weight.format, part.x.class.group) {
            (Format::Q8_0, _) => panels::<Bytes, Halves<32>>(part),
            (Format::Q4_0, 256) => panels::<Nibbles, Halves<256>>(part),
            (Format::Q4_0, _) => panels::<Nibbles, Halves<32>>(part),
            (Format::Iq4Nl, 256) => panels::<Table, Halves<256>>(part),
            (Format::Iq4Nl, _) => panels::<Table, Halves<32>>(part),
            (Format::Mxfp4, 256) => panels::<Table, Powers<256>>(part),
            (Format::Mxfp4, _) => panels::<Table, Powers<32>>(part),
            (Format::Nvfp4, 256) => panels::<Table, E4m3<256>>(part),
            (Format::Nvfp4, _) => panels::<Table, E4m3<32>>(part),
            (Format::Q4K, _) => panels::<Nibbles, KScales>(part),
            (Format::Q5K, _) => panels::<FiveBits, KScales>(part),
            (Format::Q6K, _) => panels::<SixBits, SignedBytes<16>>(part),
            (Format::Iq4Xs, _) => panels::<Table, SignedBytes<32>>(part),
            (Format::F32 | Format::Bf16 | Format::F16, _) => unreachable!("plain numbers are not packed"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn panels<C: Codes, S: Scales>(part: &Part) {
    let tokens = part.tokens();
    assert!(S::serves(part.x.class), "{:?} has other scales", part.weight.format);
    // SAFETY: as promised by the caller.
    unsafe {
        if tokens >= MANY {
            return many::<C, S>(part);
        }
        for panel in part.panels.clone() {
            match tokens {
                0 => {}
                1 => few::<C, S, 1>(part, panel),
                2 => few::<C, S, 2>(part, panel),
                3 => few::<C, S, 3>(part, panel),
                4 => few::<C, S, 4>(part, panel),
                5 => few::<C, S, 5>(part, panel),
                6 => few::<C, S, 6>(part, panel),
                7 => few::<C, S, 7>(part, panel),
                _ => few::<C, S, 8>(part, panel),
            }
        }
    }
}

/// Four activations, the same for every row.
#[inline(always)]
unsafe fn four(codes: *const i8) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_set1_epi32(codes.cast::<i32>().read_unaligned()) }
}

/// What a sub-group's integer sum starts from: the offset's share, where codes have one.
#[inline(always)]
unsafe fn start<S: Scales>(x: &Run, sub: usize) -> __m512i {
    if S::MINIMA {
        // SAFETY: inlined where AVX-512 is enabled.
        return unsafe { _mm512_setzero_si512() };
    }
    // SAFETY: as promised by the caller.
    unsafe { _mm512_set1_epi32(*x.sums.add(sub)) }
}

/// One panel by T tokens, codes straight from memory.
#[inline(always)]
unsafe fn few<C: Codes, S: Scales, const T: usize>(part: &Part, panel: usize) {
    let columns = part.x.columns;
    let (codes, scales) = part.weight.panel(panel, columns);
    let (mut codes, mut scales) = (codes.as_ptr(), scales.as_ptr());
    let (kind, scaling) = (C::new(part.weight.format), S::new(&part.weight));
    // SAFETY: within the streams of the panel and the rows of x, group by group.
    unsafe {
        let mut totals = [_mm512_setzero_ps(); T];
        for group in 0..columns / S::GROUP {
            let x: [Run; T] = std::array::from_fn(|t| part.run(t, group * S::GROUP / RUN));
            let first = group * S::GROUP % RUN;
            let head = scaling.head(scales);
            scales = scales.add(S::GROUP_BYTES);
            let mut sums = [_mm512_setzero_ps(); T];
            for step in 0..S::GROUP / 32 {
                ask_ahead::<C>(codes);
                let weights = kind.unpack(codes);
                codes = codes.add(C::STEP_BYTES);
                let column = first + 32 * step;
                // Written out, because in a loop the vectors would go through memory.
                if S::SUB == 16 {
                    sub_group::<S, T, 0, 4>(&mut sums, &weights, &head, &x, column, 2 * step);
                    sub_group::<S, T, 4, 4>(&mut sums, &weights, &head, &x, column + 16, 2 * step + 1);
                } else {
                    sub_group::<S, T, 0, 8>(&mut sums, &weights, &head, &x, column, step);
                }
            }
            if S::MINIMA {
                let (minima, scale) = (minima_of::<S>(&head), S::minimum_scale(&head));
                for t in 0..T {
                    sums[t] = less_minima(sums[t], &minima, scale, x[t].plain_sums);
                }
            }
            for t in 0..T {
                totals[t] = _mm512_fmadd_ps(sums[t], _mm512_set1_ps(*x[t].scales.add(first / S::GROUP)), totals[t]);
            }
        }
        for (t, total) in totals.into_iter().enumerate() {
            store(part, t, panel, total);
        }
    }
}

#[inline(always)]
unsafe fn ask_for(codes: *const i8) {
    // SAFETY: a prefetch reads nothing that the program sees, wherever it points.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(codes) };
}

/// Asks for the lines of a later step.
#[inline(always)]
unsafe fn ask_ahead<C: Codes>(codes: *const u8) {
    const AHEAD: usize = 4096;
    for line in 0..C::STEP_BYTES / 64 {
        // SAFETY: a prefetch reads nothing that the program sees, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD + 64 * line).cast()) };
    }
}

/// One sub-group, whose codes are the COUNT vectors from FROM on, by T tokens.
#[inline(always)]
unsafe fn sub_group<S: Scales, const T: usize, const FROM: usize, const COUNT: usize>(
    sums: &mut [__m512; T],
    weights: &[__m512i; 8],
    head: &S::Head,
    x: &[Run; T],
    column: usize,
    local: usize,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let scale = S::scale(head, local);
        for t in 0..T {
            let mut dot = start::<S>(&x[t], column / S::SUB);
            for j in 0..COUNT {
                dot = _mm512_dpbusd_epi32(dot, weights[FROM + j], four(x[t].codes.add(column + 4 * j)));
            }
            sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sums[t]);
        }
    }
}

/// The sum of a group less its minima's share: exact in 32 bits, then scaled.
#[inline(always)]
unsafe fn less_minima(sum: __m512, minima: &[__m512i; PAIRS], scale: __m512, sums: *const i16) -> __m512 {
    // SAFETY: the group has as many sums of codes as minima.
    unsafe {
        let mut total = _mm512_setzero_si512();
        for (pair, &minima) in minima.iter().enumerate() {
            let codes = _mm512_set1_epi32(sums.add(2 * pair).cast::<i32>().read_unaligned());
            total = _mm512_dpwssd_epi32(total, minima, codes);
        }
        _mm512_fnmadd_ps(_mm512_cvtepi32_ps(total), scale, sum)
    }
}

/// A group's minima.
#[inline(always)]
unsafe fn minima_of<S: Scales>(head: &S::Head) -> [__m512i; PAIRS] {
    // SAFETY: a group that stores minima has eight sub-groups.
    unsafe { [S::minima(head, 0), S::minima(head, 1), S::minima(head, 2), S::minima(head, 3)] }
}

#[inline(always)]
unsafe fn store(part: &Part, token: usize, panel: usize, total: __m512) {
    // SAFETY: as promised by the caller; masked to the panel's rows.
    unsafe {
        let (to, rows) = part.output(token, panel);
        let mask = ((1u32 << rows) - 1) as u16;
        let before = if part.accumulate { _mm512_maskz_loadu_ps(mask, to) } else { _mm512_setzero_ps() };
        _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(before, total));
    }
}

/// Tokens that pass at once.
const TOKENS: usize = 6;

/// Codes of tokens that stay in the second cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Two panels' codes of a run of columns, one byte each, and their scales: what stays in the first cache while the
/// tokens pass.
#[repr(C, align(64))]
struct Unpacked {
    codes: [[__m512i; 2]; RUN / 4],
    scales: [[__m512; 2]; RUN / 16],
    /// Formats with minima have one group to a run.
    minima: [[__m512i; PAIRS]; 2],
    minimum_scale: [__m512; 2],
}

/// Pairs of sub-groups of a group with minima.
const PAIRS: usize = 4;

/// Panels two at a time, by any number of tokens.
#[inline(always)]
unsafe fn many<C: Codes, S: Scales>(part: &Part) {
    let columns = part.x.columns;
    let mut tile = AlignedVec::default();
    // SAFETY: all zeros is a value of plain vectors.
    let mut unpacked: Unpacked = unsafe { std::mem::zeroed() };
    // As many tokens as leave their codes in the second cache while all panels pass, in blocks of equal size.
    let blocks = (part.tokens() * columns).div_ceil(BLOCK_BYTES);
    let block = part.tokens().div_ceil(blocks).next_multiple_of(TOKENS);
    let starts = (0..part.tokens()).step_by(block);
    for (start, first) in starts.flat_map(|start| part.panels.clone().step_by(2).map(move |first| (start, first))) {
        let tokens = start..(start + block).min(part.tokens());
        let pair = 2.min(part.panels.end - first);
        tile.resize(2 * PANEL * tokens.len());
        tile.fill(0.0);
        for from in (0..columns).step_by(RUN) {
            let run = RUN.min(columns - from);
            // SAFETY: within the panels' streams and the rows of x.
            unsafe {
                for p in 0..pair {
                    unpack_run::<C, S>(part, first + p, from, run, p, &mut unpacked);
                }
                if pair == 2 {
                    tokens_of_run::<S, 2>(part, &unpacked, &tokens, from, run, &mut tile);
                } else {
                    tokens_of_run::<S, 1>(part, &unpacked, &tokens, from, run, &mut tile);
                }
            }
        }
        for (index, token) in tokens.enumerate() {
            for p in 0..pair {
                // SAFETY: the tile holds two panels a token.
                unsafe {
                    store(part, token, first + p, _mm512_load_ps(tile[(2 * index + p) * PANEL..].as_ptr()));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn unpack_run<C: Codes, S: Scales>(
    part: &Part,
    panel: usize,
    from: usize,
    run: usize,
    p: usize,
    unpacked: &mut Unpacked,
) {
    let (codes, scales) = part.weight.panel(panel, part.x.columns);
    let (kind, scaling) = (C::new(part.weight.format), S::new(&part.weight));
    // SAFETY: the run lies within the panel.
    unsafe {
        let codes = codes.as_ptr().add(from / 32 * C::STEP_BYTES);
        for step in 0..run / 32 {
            let weights = kind.unpack(codes.add(step * C::STEP_BYTES));
            for (codes, weights) in unpacked.codes[8 * step..8 * step + 8].iter_mut().zip(weights) {
                codes[p] = weights;
            }
        }
        let scales = scales.as_ptr().add(from / S::GROUP * S::GROUP_BYTES);
        let subs = S::GROUP / S::SUB;
        for group in 0..run / S::GROUP {
            let head = scaling.head(scales.add(group * S::GROUP_BYTES));
            for sub in 0..subs {
                unpacked.scales[group * subs + sub][p] = S::scale(&head, sub);
            }
            if S::MINIMA {
                unpacked.minima[p] = minima_of::<S>(&head);
                unpacked.minimum_scale[p] = S::minimum_scale(&head);
            }
        }
    }
}

/// Some tokens, six at a time.
#[inline(always)]
unsafe fn tokens_of_run<S: Scales, const P: usize>(
    part: &Part,
    unpacked: &Unpacked,
    tokens: &Range<usize>,
    from: usize,
    run: usize,
    tile: &mut [f32],
) {
    let first = part.x.run(0, from / RUN);
    let mut token = tokens.start;
    while token < tokens.end {
        let tile = &mut tile[2 * PANEL * (token - tokens.start)..];
        // SAFETY: as promised by the caller.
        token += unsafe {
            // Rows that come next are asked for; chosen ones lie anywhere.
            for next in token + TOKENS..tokens.end.min(token + 2 * TOKENS) {
                let codes = row_of::<S>(&first, part.row(next)).codes;
                (0..RUN).step_by(64).for_each(|line| ask_for(codes.wrapping_add(line)));
            }
            let at = |t: usize| row_of::<S>(&first, part.row(token + t));
            match tokens.end - token {
                1 => micro::<S, P, 1>([at(0)], unpacked, run, tile),
                2 => micro::<S, P, 2>([at(0), at(1)], unpacked, run, tile),
                3 => micro::<S, P, 3>([at(0), at(1), at(2)], unpacked, run, tile),
                4 => micro::<S, P, 4>([at(0), at(1), at(2), at(3)], unpacked, run, tile),
                5 => micro::<S, P, 5>([at(0), at(1), at(2), at(3), at(4)], unpacked, run, tile),
                _ => micro::<S, P, 6>([at(0), at(1), at(2), at(3), at(4), at(5)], unpacked, run, tile),
            }
        };
    }
}

/// The row some rows after another of the same run.
#[inline(always)]
fn row_of<S: Scales>(first: &Run, row: usize) -> Run {
    Run {
        codes: first.codes.wrapping_add(row * RUN),
        scales: first.scales.wrapping_add(row * (RUN / S::GROUP)),
        sums: first.sums.wrapping_add(row * (RUN / S::SUB)),
        plain_sums: first.plain_sums.wrapping_add(row * (RUN / S::SUB)),
    }
}

/// P panels by T tokens over a run of columns; returns T. The same order of operations as [`few`].
#[inline(always)]
unsafe fn micro<S: Scales, const P: usize, const T: usize>(
    x: [Run; T],
    unpacked: &Unpacked,
    run: usize,
    tile: &mut [f32],
) -> usize {
    let vectors = S::SUB / 4;
    // SAFETY: within the unpacked run, the rows of x and the tile.
    unsafe {
        for group in 0..run / S::GROUP {
            let mut sums = [[_mm512_setzero_ps(); P]; T];
            for local in 0..S::GROUP / S::SUB {
                let sub = group * (S::GROUP / S::SUB) + local;
                let column = sub * S::SUB;
                let mut dots = [[_mm512_setzero_si512(); P]; T];
                for (dots, x) in dots.iter_mut().zip(&x) {
                    *dots = [start::<S>(x, column / S::SUB); P];
                }
                for j in 0..vectors {
                    let weights = &unpacked.codes[sub * vectors + j];
                    for (dots, x) in dots.iter_mut().zip(&x) {
                        let four = four(x.codes.add(column + 4 * j));
                        for (dot, weight) in dots.iter_mut().zip(weights) {
                            *dot = _mm512_dpbusd_epi32(*dot, *weight, four);
                        }
                    }
                }
                for (sums, dots) in sums.iter_mut().zip(dots) {
                    for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(&unpacked.scales[sub]) {
                        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), *scale, *sum);
                    }
                }
            }
            if S::MINIMA {
                for (sums, x) in sums.iter_mut().zip(&x) {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = less_minima(*sum, &unpacked.minima[p], unpacked.minimum_scale[p], x.plain_sums);
                    }
                }
            }
            for ((t, sums), x) in sums.into_iter().enumerate().zip(&x) {
                let scale = _mm512_set1_ps(*x.scales.add(group));
                for (p, sum) in sums.into_iter().enumerate() {
                    let at = tile.as_mut_ptr().add((2 * t + p) * PANEL);
                    _mm512_store_ps(at, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(at)));
                }
            }
        }
    }
    T
}
