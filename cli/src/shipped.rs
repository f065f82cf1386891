//! The base model inside the program, for a machine that has nothing but the program.

use anyhow::{Context, Result};
use std::path::PathBuf;

mod files {
    include!(concat!(env!("OUT_DIR"), "/shipped.rs"));
}

/// The folder that the base model was unpacked to, once for each version of it; `None` where the program was built
/// without one.
pub(crate) fn base() -> Result<Option<PathBuf>> {
    if files::FILES.is_empty() {
        return Ok(None);
    }
    let folder = cache()?.join(format!("base-{}", files::FINGERPRINT));
    if folder.join("config.json").is_file() {
        return Ok(Some(folder));
    }
    let unpacking = || format!("cannot unpack the base model into {}", folder.display());
    std::fs::create_dir_all(&folder).with_context(unpacking)?;
    // The configuration last: a folder that has one is complete.
    let is_config = |name: &str| name == "config.json";
    let others = files::FILES.iter().filter(|(name, _)| !is_config(name));
    for (name, bytes) in others.chain(files::FILES.iter().filter(|(name, _)| is_config(name))) {
        formats::write_atomically(folder.join(name), |file| file.write_all(bytes)).with_context(unpacking)?;
    }
    Ok(Some(folder))
}

/// `$XDG_CACHE_HOME/lateen`, or the place that it stands for.
fn cache() -> Result<PathBuf> {
    let said = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = said.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(cache.context("there is no home folder to unpack the base model into; set XDG_CACHE_HOME")?.join("lateen"))
}
