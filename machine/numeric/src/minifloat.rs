//! The small floating-point formats: E2M1 (four bits), E4M3 (eight bits, finite), E8M0 (a bare power of two), and the
//! rounding of f32 to bf16. Definitions: OCP "Microscaling Formats (MX) Specification" 1.0 and "OFP8" 1.0.

/// What each four-bit E2M1 code stands for; the top bit is the sign.
pub const E2M1_VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The largest finite E4M3 magnitude, code `0x7E`.
pub const E4M3_MAX: f32 = 448.0;

/// What each E4M3 code stands for; `0x7F` and `0xFF` are not numbers.
pub static E4M3_VALUES: [f32; 256] = e4m3_values();

const fn e4m3_values() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3_decode(code as u8);
        code += 1;
    }
    table
}

const fn e4m3_decode(code: u8) -> f32 {
    let magnitude = code & 0x7F;
    if magnitude == 0x7F {
        return f32::NAN;
    }
    let (exponent, mantissa) = (magnitude >> 3, (magnitude & 7) as f32);
    let value = match exponent {
        0 => mantissa * power_of_two(-9),
        _ => (8.0 + mantissa) * power_of_two(exponent as i32 - 10),
    };
    if code & 0x80 == 0 { value } else { -value }
}

/// `2^exponent` for exponents of normal f32 numbers.
const fn power_of_two(exponent: i32) -> f32 {
    assert!(exponent >= -126 && exponent <= 127);
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The value of an E8M0 scale, `2^(code − 127)`; code 255 is not a number.
pub const fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        // 2^−127 is below the normal range of f32.
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// The nearest E2M1 code, ties to the even code, saturating at ±6. What is not a number becomes zero.
pub fn f32_to_e2m1(value: f32) -> u8 {
    let a = value.abs();
    // A midpoint goes up exactly when the code above it is even.
    let code = u8::from(a > 0.25)
        + u8::from(a >= 0.75)
        + u8::from(a > 1.25)
        + u8::from(a >= 1.75)
        + u8::from(a > 2.5)
        + u8::from(a >= 3.5)
        + u8::from(a > 5.0);
    code | (u8::from(value.is_sign_negative()) << 3)
}

/// The nearest E4M3 code, ties to even, saturating at ±448.
pub fn f32_to_e4m3(value: f32) -> u8 {
    let sign = u8::from(value.is_sign_negative()) << 7;
    if value.is_nan() {
        return sign | 0x7F;
    }
    let a = value.abs().min(E4M3_MAX);
    // Below 2^−6 the step stays that of the smallest normal exponent.
    let exponent = ((a.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (a * power_of_two(3 - exponent)).round_ties_even() as i32;
    // A mantissa that rounds up to 16 steps carries into the exponent by itself.
    sign | ((exponent + 7) * 8 + steps - 8) as u8
}

/// `value` rounded to the nearest bf16, ties to even, as f32.
#[inline]
pub fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000;
    // Adding to a NaN's payload could carry into the sign; keep it and set the quiet bit.
    f32::from_bits(if value.is_nan() { (bits | 0x0040_0000) & 0xFFFF_0000 } else { rounded })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest of `values` by brute force in f64; ties to the even code.
    fn nearest(values: &[f32], x: f64) -> u8 {
        let mut best = 0;
        for code in 1..values.len() {
            let (d, b) = ((f64::from(values[code]) - x).abs(), (f64::from(values[best]) - x).abs());
            if d < b || (d == b && code % 2 == 0) {
                best = code;
            }
        }
        best as u8
    }

    #[test]
    fn e4m3_matches_its_definition() {
        for code in 0..=255u8 {
            let (e, m) = (i32::from((code >> 3) & 15), f64::from(code & 7));
            let magnitude = if e == 0 { m / 8.0 * 2f64.powi(-6) } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
            let want = if code & 0x80 == 0 { magnitude } else { -magnitude };
            let have = E4M3_VALUES[code as usize];
            assert!(if code & 0x7F == 0x7F { have.is_nan() } else { f64::from(have) == want }, "code {code}");
            assert!(have.is_nan() || f32_to_e4m3(have) == code, "code {code} does not round to itself");
        }
    }

    #[test]
    fn encoders_pick_the_nearest_code() {
        let mut x = 1e-4f32;
        while x < 600.0 {
            assert_eq!(f32_to_e4m3(x), nearest(&E4M3_VALUES[..0x7F], f64::from(x)), "e4m3 of {x}");
            assert_eq!(f32_to_e2m1(x / 50.0), nearest(&E2M1_VALUES[..8], f64::from(x / 50.0)), "e2m1 of {}", x / 50.0);
            x *= 1.003;
        }
        for pair in E4M3_VALUES[..0x7F].windows(2) {
            let middle = (pair[0] + pair[1]) / 2.0;
            assert_eq!(f32_to_e4m3(middle), nearest(&E4M3_VALUES[..0x7F], f64::from(middle)), "tie at {middle}");
        }
        for pair in E2M1_VALUES[..8].windows(2) {
            let middle = (pair[0] + pair[1]) / 2.0;
            assert_eq!(f32_to_e2m1(-middle), 8 | nearest(&E2M1_VALUES[..8], f64::from(middle)), "tie at {middle}");
        }
        assert_eq!((f32_to_e2m1(100.0), f32_to_e4m3(1e9), f32_to_e4m3(-1e9)), (7, 0x7E, 0xFE));
    }

    #[test]
    fn e8m0_is_a_power_of_two() {
        for code in 0..255u8 {
            assert_eq!(f64::from(e8m0_to_f32(code)), 2f64.powi(i32::from(code) - 127));
        }
        assert!(e8m0_to_f32(255).is_nan());
    }

    #[test]
    fn bf16_rounding_agrees_with_half() {
        let mut rng = crate::Rng::new(11);
        for _ in 0..50_000 {
            let x = f32::from_bits(rng.next_u64() as u32);
            let (have, want) = (round_to_bf16(x), half::bf16::from_f32(x).to_f32());
            assert!(have.to_bits() == want.to_bits() || (have.is_nan() && want.is_nan()), "{x}: {have} {want}");
        }
    }
}
