//! Repositories made on the spot, each with what one test is about. They need `git`, which mining needs too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIT: &str = "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\n";
const ADD: &str = include_str!("../code/calculator/add.py.txt");
const TOTAL: &str = include_str!("../code/calculator/total.py.txt");
const DIVIDE: &str = include_str!("../code/calculator/divide.py.txt");
const PARSE: &str = include_str!("../code/calculator/parse.py.txt");
const FORMATTER: &str = include_str!("../code/calculator/formatter.py.txt");
const CONNECT: &str = include_str!("../code/calculator/connect.py.txt");
const MERGE: &str = include_str!("../code/merging/merge.py.txt");
const COMMON: &str = include_str!("../code/merging/common.py.txt");
const QUEUE: &str = include_str!("../code/queues/queue.py.txt");
const SUMS: [(&str, &str); 8] = [
    ("sum.c", include_str!("../code/sums/sum.c.txt")),
    ("sum.cpp", include_str!("../code/sums/sum.cpp.txt")),
    ("Tools.java", include_str!("../code/sums/Tools.java.txt")),
    ("web/sum.js", include_str!("../code/sums/sum.js.txt")),
    ("web/sum.ts", include_str!("../code/sums/sum.ts.txt")),
    ("sum.go", include_str!("../code/sums/sum.go.txt")),
    ("sum.py", include_str!("../code/sums/sum.py.txt")),
    ("src/sum.rs", include_str!("../code/sums/sum.rs.txt")),
];
const ANN: (&str, &str) = ("Ann Lab", "ann@lab.example");

/// A folder of its own for one test, removed afterwards.
pub(crate) struct Folder {
    path: PathBuf,
    /// Commits have the same names on every run.
    hour: Cell<u32>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mining-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder can be made");
        Self { path, hour: Cell::new(0) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn git(&self, repository: &Path, arguments: &[&str], input: &[u8]) -> String {
        let mut child = Command::new("git")
            .arg("-C")
            .arg(repository)
            .args(["-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false"])
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need the program git, as mining does: install it");
        child.stdin.take().expect("a pipe").write_all(input).expect("git reads");
        let output = child.wait_with_output().expect("git ends");
        assert!(output.status.success(), "git {arguments:?} failed");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn start(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).expect("the folder can be made");
        self.git(&path, &["init", "--quiet"], b"");
        path
    }

    fn write(repository: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = repository.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
            fs::write(path, text).expect("the file can be written");
        }
    }

    fn commit_by(&self, repository: &Path, (name, mail): (&str, &str), message: &str) {
        self.git(repository, &["add", "--all"], b"");
        self.hour.set(self.hour.get() + 1);
        let date = format!("{} +0000", 1_700_000_000 + self.hour.get() * 3600);
        let status = Command::new("git")
            .arg("-C")
            .arg(repository)
            .args(["-c", "commit.gpgSign=false", "commit", "--quiet", "--allow-empty", "-m", message])
            .envs([("GIT_AUTHOR_NAME", name), ("GIT_AUTHOR_EMAIL", mail), ("GIT_AUTHOR_DATE", date.as_str())])
            .envs([("GIT_COMMITTER_NAME", name), ("GIT_COMMITTER_EMAIL", mail), ("GIT_COMMITTER_DATE", date.as_str())])
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .status();
        assert!(status.expect("git runs").success(), "the commit {message:?}");
    }

    fn commit(&self, repository: &Path, message: &str, files: &[(&str, &str)]) {
        Self::write(repository, files);
        self.commit_by(repository, ANN, message);
    }

    /// The text of every file at a commit.
    pub(crate) fn files_at(&self, repository: &Path, commit: &str) -> BTreeMap<String, String> {
        let names = self.git(repository, &["ls-tree", "-r", "--name-only", commit], b"");
        let text = |name: &str| {
            let output =
                Command::new("git").arg("-C").arg(repository).args(["show", &format!("{commit}:{name}")]).output();
            String::from_utf8_lossy(&output.expect("git runs").stdout).into_owned()
        };
        names.lines().map(|name| (name.to_owned(), text(name))).collect()
    }

    pub(crate) fn subject(&self, repository: &Path, commit: &str) -> String {
        self.git(repository, &["log", "-1", "--format=%s", commit], b"")
    }

    /// A small Python project with every sort of commit.
    pub(crate) fn calculator(&self) -> PathBuf {
        let at = self.start("calculator");
        let [add, total, divide, parse] = [ADD, TOTAL, DIVIDE, PARSE];
        let test = "from calculator import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n";
        let project = "[project]\nname = \"calculator\"\n[tool.pytest.ini_options]\n";
        let code = |parts: &[&str]| parts.concat();
        let first =
            [("LICENSE", MIT), ("calculator.py", add), ("tests/test_calculator.py", test), ("pyproject.toml", project)];
        self.commit(&at, "Initial commit", &first);
        self.commit(&at, "Add the sum of a list", &[("calculator.py", &code(&[add, parse, total]))]);
        let message = "Add division with a clear error\n\nDividing by zero raised an error deep inside (#12),\n\
                       because nothing looked at the divisor before.\n\nSigned-off-by: Ann <ann@lab.example>";
        let tests = format!("{test}\n\ndef test_divide():\n    assert divide(4, 2) == 2\n");
        let tests = tests.replace("import add", "import add, divide");
        let files = [("calculator.py", &*code(&[add, parse, divide, total])), ("tests/test_calculator.py", &*tests)];
        self.commit(&at, message, &files);
        let fixed = total.replace("len(numbers) + 1", "len(numbers)");
        let message = "fix: stop before the end of the list (#7)\n\n`total` read one element too many, since the range \
                       went past\nthe last index, which would raise an IndexError.";
        self.commit(&at, message, &[("calculator.py", &code(&[add, parse, divide, &fixed]))]);
        self.commit(&at, "wip", &[("notes.md", "Some notes.\n")]);
        Self::write(&at, &[("pyproject.toml", &format!("{project}minversion = \"8\"\n"))]);
        self.commit_by(&at, ("dependabot[bot]", "bot@dependabot.example"), "Bump version to 2");
        let split = [("calculator.py", &*code(&[add, divide, &fixed])), ("parsing.py", parse.trim_start())];
        self.commit(&at, "Split parsing off", &split);
        self.git(&at, &["mv", "parsing.py", "parser.py"], b"");
        self.commit(&at, "Rename the parser", &[]);
        fs::write(at.join("picture.png"), b"\x89PNG\0\x01\xff\xfe").expect("it can be written");
        self.commit(&at, "Add a picture", &[]);
        let tests = "from formatter import shown\n\n\ndef test_shown():\n    assert shown(2.0) == \"2\"\n";
        let files = [("formatter.py", FORMATTER), ("tests/test_formatter.py", tests)];
        self.commit(&at, "Add a formatter for results", &files);
        let mut notes = "Some notes.\n".to_owned();
        for note in 0..40 {
            notes.push_str(&format!("Note number {note} about the calculator.\n"));
            self.commit(&at, &format!("Write down note number {note}"), &[("notes.md", &notes)]);
        }
        at
    }

    /// A project whose messages say how things are, and never that something was fixed. What is wanting comes with a
    /// commit of more files than anybody would re-enact, in a file longer than anybody would review.
    pub(crate) fn quiet(&self) -> PathBuf {
        let at = self.start("quiet");
        let project = "[project]\nname = \"queues\"\n[tool.pytest.ini_options]\n";
        let test = "from src.queues.queue import Queue\n\n\ndef test_size():\n    assert Queue().size() == 0\n";
        self.commit(&at, "The project", &[("LICENSE", MIT), ("pyproject.toml", project), ("README.md", "Queues.\n")]);
        let more = |count: usize| -> String {
            (0..count)
                .map(|at| {
                    format!(
                        "\n\ndef queue_of_{at}(items):\n    queue = Queue()\n    \
                      queue.items = items[{at}:]\n    return queue\n"
                    )
                })
                .collect()
        };
        let path = "src/queues/queue.py";
        let queue = |code: &str| format!("{code}{}", more(40));
        let others: Vec<(String, String)> =
            (0..8).map(|at| (format!("src/queues/sort_{at}.py"), format!("SORT = \"sort {at}\"\n"))).collect();
        let mut files: Vec<(&str, &str)> = others.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let first = queue(QUEUE);
        files.extend([(path, first.as_str()), ("tests/test_queue.py", test)]);
        self.commit(&at, "Queues of every sort", &files);
        let turned = QUEUE.replace("self.items.pop()", "self.items.pop(0)");
        let order = "\n\ndef test_order():\n    queue = Queue()\n    queue.put(1)\n    queue.put(2)\n    \
                     assert queue.take() == 1\n";
        let tests = format!("{test}{order}");
        let files = [(path, &*queue(&turned)), ("tests/test_queue.py", &*tests)];
        self.commit(&at, "Items leave a queue in the order in which they came", &files);
        let folded = turned.replace("reader, because other", "reader,\n        # because other");
        self.commit(&at, "A remark that takes two lines", &[(path, &queue(&folded))]);
        let empty = folded.replace("self.items[0] if self.items else None", "next(iter(self.items), None)");
        self.commit(&at, "Ask for the first item without counting", &[(path, &queue(&empty))]);
        let figures = "Queues.\n\nA million items take 412 ms, 63.5 MB and 1,204 calls, on 16 cores at 3.1 GHz.\n";
        self.commit(&at, "Queues as they were measured", &[("README.md", figures)]);
        let named = empty.replace("def clear(self):", "def clear(self):\n        self.cleared = True");
        self.commit(
            &at,
            "A queue knows that it was cleared",
            &[
                (path, &queue(&named)),
                ("src/queues/sort_1.py", "SORT = \"one sort\"\n"),
                ("src/queues/sort_2.py", "\nSORT = \"sort 2\"\n"),
            ],
        );
        at
    }

    /// A project that nothing had to be corrected in: a function in the midst of a file too long to be shown whole, one
    /// with its test, and notes.
    pub(crate) fn settled(&self) -> PathBuf {
        let at = self.start("settled");
        self.commit(&at, "The project", &[("LICENSE", MIT), ("merging.py", ADD)]);
        let more = |from: usize| -> String {
            (from..from + 40)
                .map(|at| format!("\n\ndef part_{at}(items):\n    part = items[{at}:]\n    return part\n"))
                .collect()
        };
        self.commit(&at, "Parts of lists", &[("parts.py", &format!("{}{COMMON}{}", more(0), more(40)))]);
        let test = "from merging import merge\n\n\ndef test_merge():\n    assert merge([1], [2]) == [1, 2]\n";
        let files = [("merging.py", &*format!("{ADD}{MERGE}")), ("tests/test_merging.py", test)];
        self.commit(&at, "Join two sorted lists", &files);
        let mut notes = String::new();
        for note in 0..40 {
            notes.push_str(&format!("Note number {note} about lists.\n"));
            self.commit(&at, &format!("Write down note number {note}"), &[("notes.md", &notes)]);
        }
        at
    }

    /// One file of every language, and files that nobody wrote.
    pub(crate) fn languages(&self) -> PathBuf {
        let at = self.start("languages");
        let generated = format!("// Code generated by a tool. DO NOT EDIT.\n{}", SUMS[3].1);
        let minified = "var a=1;".repeat(200);
        let others = [("web/api.js", &*generated), ("web/all.js", &*minified), ("vendor/sum.js", SUMS[3].1)];
        self.commit(&at, "Add sums in every language", &[&SUMS[..], &others].concat());
        at
    }

    /// A repository with secrets in files and messages, and what they are.
    pub(crate) fn leaky(&self) -> (PathBuf, Vec<String>) {
        let at = self.start("leaky");
        // Put together here, so that no scanner takes this file for a leak.
        let drawn = "q7Rz2LkV9xTbW4nYcE8sHdJ1mGfA0uPo5iXK";
        let token = format!("ghp_{drawn}");
        let password = format!("{}Zz9", &drawn[4..20]);
        let body = format!("{drawn}{drawn}\n{drawn}{drawn}\n{drawn}{drawn}");
        let key = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----");
        let code = |limit: &str| {
            let parts = [("{token}", &*token), ("{password}", &*password), ("{key}", &*key), ("{limit}", limit)];
            parts.iter().fold(CONNECT.to_owned(), |text, (name, value)| text.replace(name, value))
        };
        self.commit(&at, "Initial commit", &[("LICENSE", MIT), ("connect.py", &code("65000"))]);
        Self::write(&at, &[("connect.py", &code("65535"))]);
        let message =
            "Fix ports that are wrongly refused\n\nPorts up to 65535 exist. Ask eve.moss@corp.io, the token is";
        self.commit_by(&at, ("Eve Moss", "eve.moss@corp.io"), &format!("{message} {token}."));
        let rest = vec![token, password, drawn.to_owned(), "eve.moss".to_owned(), "corp.io".to_owned()];
        (at, rest)
    }

    pub(crate) fn gpl(&self) -> PathBuf {
        let at = self.start("gpl");
        let text = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n";
        let code = "def double(number):\n    if number is None:\n        return 0\n    return 2 * number\n";
        self.commit(&at, "Initial commit", &[("COPYING", text), ("double.py", code)]);
        at
    }

    pub(crate) fn unborn(&self) -> PathBuf {
        self.start("unborn")
    }

    /// A commit whose tree has a folder called `..`, and a file whose content a partial clone would have to fetch.
    fn commit_hostile_tree(&self, at: &Path) {
        let good = self.git(at, &["rev-parse", "HEAD:double.py"], b"");
        let lost = self.git(at, &["rev-parse", "HEAD:lost.py"], b"");
        // A tree whose folder is called `..`.
        let bytes = |id: &str| -> Vec<u8> {
            (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).expect("hexadecimal")).collect()
        };
        let entry = |head: &str, id: &str| [head.as_bytes(), b"\0".as_slice(), bytes(id).as_slice()].concat();
        let make =
            |content: &[u8]| self.git(at, &["hash-object", "-t", "tree", "-w", "--literally", "--stdin"], content);
        let inner = make(&entry("100644 outside.py", &good));
        let all =
            [entry("40000 ..", &inner), entry("100644 double.py", &good), entry("100644 lost.py", &lost)].concat();
        let tree = make(&all);
        let author = ["-c", "user.name=x", "-c", "user.email=x@example.com"];
        let commit =
            self.git(at, &[&author[..], &["commit-tree", &tree, "-p", "HEAD", "-m", "Add more"]].concat(), b"");
        self.git(at, &["update-ref", "HEAD", &commit], b"");
        fs::remove_file(at.join(".git/objects").join(&lost[..2]).join(&lost[2..])).expect("the object is there");
    }

    /// Everything that makes git run something or leave its folder, each of which would leave a trace.
    pub(crate) fn hostile(&self) -> (PathBuf, Vec<PathBuf>) {
        let at = self.start("hostile");
        let code = "def double(number):\n    if number is None:\n        return 0\n    return 2 * number\n";
        let attributes = "*.py diff=evil filter=evil\n";
        self.commit(
            &at,
            "Initial commit",
            &[("double.py", code), ("lost.py", "lost = 1\n"), (".gitattributes", attributes)],
        );
        self.commit(&at, "Double more than numbers", &[("double.py", &code.replace("0\n", "1\n"))]);
        self.commit_hostile_tree(&at);

        let traces: Vec<PathBuf> =
            ["program", "hook", "remote"].map(|name| self.path.join(format!("{name}.trace"))).into();
        let run = |trace: &Path| format!("#!/bin/sh\necho ran >> '{}'\ncat\n", trace.display());
        let program = self.path.join("program.sh");
        fs::write(&program, run(&traces[0])).expect("it can be written");
        for hook in ["post-checkout", "pre-auto-gc", "reference-transaction", "post-index-change"] {
            fs::write(at.join(".git/hooks").join(hook), run(&traces[1])).expect("it can be written");
        }
        for path in fs::read_dir(at.join(".git/hooks"))
            .expect("hooks")
            .map(|entry| entry.expect("a hook").path())
            .chain([program.clone()])
        {
            executable(&path);
        }
        let program = program.display().to_string();
        let program = program.as_str();
        let remote = format!("ext::sh -c \"echo ran >> '{}'\"", traces[2].display());
        let settings = [
            ("core.fsmonitor", program),
            ("core.pager", program),
            ("core.editor", program),
            ("diff.external", program),
            ("diff.evil.textconv", program),
            ("diff.evil.command", program),
            ("filter.evil.clean", program),
            ("filter.evil.smudge", program),
            ("gpg.program", program),
            ("log.showSignature", "true"),
            ("protocol.ext.allow", "always"),
            ("remote.origin.url", remote.as_str()),
            ("remote.origin.promisor", "true"),
            ("core.repositoryFormatVersion", "1"),
            ("extensions.partialClone", "origin"),
        ];
        let config: String = settings.iter().map(|(name, value)| section(name, value)).collect();
        let mut file = fs::OpenOptions::new().append(true).open(at.join(".git/config")).expect("a configuration");
        file.write_all(config.as_bytes()).expect("it can be written");
        (at, traces)
    }
}

/// A setting as the file has it; git itself would run things while it sets them one by one.
fn section(name: &str, value: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    let key = parts.pop().expect("a key");
    let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
    match parts.as_slice() {
        [section] => format!("[{section}]\n\t{key} = \"{quoted}\"\n"),
        [section, inner] => format!("[{section} \"{inner}\"]\n\t{key} = \"{quoted}\"\n"),
        _ => panic!("{name} is no setting"),
    }
}

#[cfg(unix)]
fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[cfg(not(unix))]
fn executable(_: &Path) {}
