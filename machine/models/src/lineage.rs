//! Where a compressed model's experts come from: `lineage.json` beside the model.

use crate::{Config, ModelError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file's name in a model's folder.
pub const LINEAGE: &str = "lineage.json";

/// For each layer with experts, in order, and each expert that the first ancestor had there: the expert of this model
/// that it was kept as or merged into; nothing where it was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    pub layers: Vec<Vec<Option<usize>>>,
}

impl Lineage {
    /// Of a model that is its own ancestor.
    pub fn identity(config: &Config) -> Self {
        let counts = config.expert_counts();
        Self { layers: counts.into_iter().map(|count| (0..count).map(Some).collect()).collect() }
    }

    /// Of a model of which nothing is known but that an ancestor had so many experts in each of its layers.
    pub fn unknown(ancestor: &Config) -> Self {
        Self { layers: ancestor.expert_counts().into_iter().map(|count| vec![None; count]).collect() }
    }

    /// Reads what stands beside a model; without a file the model is its own ancestor.
    pub fn read(folder: &Path, config: &Config) -> Result<Self, ModelError> {
        let path = folder.join(LINEAGE);
        if !path.is_file() {
            return Ok(Self::identity(config));
        }
        let lineage: Self = formats::read_json(&path)?;
        match lineage.problem(config) {
            None => Ok(lineage),
            Some(problem) => Err(ModelError::Lineage { path, problem }),
        }
    }

    /// Writes it beside a model.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, ModelError> {
        let path = folder.join(LINEAGE);
        formats::write_json(&path, self)?;
        Ok(path)
    }

    /// After a further step: `step` maps this model's experts to the next one's.
    pub fn then(&self, step: &Self) -> Self {
        assert_eq!(self.layers.len(), step.layers.len(), "steps of one model");
        let layers = self.layers.iter().zip(&step.layers);
        let through = |(so_far, step): (&Vec<Option<usize>>, &Vec<Option<usize>>)| {
            so_far.iter().map(|expert| expert.and_then(|expert| step[expert])).collect()
        };
        Self { layers: layers.map(through).collect() }
    }

    /// The map from a teacher's experts to a student's, where both have one ancestor; else nothing is known, unless
    /// both have as many experts: then they are taken for the same.
    pub fn between((teacher, of_teacher): (&Self, &Config), (student, of_student): (&Self, &Config)) -> Self {
        let sizes = |lineage: &Self| lineage.layers.iter().map(Vec::len).collect::<Vec<_>>();
        let teacher_counts = of_teacher.expert_counts();
        if sizes(teacher) != sizes(student) {
            // The student may have begun at this very teacher, whatever the teacher came from.
            return match () {
                () if sizes(student) == teacher_counts => student.clone(),
                () if teacher_counts == of_student.expert_counts() => Self::identity(of_teacher),
                () => Self::unknown(of_teacher),
            };
        }
        let map = |(layer, count): (usize, usize)| {
            let mut map = vec![None; count];
            for (of_teacher, of_student) in teacher.layers[layer].iter().zip(&student.layers[layer]) {
                if let (Some(from), Some(to)) = (of_teacher, of_student) {
                    map[*from].get_or_insert(*to);
                }
            }
            map
        };
        Self { layers: teacher_counts.into_iter().enumerate().map(map).collect() }
    }

    /// What cannot be about a model of this config.
    fn problem(&self, config: &Config) -> Option<String> {
        let counts = config.expert_counts();
        if self.layers.len() != counts.len() {
            return Some(format!("it has {} layers with experts, the model {}", self.layers.len(), counts.len()));
        }
        let beyond = |(layer, (experts, &count)): (usize, (&Vec<Option<usize>>, &usize))| {
            let expert = experts.iter().flatten().find(|&&expert| expert >= count)?;
            Some(format!("in layer {layer} it names expert {expert} of {count}"))
        };
        self.layers.iter().zip(&counts).enumerate().find_map(beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(counts: &[usize]) -> Config {
        let text = include_str!("../../../fixtures/oracle/qwen3_moe/config.json");
        let mut config = Config::from_json(text).expect("the oracle's config reads");
        config.layers.truncate(counts.len());
        config.set_expert_counts(counts);
        config
    }

    fn lineage(layers: &[&[Option<usize>]]) -> Lineage {
        Lineage { layers: layers.iter().map(|layer| layer.to_vec()).collect() }
    }

    #[test]
    fn steps_follow_each_other_and_meet_at_their_ancestor() {
        let (base, half, last) = (config(&[4, 4]), config(&[3, 2]), config(&[2, 2]));
        let first = lineage(&[&[Some(0), None, Some(1), Some(2)], &[Some(1), Some(0), Some(1), None]]);
        let second = first.then(&lineage(&[&[Some(1), None, Some(0)], &[Some(0), Some(1)]]));
        assert_eq!(second, lineage(&[&[Some(1), None, None, Some(0)], &[Some(1), Some(0), Some(1), None]]));
        let of_base = Lineage::identity(&base);
        assert_eq!(Lineage::between((&of_base, &base), (&second, &last)), second);
        let from_half = Lineage::between((&first, &half), (&second, &last));
        assert_eq!(from_half, lineage(&[&[Some(1), None, Some(0)], &[Some(0), Some(1)]]));
        let stranger = config(&[3, 3]);
        let unknown = Lineage::between((&Lineage::identity(&stranger), &stranger), (&second, &last));
        assert_eq!(unknown, Lineage::unknown(&stranger));
        let same = Lineage::between((&second, &last), (&Lineage::identity(&last), &last));
        assert_eq!(same, Lineage::identity(&last));
    }

    #[test]
    fn a_file_that_fits_no_model_is_refused() {
        let folder = std::env::temp_dir().join(format!("lateen-lineage-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = config(&[3, 2]);
        assert_eq!(Lineage::read(&folder, &config).expect("none is there"), Lineage::identity(&config));
        let good = lineage(&[&[Some(2), None, Some(0), Some(1)], &[Some(1), Some(0), None, None]]);
        good.write(&folder).expect("it is written");
        assert_eq!(Lineage::read(&folder, &config).expect("it is read"), good);
        for (bad, wanted) in [
            (lineage(&[&[Some(0)]]), "1 layers with experts, the model 2"),
            (lineage(&[&[Some(0)], &[Some(2)]]), "layer 1 it names expert 2 of 2"),
        ] {
            bad.write(&folder).expect("it is written");
            let error = Lineage::read(&folder, &config).expect_err("it does not fit").to_string();
            assert!(error.contains(wanted), "{error}");
        }
        std::fs::remove_dir_all(&folder).expect("it can be removed");
    }
}
