//! The kinds of tensor in a GGUF file: their numbers, as `ggml.h` of llama.cpp gives them, and which we can use.

use numeric::Format;

/// Number, name, and the format of ours where there is one. Numbers that are not here were never given, or taken back.
const KINDS: &[(u32, &str, Option<Format>)] = &[
    (0, "F32", Some(Format::F32)),
    (1, "F16", Some(Format::F16)),
    (2, "Q4_0", Some(Format::Q4_0)),
    (3, "Q4_1", None),
    (6, "Q5_0", None),
    (7, "Q5_1", None),
    (8, "Q8_0", Some(Format::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", None),
    (11, "Q3_K", None),
    (12, "Q4_K", Some(Format::Q4K)),
    (13, "Q5_K", Some(Format::Q5K)),
    (14, "Q6_K", Some(Format::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", Some(Format::Iq4Nl)),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", Some(Format::Iq4Xs)),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Format::Bf16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", Some(Format::Mxfp4)),
    (40, "NVFP4", Some(Format::Nvfp4)),
    (41, "Q1_0", None),
];

/// The format with this number, or what was found in its place.
pub(crate) fn format_of(id: u32) -> Result<Format, String> {
    match KINDS.iter().find(|kind| kind.0 == id) {
        Some((_, _, Some(format))) => Ok(*format),
        Some((_, name, None)) => Err(format!("{name} (type {id})")),
        None => Err(format!("type {id}, which has no name")),
    }
}

/// The names of what we can use, for an error.
pub(crate) fn supported() -> String {
    let names: Vec<&str> = KINDS.iter().filter(|kind| kind.2.is_some()).map(|kind| kind.1).collect();
    format!("one of {}", names.join(", "))
}

/// The name that GGUF has for a format.
pub fn name_of(format: Format) -> &'static str {
    let kind = KINDS.iter().find(|kind| kind.2 == Some(format));
    kind.map_or("a format that GGUF does not have", |kind| kind.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_found() {
        assert_eq!(format_of(0), Ok(Format::F32));
        assert_eq!(format_of(40), Ok(Format::Nvfp4));
        assert_eq!(format_of(10), Err("Q2_K (type 10)".to_owned()));
        assert_eq!(format_of(4), Err("type 4, which has no name".to_owned()));
        assert_eq!(name_of(Format::Bf16), "BF16");
        assert!(supported().contains("MXFP4") && !supported().contains("Q2_K"));
        assert!(KINDS.is_sorted_by_key(|kind| kind.0));
    }
}
