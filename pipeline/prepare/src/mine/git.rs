//! Reading a repository that nobody vouches for, through the plumbing of the `git` program.
//!
//! Three things keep a hostile repository harmless. Nothing is ever checked out: objects go through pipes into memory,
//! so a path in a tree is never a path on the disk. Nothing that a repository configures is run: hooks, file system
//! monitors, diff drivers and filters are off or not reached by plumbing, and the person's own configuration is not
//! read either. Nothing reaches a network: a partial clone does not fetch what it lacks.

use crate::error::PrepareError;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Settings of the command line come after those of the repository, so they hold.
const SETTINGS: [&str; 7] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "protocol.allow=never",
    "log.showSignature=false",
    // The person named this repository, and nothing in it is run, so who owns it does not matter.
    "safe.directory=*",
    "gc.auto=0",
];

/// What the environment could redirect.
const VARIABLES: [&str; 16] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_TRACE",
];

/// Trees and messages beyond this are nobody's work.
const TREE_BYTES_MAX: usize = 4 << 20;
const COMMIT_BYTES_MAX: usize = 1 << 20;
/// Folders remembered, together.
const CACHE_BYTES_MAX: usize = 32 << 20;

/// A repository, and the two processes that answer for its objects.
pub(super) struct Repository {
    /// Its folder's name: what episodes call it.
    pub(super) name: String,
    path: PathBuf,
    sizes: Asked,
    contents: Asked,
    cache: HashMap<String, Vec<u8>>,
    cached_bytes: usize,
}

/// A commit as its object tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) id: String,
    pub(super) tree: String,
    pub(super) parents: Vec<String>,
    pub(super) author: String,
    pub(super) email: String,
    pub(super) message: String,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) sort: Sort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    File,
    Folder,
    /// A link or another repository.
    Other,
}

impl Sort {
    pub(super) fn of_mode(mode: &str) -> Self {
        match mode {
            "100644" | "100755" | "100664" => Self::File,
            "40000" | "040000" => Self::Folder,
            _ => Self::Other,
        }
    }
}

/// `git`, with everything off that could run something or leave this machine.
pub(super) fn git(path: &Path) -> Command {
    let mut command = Command::new("git");
    command.args(["--no-pager", "--no-replace-objects", "--no-optional-locks"]);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.arg("-C").arg(path);
    // The folder itself is meant, not a repository that it may lie in.
    command.env("GIT_CEILING_DIRECTORIES", path.parent().unwrap_or(path));
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

/// A failure of `git` on a repository.
pub(super) fn failure(path: &Path, what: impl Into<String>) -> PrepareError {
    PrepareError::Git { path: path.to_owned(), what: what.into() }
}

/// Runs one short command and gives what it printed.
fn answer(path: &Path, arguments: &[&str]) -> Result<String, PrepareError> {
    let output = git(path).args(arguments).output().map_err(|error| not_started(path, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failure(path, said.trim().lines().next().unwrap_or("git says nothing more").to_owned()))
}

pub(super) fn not_started(path: &Path, error: &io::Error) -> PrepareError {
    failure(path, format!("the program `git` cannot be started ({error}); install git 2.20 or later"))
}

impl Repository {
    pub(super) fn open(path: &Path) -> Result<Self, PrepareError> {
        if !path.is_dir() {
            return Err(failure(path, "it is not a folder"));
        }
        let full = path.canonicalize().map_err(|error| failure(path, error.to_string()))?;
        let name = full.file_name().map_or_else(|| "repository".to_owned(), |name| name.to_string_lossy().into_owned());
        answer(&full, &["rev-parse", "--git-dir"])?;
        if answer(&full, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).is_err() {
            return Err(failure(path, "it has no commit yet"));
        }
        let sizes = Asked::start(&full, "--batch-check")?;
        let contents = Asked::start(&full, "--batch")?;
        let name = name.strip_suffix(".git").unwrap_or(&name).to_owned();
        Ok(Self { name, path: full, sizes, contents, cache: HashMap::new(), cached_bytes: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many commits a history has, merges left out, and the addresses of those who made them.
    pub(super) fn survey(&self, commits_max: usize) -> Result<(usize, BTreeSet<String>), PrepareError> {
        let most = format!("--max-count={commits_max}");
        let mut process = git(&self.path)
            .args(["rev-list", "--no-merges", "--format=%ae%n%ce", &most, "HEAD"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| not_started(&self.path, &error))?;
        let fail = |error: io::Error| failure(&self.path, format!("git stopped answering: {error}"));
        let (mut commits, mut addresses) = (0, BTreeSet::new());
        for line in BufReader::new(process.stdout.take().expect("it was piped")).split(b'\n') {
            let line = String::from_utf8_lossy(&line.map_err(fail)?).trim().to_lowercase();
            if line.starts_with("commit ") {
                commits += 1;
            } else if line.contains('@') {
                addresses.insert(line);
            }
        }
        match process.wait().map_err(fail)?.success() {
            true => Ok((commits, addresses)),
            false => Err(failure(&self.path, "its history cannot be read; `git fsck` says more")),
        }
    }

    /// The commit that a name means, or none where its object is too large to be a person's.
    pub(super) fn commit(&mut self, name: &str) -> Result<Option<Commit>, PrepareError> {
        let Some((id, bytes)) = self.read(name, COMMIT_BYTES_MAX)? else { return Ok(None) };
        Ok(parse_commit(&id, &String::from_utf8_lossy(&bytes)))
    }

    /// The commit that is checked out.
    pub(super) fn head(&mut self) -> Result<Commit, PrepareError> {
        let path = self.path.clone();
        self.commit("HEAD^{commit}")?.ok_or_else(|| failure(&path, "its newest commit cannot be read"))
    }

    /// The entries of a folder by its object, in git's order.
    pub(super) fn entries(&mut self, tree: &str) -> Result<Vec<Entry>, PrepareError> {
        let id_bytes = tree.len() / 2;
        let bytes = self.cached(tree, TREE_BYTES_MAX)?;
        Ok(bytes.map(|bytes| parse_tree(bytes, id_bytes)).unwrap_or_default())
    }

    /// The entries of the folder `path` below a tree; none where there is no such folder.
    pub(super) fn folder(&mut self, tree: &str, path: &str) -> Result<Option<Vec<Entry>>, PrepareError> {
        let mut entries = self.entries(tree)?;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let Some(next) = entries.iter().find(|entry| entry.name == part && entry.sort == Sort::Folder) else {
                return Ok(None);
            };
            let id = next.id.clone();
            entries = self.entries(&id)?;
        }
        Ok(Some(entries))
    }

    /// The content of a file by its object; none where it is larger than that or not there.
    pub(super) fn blob(&mut self, id: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, PrepareError> {
        Ok(self.read(id, bytes_max)?.map(|(_, bytes)| bytes))
    }

    fn cached(&mut self, id: &str, bytes_max: usize) -> Result<Option<&[u8]>, PrepareError> {
        if !self.cache.contains_key(id) {
            let Some((_, bytes)) = self.read(id, bytes_max)? else { return Ok(None) };
            if self.cached_bytes + bytes.len() > CACHE_BYTES_MAX {
                self.cache.clear();
                self.cached_bytes = 0;
            }
            self.cached_bytes += bytes.len();
            self.cache.insert(id.to_owned(), bytes);
        }
        Ok(self.cache.get(id).map(Vec::as_slice).filter(|bytes| bytes.len() <= bytes_max))
    }

    /// The object that a name means, with its full id. Its size is asked first: nothing large is ever read.
    fn read(&mut self, name: &str, bytes_max: usize) -> Result<Option<(String, Vec<u8>)>, PrepareError> {
        let fail = |error: io::Error| failure(&self.path, format!("git stopped answering: {error}"));
        let Some((_, bytes)) = self.sizes.header(name).map_err(fail)? else { return Ok(None) };
        if bytes > bytes_max {
            return Ok(None);
        }
        let Some((id, bytes)) = self.contents.header(name).map_err(fail)? else { return Ok(None) };
        let content = self.contents.content(bytes).map_err(fail)?;
        Ok(Some((id, content)))
    }
}

/// A `git cat-file` that waits for names.
struct Asked {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Asked {
    fn start(path: &Path, mode: &str) -> Result<Self, PrepareError> {
        let mut process = git(path)
            .args(["cat-file", mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| not_started(path, &error))?;
        let questions = process.stdin.take().expect("it was piped");
        let answers = BufReader::new(process.stdout.take().expect("it was piped"));
        Ok(Self { process, questions, answers })
    }

    /// The id and the size of an object; none where there is none of that name.
    fn header(&mut self, name: &str) -> io::Result<Option<(String, usize)>> {
        assert!(!name.contains('\n'), "one name is one line");
        self.questions.write_all(format!("{name}\n").as_bytes())?;
        self.questions.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // `id kind size`, or `name missing`, or `name ambiguous`.
        let mut words = line.split_ascii_whitespace();
        let (id, size) = (words.next(), words.nth(1).and_then(|size| size.parse().ok()));
        Ok(id.map(str::to_owned).zip(size))
    }

    fn content(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; bytes + 1];
        self.answers.read_exact(&mut content)?;
        content.pop();
        Ok(content)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // It would end by itself once its input closes, but nobody should have to wait for that.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn parse_commit(id: &str, text: &str) -> Option<Commit> {
    let (head, message) = text.split_once("\n\n").unwrap_or((text, ""));
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let parents = head.lines().filter_map(|line| line.strip_prefix("parent ")).map(str::to_owned).collect();
    let author = field("author")?;
    let (name, rest) = author.split_once('<').unwrap_or((author, ""));
    let email = rest.split('>').next().unwrap_or_default();
    Some(Commit {
        id: id.to_owned(),
        tree: field("tree")?.to_owned(),
        parents,
        author: name.trim().to_owned(),
        email: email.trim().to_owned(),
        message: message.to_owned(),
    })
}

/// Entries are `mode name\0id`. Names that are no text, or that only a disk would understand, are left out.
fn parse_tree(mut bytes: &[u8], id_bytes: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
        let Some((id, rest)) = rest.split_at_checked(id_bytes) else { break };
        bytes = rest;
        let Some((mode, name)) = std::str::from_utf8(head).ok().and_then(|head| head.split_once(' ')) else {
            continue;
        };
        if is_plain_name(name) {
            let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
            entries.push(Entry { name: name.to_owned(), id, sort: Sort::of_mode(mode) });
        }
    }
    entries
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/') && !name.chars().any(char::is_control)
}

/// Whether every part of a path is a name that people give.
pub(super) fn is_plain_path(path: &str) -> bool {
    path.split('/').all(is_plain_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read_with_a_signature_in_between() {
        let text = "tree aa\nparent bb\nparent cc\nauthor A B <a@b.c> 1 +0000\ncommitter X <x@y.z> 2 +0000\n\
                    gpgsig -----BEGIN\n tree dd\n -----END\n\nSubject\n\nBody\n";
        let commit = parse_commit("ee", text).expect("it is sound");
        assert_eq!((commit.tree.as_str(), commit.author.as_str(), commit.email.as_str()), ("aa", "A B", "a@b.c"));
        assert_eq!((commit.parents.len(), commit.message.as_str()), (2, "Subject\n\nBody\n"));
        assert_eq!(parse_commit("ee", "no commit at all"), None);
    }

    #[test]
    fn a_tree_is_read_without_names_that_lead_elsewhere() {
        let mut bytes = Vec::new();
        for (mode, name) in [("100644", "a b.rs"), ("40000", ".."), ("120000", "link"), ("100644", "x\ny")] {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend_from_slice(&[0xAB; 20]);
        }
        let entries = parse_tree(&bytes, 20);
        let found: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.sort)).collect();
        assert_eq!(found, [("a b.rs", Sort::File), ("link", Sort::Other)]);
        assert_eq!(entries[0].id, "ab".repeat(20));
        // Cut off in the middle of an id.
        assert_eq!(parse_tree(&bytes[..15], 20), []);
        assert!(is_plain_path("a/b c.rs") && !is_plain_path("a/../b") && !is_plain_path("/etc/passwd"));
    }
}
