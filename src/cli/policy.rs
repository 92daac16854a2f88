//! `policy`: which rules are in force, what the configuration would change, and the act of accepting that (R11).

use clap::Subcommand;
use serde::Serialize;

use super::{Cli, Output, block_on, control::Why, print, print_json};
use crate::{
    acts::Act,
    config::{Change, Terms},
    failure::Failure,
    model::rfc3339,
    outlook::{self, Consequence},
    safeguards::agreement::{self, Accepted},
    terminal::{printable, table},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The policy in force, what the configuration would change, and what that would bring forward. Writes nothing.
    Show,
    /// Put the policy of the configuration into force.
    Accept {
        #[command(flatten)]
        why: Why,
    },
}

/// What `policy show` and `policy accept` print.
#[derive(Debug, Serialize)]
struct Answer {
    /// The policy in force; none before the first.
    accepted: Option<Accepted>,
    /// Fingerprint of the configuration's policy.
    hash: String,
    /// The configuration's policy.
    terms: Terms,
    /// It is the one in force.
    in_force: bool,
    /// What it changes.
    changes: Vec<Change>,
    /// What it would bring forward, put off and void, compared with the jobs there are.
    consequences: Vec<Consequence>,
}

impl Cli {
    pub(super) fn policy(&self, verb: Verb) -> Result<(), Failure> {
        let config = self.one_shot()?;
        block_on(async {
            let (app, mut tx) = self.prepared(&config).await?;
            let terms = app.policy.terms.clone();
            let accepted = agreement::accepted(&mut tx).await?;
            let hash = terms.hash();
            let in_force = accepted.as_ref().is_some_and(|a| a.hash == hash);
            let answer = Answer {
                in_force,
                changes: accepted.as_ref().map(|a| a.terms.0.changes(&terms)).unwrap_or_default(),
                consequences: if in_force { Vec::new() } else { outlook::consequences(&mut tx, &app.policy).await? },
                accepted,
                hash,
                terms,
            };
            drop(tx);
            match verb {
                Verb::Accept { why } if !in_force => drop(self.act(&config, Act::AcceptPolicy, &why.by(), &why.reason).await?),
                Verb::Show | Verb::Accept { .. } => {}
            }
            match self.output {
                Output::Json => print_json(&answer),
                Output::Table => {
                    show(&answer);
                    Ok(())
                }
            }
        })
    }
}

fn show(answer: &Answer) {
    match &answer.accepted {
        Some(a) => {
            print(&format!("in force         {}", a.hash));
            let (by, reason) = (printable(&a.accepted_by), printable(&a.reason));
            print(&format!("                 since {}, accepted by {by}: {reason}", rfc3339(a.accepted_at)));
        }
        None => print("in force         none; the first that a daemon runs with is"),
    }
    print(&format!("configuration    {}{}", answer.hash, if answer.in_force { ", the same" } else { "" }));
    for change in &answer.changes {
        let needs = if change.needs_acceptance { "needs acceptance" } else { "deletes less or later" };
        print(&format!("  {} {} ({needs})", printable(&change.subject), printable(&change.what)));
    }
    if !answer.consequences.is_empty() {
        let row = |c: &Consequence| {
            let figures = [c.new, c.sooner, c.due_at_once, c.later, c.cancelled].map(|n| n.to_string());
            [printable(&c.class).into_owned()].into_iter().chain(figures).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<String>> = answer.consequences.iter().map(row).collect();
        print(&table(&["data class", "new", "sooner", "due at once", "later", "cancelled"], &rows));
    }
}
