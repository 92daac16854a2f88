//! `plan`: what would be deleted, when and why.

use chrono::{DateTime, Utc};

use super::{Cli, Output, block_on, print, print_json};
use crate::{
    failure::Failure,
    model::rfc3339,
    outlook::{self, Plan, Planned},
    terminal::{printable, relative, table},
};

/// Rows of a table for people.
const ROWS: usize = 100;

impl Cli {
    pub(super) fn plan(&self, at: Option<DateTime<Utc>>) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let plan = block_on(async {
            let (app, mut tx) = self.prepared(&config).await?;
            Ok(outlook::plan(&mut tx, &app.policy, config.mode, at).await?)
        })?;
        match self.output {
            Output::Json => print_json(&plan)?,
            Output::Table => show(&plan),
        }
        Ok(())
    }
}

fn show(plan: &Plan) {
    let due = plan.jobs.iter().filter(|j| j.due).count();
    print(&format!("As of {}, mode {}: {} purges stand, {due} are due.", rfc3339(plan.now), plan.mode.as_str(), plan.jobs.len()));
    if plan.jobs.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = plan.jobs.iter().take(ROWS).map(|job| row(job, plan.now)).collect();
    print(&table(&["account", "class", "starting point", "retain until", "when", "records"], &rows));
    if plan.jobs.len() > ROWS {
        print(&format!("… and {} more; -o json prints all", plan.jobs.len() - ROWS));
    }
}

fn row(job: &Planned, now: DateTime<Utc>) -> Vec<String> {
    let records = job.targets.iter().map(|t| match t.records {
        Some(records) => format!("{} {records}", t.name),
        None => format!("{} ?", t.name),
    });
    let when = match (job.held, job.due) {
        (true, _) => "held".to_owned(),
        (false, true) => "due".to_owned(),
        (false, false) => relative(job.retain_until, now),
    };
    vec![
        printable(&job.account_id).into_owned(),
        format!("{}/{}", job.feature, job.data_class),
        job.starting_point.clone(),
        rfc3339(job.retain_until),
        when,
        records.collect::<Vec<_>>().join(", "),
    ]
}
