//! What API and pages both show, read through the gateways.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Desk,
    api::{EntriesAnswer, JobsAsked, PlanAnswer, PlanAsked},
    problem::Problem,
};
use crate::{
    jobs::{self, Filter, Job},
    ledger,
    outlook::{self, Explanation},
    safeguards,
};

/// What is planned for the time until then is shown unless asked for otherwise.
const A_DAY: TimeDelta = TimeDelta::hours(24);
/// Accounts whose records are counted for one page.
const MOST_COUNTED: i64 = 100;

impl Desk {
    pub(crate) async fn job(&self, id: i64) -> Result<Job, Problem> {
        let job = jobs::list(&mut *self.screen().await?, &Filter { id: Some(id), ..Filter::default() }).await?.pop();
        job.ok_or_else(|| Problem::not_found(format!("there is no job {id}, or it was forgotten after records.keep_history")))
    }

    pub(crate) async fn entries(&self, id: i64) -> Result<EntriesAnswer, Problem> {
        let mut tx = self.screen().await?;
        let evidence = ledger::evidence(&mut tx, id).await?;
        let proven = evidence.map(|evidence| evidence.entries).unwrap_or_default();
        let entries = proven.iter().filter_map(|proven| serde_json::from_slice(proven.entry.as_bytes()).ok()).collect();
        Ok(EntriesAnswer { entries, levels: jobs::levels(&mut tx, id).await? })
    }

    pub(crate) async fn explain(&self, account: &str) -> Result<Explanation, Problem> {
        let app = self.app().await?;
        let mut tx = self.screen().await?;
        Ok(outlook::explain(&mut tx, &app.policy, app.config.mode, account).await?)
    }

    pub(crate) async fn plan(&self, asked: PlanAsked) -> Result<PlanAnswer, Problem> {
        let app = self.app().await?;
        let limit = match asked.limit.unwrap_or(MOST_COUNTED / 2) {
            limit @ 1..=MOST_COUNTED => limit,
            limit => {
                return Err(Problem::bad_request(format!("limit = {limit} is not from 1 to {MOST_COUNTED}; `next` of the answer goes on")));
            }
        };
        let mut tx = self.screen().await?;
        let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *tx).await?;
        let until = asked.until.unwrap_or(now + A_DAY);
        let filter = JobsAsked {
            order: Some("due".to_owned()),
            due_before: Some(until),
            data_class: asked.data_class,
            limit: Some(limit),
            cursor: asked.cursor,
            ..JobsAsked::default()
        };
        let page = jobs::page::page(&mut tx, &filter.query()?).await?;
        let jobs = outlook::planned(&mut tx, &app.policy, now, page.jobs).await?;
        let guard = safeguards::guard(&mut tx).await?;
        Ok(PlanAnswer { now, until, mode: app.config.mode, guard, jobs, next: page.next.map(|next| next.to_string()) })
    }
}
