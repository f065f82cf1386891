//! All checks of the house over the whole tree. Also a test, so that `cargo nextest run` keeps the house in order.

use crate::size::{self, EXCEPTIONS};
use crate::source::Source;
use crate::{Finding, edges, layout, unsafety, words, wrap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The tree as the checks see it.
pub(crate) struct House {
    root: PathBuf,
    sources: Vec<Source>,
    /// Crates' folders, relative to the root.
    crates: Vec<PathBuf>,
}

impl House {
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let mut crates = vec![PathBuf::from("cli"), PathBuf::from("xtask")];
        for group in ["machine", "pipeline"] {
            crates.extend(entries(root, Path::new(group))?.into_iter().filter(|path| root.join(path).is_dir()));
        }
        crates.retain(|path| root.join(path).join("Cargo.toml").is_file());
        crates.sort();
        let mut sources = Vec::new();
        for folder in &crates {
            for part in ["src", "tests", "benches", "examples"] {
                read_sources(root, &folder.join(part), &mut sources)?;
            }
        }
        Ok(Self { root: root.to_owned(), sources, crates })
    }

    /// Runs every check; an empty list is a tidy house.
    pub(crate) fn check(&self) -> io::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for folder in &self.crates {
            let path = folder.join("Cargo.toml");
            findings.extend(edges::check_crate(&path, &fs::read_to_string(self.root.join(&path))?));
        }
        if let Ok(architecture) = fs::read_to_string(self.root.join("ARCHITECTURE.md")) {
            let manifest = fs::read_to_string(self.root.join("Cargo.toml"))?;
            findings.extend(edges::check_explained(&manifest, &architecture));
        }
        for source in &self.sources {
            findings.extend(layout::check_heading(source));
            findings.extend(layout::check_names(source));
            findings.extend(unsafety::check(source));
            findings.extend(words::check(source));
        }
        findings.extend(layout::check_kernels(&self.sources));
        findings.extend(layout::check_reached(&self.sources));
        for path in entries(&self.root, Path::new("recipes"))? {
            if path.extension().is_some_and(|extension| extension == "toml") {
                findings.extend(layout::check_recipe(&path, &fs::read_to_string(self.root.join(&path))?));
            }
        }
        findings.extend(self.check_sizes()?);
        Ok(findings)
    }

    fn exceptions(&self) -> io::Result<String> {
        match fs::read_to_string(self.root.join(EXCEPTIONS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    fn check_sizes(&self) -> io::Result<Vec<Finding>> {
        Ok(match size::read_exceptions(&self.exceptions()?) {
            Ok(exceptions) => size::compare(&size::measure(&self.sources), &exceptions),
            Err(finding) => vec![finding],
        })
    }

    /// Lowers the numbers in the list of exceptions to the truth, and removes what needs no exception any more.
    pub(crate) fn shrink(&self) -> io::Result<()> {
        let shrunk = size::shrink(&self.exceptions()?, &size::measure(&self.sources));
        fs::write(self.root.join(EXCEPTIONS), shrunk)
    }

    /// Folds wide comments in the files under `paths`, which are relative to the root; `true` if any path holds a file.
    pub(crate) fn wrap(&self, paths: &[&str]) -> io::Result<bool> {
        let mut n_found = 0;
        for source in self.sources.iter().filter(|source| paths.iter().any(|path| source.path.starts_with(path))) {
            n_found += 1;
            let wrapped = wrap::wrap(source);
            if wrapped != source.text {
                fs::write(self.root.join(&source.path), wrapped)?;
            }
        }
        Ok(n_found > 0)
    }

    pub(crate) fn n_files(&self) -> usize {
        self.sources.len()
    }
}

/// What is in a folder, sorted, relative to the root; nothing if the folder is not there.
fn entries(root: &Path, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(folder.join(entry?.file_name()));
    }
    paths.sort();
    Ok(paths)
}

fn read_sources(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> io::Result<()> {
    for path in entries(root, folder)? {
        if root.join(&path).is_dir() {
            read_sources(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source::new(&path, fs::read_to_string(root.join(&path))?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    #[test]
    fn the_house_is_tidy() {
        let house = House::read(&root()).expect("the tree can be read");
        assert!(house.n_files() > 30, "only {} files were found: is the root right?", house.n_files());
        let findings = house.check().expect("the tree can be read");
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} findings of `cargo xtask tidy`:\n{}", lines.len(), lines.join("\n"));
    }

    #[test]
    fn each_check_reaches_the_tree() {
        let root = std::env::temp_dir().join(format!("lateen-tidy-{}", std::process::id()));
        let files = [
            (
                "machine/ops/Cargo.toml",
                "[package]\nname = \"ops\"\n[lints]\nworkspace = true\n[dependencies]\ntrain.workspace = true\n",
            ),
            ("machine/ops/src/lib.rs", "mod utils;\nfn f() { println!(); unsafe {} }\n"),
            ("machine/ops/src/dead.rs", "//! Dead.\n"),
            ("machine/kernels/Cargo.toml", "[package]\nname = \"kernels\"\n[lints]\nworkspace = true\n"),
            ("machine/kernels/src/rope/mod.rs", "//! Rope.\n"),
            ("recipes/a.toml", "["),
            ("tidy-exceptions.txt", "gone.rs 600\n"),
            ("Cargo.toml", "[workspace.dependencies]\nhalf = \"2\"\n"),
            ("ARCHITECTURE.md", "Nothing.\n"),
        ];
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("makes a folder");
            fs::write(path, text).expect("writes");
        }
        let findings = House::read(&root).expect("reads").check().expect("reads");
        let all = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        fs::remove_dir_all(&root).expect("removes");
        for wanted in [
            "ops may not use train",
            "does not open with",
            "\"utils\" says nothing",
            "only cli prints",
            "`unsafe` is allowed in",
            "machine/ops/src/dead.rs:1: no `mod` line",
            "without scalar.rs",
            "recipes/a.toml: does not parse",
            "gone.rs: no longer too long",
            "`half` is not explained",
        ] {
            assert!(all.contains(wanted), "{wanted} is not in:\n{all}");
        }
    }
}
