//! Other job queues, run by their own Node drivers in `benches/peers/`. What cannot be had is a row that says so, and nothing else fails.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

/// What a driver prints.
#[derive(Deserialize)]
pub(crate) struct Drained {
    jobs: u32,
    seconds: f64,
}

impl Drained {
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.jobs) / self.seconds
    }
}

/// Where the packages are.
pub(crate) struct Peers(PathBuf);

impl Peers {
    /// Installs exactly the packages of the lock file under `target/`, once.
    pub(crate) fn install() -> Result<Self, String> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = here.join("target/bench-peers");
        let failed = |e: std::io::Error| e.to_string();
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let lock = std::fs::read(here.join("benches/peers/package-lock.json")).map_err(failed)?;
        let installed =
            std::fs::read(folder.join("package-lock.json")).is_ok_and(|l| l == lock) && folder.join("node_modules/.bin/node").exists();
        for file in std::fs::read_dir(here.join("benches/peers")).map_err(failed)? {
            let file = file.map_err(failed)?;
            std::fs::copy(file.path(), folder.join(file.file_name())).map_err(failed)?;
        }
        if !installed {
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--loglevel=error", "--cache", "../npm-cache"]).current_dir(&folder);
            let output = npm.stdin(Stdio::null()).output().map_err(|e| format!("npm: {e}"))?;
            if !output.status.success() {
                let _next_time = std::fs::remove_file(folder.join("package-lock.json"));
                return Err(last_line(&output.stderr, "npm ci failed"));
            }
        }
        Ok(Self(folder))
    }

    /// Runs a driver on a database until its jobs are done.
    pub(crate) fn drain(&self, driver: &str, url: &str, words: &[String]) -> Result<Drained, String> {
        let output = Command::new(self.0.join("node_modules/.bin/node"))
            .arg(driver)
            .args(words)
            .current_dir(&self.0)
            .env("DATABASE_URL", url)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .next_back()
            .and_then(|line| serde_json::from_str(line).ok())
            .filter(|_| output.status.success())
            .ok_or_else(|| last_line(&output.stderr, "the driver printed nothing"))
    }
}

fn last_line(bytes: &[u8], otherwise: &str) -> String {
    String::from_utf8_lossy(bytes).lines().rfind(|l| !l.trim().is_empty()).unwrap_or(otherwise).replace('|', "/")
}
