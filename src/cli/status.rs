//! `status`: is it well, at one glance; with `--check` a probe for monitors.

use super::{Cli, Output, block_on, now, print, print_json};
use crate::{
    database::Purpose,
    failure::Failure,
    model::rfc3339,
    outlook::{self, Status},
    terminal::{printable, relative},
};

impl Cli {
    pub(super) fn status(&self, check: bool) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let (status, now) = block_on(async {
            let mut tx = self.own_tables(&config, Purpose::Compare).await?;
            Ok((outlook::status(&mut tx, config.mode, &config.terms()).await?, now(&mut tx).await?))
        })?;
        match self.output {
            Output::Json => print_json(&status)?,
            Output::Table => show(&status, now),
        }
        if check && (status.jobs.overdue > 0 || status.requests.overdue > 0 || status.guard.tripped || status.policy.waiting) {
            let guard = if status.guard.tripped { "the guard has tripped" } else { "the guard is open" };
            let policy = if status.policy.waiting { "; the policy of this configuration is not accepted" } else { "" };
            let (jobs, requests) = (status.jobs.overdue, status.requests.overdue);
            return Err(Failure::Findings(format!("{jobs} jobs and {requests} requests are overdue; {guard}{policy}")));
        }
        Ok(())
    }
}

fn show(status: &Status, now: chrono::DateTime<chrono::Utc>) {
    let at = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map_or_else(|| "never".to_owned(), |at| format!("{} ({})", rfc3339(at), relative(at, now)))
    };
    print(&format!("mode             {}{}", status.mode.as_str(), if status.paused { ", paused" } else { "" }));
    let guard = match (&status.guard.reason, status.guard.tripped) {
        (Some(reason), true) => format!("TRIPPED: {reason}"),
        (None, true) => "TRIPPED".to_owned(),
        (_, false) => "open".to_owned(),
    };
    print(&format!("guard            {guard}"));
    if let (Some(forecast), Some(when)) = (&status.guard.forecast, status.guard.forecast_at) {
        print(&format!("                 will trip at {} ({}): {forecast}", rfc3339(when), relative(when, now)));
    }
    let policy = if status.policy.waiting { "NOT ACCEPTED: `retentiond policy show` says what it changes" } else { "as accepted" };
    print(&format!("policy           {policy}"));
    print(&format!("last poll        {}", at(status.last_poll_at)));
    print(&format!("last full look   {}", at(status.last_resync_at)));
    print(&format!("next deadline    {}", at(status.earliest_unmet_deadline)));
    let jobs = &status.jobs;
    print(&format!(
        "jobs             {} scheduled, {} running, {} completed, {} cancelled",
        jobs.scheduled, jobs.running, jobs.completed, jobs.cancelled
    ));
    print(&format!("                 {} due, {} overdue, {} held", jobs.due, jobs.overdue, jobs.held));
    let asked = &status.requests;
    print(&format!("requests         {} waiting, {} accepted, {} overdue", asked.waiting, asked.accepted, asked.overdue));
    print(&format!("quarantined      {}", status.quarantined.len()));
    for record in &status.quarantined {
        let (account, problem) = (printable(&record.account_id), printable(&record.problem));
        print(&format!("  {account} {}/{} {}: {problem}", record.feature, record.data_class, record.starting_point));
    }
}
