//! Files as others write and pack them (`fixtures/data`, made by `reference/make_data_files.py`), and files that broke
//! on the way.

mod support;

use prepare::{Broken, FileRecipe, Kind, Raw};
use std::path::PathBuf;
use support::{Folder, documents, fixtures};
use text::{Document, Role};

fn fixture(name: &str) -> PathBuf {
    fixtures().join("data").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("the fixture")
}

fn read(path: impl Into<PathBuf>) -> Vec<Raw> {
    let path = path.into();
    documents(&FileRecipe::new(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn refusal(path: impl Into<PathBuf>) -> String {
    documents(&FileRecipe::new(path)).expect_err("it is broken").to_string()
}

/// Everything but where it stands.
fn contents(raws: &[Raw]) -> Vec<(Document, Kind, f32, prepare::PartWeights)> {
    raws.iter().map(|raw| (raw.document.clone(), raw.kind, raw.weight, raw.parts.clone())).collect()
}

#[test]
fn what_is_packed_is_what_was_packed() {
    let plain = read(fixture("chats.jsonl"));
    assert_eq!((plain.len(), plain[0].weight, plain[1].kind), (60, 2.0, Kind::Replay));
    for name in ["chats.jsonl.gz", "chats.jsonl.zst"] {
        let raws = read(fixture(name));
        assert_eq!(contents(&raws), contents(&plain), "{name}, of two members");
        assert_eq!(raws[59].origin, format!("{name}:60"));
    }
    let folder = Folder::new("packed");
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3], bytes("chats.jsonl.zst").as_slice()].concat();
    assert_eq!(contents(&read(folder.write("other-name.jsonl", skippable))), contents(&plain), "by its bytes");
}

#[test]
fn parquet_gives_the_rows_that_lines_give() {
    let lines = read(fixture("chats.jsonl"));
    for name in ["snappy", "zstd", "gzip", "none", "pages_v2"] {
        let rows = read(fixture(&format!("chats.{name}.parquet")));
        assert_eq!(rows.len(), lines.len());
        for (row, line) in contents(&rows).into_iter().zip(contents(&lines)) {
            assert_eq!(row, line, "{name}");
        }
    }
    let Document::Chat { messages, .. } = &read(fixture("chats.zstd.parquet"))[1].document else { panic!("a chat") };
    assert_eq!(messages[1].tool_calls[0].arguments.len(), 1, "only the arguments of this call");
    let error = refusal(fixture("chats.lz4.parquet"));
    assert!(error.contains("LZ4") && error.contains("snappy, zstd or gzip"), "{error}");
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let folder = Folder::new("folder");
    folder.write("b/2.jsonl", "{\"text\": \"two\"}");
    folder.write("a.json", "[{\"text\": \"one\"}]");
    folder.write("c.parquet", bytes("chats.snappy.parquet"));
    folder.write("README.md", "no data");
    folder.write(".cache/x.jsonl", "{broken");
    let raws = read(&folder.0);
    let origins: Vec<&str> = raws[..3].iter().map(|raw| raw.origin.as_str()).collect();
    assert_eq!((raws.len(), origins), (62, vec!["a.json:1", "2.jsonl:1", "c.parquet:1"]));
    let empty = Folder::new("empty");
    assert!(refusal(&empty.0).contains("holds no data file"));
}

#[test]
fn json_in_every_layout() {
    let folder = Folder::new("layouts");
    let two = |name: &str, text: &str| {
        let raws = read(folder.write(name, text));
        assert_eq!(raws.len(), 2, "{name}");
        assert_eq!(raws[1].document, Document::Plain { text: "b".into() }, "{name}");
    };
    two("list.json", "[\n  {\"text\": \"a\"},\n  {\"text\": \"b\"}\n]\n");
    two("lines.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    two("pretty.json", "{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n");
    two("mark.jsonl", "\u{FEFF}{\"text\": \"a\"}\r\n\r\n{\"text\": \"b\"}\r\n");
    two("mark.json", "\u{FEFF}[{\"text\": \"a\"},{\"text\": \"b\"}]");
    let text = read(folder.write("notes.md", "\u{FEFF}# Notes\r\nof mine"));
    assert_eq!(text[0].document, Document::Plain { text: "# Notes\r\nof mine".into() });
    assert_eq!(read(folder.write("nothing.jsonl", "\n\n")).len(), 0);
}

#[test]
fn files_that_broke_on_the_way_say_where() {
    let folder = Folder::new("broken-files");
    for (name, kept) in [("chats.jsonl.gz", 0.7), ("chats.jsonl.zst", 0.7)] {
        let whole = bytes(name);
        let path = folder.write(name, &whole[..(whole.len() as f64 * kept) as usize]);
        let error = refusal(&path);
        assert!(error.contains(name) && error.contains("line ") && error.contains("reading stops here"), "{error}");
        assert!(error.contains("it is cut off"), "{error}");
        // A file that is not all there is never taken for one with some broken lines.
        let skipping = FileRecipe { broken: Broken::Skip, ..FileRecipe::new(&path) };
        assert!(documents(&skipping).is_err(), "{name}");
        // Every bit counts: what is damaged anywhere is refused, by its checksum if by nothing before.
        for at in (64..whole.len()).step_by(whole.len() / 12) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let found = documents(&FileRecipe::new(folder.write(name, &damaged)));
            let is_sound = found.is_ok_and(|raws| contents(&raws) == contents(&read(fixture("chats.jsonl"))));
            assert!(!is_sound || at > whole.len() - 8, "{name}, damaged at {at}");
        }
    }
    let whole = bytes("chats.zstd.parquet");
    let cut = refusal(folder.write("cut.parquet", &whole[..whole.len() - 100]));
    assert!(cut.contains("cut.parquet") && cut.contains("Parquet"), "{cut}");
    assert!(refusal(folder.write("text.parquet", "{\"text\": \"a\"}")).contains("no Parquet file"));
    let cut = refusal(folder.write("cut.json", "[{\"text\": \"a\"},\n{\"text\": \"b\""));
    assert!(cut.contains("line 2") && cut.contains("cut off"), "{cut}");
    let wide = refusal(folder.write("wide.jsonl", b"\xFF\xFE{\0\"\0t\0"));
    assert!(wide.contains("line 1: not UTF-8") && wide.contains("UTF-16"), "{wide}");
    assert!(refusal(folder.0.join("nowhere.jsonl")).contains("nowhere.jsonl"));
}

#[test]
fn a_long_file_is_read_in_little_memory_and_in_order() {
    let folder = Folder::new("long");
    let lines: String = (0..20_000).map(|n| format!("{{\"text\": \"number {n}\"}}\n")).collect();
    let recipe = FileRecipe::new(folder.write("long.jsonl", &lines));
    let mut found = recipe.documents(0).expect("opened");
    for n in 0..20_000 {
        let raw = found.next().expect("another").expect("sound");
        assert_eq!(raw.document, Document::Plain { text: format!("number {n}") });
        if n == 10 {
            let (read, all) = (found.bytes_read(), found.bytes);
            assert!(read < all, "{read} of {all} bytes for eleven lines");
        }
    }
    assert!(found.next().is_none());
    assert_eq!((found.bytes, found.bytes_read()), (lines.len() as u64, lines.len() as u64));
}

#[test]
fn roles_survive_every_way() {
    let Document::Chat { messages, .. } = &read(fixture("chats.gzip.parquet"))[0].document else { panic!("a chat") };
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    assert_eq!(messages[4].reasoning_content.as_deref(), Some("The tool says so."));
}
