//! Recipes: what is read, and what is refused with its place.

use super::*;
use compress::StoredFormat;

fn parse(text: &str) -> Result<Recipe> {
    let recipe = Recipe::parse(text, Path::new("recipes/x.toml"), "x".into())?;
    recipe.check()?;
    Ok(recipe)
}

fn refusal(text: &str) -> String {
    let error = parse(text).map(|_| ()).expect_err("the recipe is wrong");
    let hints = error.chain().filter_map(|cause| cause.downcast_ref::<Problem>()).map(Problem::hint);
    format!("{error:#}\n{}", hints.collect::<String>())
}

const GOOD: &str = r#"
title = "A tiny model"

[[stage]]
kind = "pretrain"
name = "base"
config = "base.config.json"
[stage.train]
steps = 10
[[stage.data.source]]
type = "kata"
episodes = 100

[[stage]]
kind = "sft"
[stage.train]
epochs = 2.0
[[stage.data.source]]
type = "kata"

[[stage]]
kind = "prune"
keep = 8
[[stage.data.source]]
type = "kata"

[[stage]]
kind = "quantize"
formats.experts = "mxfp4"

[[stage]]
kind = "evaluate"
teacher = "sft"
measure.count = 20
"#;

#[test]
fn stages_come_in_order_with_names_and_defaults() {
    let recipe = parse(GOOD).expect("the recipe is good");
    let names: Vec<&str> = recipe.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["base", "sft", "prune", "quantize", "evaluate"]);
    assert_eq!(recipe.title, "A tiny model");
    let Work::Prune(prune) = &recipe.stages[2].work else { panic!("the third stage prunes") };
    assert_eq!((prune.keep, prune.tokens, prune.save), (Some(8), 100_000, SaveFormat::Bf16));
    assert_eq!(prune.plan(), compress::PlanRecipe::keeping(8));
    let Work::Quantize(quantize) = &recipe.stages[3].work else { panic!("the fourth stage quantizes") };
    assert_eq!(quantize.formats.experts, StoredFormat::Mxfp4);
}

#[test]
fn a_name_does_not_change_what_a_stage_does() {
    let hash = |recipe: &Recipe| recipe.stages[1].work.identity().expect("plain data").to_string();
    let named = GOOD.replace("kind = \"sft\"", "kind = \"sft\"\nname = \"tuned\"\nfrom = \"base\"");
    let longer = GOOD.replace("epochs = 2.0", "epochs = 3.0");
    let (one, two) = (parse(GOOD).expect("good"), parse(&named).expect("good"));
    assert_eq!(two.stages[1].name, "tuned");
    assert_eq!(hash(&one), hash(&two));
    assert_ne!(hash(&one), hash(&parse(&longer).expect("good")));
    let watched = GOOD.replace("epochs = 2.0", "epochs = 2.0\nsave_every = 10\nevaluate_every = 5\ntasks_every = 5");
    assert_eq!(hash(&one), hash(&parse(&watched).expect("good")), "looking more often makes the same");
}

#[test]
fn a_wrong_key_is_named_with_its_file_and_line() {
    let line = |text: &str, needle: &str| text.lines().position(|line| line.contains(needle)).expect("there") + 1;
    let wrong = GOOD.replace("steps = 10", "steps = 10\nlearing_rate = 0.1");
    let error = refusal(&wrong);
    assert!(error.contains(&format!("recipes/x.toml:{}: ", line(&wrong, "learing_rate"))), "{error}");
    assert!(error.contains("unknown field `learing_rate`") && error.contains("did you mean learning_rate?"), "{error}");

    let wrong = GOOD.replace("keep = 8", "keep = \"eight\"");
    let error = refusal(&wrong);
    assert!(error.contains(&format!("recipes/x.toml:{}: ", line(&wrong, "eight"))), "{error}");

    let wrong = GOOD.replace("title =", "titel =");
    assert!(refusal(&wrong).contains("recipes/x.toml:2: unknown field `titel`"));
    let wrong = GOOD.replace("episodes = 100", "episode = 100");
    assert!(refusal(&wrong).contains("unknown field `episode`"), "{}", refusal(&wrong));
    assert!(refusal("stage = 3").contains("recipes/x.toml:1"));
    assert!(refusal("[[stage]\nkind").contains("recipes/x.toml:1"));
}

#[test]
fn what_types_cannot_say_is_checked_too() {
    let cases = [
        ("", "there is no stage"),
        ("[[stage]]\nname = \"x\"", "has no kind"),
        ("[[stage]]\nkind = \"trian\"", "there is no kind of stage \"trian\""),
        ("[[stage]]\nkind = \"quantize\"\nfrom = \"a\"\n[[stage]]\nkind = \"quantize\"", "two stages are called"),
        ("[[stage]]\nkind = \"quantize\"\nname = \"../x\"\nfrom = \"a\"", "cannot be the name"),
        ("[[stage]]\nkind = \"sft\"\nfrom = \"a\"\n[stage.train]\n[stage.data]", "neither steps nor epochs"),
        ("[[stage]]\nkind = \"sft\"\nfrom = \"a\"\n[stage.train]\nsteps = 1\n[stage.data]", "no source"),
    ];
    for (text, wanted) in cases {
        assert!(refusal(text).contains(wanted), "{text:?} gave {}", refusal(text));
    }
}

#[test]
fn the_shipped_recipes_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("there are recipes") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Recipe::read(&path).unwrap_or_else(|error| panic!("{error:#}"));
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

#[test]
fn pruning_takes_a_plan_and_a_way_of_merging() {
    let of = |tables: &str| {
        parse(&GOOD.replace("keep = 8\n", &format!("{tables}\n"))).map(|recipe| {
            let Work::Prune(prune) = &recipe.stages[2].work else { panic!("the third stage prunes") };
            (prune.plan(), prune.merge.clone())
        })
    };
    let (plan, merge) = of("merge.refit = \"members\"\nplan.total = 40\nplan.budget = \"greedy\"").expect("it is good");
    assert_eq!((plan.total, plan.keep, plan.merge), (Some(40), None, true));
    assert_eq!(merge.expect("it is said").refit, compress::Refit::Members);
    let refused = |tables: &str| format!("{:#}", of(tables).map(|_| ()).expect_err(tables));
    assert!(refused("").contains("say either keep"), "{}", refused(""));
    let (plan, _) = of("keep = 8\nplan.budget = \"search\"\nplan.search.steps = 40").expect("it is good");
    assert_eq!((plan.budget, plan.search.steps, plan.search.masks), (compress::Budget::Search, 40, 2));
    assert!(refused("keep = 8\nplan.search.masks = 0").contains("masks of the search is 0"));
    assert!(refused("keep = 8\nplan.total = 40").contains("say either keep"));
    assert!(refused("keep = 8\nplan.salience = \"reap\"").contains("salience"));
    assert!(refused("keep = 8\nmerge.energy = 2.0").contains("energy is 2, want a share"));
}
