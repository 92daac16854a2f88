//! Certificates of deletion: one file that says what became of one job and proves it, without a database, a network or us. The statement is made from the
//! entries alone, and made again when the certificate is verified: nothing is in it that no entry tells.

mod page;
mod statement;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ledger::{Evidence, Proven},
    proof::{
        Checkpoint, VerifierKey, canonical, commitment,
        tree::{Hash, leaf_hash, verify_inclusion},
    },
};

pub use page::page;
pub use statement::{NotOne, Statement};

/// The version of this format.
const VERSION: u32 = 1;

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The version of the format.
    pub certificate_version: u32,
    /// What wrote it.
    pub software: String,
    /// What the entries say, in plain words and figures.
    pub statement: Statement,
    /// The account; null once nobody knows it any more.
    pub account_id: Option<String>,
    /// What opens the subject of the entries, in hexadecimal; null once it has been erased.
    pub salt: Option<String>,
    /// The entries and their proofs.
    pub entries: Vec<Proven>,
    /// The signed checkpoint (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// The key that checks it (C2SP signed-note).
    pub key: String,
}

/// Why a certificate proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// It cannot be read.
    #[error("it is no certificate: {0}")]
    Form(String),
    /// It is of a later version.
    #[error("it is of version {0}, and this program knows version {VERSION}")]
    Version(u32),
    /// Its key is not the expected one.
    #[error("it names the key {found}, and {expected} was expected")]
    Key {
        /// In the certificate.
        found: String,
        /// Asked for.
        expected: String,
    },
    /// Its checkpoint.
    #[error("its checkpoint {0}")]
    Checkpoint(String),
    /// An entry that is not in the signed tree, or not about this job.
    #[error("entry {0}: {1}")]
    Entry(u64, String),
    /// The statement is not what the entries say.
    #[error("its statement is not what its entries say: {0}")]
    Statement(String),
    /// The page says another thing than its certificate.
    #[error("its page says another thing than its entries")]
    Page,
}

impl Certificate {
    /// The certificate of this evidence.
    ///
    /// # Errors
    /// When the entries make no sense together.
    pub fn new(job: i64, evidence: Evidence) -> Result<Self, NotOne> {
        let Evidence { note, checkpoint, key, account_id, entries, salt } = evidence;
        let statement = Statement::of(&job.to_string(), &checkpoint, &entries)?;
        // One without the other opens nothing.
        let (account_id, salt) = account_id.zip(salt).unzip();
        let software = format!("retentiond {}", env!("CARGO_PKG_VERSION"));
        Ok(Self { certificate_version: VERSION, software, statement, account_id, salt, entries, checkpoint: note, key })
    }

    /// Reads a certificate: the JSON, or the page that holds it.
    ///
    /// # Errors
    /// When it is neither.
    pub fn read(text: &str) -> Result<Self, Unsound> {
        let paged = text.trim_start().starts_with('<');
        let json = if paged { page::json_in(text).ok_or_else(|| Unsound::Form("the page holds none".to_owned()))? } else { text };
        let value: Value = serde_json::from_str(json).map_err(|e| Unsound::Form(e.to_string()))?;
        match value["certificate_version"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(Unsound::Version(u32::try_from(version).unwrap_or(u32::MAX))),
            None => return Err(Unsound::Form("certificate_version is missing".to_owned())),
        }
        let certificate: Self = serde_json::from_value(value).map_err(|e| Unsound::Form(e.to_string()))?;
        // Another version of the program may have written the page in other words.
        if paged && certificate.software == format!("retentiond {}", env!("CARGO_PKG_VERSION")) && page(&certificate) != text {
            return Err(Unsound::Page);
        }
        Ok(certificate)
    }

    /// Checks everything that can be checked with nothing else: signature, proofs, the subject, the statement. With `expected`, that it was signed with that key.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn verify(&self, expected: Option<&VerifierKey>) -> Result<Checkpoint, Unsound> {
        let key = VerifierKey::parse(&self.key).map_err(|why| Unsound::Form(format!("its key {why}")))?;
        if let Some(expected) = expected.filter(|expected| **expected != key) {
            return Err(Unsound::Key { found: self.key.clone(), expected: expected.to_string() });
        }
        let checkpoint = Checkpoint::open(&self.checkpoint, &key).map_err(|why| Unsound::Checkpoint(why.to_string()))?;
        // An account that nothing opens would be a name that anybody could write.
        let own = |entry: &&Proven| {
            serde_json::from_str::<Value>(&entry.entry).is_ok_and(|said| said["kind"] == "job" && said["subject"].is_string())
        };
        if self.account_id.is_some() != self.salt.is_some() || (self.account_id.is_some() && !self.entries.iter().any(|entry| own(&entry)))
        {
            return Err(Unsound::Form("an account is named, and nothing in it proves that the entries are about it".to_owned()));
        }
        for entry in &self.entries {
            self.entry(entry, &checkpoint).map_err(|why| Unsound::Entry(entry.index, why))?;
        }
        let said = Statement::of(&self.statement.job, &checkpoint, &self.entries).map_err(|why| Unsound::Statement(why.to_string()))?;
        if said != self.statement {
            return Err(Unsound::Statement(differing(&said, &self.statement)));
        }
        Ok(checkpoint)
    }

    fn entry(&self, proven: &Proven, checkpoint: &Checkpoint) -> Result<(), String> {
        let path: Option<Vec<Hash>> = proven.path.iter().map(|hash| hex::decode(hash).ok()?.try_into().ok()).collect();
        let path = path.ok_or("its proof holds something that is no hash")?;
        verify_inclusion(proven.index, checkpoint.size, &leaf_hash(proven.entry.as_bytes()), &path, &checkpoint.root)
            .map_err(|e| e.to_string())?;
        let said: Value = serde_json::from_str(&proven.entry).map_err(|e| e.to_string())?;
        if canonical(&said).as_ref() != Some(&proven.entry) || said["index"] != proven.index {
            return Err("it is not written the one way that it can be".to_owned());
        }
        if said["kind"] == "job" {
            if said["reference"] != self.statement.job.as_str() {
                return Err(format!("it is about job {}", said["reference"]));
            }
            if let (Some(account), Some(salt), Some(subject)) = (&self.account_id, &self.salt, said["subject"].as_str()) {
                let salt = hex::decode(salt).map_err(|_| "the salt is not hexadecimal")?;
                if commitment(&salt, "subject", account) != subject {
                    return Err("it is about another account".to_owned());
                }
            }
        }
        Ok(())
    }
}

/// Which members differ.
fn differing(said: &Statement, claimed: &Statement) -> String {
    let (Ok(Value::Object(said)), Ok(Value::Object(claimed))) = (serde_json::to_value(said), serde_json::to_value(claimed)) else {
        return "it cannot be compared".to_owned();
    };
    let names: Vec<&str> =
        said.iter().filter(|(name, value)| claimed.get(name.as_str()) != Some(value)).map(|(name, _)| name.as_str()).collect();
    names.join(", ")
}
