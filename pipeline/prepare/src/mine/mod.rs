//! Mining: a person's own repositories become training episodes of five kinds, one file of chat lines for each.
//!
//! `git` and `history` read; `licence`, `path` and `secret` keep out what must not be learnt; `change` makes work of a
//! commit; `workspace` is the repository that tools act on. Then one file for each kind: `replay`, `debugging` (with
//! `mutant` and what tells of one), `review` (with `planted`), `fill`, `reasoning`. What a tool is said to have
//! answered has been computed from the tree, what an edit is said to do has been done and compared, and what is not
//! known (how a test went) is not said.

mod absence;
mod bound;
mod change;
mod connective;
mod debugging;
mod enact;
mod episode;
mod evidence;
mod excerpt;
mod fault;
mod fill;
mod function;
mod git;
mod history;
mod licence;
mod lines;
mod message;
mod mutant;
mod number;
mod output;
mod path;
mod planted;
mod reasoning;
mod replay;
mod review;
mod secret;
#[cfg(test)]
mod secret_tests;
mod syntax;
mod testing;
mod workspace;
mod yields;

pub use episode::MinedKind;
pub use yields::{MineReport, RepositoryReport, Yield};

use crate::code::is_copyleft;
use crate::dataset::Watch;
use crate::error::PrepareError;
use change::{Work, work};
use episode::Episode;
use function::{Function, functions};
use git::{Repository, Sort};
use history::{Changed, History};
use numeric::Rng;
use output::Output;
use path::{Standing, is_test, standing};
use review::Reviewer;
use std::path::{Path, PathBuf};
use syntax::{Language, Syntax};
use text::{FillOrder, Renderer};
use workspace::{Cleaning, Workspace};

/// Faults put into one file, at most, and how many of the functions that could hold one get it.
const MUTANTS_MAX: usize = 4;
const MUTANT_SHARE: f64 = 0.34;

/// What to mine, and within which limits.
#[derive(Debug, Clone, PartialEq)]
pub struct MineRecipe {
    pub repositories: Vec<PathBuf>,
    /// All of them if none is named.
    pub kinds: Vec<MinedKind>,
    /// The newest commits of each history that are looked at.
    pub commits_max: usize,
    /// Files of one change.
    pub files_max: usize,
    /// Lines that one change removes and adds.
    pub diff_lines_max: usize,
    pub file_bytes_max: usize,
    /// Bytes of text in one episode.
    pub episode_bytes_max: usize,
    /// Tokens of one episode, where a model counts them.
    pub tokens_max: usize,
    /// The largest share of reviews that approve.
    pub approvals_max: f64,
    /// The largest share of the commits that nothing corrected which are reviewed with a fault put into them.
    pub review_mutants_max: f64,
    /// Take code under any licence, or none: for what is one's own.
    pub any_licence: bool,
    /// Write `.jsonl.gz`.
    pub is_packed: bool,
    pub seed: u64,
}

impl Default for MineRecipe {
    fn default() -> Self {
        Self {
            repositories: Vec::new(),
            kinds: Vec::new(),
            commits_max: 20_000,
            files_max: 6,
            diff_lines_max: 200,
            file_bytes_max: 200_000,
            episode_bytes_max: 64_000,
            tokens_max: 16_384,
            approvals_max: 0.3,
            review_mutants_max: 0.5,
            any_licence: false,
            is_packed: false,
            seed: 0,
        }
    }
}

impl MineRecipe {
    fn check(&self) -> Result<(), PrepareError> {
        let wrong = |what: &str| Err(PrepareError::Mining { what: what.to_owned() });
        if self.repositories.is_empty() {
            return wrong("name at least one repository");
        }
        if !(0.0..1.0).contains(&self.approvals_max) {
            return wrong("the share of approvals must lie in [0, 1)");
        }
        if !(0.0..=1.0).contains(&self.review_mutants_max) {
            return wrong("the share of changes reviewed with a fault put into them must lie in [0, 1]");
        }
        if [self.commits_max, self.files_max, self.diff_lines_max, self.file_bytes_max, self.episode_bytes_max]
            .contains(&0)
        {
            return wrong("limits must be at least 1");
        }
        Ok(())
    }

    fn wanted(&self) -> Vec<MinedKind> {
        MinedKind::ALL.into_iter().filter(|kind| self.kinds.is_empty() || self.kinds.contains(kind)).collect()
    }
}

/// One repository on the table.
struct Desk<'a> {
    recipe: &'a MineRecipe,
    repository: Repository,
    cleaning: Cleaning,
    /// The newest commit.
    commit: String,
}

impl Desk<'_> {
    fn workspace(&mut self, tree: &str) -> Workspace<'_> {
        Workspace::new(&mut self.repository, &mut self.cleaning, tree, self.recipe.file_bytes_max)
    }
}

/// Mines all repositories into one file a kind in the folder `out`. The same repositories, recipe and tokenizer give
/// the same files. With a `renderer`, episodes that are too long for `tokens_max` are left out.
pub fn mine(
    recipe: &MineRecipe,
    out: &Path,
    renderer: Option<&Renderer>,
    watch: &dyn Watch,
) -> Result<MineReport, PrepareError> {
    recipe.check()?;
    let kinds = recipe.wanted();
    let mut report = MineReport::default();
    for &kind in &kinds {
        report.tally(kind);
    }
    let output = Output::create(out, &kinds, recipe.is_packed)?;
    let mut miner = Miner { recipe, renderer, watch, kinds, output, report };
    for path in &recipe.repositories {
        miner.repository(path)?;
    }
    let Miner { output, mut report, .. } = miner;
    if report.repositories.iter().all(|repository| repository.skipped.is_some()) {
        let whys = report
            .repositories
            .iter()
            .filter_map(|one| Some(format!("{}: {}", one.path.display(), one.skipped.as_ref()?)));
        let what = whys.collect::<Vec<_>>().join("; ");
        return Err(PrepareError::Mining { what });
    }
    report.written = output.publish()?;
    Ok(report)
}

/// The work on all repositories.
struct Miner<'a> {
    recipe: &'a MineRecipe,
    renderer: Option<&'a Renderer<'a>>,
    watch: &'a dyn Watch,
    kinds: Vec<MinedKind>,
    output: Output,
    report: MineReport,
}

impl Miner<'_> {
    fn wants(&self, kind: MinedKind) -> bool {
        self.kinds.contains(&kind)
    }

    fn repository(&mut self, path: &Path) -> Result<(), PrepareError> {
        self.watch.at("opening the repository", 0, 1);
        let mut repository = Repository::open(path)?;
        let head = repository.head()?;
        let licence = licence::licence(&mut repository, &head.tree)?;
        let mut about = RepositoryReport {
            path: path.to_owned(),
            name: repository.name.clone(),
            commit: head.id.clone(),
            licence: licence.expression.clone(),
            ..RepositoryReport::default()
        };
        if !licence.is_permissive && !self.recipe.any_licence {
            let found = if licence.expression.is_empty() { "no licence was found" } else { &licence.expression };
            about.skipped = Some(format!("{found}; if the code is yours to use, give --any-licence"));
            self.report.repositories.push(about);
            return Ok(());
        }
        let (commits, authors) = repository.survey(self.recipe.commits_max)?;
        about.commits = commits;
        let cleaning = Cleaning::of(authors);
        let mut desk = Desk { recipe: self.recipe, repository, cleaning, commit: head.id };
        if self.kinds.iter().any(|&kind| kind != MinedKind::Fim) {
            self.history(&mut desk, commits)?;
        }
        about.files = self.files(&mut desk, &head.tree)?;
        for (sort, count) in &desk.cleaning.found {
            *self.report.scrubbed.entry(sort).or_default() += count;
        }
        self.report.repositories.push(about);
        Ok(())
    }

    /// Everything that comes from commits.
    fn history(&mut self, desk: &mut Desk, commits: usize) -> Result<(), PrepareError> {
        let what = format!("{}: commits", desk.repository.name);
        let mut history = History::of(&desk.repository, self.recipe.commits_max)?;
        let mut reviewer = Reviewer::default();
        let mut done = 0;
        while let Some(changed) = history.next_commit()? {
            self.commit(desk, &changed, &mut reviewer)?;
            done += 1;
            self.watch.at(&what, done, commits.max(done));
        }
        if self.wants(MinedKind::Review) {
            let reviews = reviewer.finish(desk, self.report.tally(MinedKind::Review))?;
            reviews.into_iter().try_for_each(|episode| self.keep(desk, Ok(episode), MinedKind::Review))?;
        }
        Ok(())
    }

    fn commit(&mut self, desk: &mut Desk, changed: &Changed, reviewer: &mut Reviewer) -> Result<(), PrepareError> {
        let mut rng = Rng::new(self.recipe.seed).fork(label(&changed.id));
        let work = work(desk, changed)?;
        if self.wants(MinedKind::Review) {
            let tally = self.report.tally(MinedKind::Review);
            let reviews = reviewer.observe(desk, changed, work.as_ref().ok(), tally, &mut rng)?;
            reviews.into_iter().try_for_each(|episode| self.keep(desk, Ok(episode), MinedKind::Review))?;
        }
        let work = match work {
            Ok(work) => work,
            Err(why) if self.wants(MinedKind::Replay) => return self.candidate(desk, Err(why), MinedKind::Replay),
            Err(_) => return Ok(()),
        };
        self.enact(desk, &work, &mut rng)?;
        if self.wants(MinedKind::Reasoning) && !work.words.body.is_empty() {
            self.candidate(desk, reasoning::from_commit(&work, &mut rng), MinedKind::Reasoning)?;
        }
        Ok(())
    }

    /// A commit is a replay, or debugging if it is a small fix; never both.
    fn enact(&mut self, desk: &mut Desk, work: &Work, rng: &mut Rng) -> Result<(), PrepareError> {
        let kind = match self.wants(MinedKind::Debugging) && debugging::is_fix(work) {
            true => MinedKind::Debugging,
            false => MinedKind::Replay,
        };
        if !self.wants(kind) {
            return Ok(());
        }
        let episode = match (work.words.poor(), kind) {
            (Some(why), _) => Err(why),
            (None, MinedKind::Debugging) => debugging::from_fix(desk, work, rng)?,
            (None, _) => replay::replay(desk, work, rng)?,
        };
        self.candidate(desk, episode, kind)
    }

    /// Everything that comes from the present tree. Gives the number of files taken apart.
    fn files(&mut self, desk: &mut Desk, tree: &str) -> Result<usize, PrepareError> {
        if !self.kinds.iter().any(|kind| [MinedKind::Debugging, MinedKind::Fim, MinedKind::Reasoning].contains(kind)) {
            return Ok(0);
        }
        let what = format!("{}: files", desk.repository.name);
        let files = code_files(&mut desk.repository, tree)?;
        let mut taken = 0;
        for (index, (path, id)) in files.iter().enumerate() {
            self.watch.at(&what, index, files.len());
            let Ok(text) = desk.cleaning.text(&mut desk.repository, id, self.recipe.file_bytes_max)? else { continue };
            if !self.recipe.any_licence && is_copyleft(&text) {
                continue;
            }
            let Some(syntax) = Syntax::of(path, &text) else { continue };
            taken += 1;
            self.file(desk, tree, path, &syntax)?;
        }
        Ok(taken)
    }

    fn file(&mut self, desk: &mut Desk, tree: &str, path: &str, syntax: &Syntax) -> Result<(), PrepareError> {
        let mut rng = Rng::new(self.recipe.seed).fork(label(path));
        if self.wants(MinedKind::Fim) {
            for episode in fill::holes(desk, path, syntax, &mut rng) {
                self.candidate(desk, Ok(episode), MinedKind::Fim)?;
            }
        }
        if is_test(path) {
            return Ok(());
        }
        let mut mutants = 0;
        for function in functions(syntax) {
            if self.wants(MinedKind::Debugging)
                && debugging::is_fit(&function)
                && mutants < MUTANTS_MAX
                && rng.chance(MUTANT_SHARE)
            {
                mutants += 1;
                let episode = debugging::from_mutant(desk, tree, (path, syntax), &function, &mut rng)?;
                self.candidate(desk, episode, MinedKind::Debugging)?;
            }
            if self.wants(MinedKind::Reasoning) && !function.is_test {
                self.think(desk, (path, syntax), &function, &mut rng)?;
            }
        }
        Ok(())
    }

    fn think(
        &mut self,
        desk: &mut Desk,
        place: (&str, &Syntax),
        function: &Function,
        rng: &mut Rng,
    ) -> Result<(), PrepareError> {
        if function.documentation.is_some() {
            let episode = reasoning::from_function(desk, place, function, rng);
            self.candidate(desk, episode, MinedKind::Reasoning)?;
        }
        for episode in reasoning::from_remarks(desk, place, function, rng) {
            self.candidate(desk, Ok(episode), MinedKind::Reasoning)?;
        }
        Ok(())
    }

    fn candidate(
        &mut self,
        desk: &Desk,
        episode: Result<Episode, &'static str>,
        kind: MinedKind,
    ) -> Result<(), PrepareError> {
        self.report.tally(kind).candidates += 1;
        self.keep(desk, episode, kind)
    }

    /// Writes an episode, if it is one and fits.
    fn keep(
        &mut self,
        desk: &Desk,
        episode: Result<Episode, &'static str>,
        kind: MinedKind,
    ) -> Result<(), PrepareError> {
        let (renderer, recipe) = (self.renderer, self.recipe);
        let tally = self.report.tally(kind);
        let fits = episode.and_then(|episode| match episode.bytes() > recipe.episode_bytes_max {
            true => Err("too many bytes"),
            false => Ok(episode),
        });
        let episode = match fits {
            Ok(episode) => episode,
            Err(why) => {
                tally.leave_out(why);
                return Ok(());
            }
        };
        if let Some(renderer) = renderer {
            let pieces = renderer.document(&episode.document, FillOrder::PrefixFirst)?;
            let tokens: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
            if tokens > recipe.tokens_max {
                tally.leave_out("too many tokens");
                return Ok(());
            }
            *tally.tokens.get_or_insert(0) += tokens;
        }
        tally.kept += 1;
        tally.bytes += episode.bytes();
        *tally.forms.entry(episode.form).or_default() += 1;
        self.output.write(&episode, &desk.repository.name)
    }
}

/// A label for the random numbers of a commit or a path, so that they do not depend on what else is mined.
fn label(name: &str) -> u64 {
    // FNV-1a.
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Every file of a tree that people wrote in a language that is known, by path, with its object.
fn code_files(repository: &mut Repository, tree: &str) -> Result<Vec<(String, String)>, PrepareError> {
    let (mut files, mut open) = (Vec::new(), vec![(String::new(), tree.to_owned())]);
    while let Some((folder, id)) = open.pop() {
        for entry in repository.entries(&id)? {
            let path = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            match entry.sort {
                Sort::Folder => open.push((path, entry.id)),
                Sort::File if Language::of_path(&path).is_some() && standing(&path) == Standing::Written => {
                    files.push((path, entry.id));
                }
                Sort::File | Sort::Other => {}
            }
        }
    }
    files.sort();
    Ok(files)
}
