//! `ledger` and `certificate`: proof, made and checked.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Cli, Output, block_on, control::Why, print, print_json};
use crate::{
    app::patiently,
    certificate::{self, Certificate},
    config::Config,
    database::{Database, Purpose},
    failure::Failure,
    ledger::{self, Archive, Checked, Finding, Ledger, LedgerError, Seen},
    proof::VerifierKey,
    schema,
    terminal::table,
};

#[derive(Debug, Subcommand)]
pub(super) enum LedgerVerb {
    /// Check every entry, checkpoint and file, and the daemon's tables against them.
    Verify {
        /// An exported ledger instead: needs no database.
        #[arg(long, value_name = "DIR", requires = "key")]
        files: Option<PathBuf>,
        /// The key that must have signed it.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Write the ledger in files that other verifiers read (C2SP tlog-tiles); what is there is brought up to date.
    Export {
        /// Where to.
        #[arg(default_value = "ledger", value_name = "DIR")]
        folder: PathBuf,
    },
    /// Number and sign what is pending, and print the checkpoint.
    Checkpoint,
    /// Put the entries back that an older database has lost, from the ledger's files.
    Replay {
        /// An exported ledger; the configured folder unless given.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        #[command(flatten)]
        why: Why,
    },
    /// Print a new key that signs, for `ledger.key_file`.
    Keygen {
        /// The name of an existing ledger, to change its key.
        #[arg(long)]
        origin: Option<String>,
    },
    /// Make the configured key the ledger's.
    Rotate {
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct CertificateArguments {
    /// The job's id.
    #[arg(required = true)]
    job: Option<i64>,
    /// A page that a person can print; it holds the proof as well.
    #[arg(long)]
    page: bool,
    #[command(subcommand)]
    verb: Option<CertificateVerb>,
}

#[derive(Debug, Subcommand)]
enum CertificateVerb {
    /// Check a certificate, with nothing but its file.
    Verify {
        /// The certificate, as JSON or as a page.
        file: PathBuf,
        /// The key that must have signed it.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
}

impl Cli {
    /// The ledger of the configured database.
    async fn own_ledger(&self, config: &Arc<Config>) -> Result<(Ledger, Database), Failure> {
        let database = Database::new(&config.database)?;
        patiently(|| async {
            let mut tx = database.begin(Purpose::Read).await?;
            schema::check(&mut tx).await?;
            Ok(())
        })
        .await?;
        Ok((Ledger::new(database.clone(), Arc::clone(config), Seen::default()), database))
    }

    pub(super) fn ledger(&self, verb: LedgerVerb) -> Result<(), Failure> {
        match verb {
            LedgerVerb::Keygen { origin } => {
                print(ledger::generate(origin.as_deref())?.secret().expose_secret());
                Ok(())
            }
            LedgerVerb::Verify { files: Some(folder), key } => block_on(self.verify_files(folder, key.as_deref())),
            verb @ (LedgerVerb::Verify { .. }
            | LedgerVerb::Export { .. }
            | LedgerVerb::Checkpoint
            | LedgerVerb::Replay { .. }
            | LedgerVerb::Rotate { .. }) => {
                let config = self.one_shot()?;
                block_on(self.ledger_of_database(&config, verb))
            }
        }
    }

    async fn ledger_of_database(&self, config: &Arc<Config>, verb: LedgerVerb) -> Result<(), Failure> {
        let (ledger, database) = self.own_ledger(config).await?;
        match verb {
            LedgerVerb::Verify { key, .. } => {
                let checked = ledger.check().await?;
                let expected = key.as_deref().map(verifier).transpose()?;
                if let Some(expected) = expected.filter(|expected| expected.to_string() != checked.key) {
                    return Err(Failure::Findings(format!("the ledger is signed with {}, and {expected} was expected", checked.key)));
                }
                self.show_checked(&checked)
            }
            LedgerVerb::Export { folder } => {
                ledger.pass().await?;
                let mut tx = database.begin(Purpose::Read).await?;
                let head = ledger::head(&mut tx).await?;
                drop(tx);
                let archive = ledger.archive_at(folder).await?;
                let entries = ledger.archive_up_to_now(&archive).await?;
                self.show_rows(
                    &json!({"folder": archive.root(), "entries": entries, "key": head.key.to_string()}),
                    &[("folder", archive.root().display().to_string()), ("entries", entries.to_string()), ("key", head.key.to_string())],
                )
            }
            LedgerVerb::Checkpoint => {
                ledger.pass().await?;
                let mut tx = database.begin(Purpose::Read).await?;
                let head = ledger::head(&mut tx).await?;
                let (note, checkpoint) =
                    ledger::last_checkpoint(&mut tx).await?.ok_or_else(|| LedgerError::Broken("it has no checkpoint".to_owned()))?;
                match self.output {
                    Output::Table => {
                        print(note.trim_end());
                        Ok(())
                    }
                    Output::Json => {
                        print_json(&json!({"origin": checkpoint.origin, "size": checkpoint.size, "root": hex::encode(checkpoint.root),
                        "note": note, "key": head.key.to_string()}))
                    }
                }
            }
            LedgerVerb::Replay { from, why } => {
                let from = match from {
                    Some(folder) => Some(ledger.archive_at(folder).await?),
                    None => None,
                };
                let replayed = ledger.replay(from, &why.reason, &why.by()).await?;
                let lost = if replayed.lost.is_empty() {
                    "none".to_owned()
                } else {
                    format!(
                        "{}; where one of them stopped deletion, everything is paused until they are placed again",
                        replayed.lost.join(", ")
                    )
                };
                self.show_rows(
                    &replayed,
                    &[
                        ("entries before", replayed.from.to_string()),
                        ("entries now", replayed.to.to_string()),
                        ("jobs that had ended", replayed.jobs.to_string()),
                        ("acts that were lost", lost),
                    ],
                )
            }
            LedgerVerb::Rotate { why } => {
                let key = ledger.rotate(&why.reason, &why.by()).await?;
                self.show_rows(&json!({"key": key}), &[("key", key.clone())])
            }
            LedgerVerb::Keygen { .. } => Ok(()),
        }
    }

    async fn verify_files(&self, folder: PathBuf, key: Option<&str>) -> Result<(), Failure> {
        let keys = key.map(verifier).transpose()?.into_iter().collect();
        let archive = Archive::at(folder, keys);
        let (entries, findings) = match archive.check().await {
            Ok((0, findings)) if findings.is_empty() => {
                return Err(Failure::Findings(format!("{} holds no ledger", archive.root().display())));
            }
            Ok(checked) => checked,
            Err(LedgerError::Broken(why)) => return Err(Failure::Findings(why)),
            Err(error) => return Err(error.into()),
        };
        let key = key.unwrap_or_default().to_owned();
        let origin = verifier(&key)?.name().to_owned();
        self.show_checked(&Checked { origin, key, entries, checkpoints: 1, filed: Some(entries), findings })
    }

    fn show_checked(&self, checked: &Checked) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(checked)?,
            Output::Table => {
                let filed = checked.filed.map_or_else(|| "no files".to_owned(), |filed| filed.to_string());
                self.show_rows(
                    &(),
                    &[
                        ("ledger", checked.origin.clone()),
                        ("key", checked.key.clone()),
                        ("entries", checked.entries.to_string()),
                        ("checkpoints", checked.checkpoints.to_string()),
                        ("entries in files", filed),
                        ("findings", checked.findings.len().to_string()),
                    ],
                )?;
                let row = |f: &Finding| vec![f.finding.to_owned(), f.subject.clone(), f.problem.clone()];
                if !checked.findings.is_empty() {
                    print(&table(&["finding", "subject", "problem"], &checked.findings.iter().take(100).map(row).collect::<Vec<_>>()));
                }
            }
        }
        match checked.findings.len() {
            0 => Ok(()),
            findings => Err(Failure::Findings(format!("the ledger does not verify: {findings} findings"))),
        }
    }

    fn show_rows(&self, value: &impl serde::Serialize, rows: &[(&str, String)]) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(value),
            Output::Table => {
                let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                for (name, value) in rows {
                    print(&format!("{name:width$}  {value}"));
                }
                Ok(())
            }
        }
    }

    pub(super) fn certificate(&self, arguments: CertificateArguments) -> Result<(), Failure> {
        match arguments {
            CertificateArguments { verb: Some(CertificateVerb::Verify { file, key }), .. } => {
                self.verify_certificate(&file, key.as_deref())
            }
            CertificateArguments { job: Some(job), page, verb: None } => {
                let config = self.one_shot()?;
                block_on(self.write_certificate(&config, job, page))
            }
            CertificateArguments { job: None, verb: None, .. } => Ok(()),
        }
    }

    async fn write_certificate(&self, config: &Arc<Config>, job: i64, page: bool) -> Result<(), Failure> {
        let (ledger, database) = self.own_ledger(config).await?;
        // What has just ended has no number yet.
        ledger.pass().await?;
        let mut tx = database.begin(Purpose::Compare).await?;
        let evidence = ledger::evidence(&mut tx, job).await?;
        let evidence = evidence
            .ok_or_else(|| Failure::Other(anyhow::anyhow!("the ledger tells of no job {job}; `retentiond jobs list` shows the ids")))?;
        let certificate = Certificate::new(job, evidence).map_err(|e| Failure::Other(e.into()))?;
        // Never hand out what does not verify.
        certificate.verify(None).map_err(|e| Failure::Other(e.into()))?;
        if page {
            print(certificate::page(&certificate).trim_end());
            Ok(())
        } else {
            print_json(&certificate)
        }
    }

    fn verify_certificate(&self, file: &std::path::Path, key: Option<&str>) -> Result<(), Failure> {
        let expected = key.map(verifier).transpose()?;
        let text = std::fs::read_to_string(file).map_err(|e| Failure::Other(anyhow::anyhow!("{}: {e}", file.display())))?;
        let sound = Certificate::read(&text).and_then(|certificate| certificate.verify(expected.as_ref()).map(|_| certificate));
        let certificate = sound.map_err(|why| Failure::Findings(format!("{} proves nothing: {why}", file.display())))?;
        let statement = &certificate.statement;
        let pinned = if expected.is_some() {
            "the expected one"
        } else {
            "compare it with the one that the ledger's owner publishes, or give it with --key"
        };
        self.show_rows(&json!({"valid": true, "key": certificate.key, "key_expected": expected.is_some(), "account_id": certificate.account_id, "statement": statement}), &[
            ("proves", format!("job {} of {}/{}: {}", statement.job, statement.feature, statement.data_class, statement.outcome)),
            ("account", certificate.account_id.clone().unwrap_or_else(|| "not named".to_owned())),
            ("ended at", statement.ended_at.clone().unwrap_or_else(|| "-".to_owned())),
            ("not before", statement.retain_until.clone()),
            ("not after", statement.delete_by.clone()),
            ("records deleted", statement.targets.values().map(|target| target.records_deleted).sum::<i64>().to_string()),
            ("signed with", format!("{} ({pinned})", certificate.key)),
        ])
    }
}

fn verifier(key: &str) -> Result<VerifierKey, Failure> {
    VerifierKey::parse(key).map_err(|why| Failure::Other(anyhow::anyhow!("{key:?} {why}")))
}
