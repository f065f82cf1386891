//! Under which licence a repository stands, and whether a model may learn from it without further thought.

use super::git::{Entry, Repository, Sort};
use super::path::extension_of;
use crate::error::PrepareError;

/// Licences that ask for no more than a notice, by their SPDX names in lower case.
const PERMISSIVE: [&str; 26] = [
    "mit",
    "mit-0",
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "bsd-1-clause",
    "0bsd",
    "isc",
    "unlicense",
    "cc0-1.0",
    "zlib",
    "bsl-1.0",
    "ncsa",
    "postgresql",
    "psf-2.0",
    "python-2.0",
    "wtfpl",
    "x11",
    "blueoak-1.0.0",
    "mulanpsl-2.0",
    "upl-1.0",
    "afl-3.0",
    "unicode-3.0",
    "unicode-dfs-2016",
    "bsd-2-clause-patent",
];

/// Sentences that stand in one licence's text, in lower case with single spaces, the telling ones first.
const SENTENCES: [(&str, &str); 22] = [
    ("gnu affero general public license", "AGPL-3.0"),
    ("gnu lesser general public license", "LGPL-3.0"),
    ("gnu library general public license", "LGPL-2.0"),
    ("gnu general public license", "GPL-3.0"),
    ("mozilla public license", "MPL-2.0"),
    ("eclipse public license", "EPL-2.0"),
    ("european union public licence", "EUPL-1.2"),
    ("server side public license", "SSPL-1.0"),
    ("business source license", "BUSL-1.1"),
    ("elastic license", "Elastic-2.0"),
    ("commons clause", "LicenseRef-Commons-Clause"),
    ("attribution-noncommercial", "CC-BY-NC-4.0"),
    ("attribution-sharealike", "CC-BY-SA-4.0"),
    ("apache license version 2.0", "Apache-2.0"),
    ("licensed under the apache license, version 2.0", "Apache-2.0"),
    ("this is free and unencumbered software released into the public domain", "Unlicense"),
    ("cc0 1.0 universal", "CC0-1.0"),
    ("boost software license - version 1.0", "BSL-1.0"),
    ("permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
    ("permission to use, copy, modify, and/or distribute this software for any purpose", "ISC"),
    ("altered source versions must be plainly marked as such", "Zlib"),
    ("redistribution and use in source and binary forms, with or without modification", "BSD-3-Clause"),
];
const LICENCE_BYTES_MAX: usize = 200_000;
const MANIFEST_BYTES_MAX: usize = 200_000;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Licence {
    /// As an SPDX expression; empty where nothing was found.
    pub(super) expression: String,
    pub(super) is_permissive: bool,
}

impl Licence {
    fn of(expression: String) -> Self {
        Self { is_permissive: is_permissive(&expression), expression }
    }
}

/// Looks at the top of a tree: what a manifest declares comes first, since it says how several texts relate; else the
/// texts themselves, any of which may be chosen.
pub(super) fn licence(repository: &mut Repository, tree: &str) -> Result<Licence, PrepareError> {
    let entries = repository.entries(tree)?;
    for entry in entries.iter().filter(|entry| entry.sort == Sort::File) {
        let read: fn(&str) -> Option<String> = match entry.name.as_str() {
            "Cargo.toml" => of_cargo,
            "package.json" => of_package,
            "pyproject.toml" => of_pyproject,
            _ => continue,
        };
        let bytes = repository.blob(&entry.id, MANIFEST_BYTES_MAX)?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(expression) = text.as_deref().and_then(read) {
            return Ok(Licence::of(expression));
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for entry in entries.iter().filter(|entry| is_licence_file(entry)) {
        let bytes = repository.blob(&entry.id, LICENCE_BYTES_MAX)?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let name = text.as_deref().and_then(of_text);
        names.extend(name.filter(|name| !names.contains(name)));
    }
    Ok(Licence::of(names.join(" OR ")))
}

fn is_licence_file(entry: &Entry) -> bool {
    let lower = entry.name.to_lowercase();
    let is_named = ["license", "licence", "copying", "unlicense"].iter().any(|start| lower.starts_with(start));
    entry.sort == Sort::File && is_named && ["", "md", "txt", "rst"].contains(&text_extension(&lower))
}

/// `LICENSE-2.0` has no extension, `LICENSE.md` has.
fn text_extension(name: &str) -> &str {
    let extension = extension_of(name);
    ["md", "txt", "rst", "rs", "py", "js", "json", "html"].into_iter().find(|known| *known == extension).unwrap_or("")
}

/// The licence that a text is, by what stands in it.
pub(super) fn of_text(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    let spaced = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((_, rest)) = spaced.split_once("spdx-license-identifier: ") {
        let name = rest.split(' ').next().unwrap_or_default();
        let known = SENTENCES.iter().find(|(_, known)| known.to_lowercase() == name);
        if let Some((_, known)) = known {
            return Some(known);
        }
    }
    // A permissive text may mention others further down; which licence it is stands at its beginning or is its body.
    let top: String = spaced.chars().take(400).collect();
    let copyleft = SENTENCES[..13].iter().find(|(sentence, _)| top.contains(sentence));
    copyleft.or_else(|| SENTENCES[13..].iter().find(|(sentence, _)| spaced.contains(sentence))).map(|(_, name)| *name)
}

fn of_cargo(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let own = table.get("package").and_then(|package| package.get("license"));
    let shared = || table.get("workspace")?.get("package")?.get("license");
    own.and_then(toml::Value::as_str).or_else(|| shared()?.as_str()).map(str::to_owned)
}

fn of_package(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let licence = value.get("license")?;
    let name = licence.as_str().or_else(|| licence.get("type")?.as_str())?;
    // "SEE LICENSE IN file" and "UNLICENSED" (which means: none) are no names of licences.
    (!name.starts_with("SEE ")).then(|| name.to_owned())
}

fn of_pyproject(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let project = table.get("project").or_else(|| table.get("tool")?.get("poetry"))?;
    let declared =
        project.get("license").and_then(|licence| licence.as_str().or_else(|| licence.get("text")?.as_str()));
    if let Some(name) = declared {
        return Some(of_words(name).map_or_else(|| name.to_owned(), str::to_owned));
    }
    let classifiers = project.get("classifiers")?.as_array()?;
    let names = classifiers.iter().filter_map(|line| line.as_str()?.strip_prefix("License :: OSI Approved :: "));
    let names: Vec<&str> = names.filter_map(of_words).collect();
    (!names.is_empty()).then(|| names.join(" OR "))
}

/// Names that people write instead of SPDX's.
fn of_words(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    if lower.contains("gnu") || lower.contains("gpl") || lower.contains(" or ") || lower.contains(" and ") {
        return None;
    }
    let words = [
        ("mit", "MIT"),
        ("apache", "Apache-2.0"),
        ("bsd", "BSD-3-Clause"),
        ("isc", "ISC"),
        ("python software foundation", "PSF-2.0"),
    ];
    words.into_iter().find(|(word, _)| lower.starts_with(word)).map(|(_, name)| name)
}

/// Whether an SPDX expression leaves a permissive choice: one side of an OR is enough, of an AND both must be.
fn is_permissive(expression: &str) -> bool {
    // Cargo's older `MIT/Apache-2.0` means OR.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    !words.is_empty() && any(&words, &mut at) == Some(true) && at == words.len()
}

fn any(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut is = all(words, at)?;
    while words.get(*at).is_some_and(|word| word.eq_ignore_ascii_case("or")) {
        *at += 1;
        is |= all(words, at)?;
    }
    Some(is)
}

fn all(words: &[&str], at: &mut usize) -> Option<bool> {
    let mut is = one(words, at)?;
    while words.get(*at).is_some_and(|word| word.eq_ignore_ascii_case("and")) {
        *at += 1;
        is &= one(words, at)?;
    }
    Some(is)
}

fn one(words: &[&str], at: &mut usize) -> Option<bool> {
    let word = *words.get(*at)?;
    *at += 1;
    if word == "(" {
        // What is nested deeper than any real expression is no expression.
        let is = if *at < 64 { any(words, at)? } else { return None };
        *at += 1;
        return (words.get(*at - 1) == Some(&")")).then_some(is);
    }
    let is = PERMISSIVE.contains(&word.to_lowercase().as_str());
    // An exception allows more, never less.
    if words.get(*at).is_some_and(|word| word.eq_ignore_ascii_case("with")) {
        *at += 2;
    }
    Some(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "mit/apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR GPL-2.0) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "(BSD-3-Clause)",
        ] {
            assert!(is_permissive(good), "{good}");
        }
        for bad in ["", "GPL-3.0-only", "MIT AND GPL-2.0", "UNLICENSED", "MIT OR", "(MIT", "MIT Apache", "MPL-2.0"] {
            assert!(!is_permissive(bad), "{bad}");
        }
        assert!(!is_permissive(&format!("{}MIT", "( ".repeat(100_000))));
    }

    #[test]
    fn texts_are_known() {
        let mit = "MIT License\n\nCopyright (c) 2020 X\n\nPermission is hereby granted, free of charge, to any person\n\
                   obtaining a copy of this software";
        let apache =
            "                                 Apache License\n                           Version 2.0, January 2004";
        let gpl = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007";
        let bsd =
            "Copyright X\n\nRedistribution and use in source and binary forms, with or without\nmodification, are";
        assert_eq!(of_text(mit), Some("MIT"));
        assert_eq!(of_text(apache), Some("Apache-2.0"));
        assert_eq!(of_text(gpl), Some("GPL-3.0"));
        assert_eq!(of_text(bsd), Some("BSD-3-Clause"));
        assert_eq!(of_text("All rights reserved."), None);
    }

    #[test]
    fn manifests_are_read() {
        assert_eq!(of_cargo("[package]\nname='x'\nlicense='ISC'").as_deref(), Some("ISC"));
        let workspace = "[package]\nlicense.workspace=true\n[workspace.package]\nlicense='MIT OR Apache-2.0'";
        assert_eq!(of_cargo(workspace).as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(of_package(r#"{"license":"UNLICENSED"}"#).map(|name| is_permissive(&name)), Some(false));
        assert_eq!(of_package(r#"{"license":"SEE LICENSE IN x"}"#), None);
        assert_eq!(of_pyproject("[project]\nlicense={text='MIT License'}").as_deref(), Some("MIT"));
        let classified = "[project]\nclassifiers=['License :: OSI Approved :: Apache Software License']";
        assert_eq!(of_pyproject(classified).as_deref(), Some("Apache-2.0"));
        assert_eq!(of_pyproject("[project]\nlicense='GPL-3.0-or-later'").as_deref(), Some("GPL-3.0-or-later"));
    }
}
