//! What the entries of one job say, taken together. Pure: the same entries always make the same statement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{config::Terms, ledger::Proven, proof::Checkpoint};

/// What a certificate of a completed job does not cover, whatever the policy is.
const NEVER_COVERED: [&str; 5] = [
    "the database's own files until vacuum and later writes reuse the space, its write-ahead log and its archive, unless a level below says so",
    "backups and snapshots that no rule names as copies that expire",
    "logs of services, which are kept for periods of their own",
    "usage and billing records, which the law may require to be kept",
    "resources that exist only behind another vendor's interface, exports, and systems that no rule names",
];

/// The sentence that every reader must know.
const MEANING: &str = "The signature proves who wrote these entries, in which order, and that nobody changed them since. It does not prove that what was written is true: \
     that rests on the program that wrote them and on whoever runs it. Deleted means that no reader of the store sees the record any more; it is not a claim about storage media.";

/// Why entries make no statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOne {
    /// No entry about the job.
    #[error("no entry tells that job {0} was scheduled, begun or ended")]
    Nothing(String),
    /// An entry that lacks what it must have, or has it in another form.
    #[error("entry {0} has no {1}")]
    Lacks(u64, &'static str),
}

/// What became of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The job.
    pub job: String,
    /// The ledger that tells it.
    pub ledger: String,
    /// Entries that the ledger had when this was written: what happened later is not in it.
    pub as_of_entry: u64,
    /// `completed`, `cancelled`, or `open`: nothing says that it was deleted.
    pub outcome: String,
    /// The feature.
    pub feature: String,
    /// The data class.
    pub data_class: String,
    /// What started the period.
    pub starting_point: String,
    /// Since when.
    pub started_at: String,
    /// Nothing was to be deleted before.
    pub retain_until: String,
    /// Everything was to be deleted by then.
    pub delete_by: String,
    /// When it was scheduled.
    pub scheduled_at: Option<String>,
    /// When the purge was opened, before the first record was deleted.
    pub opened_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Completed by `delete_by`; null when it was not completed.
    pub in_time: Option<bool>,
    /// Why it was cancelled.
    pub cancel_reason: Option<String>,
    /// By target: how many records were deleted, and the word for what was found.
    pub targets: BTreeMap<String, TargetStatement>,
    /// Whether the counts are exact; else they are lower bounds.
    pub counts_exact: Option<bool>,
    /// How absence was verified.
    pub verification: String,
    /// Levels of erasure that were reached, with their instants.
    pub levels: BTreeMap<String, String>,
    /// When the last copy that cannot be deleted one by one is gone.
    pub residual_copies_end: Option<String>,
    /// Everything else that happened, in its order: held, released, paused, resumed, rescheduled, overdue, found again, ended before.
    pub events: Vec<Event>,
    /// The rule's fingerprint.
    pub rule: String,
    /// Fingerprint of the whole policy in force; null where no entry tells it.
    pub policy: Option<String>,
    /// The rule of the class, as that policy has it; null where the entry holds only its fingerprint.
    pub terms: Option<Value>,
    /// What this says nothing about.
    pub out_of_scope: Vec<String>,
    /// What the signature means.
    pub meaning: String,
}

/// One target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetStatement {
    /// Records deleted.
    pub records_deleted: i64,
    /// `deleted`, `already gone`, `never existed` or `unknown`; null when the job was not completed.
    pub outcome: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub at: String,
    /// What.
    pub what: String,
    /// To what: `job 7`, `hold 3`.
    pub about: String,
    /// The entry.
    pub entry: u64,
}

struct Entry {
    index: u64,
    said: Value,
}

impl Entry {
    fn text(&self, name: &'static str) -> Result<String, NotOne> {
        self.maybe(name).ok_or(NotOne::Lacks(self.index, name))
    }

    fn maybe(&self, name: &str) -> Option<String> {
        self.said[name].as_str().map(str::to_owned)
    }

    fn is(&self, event: &str) -> bool {
        self.said["event"] == event
    }

    fn of(&self, kind: &str) -> bool {
        self.said["kind"] == kind
    }
}

impl Statement {
    /// What these entries say of the job.
    ///
    /// # Errors
    /// [`NotOne`].
    pub fn of(job: &str, checkpoint: &Checkpoint, entries: &[Proven]) -> Result<Self, NotOne> {
        let read = |proven: &Proven| Entry { index: proven.index, said: serde_json::from_str(&proven.entry).unwrap_or_default() };
        let mut entries: Vec<Entry> = entries.iter().map(read).collect();
        entries.sort_by_key(|entry| entry.index);
        let own = || entries.iter().filter(|entry| entry.of("job"));
        let last = |event: &str| own().rev().find(|entry| entry.is(event));
        let end = own().rev().find(|entry| entry.is("completed") || entry.is("cancelled"));
        // What was begun again after it had ended, as it is when an older database came back, is open.
        let begun = last("intent").filter(|begun| end.is_none_or(|end| begun.index > end.index));
        let end = end.filter(|_| begun.is_none());
        let planned = own().rev().find(|entry| entry.is("rescheduled") || entry.is("scheduled"));
        let plan = end.or(planned).ok_or_else(|| NotOne::Nothing(job.to_owned()))?;
        let opened = own().rev().find(|entry| entry.is("intent"));
        let scheduled = own().find(|entry| entry.is("scheduled"));
        let outcome = end.map_or_else(|| Ok("open".to_owned()), |end| end.text("event"))?;
        let (ended_at, delete_by) = (end.map(|end| end.text("at")).transpose()?, plan.text("delete_by")?);
        let completed = outcome == "completed";
        let class = format!("{}/{}", plan.text("feature")?, plan.text("data_class")?);
        let policy = entries.iter().rev().find(|entry| entry.of("policy") && entry.index < plan.index);
        let terms: Option<Terms> = policy.and_then(|policy| serde_json::from_value(policy.said["terms"].clone()).ok());
        let told = |entry: &Entry| {
            [scheduled, opened, end].into_iter().flatten().all(|other| other.index != entry.index)
                && !entry.of("policy")
                && !entry.is("level")
        };
        Ok(Self {
            job: job.to_owned(),
            ledger: checkpoint.origin.clone(),
            as_of_entry: checkpoint.size,
            feature: plan.text("feature")?,
            data_class: plan.text("data_class")?,
            starting_point: plan.text("starting_point")?,
            started_at: plan.text("started_at")?,
            retain_until: plan.text("retain_until")?,
            // Instants are written in one way, so that their texts are in the order of time.
            in_time: ended_at.as_ref().filter(|_| completed).map(|at| *at <= delete_by),
            delete_by,
            scheduled_at: scheduled.map(|entry| entry.text("at")).transpose()?,
            opened_at: opened.map(|entry| entry.text("at")).transpose()?,
            ended_at,
            cancel_reason: end.and_then(|end| end.maybe("cancel_reason")),
            targets: end.map(targets).unwrap_or_default(),
            counts_exact: end.and_then(|end| end.said["count_exact"].as_bool()),
            verification: verification(completed).to_owned(),
            levels: levels(own(), end),
            residual_copies_end: end.and_then(|end| end.maybe("last_copy_gone_at")),
            events: entries.iter().filter(|entry| told(entry)).map(event).collect::<Result<_, _>>()?,
            rule: plan.text("rule")?,
            policy: policy.and_then(|policy| policy.maybe("policy")),
            out_of_scope: out_of_scope(terms.as_ref()),
            terms: terms.and_then(|terms| serde_json::to_value(terms.classes.get(&class)?).ok()),
            outcome,
            meaning: MEANING.to_owned(),
        })
    }
}

fn verification(completed: bool) -> &'static str {
    if completed {
        "After the last delete a separate look at each target, in its own statement, found no record of the account."
    } else {
        "Nothing was verified to be absent."
    }
}

fn targets(end: &Entry) -> BTreeMap<String, TargetStatement> {
    let mut targets: BTreeMap<String, TargetStatement> = BTreeMap::new();
    for (name, records) in end.said["records_deleted"].as_object().into_iter().flatten() {
        targets.entry(name.clone()).or_default().records_deleted = records.as_i64().unwrap_or_default();
    }
    for (name, word) in end.said["outcomes"].as_object().into_iter().flatten() {
        targets.entry(name.clone()).or_default().outcome = word.as_str().map(str::to_owned);
    }
    targets
}

/// What was reached since the job ended.
fn levels<'e>(own: impl Iterator<Item = &'e Entry>, end: Option<&Entry>) -> BTreeMap<String, String> {
    let Some(end) = end.filter(|end| end.is("completed")) else { return BTreeMap::new() };
    let reached = own
        .filter(|entry| entry.is("level") && entry.index > end.index)
        .filter_map(|entry| Some((entry.maybe("level")?, entry.maybe("at")?)));
    [("committed".to_owned(), end.maybe("at").unwrap_or_default())].into_iter().chain(reached).collect()
}

fn event(entry: &Entry) -> Result<Event, NotOne> {
    let about = match entry.maybe("reference") {
        Some(reference) => format!("{} {reference}", entry.text("kind")?),
        None => entry.text("kind")?,
    };
    Ok(Event { at: entry.text("at")?, what: entry.text("event")?, about, entry: entry.index })
}

fn out_of_scope(terms: Option<&Terms>) -> Vec<String> {
    let places = terms.map_or(&[][..], |terms| &terms.customer_places);
    let media = places.iter().map(|place| format!("{place}, which is under the customer's control: only the customer deletes it"));
    media.chain(NEVER_COVERED.iter().map(|&what| what.to_owned())).collect()
}
