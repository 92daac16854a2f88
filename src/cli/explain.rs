//! `explain`: one account, in full.

use super::{Cli, Output, block_on, print, print_json};
use crate::{
    failure::Failure,
    model::rfc3339,
    outlook::{self, Explanation},
    terminal::{printable, relative},
};

impl Cli {
    pub(super) fn explain(&self, account: &str) -> Result<(), Failure> {
        let config = self.one_shot()?;
        let explanation = block_on(async {
            let (app, mut tx) = self.prepared(&config).await?;
            Ok(outlook::explain(&mut tx, &app.policy, config.mode, account).await?)
        })?;
        match self.output {
            Output::Json => print_json(&explanation)?,
            Output::Table => show(&explanation),
        }
        Ok(())
    }
}

fn show(explanation: &Explanation) {
    print(&format!("Account {} as of {}", printable(&explanation.account_id), rfc3339(explanation.now)));
    for class in &explanation.classes {
        print(&format!("\n{}/{}", class.feature, class.data_class));
        for (name, state) in &class.starting_points {
            print(&format!("  {name}: {}", printable(state)));
        }
        if let Some(at) = class.retain_until {
            print(&format!("  retain until {} ({})", rfc3339(at), relative(at, explanation.now)));
        }
        if let Some(by) = class.delete_by {
            print(&format!("  delete by    {} ({})", rfc3339(by), relative(by, explanation.now)));
        }
        for (target, records) in &class.records {
            print(&format!("  {target}: {records} records now"));
        }
        for job in &class.jobs {
            let deleted: i64 = job.records_deleted.0.values().sum();
            let end = job.completed_at.or(job.cancelled_at).map(|at| format!(" {}", rfc3339(at))).unwrap_or_default();
            let why = job.cancel_reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
            print(&format!("  job {}: {}{why}{end}, {deleted} records deleted", job.id, job.state));
        }
        for blocker in &class.blocked_by {
            print(&format!("  blocked by {}", printable(blocker)));
        }
        print(&format!("  next: {}", class.next));
    }
}
