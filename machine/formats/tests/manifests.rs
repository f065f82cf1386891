//! Manifests say truly whether a stage must run again, and hashes depend on names and contents only.

mod folder;

use folder::{fresh, names_in};
use formats::{FormatsError, Manifest, hash_bytes, hash_directory, hash_file, write_atomically};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};

type Change = fn(&mut Manifest);

fn manifest() -> Manifest {
    Manifest {
        stage: "train".to_owned(),
        recipe_hash: "r1".to_owned(),
        recipe: serde_json::json!({ "train": { "steps": 300, "clip": 1.0 }, "save": "bf16" }),
        from: Some("base".to_owned()),
        inputs: BTreeMap::from([("base".to_owned(), "h1".to_owned()), ("data".to_owned(), "h2".to_owned())]),
        commit: "c1".to_owned(),
        seed: 7,
        metrics: serde_json::json!({ "loss": 1.25 }),
        finished: true,
    }
}

#[test]
fn a_manifest_comes_back_and_an_absent_one_is_none() {
    let folder = fresh("manifest");
    assert_eq!(Manifest::read(&folder).expect("nothing is no error"), None);
    manifest().write(folder.join("deep/er")).expect("writes");
    assert_eq!(Manifest::read(folder.join("deep/er")).expect("reads"), Some(manifest()));
    fs::write(folder.join("manifest.json"), r#"{"stage":"train"}"#).expect("writes");
    let error = Manifest::read(&folder).expect_err("half a manifest is none");
    assert!(matches!(&error, FormatsError::BadJson { .. }) && error.to_string().contains("manifest.json"), "{error}");
}

#[test]
fn each_difference_is_told_in_words() {
    let wanted = manifest();
    let cases: [(&str, Change); 7] = [
        ("\"sft\"", |m| m.stage = "sft".to_owned()),
        ("recipe", |m| m.recipe_hash = "r0".to_owned()),
        ("seed was 8", |m| m.seed = 8),
        ("data has changed", |m| m.inputs.insert("data".to_owned(), "h0".to_owned()).map_or((), drop)),
        ("data is new", |m| m.inputs.remove("data").map_or((), drop)),
        ("extra is gone", |m| m.inputs.insert("extra".to_owned(), "h3".to_owned()).map_or((), drop)),
        ("interrupted", |m| m.finished = false),
    ];
    assert!(wanted.matches(&wanted));
    for (word, change) in cases {
        let mut found = manifest();
        change(&mut found);
        let why = found.difference(&wanted).expect("a change is a difference");
        assert!(why.contains(word), "{why}");
        assert_eq!(found.can_resume(&wanted), word == "interrupted");
    }
    let mut other = manifest();
    other.recipe_hash = "r0".to_owned();
    other.recipe = serde_json::json!({ "train": { "steps": 200 }, "save": "bf16", "from": "x" });
    let why = other.difference(&wanted).expect("another recipe");
    for told in ["train.steps was 200, is 300", "train.clip was not given, is 1.0", "from was \"x\", is not given"] {
        assert!(why.contains(told) && !why.contains("save"), "{why}");
    }
    let mut newer = manifest();
    newer.commit = "c2".to_owned();
    newer.metrics = serde_json::Value::Null;
    assert!(newer.matches(&wanted), "commit and metrics are told, not compared");
}

#[test]
fn hashes_depend_on_names_and_contents() {
    let folder = fresh("hashes");
    fs::create_dir(folder.join("sub")).expect("makes");
    fs::write(folder.join("a"), "one").expect("writes");
    fs::write(folder.join("sub/b"), "two").expect("writes");
    let before = hash_directory(&folder).expect("hashes");
    manifest().write(&folder).expect("writes");
    fs::write(folder.join("c.tmp"), "leftover").expect("writes");
    assert_eq!(hash_directory(&folder).expect("hashes"), before, "manifests and leftovers do not count");
    fs::rename(folder.join("sub/b"), folder.join("sub/c")).expect("renames");
    let renamed = hash_directory(&folder).expect("hashes");
    assert_ne!(renamed, before);
    fs::write(folder.join("a"), "onE").expect("writes");
    assert_ne!(hash_directory(&folder).expect("hashes"), renamed);
    assert_eq!(hash_file(folder.join("a")).expect("hashes"), hash_bytes(b"onE"));
    // The published BLAKE3 test vector for no input.
    assert_eq!(hash_bytes(b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let folder = fresh("atomic");
    let path = folder.join("x");
    write_atomically(&path, |writer| writer.write_all(b"first")).expect("writes");
    let failed = write_atomically(&path, |writer: &mut dyn Write| {
        writer.write_all(b"second, but")?;
        Err(io::Error::other("the work failed"))
    });
    assert!(failed.expect_err("the closure failed").to_string().contains("the work failed"));
    assert_eq!(fs::read(&path).expect("reads"), b"first");
    assert_eq!(names_in(&folder), ["x"]);
}

#[cfg(unix)]
#[test]
fn a_planted_link_is_not_written_through() {
    let folder = fresh("planted");
    fs::write(folder.join("victim"), "mine").expect("writes");
    std::os::unix::fs::symlink(folder.join("victim"), folder.join("x.tmp")).expect("links");
    write_atomically(folder.join("x"), |writer| writer.write_all(b"new")).expect("writes");
    assert_eq!(fs::read(folder.join("victim")).expect("reads"), b"mine");
    assert_eq!(fs::read(folder.join("x")).expect("reads"), b"new");
    assert!(!folder.join("x").is_symlink());
}
