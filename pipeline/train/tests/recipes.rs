//! The shipped recipes' training stages say what these structs understand, and can work.

use prepare::DataRecipe;
use train::TrainRecipe;

#[test]
fn training_stages_of_the_shipped_recipes_are_sound() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes");
    let mut stages_seen = 0;
    for entry in std::fs::read_dir(folder).expect("recipes") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let table: toml::Table = std::fs::read_to_string(&path).expect("text").parse().expect("TOML");
        for stage in table["stage"].as_array().expect("stages") {
            let part = |key: &str| stage.get(key).cloned();
            if let Some(train) = part("train") {
                let recipe: TrainRecipe =
                    train.try_into().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                recipe.check().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                stages_seen += 1;
            }
            if let Some(data) = part("data") {
                let recipe: DataRecipe = data.try_into().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                recipe.check().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
    }
    assert!(stages_seen >= 2);
}
