//! Models that are written while they are read: the same as in memory, whatever happens on the way.

mod support;

use compress::{
    Calibration, CompressError, ExpertRewrite, LayerPlan, ObserveOptions, Plan, PlanRecipe, QuantizeRecipe, observe,
    prune, prune_mixture, quantize, rewrite_experts,
};
use models::{Config, LayerStream, Layers, Loading, Model, Rewrite, RewriteStep, rewrite_model};
use numeric::Format;
use std::path::Path;
use support::{Folder, LENGTHS, open, oracle, same, tokens};

/// A plan with another number of experts in each layer.
fn plan(model: &Model) -> Plan {
    let tokens = tokens();
    let calibration = [Calibration { tokens: &tokens, lengths: &LENGTHS }];
    let options = ObserveOptions::default();
    let statistics = observe(Layers::Resident(model), &calibration, &options, None, &mut |_| true).expect("observed");
    let recipe = PlanRecipe { keep_super_experts: false, ..PlanRecipe::keeping(4) };
    let mut plan = Plan::decide(model, &statistics, &recipe, None).expect("four of six or eight");
    let keep = |layer: &mut LayerPlan, keep: &[usize]| {
        let has = layer.saliency.len();
        layer.keep = keep.to_vec();
        layer.drop = (0..has).filter(|expert| !keep.contains(expert)).collect();
    };
    keep(&mut plan.layers[0], &[1, 2, 5]);
    let last = plan.layers.last_mut().expect("a mixture");
    let all: Vec<usize> = (0..last.saliency.len()).collect();
    keep(last, &all);
    plan
}

fn counts(config: &Config, plan: &Plan) -> Vec<usize> {
    let mut counts = vec![0; config.layers.len()];
    plan.layers.iter().for_each(|layer| counts[layer.layer] = layer.keep.len());
    counts
}

fn pruned(
    stream: &LayerStream,
    plan: &Plan,
    out: &Path,
    recipe: Option<&QuantizeRecipe>,
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<(), CompressError> {
    let outline = stream.outline();
    let expert_counts = counts(&outline.config, plan);
    let quantization = recipe.map(QuantizeRecipe::quantization);
    let job = ExpertRewrite {
        from: stream,
        out,
        expert_counts: &expert_counts,
        key: "a plan",
        plain: Format::Bf16,
        quantization,
    };
    let mut experts = |index: usize, mut moe| {
        let planned = plan.layers.iter().find(|layer| layer.layer == index).expect("every mixture is planned");
        prune_mixture(&mut moe, planned)?;
        Ok(moe)
    };
    rewrite_experts(&job, &mut experts, watch)
}

#[test]
fn a_streamed_model_is_the_one_made_in_memory() {
    for case in ["qwen3_moe", "qwen3_next", "qwen3_next_odd"] {
        for quantized in [false, true] {
            let folder = Folder::new(&format!("same-{case}-{quantized}"));
            let (wanted, found) = (folder.path().join("wanted"), folder.path().join("found"));
            let mut model = open(case);
            let plan = plan(&model);
            prune(&mut model, &plan).expect("the plan fits");
            let recipe = quantized.then(QuantizeRecipe::default);
            if let Some(recipe) = &recipe {
                quantize(&mut model, recipe).expect("finite weights");
            }
            model.save(&wanted, Format::Bf16).expect("it saves");
            let stream = LayerStream::open_plain(&oracle(case)).expect("it opens");
            let mut steps = Vec::new();
            pruned(&stream, &plan, &found, recipe.as_ref(), &mut |step| {
                steps.push(step.done);
                true
            })
            .expect("it is written");
            assert_eq!(steps.last(), Some(&(stream.outline().config.layers.len() + 2)));
            same(&found, &wanted);
            for file in ["config.json", "generation_config.json"] {
                let read = |path: &Path| std::fs::read_to_string(path.join(file)).expect("it is there");
                assert_eq!(read(&found), read(&wanted), "{case}: {file}");
            }
            assert!(!found.join("rewriting.json").exists());
            let again = Model::open(&found, Loading::F32).expect("it is an ordinary model");
            assert_eq!(again.config.expert_counts(), model.config.expert_counts());
        }
    }
}

/// A job whose parts have 60 to 400 kB: some shards hold one, some hold two.
fn sharded<'a>(stream: &'a LayerStream, config: &'a Config, out: &'a Path) -> Rewrite<'a> {
    Rewrite { shard_bytes_max: 300_000, ..Rewrite::new(stream, config, out, "nothing is changed") }
}

fn shards(path: &Path) -> Vec<String> {
    let files = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let names = files.map(|name| name.to_string_lossy().into_owned());
    let mut shards: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    shards.sort();
    shards
}

/// Stopped after every part, a shard spoilt meanwhile, and gone on with.
#[test]
fn a_model_half_written_is_gone_on_with() {
    let folder = Folder::new("half");
    let (wanted, found) = (folder.path().join("wanted"), folder.path().join("found"));
    let stream = LayerStream::open_plain(&oracle("qwen3_next")).expect("it opens");
    let config = stream.outline().config.clone();
    let mut read = Vec::new();
    let mut write = |out: &Path, most: usize| {
        let mut steps = 0;
        let result = rewrite_model::<CompressError>(
            &sharded(&stream, &config, out),
            &mut |index, layer| {
                read.push(index);
                Ok(layer)
            },
            &mut || Ok(()),
            &mut |_| {
                steps += 1;
                steps < most
            },
        );
        (result, std::mem::take(&mut read))
    };
    let (result, all) = write(&wanted, usize::MAX);
    result.expect("it is written");
    let n_layers = config.layers.len();
    assert_eq!(all, (0..n_layers).collect::<Vec<_>>());
    let names = shards(&wanted);
    assert!(names.len() > 2 && names[0].starts_with("model-00001-of-0000"), "{names:?}");

    let mut calls = 0;
    loop {
        let (result, made) = write(&found, 3);
        calls += 1;
        match result {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, CompressError::Cancelled), "{error}"),
        }
        assert!(!found.join("config.json").exists() && calls < 20);
        // What was finished is not made again.
        assert!(made.len() < n_layers, "{made:?}");
    }
    assert!(calls > 1);
    same(&found, &wanted);
    assert_eq!(shards(&found), names);

    // A shard that is not what was noted is made again.
    let spoilt = folder.path().join("spoilt");
    let _ = write(&spoilt, 4);
    let first = spoilt.join(&names[0]);
    let mut bytes = std::fs::read(&first).expect("it was finished");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&first, bytes).expect("it is ours");
    write(&spoilt, usize::MAX).0.expect("it is written");
    same(&spoilt, &wanted);
}

#[test]
fn folders_that_hold_something_else_are_left_alone() {
    let folder = Folder::new("other-job");
    let stream = LayerStream::open_plain(&oracle("qwen3_moe")).expect("it opens");
    let mut plan = plan(&open("qwen3_moe"));
    let out = folder.path().join("out");
    let stopped = pruned(&stream, &plan, &out, None, &mut |_| false).expect_err("it was stopped");
    assert!(matches!(stopped, CompressError::Cancelled));
    plan.layers[0].keep = vec![0, 1];
    plan.layers[0].drop = (2..8).collect();
    let error = pruned(&stream, &plan, &out, None, &mut |_| true).expect_err("another plan");
    assert!(error.to_string().contains("it holds the half-made model of another job"), "{error}");
    let error = pruned(&stream, &plan, &oracle("qwen3_moe"), None, &mut |_| true).expect_err("a model");
    assert!(error.to_string().contains("it holds a model already; give another folder"), "{error}");
}

/// What cannot be read is told before anything is made of it.
#[test]
fn models_that_are_not_whole_are_refused_by_their_headers() {
    let folder = Folder::new("broken");
    let refused = |path: &Path| match LayerStream::open_plain(path) {
        Ok(_) => panic!("{} is not whole", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(refused(folder.path()).contains("config.json"), "{}", refused(folder.path()));
    std::fs::copy(oracle("qwen3_moe").join("config.json"), folder.path().join("config.json")).expect("it is copied");
    assert!(refused(folder.path()).contains("no weights in"), "{}", refused(folder.path()));
    let weights = std::fs::read(oracle("qwen3_moe").join("model.safetensors")).expect("the fixture");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, &weights[..weights.len() - 3]).expect("it is written");
    assert!(refused(folder.path()).contains("is cut off"), "{}", refused(folder.path()));
    std::fs::write(&path, &weights).expect("it is written");
    let config = std::fs::read_to_string(folder.path().join("config.json")).expect("it is there");
    let more = config
        .replace("\"num_experts\": 8", "\"num_experts\": 9")
        .replace("_local_experts\": 8", "_local_experts\": 9");
    assert_ne!(more, config);
    std::fs::write(folder.path().join("config.json"), more).expect("it is written");
    let said = refused(folder.path());
    assert!(said.contains("mlp.gate.weight") || said.contains("experts"), "{said}");
}
