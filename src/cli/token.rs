//! `token`: makes a token for the API and the pages. Nothing keeps it; the configuration has its hash.

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::json;

use super::{Cli, Output, print, print_json};
use crate::{desk, failure::Failure};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Whose it is: the actor of everything that is done with it.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// What it allows.
    #[arg(long, value_parser = ["viewer", "operator", "officer", "ingest"])]
    role: String,
}

impl Cli {
    pub(super) fn token(&self, arguments: &Arguments) -> Result<(), Failure> {
        let token = desk::fresh_token().map_err(|e| Failure::Other(anyhow::anyhow!("the system gives no randomness: {e}")))?;
        let (name, role, sha256) = (&arguments.name, &arguments.role, hex::encode(desk::hash(&token)));
        match self.output {
            Output::Json => print_json(&json!({"name": name, "role": role, "token": token, "sha256": sha256})),
            Output::Table => {
                print(&format!("The token, for {name} alone; it is kept nowhere:\n\n  {token}\n\nWhat to configure:\n"));
                // A TOML text and a JSON text are written alike.
                print(&format!("[[http.tokens]]\nname = {}\nrole = \"{role}\"\nsha256 = \"{sha256}\"", json!(name)));
                Ok(())
            }
        }
    }
}
