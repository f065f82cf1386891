//! What is where: headings, names, kernel folders, files that nothing reaches, recipes that do not parse.

use crate::Finding;
use crate::source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names that say "whatever did not fit elsewhere".
const BANNED: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "misc", "manager", "managers", "stuff", "various"];

const KERNELS: &str = "machine/kernels/src";
/// Folders there that hold no kernel: lanes and loads that several kernels share.
const NOT_KERNELS: [&str; 1] = ["simd"];

/// Every file says in its first line what it is.
pub(crate) fn check_heading(source: &Source) -> Option<Finding> {
    let opens = source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    let message = "does not open with `//!` and a sentence that says what it is".to_owned();
    (!opens).then(|| Finding { place: source.place(0), message })
}

pub(crate) fn check_names(source: &Source) -> Vec<Finding> {
    let is_banned = |name: &str| name.split('_').any(|word| BANNED.contains(&word));
    let mut findings = Vec::new();
    let path = source.path.with_extension("");
    if let Some(part) = path.iter().find(|part| is_banned(&part.to_string_lossy())) {
        let message = format!("{part:?} says nothing: name it for what it holds");
        findings.push(Finding { place: source.place(0), message });
    }
    for at in source.find_word("mod") {
        let name: String =
            source.code[at + 3..].trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
        if is_banned(&name) {
            let message = format!("the module name {name:?} says nothing: name it for what it holds");
            findings.push(Finding { place: source.place(source.line_of(at)), message });
        }
    }
    findings
}

/// Every folder of `machine/kernels/src` has a `scalar.rs`, the definition, and a test.
pub(crate) fn check_kernels(sources: &[Source]) -> Vec<Finding> {
    let mut folders: BTreeMap<String, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        let Ok(inside) = source.path.strip_prefix(KERNELS) else { continue };
        let mut parts = inside.iter();
        let (Some(folder), Some(_)) = (parts.next(), parts.next()) else { continue };
        folders.entry(folder.to_string_lossy().into_owned()).or_default().push(source);
    }
    let mut findings = Vec::new();
    for (folder, files) in folders.iter().filter(|(folder, _)| !NOT_KERNELS.contains(&folder.as_str())) {
        let place = format!("{KERNELS}/{folder}");
        if !files.iter().any(|source| source.path.ends_with(Path::new(folder).join("scalar.rs"))) {
            let message = "a kernel without scalar.rs: its definition is missing".to_owned();
            findings.push(Finding { place: place.clone(), message });
        }
        let outside = Path::new("machine/kernels/tests").join(format!("{folder}.rs"));
        let beside = sources.iter().filter(|source| source.path == outside);
        if !files.iter().copied().chain(beside).any(|source| source.code.contains("#[test]")) {
            let message = format!("a kernel without a test, here or in {}", outside.display());
            findings.push(Finding { place, message });
        }
    }
    findings
}

/// Every file under a crate's `src` is named by a `mod` line: what nothing reaches is not compiled, and rots.
pub(crate) fn check_reached(sources: &[Source]) -> Vec<Finding> {
    let mut named: BTreeSet<PathBuf> = BTreeSet::new();
    for source in sources {
        named.extend(modules_named_by(source));
    }
    let is_root = |path: &Path| {
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
        let name = path.file_name().unwrap_or_default();
        parent == "bin" || (parent == "src" && (name == "lib.rs" || name == "main.rs"))
    };
    let in_src = sources.iter().filter(|source| source.path.iter().any(|part| part == "src"));
    let unreached = in_src.filter(|source| !is_root(&source.path) && !named.contains(&source.path));
    let message = "no `mod` line reaches this file, so nothing compiles it";
    unreached.map(|source| Finding { place: source.place(0), message: message.to_owned() }).collect()
}

/// The files that a source's `mod name;` lines may mean.
fn modules_named_by(source: &Source) -> Vec<PathBuf> {
    let folder = source.path.parent().unwrap_or(Path::new(""));
    let stem = source.path.file_stem().unwrap_or_default();
    let base = if stem == "mod" || stem == "lib" || stem == "main" { folder.to_owned() } else { folder.join(stem) };
    let mut named = Vec::new();
    for at in source.find_word("mod") {
        let rest = source.code[at + 3..].trim_start();
        let rest = rest.strip_prefix("r#").unwrap_or(rest);
        let name: String = rest.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
        named.push(base.join(format!("{name}.rs")));
        named.push(base.join(name).join("mod.rs"));
    }
    // The insides of strings are blanked in `code`, so the path is read from the text at the same place.
    for (at, _) in source.code.match_indices("#[path") {
        if let Some(path) = source.text[at..].split('"').nth(1) {
            named.push(folder.join(path));
        }
    }
    named
}

/// A recipe is TOML before it is anything else.
pub(crate) fn check_recipe(path: &Path, text: &str) -> Option<Finding> {
    let error = text.parse::<toml::Table>().err()?;
    Some(Finding { place: path.display().to_string(), message: format!("does not parse: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_what_it_is() {
        assert!(check_heading(&Source::new("a.rs", "//! What it is.\n")).is_none());
        for text in ["use a;\n", "", "//!\n", "// not a heading\n", "\n//! late\n"] {
            assert!(check_heading(&Source::new("a.rs", text)).is_some(), "{text:?}");
        }
    }

    #[test]
    fn names_that_say_nothing_are_banned() {
        for path in ["machine/ops/src/utils.rs", "machine/ops/src/common/mod.rs", "machine/ops/src/rope_utils.rs"] {
            assert_eq!(check_names(&Source::new(path, "")).len(), 1, "{path}");
        }
        let ops = "machine/ops/src/lib.rs";
        assert_eq!(check_names(&Source::new(ops, "mod checkpoint_manager;\nmod commonly;\n// mod utils;\n")).len(), 1);
    }

    #[test]
    fn a_kernel_has_a_definition_and_a_test() {
        let at = |path: &str, text: &str| Source::new(Path::new(KERNELS).join(path), text);
        let sound =
            [at("rope/mod.rs", "#[test]\nfn t() {}"), at("rope/scalar.rs", ""), at("pool.rs", ""), at("simd/a.rs", "")];
        assert!(check_kernels(&sound).is_empty());
        let bare = check_kernels(&[at("rope/mod.rs", "// #[test]"), at("rope/avx2.rs", "")]);
        assert_eq!(bare.len(), 2);
        let outside = [at("rope/scalar.rs", ""), Source::new("machine/kernels/tests/rope.rs", "#[test]\nfn t() {}")];
        assert!(check_kernels(&outside).is_empty());
    }

    #[test]
    fn a_file_that_nothing_names_is_found() {
        let sources = [
            Source::new("cli/src/main.rs", "mod chat;\n#[path = \"odd.rs\"]\nmod even;\n"),
            Source::new("cli/src/chat.rs", "mod screen;\n// mod dead;\n"),
            Source::new("cli/src/chat/screen.rs", ""),
            Source::new("cli/src/odd.rs", ""),
            Source::new("cli/src/dead.rs", ""),
            Source::new("cli/tests/end_to_end.rs", ""),
        ];
        let found: Vec<String> = check_reached(&sources).into_iter().map(|finding| finding.place).collect();
        assert_eq!(found, ["cli/src/dead.rs:1"]);
    }

    #[test]
    fn a_recipe_must_parse() {
        assert!(check_recipe(Path::new("recipes/a.toml"), "[[stage]]\nverb = \"train\"\n").is_none());
        assert!(check_recipe(Path::new("recipes/a.toml"), "[[stage]\n").is_some());
    }
}
