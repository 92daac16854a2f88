//! `check`: the configuration, then the database. Every finding with the statement that would mend it.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Cli, Output, block_on, grants, print, print_json};
use crate::{
    app::patiently,
    catalog::{self, Finding, Severity},
    config::{self, Config, Needs},
    database::{Database, DatabaseError, Purpose, Tx},
    failure::Failure,
    ledger::{self, LedgerError},
    policy::{Homeless, Orphans, Policy},
    schema, stores,
};

/// Versions this is made for.
const SUPPORTED: std::ops::RangeInclusive<i32> = 13..=18;
/// A host clock that differs by more is worth a warning; decisions use the database's (R32).
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

impl Cli {
    pub(super) fn check(&self, offline: bool) -> Result<(), Failure> {
        if offline {
            let config = self.load(Needs::Nothing)?;
            return self.show(&warnings(&config));
        }
        let config = self.one_shot()?;
        let findings = block_on(async {
            let database = Database::new(&config.database)?;
            patiently(|| look(&config, &database)).await
        })?;
        self.show(&findings)
    }

    fn show(&self, findings: &[Finding]) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(&findings)?,
            Output::Table => {
                for f in findings {
                    let word = serde_json::to_value(f.severity).ok().and_then(|v| v.as_str().map(str::to_uppercase)).unwrap_or_default();
                    print(&format!("{word:<8} {}: {}", f.subject, f.problem));
                    if let Some(remedy) = &f.remedy {
                        print(&format!("         {remedy};"));
                    }
                }
                if findings.is_empty() {
                    print("ok");
                }
            }
        }
        let errors = findings.iter().filter(|f| f.severity > Severity::Warning).count();
        match findings.iter().map(|f| f.severity).max() {
            Some(worst) if worst.exit_code() == Severity::Error.exit_code() => {
                Err(Failure::Findings(format!("{errors} findings must be mended")))
            }
            Some(worst) if worst > Severity::Warning => {
                Err(Failure::Layout(findings.iter().filter(|f| f.severity > Severity::Warning).cloned().collect()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn warnings(config: &Config) -> Vec<Finding> {
    let finding =
        |w: &String| Finding { severity: Severity::Warning, subject: "configuration".to_owned(), problem: w.clone(), remedy: None };
    config.warnings.iter().map(finding).collect()
}

async fn look(config: &Config, database: &Database) -> Result<Vec<Finding>, Failure> {
    let mut findings = warnings(config);
    let mut tx = database.begin(Purpose::Compare).await?;
    findings.extend(server(&mut tx).await?);
    let grants = catalog::own(&mut tx, None).await?;
    // Without these nobody can tell which version the tables are of.
    if grants.is_empty() {
        match schema::check(&mut tx).await {
            Ok(()) => {}
            Err(schema::SchemaError::Database(error)) => return Err(error.into()),
            Err(error) => findings.push(Finding {
                severity: Severity::Schema,
                subject: "schema retention".to_owned(),
                problem: error.to_string(),
                remedy: None,
            }),
        }
    }
    findings.extend(grants);
    let (layout, found) = catalog::inspect(&mut tx, config).await?;
    findings.extend(found);
    if let Some(layout) = layout {
        findings.extend(contradictions(&mut tx, config).await?);
        // Who was ever known is in the daemon's own tables.
        if !findings.iter().any(|f| f.subject == "schema retention" || f.severity == Severity::Grants) {
            let policy = Policy::new(config, &layout);
            findings.extend(orphans(&mut tx, &policy).await?);
            findings.extend(policy.homeless(&mut tx).await?.as_ref().map(homeless));
            findings.extend(evidence(&mut tx, config).await?);
        }
    }
    findings.extend(grants::statistics(&mut tx, None).await?);
    if let Some(witness) = config.witness() {
        findings.extend(second_role(config, &witness, catalog::witness::identity(&mut tx).await?).await);
    }
    drop(tx);
    findings.extend(remote(config).await);
    Ok(findings)
}

/// Whether the role of `verifier.url` can testify that records are gone.
async fn second_role(config: &Config, witness: &config::Database, main: (i64, i64)) -> Vec<Finding> {
    let asked = async {
        let mut tx = Database::new(witness)?.begin(Purpose::Read).await?;
        catalog::witness::doubts(&mut tx, config, main).await
    };
    asked.await.unwrap_or_else(|error| {
        vec![Finding { severity: Severity::Error, subject: "verifier.url".to_owned(), problem: error.to_string(), remedy: None }]
    })
}

/// What other stores say about each place that the configuration names in them.
async fn remote(config: &Config) -> Vec<Finding> {
    let stores = stores::open(config);
    let mut findings = Vec::new();
    for target in config.data_classes.iter().flat_map(|class| &class.remote) {
        let Some(store) = stores.get(&target.store) else { continue };
        let finding = |severity, problem| Finding { severity, subject: format!("target {}", target.name), problem, remedy: None };
        match store.check(&target.place).await {
            Ok(problems) => findings.extend(problems.into_iter().map(|problem| finding(Severity::Warning, problem))),
            Err(error) => findings.push(finding(Severity::Error, error.to_string())),
        }
    }
    findings
}

/// Some of so many accounts.
fn some(examples: &[String], accounts: i64) -> String {
    examples.join(", ") + if examples.len() < usize::try_from(accounts).unwrap_or(usize::MAX) { ", …" } else { "" }
}

fn homeless(h: &Homeless) -> Finding {
    let problem = format!(
        "{} accounts have ended and nobody knows where they live, so no daemon deletes what they leave: {}",
        h.accounts,
        some(&h.examples, h.accounts)
    );
    Finding { severity: Severity::Warning, subject: "regions".to_owned(), problem, remedy: None }
}

async fn orphans(tx: &mut Tx, policy: &Policy) -> Result<Vec<Finding>, DatabaseError> {
    let finding = |o: Orphans| Finding {
        severity: Severity::Warning,
        subject: format!("target {}", o.target),
        problem: format!(
            "it holds records of {} accounts that were never known, which no rule deletes: {}",
            o.accounts,
            some(&o.examples, o.accounts)
        ),
        remedy: None,
    };
    Ok(policy.orphans(tx).await?.into_iter().map(finding).collect())
}

/// Who could write the ledger anew, and whether an older database would be noticed (R39).
async fn evidence(tx: &mut Tx, config: &Config) -> Result<Vec<Finding>, Failure> {
    let finding = |severity, problem: String| Finding { severity, subject: "ledger".to_owned(), problem, remedy: None };
    let mut findings = Vec::new();
    if config.ledger.key.is_none() {
        let problem = "it is signed with a key that the database keeps, so whoever may read that may sign; name a key in ledger.key_file";
        findings.push(finding(Severity::Warning, problem.to_owned()));
    }
    match &config.ledger.checkpoint_dir {
        None => {
            let problem = "nothing of it is kept outside the database, so an older database that comes back is not noticed; name a folder in ledger.checkpoint_dir";
            findings.push(finding(Severity::Warning, problem.to_owned()));
        }
        Some(folder) => {
            if let Err(error) = std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder)) {
                findings.push(finding(Severity::Error, format!("ledger.checkpoint_dir = {}: {error}", folder.display())));
            }
        }
    }
    findings.extend(grants::replay(tx, None).await?);
    match ledger::head(&mut *tx).await.and_then(|head| ledger::signer(config.ledger.key.as_ref(), &head)) {
        Ok(_) => {}
        Err(LedgerError::Database(error)) => return Err(error.into()),
        Err(error) => findings.push(finding(Severity::Error, error.to_string())),
    }
    Ok(findings)
}

async fn server(tx: &mut Tx) -> Result<Vec<Finding>, DatabaseError> {
    let mut findings = Vec::new();
    let mut find = |severity, problem| {
        findings.push(Finding { severity, subject: "database".to_owned(), problem, remedy: None });
    };
    let asked = Instant::now();
    let (version, recovering, clock): (i32, bool, DateTime<Utc>) =
        sqlx::query_as("select current_setting('server_version_num')::int4 / 10000, pg_is_in_recovery(), clock_timestamp()")
            .fetch_one(&mut **tx)
            .await?;
    if !SUPPORTED.contains(&version) {
        find(
            Severity::Warning,
            format!("PostgreSQL {version} is not among the versions this was made for ({} to {})", SUPPORTED.start(), SUPPORTED.end()),
        );
    }
    if recovering {
        find(Severity::Error, "this server is a standby; name the primary".to_owned());
    }
    let drift = (host_clock() - clock).abs().to_std().unwrap_or_default();
    if drift > CLOCK_TOLERANCE + asked.elapsed() {
        find(Severity::Warning, format!("this host's clock and the database's differ by {} s; the database's decides", drift.as_secs()));
    }
    Ok(findings)
}

#[expect(clippy::disallowed_methods, reason = "compared with the database's clock, and only to warn")]
fn host_clock() -> DateTime<Utc> {
    Utc::now()
}

/// Rows whose informative columns contradict the column that decides (R1), in the reference schema's own words.
async fn contradictions(tx: &mut Tx, config: &Config) -> Result<Vec<Finding>, DatabaseError> {
    let mut findings = Vec::new();
    for point in config.starting_points.iter().filter(|p| p.since_column.as_str() == "cmq_disabled_at") {
        let known: bool = sqlx::query_scalar(
            "select exists (select 1 from pg_attribute where attrelid = to_regclass($1) and attname = 'cmq_enabled' and atttypid = 'boolean'::regtype and not attisdropped)",
        )
        .bind(point.table.quoted())
        .fetch_one(&mut **tx)
        .await?;
        if !known {
            continue;
        }
        let query =
            format!("select count(*) from {} where cmq_enabled and {} is not null", point.table.quoted(), point.since_column.quoted());
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut **tx).await?;
        if rows > 0 {
            findings.push(Finding {
                severity: Severity::Warning,
                subject: format!("starting point {}", point.name),
                problem: format!("{rows} rows say cmq_enabled and cmq_disabled_at at once; {} decides", point.since_column.as_str()),
                remedy: None,
            });
        }
    }
    Ok(findings)
}
