//! TDMQ for CMQ: how its API is reached, and queues and topics whose names hold the account's id.

use std::time::Duration;

use secrecy::SecretString;

use super::{ACCOUNT, Needs, Place, Protocol, Remote, is_local, secret};
use crate::config::table::{Read, Table, text, texts};

/// The longest name of a queue or topic.
const LONGEST: usize = 64;
/// Endings that the service keeps for itself.
const RESERVED: [&str; 2] = ["-retry", "-dlq"];
/// Figures and lists of the service lag by up to a minute.
const LOOKS_APART: Duration = Duration::from_mins(1);

/// How the API is reached.
#[derive(Debug, Clone)]
pub struct Cmq {
    /// Every region that is asked, each for itself.
    pub regions: Vec<String>,
    /// Scheme, host, and port if one is spelt.
    pub endpoint: String,
    /// Which key.
    pub secret_id: String,
    /// The key.
    pub secret_key: SecretString,
    /// How far apart the two looks are that an absence takes. No key sets it: it is that of the service, and shorter in tests alone.
    pub looks_apart: Duration,
}

/// The name of a queue or topic with the account's id in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    before: String,
    after: String,
}

impl Named {
    /// Parses a name that holds `{account_id}` once.
    ///
    /// # Errors
    /// Why no account has a queue or topic of that name.
    pub fn parse(spelt: &str) -> Result<Self, String> {
        let Some((before, after)) = spelt.split_once(ACCOUNT).filter(|(_, after)| !after.contains(ACCOUNT)) else {
            return Err(format!(
                "{spelt:?} must hold {ACCOUNT} exactly once, like \"mps-{ACCOUNT}\": what all accounts share cannot be purged of one"
            ));
        };
        let letter_first = before.is_empty() || before.starts_with(|c: char| c.is_ascii_alphabetic());
        if !before.chars().chain(after.chars()).all(of_a_name) || !letter_first || before.len() + after.len() >= LONGEST {
            return Err(format!("{spelt:?} is no name: a letter, then letters, digits, - and _, at most {LONGEST} with the account's id"));
        }
        if reserved(after) {
            return Err(format!("{spelt:?} ends in -retry or -dlq, which the service keeps for itself"));
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// The name for this account, taken literally (R8).
    ///
    /// # Errors
    /// Why there can be none.
    pub fn of(&self, account: &str) -> Result<String, String> {
        let name = format!("{}{account}{}", self.before, self.after);
        let sound = !account.is_empty() && account.chars().all(of_a_name) && name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !sound || name.len() > LONGEST || reserved(&name) {
            return Err(
                "this account id cannot be a part of such a name: a letter, then letters, digits, - and _, at most 64 in all".to_owned()
            );
        }
        Ok(name)
    }

    /// What every name of this kind begins with.
    #[must_use]
    pub fn before(&self) -> &str {
        &self.before
    }

    /// Whether a name is that of some account.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        // The service does not tell upper case from lower.
        let (name, before, after) = (name.to_ascii_lowercase(), self.before.to_ascii_lowercase(), self.after.to_ascii_lowercase());
        name.len() > before.len() + after.len() && name.starts_with(&before) && name.ends_with(&after)
    }

    /// Whether the name of one account here can be that of another account there.
    fn meets(&self, other: &Self) -> bool {
        let lower = |name: &Self| (name.before.to_ascii_lowercase(), name.after.to_ascii_lowercase());
        let ((before, after), (other_before, other_after)) = (lower(self), lower(other));
        (before.starts_with(&other_before) || other_before.starts_with(&before))
            && (after.ends_with(&other_after) || other_after.ends_with(&after))
    }

    fn spelt(&self) -> String {
        format!("{}{ACCOUNT}{}", self.before, self.after)
    }
}

fn of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

fn reserved(name: &str) -> bool {
    RESERVED.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending))
}

/// Whether a message could be in both.
pub(super) fn overlap(place: (bool, &Named, Option<&Named>), other: (bool, &Named, Option<&Named>)) -> bool {
    let names =
        |(_, name, dead): (bool, &Named, Option<&Named>)| [Some(name.clone()), dead.cloned()].into_iter().flatten().collect::<Vec<_>>();
    place.0 == other.0 && names(place).iter().any(|one| names(other).iter().any(|another| one.meets(another)))
}

/// Whether a queue or topic of this spelling, of one account or of all, could be one of these.
pub(super) fn overlap_spelt(spelt: &str, name: &Named, dead: Option<&Named>) -> bool {
    let template = spelt.split_once(ACCOUNT).map(|(before, after)| Named { before: before.to_owned(), after: after.to_owned() });
    let meets = |name: &Named| template.as_ref().map_or_else(|| name.covers(spelt), |template| name.meets(template));
    meets(name) || dead.is_some_and(meets)
}

/// How the policy names it.
pub(super) fn terms(topic: bool, name: &Named, dead: Option<&Named>) -> String {
    let kind = if topic { "topic" } else { "queue" };
    let dead = dead.map_or_else(String::new, |dead| format!(" with dead letters in {}", dead.spelt()));
    format!("{kind} {}{dead}", name.spelt())
}

/// Reads a store of this kind.
pub(super) fn store(t: &mut Table<'_>, needs: Needs) -> Option<Remote> {
    let regions = t.need("regions", "name every region that has queues, like regions = [\"ap-singapore\"]", |value| {
        let regions = texts(value)?;
        let sound = |region: &String| region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        regions
            .iter()
            .find(|region| !sound(region))
            .map_or(Ok(()), |bad| Err(format!("{bad:?} is no region: write it like \"ap-singapore\"")))?;
        Ok(regions)
    });
    let endpoint = t.need("endpoint", "write endpoint = \"https://tdmq.intl.tencentcloudapi.com\"", endpoint);
    let secret_id = t.need("secret_id", "write the id of the key", |value| {
        let id = text(value)?;
        if id.chars().all(|c| c.is_ascii_graphic() && !matches!(c, ',' | '/' | '=')) { Ok(id) } else { Err("is no id of a key".to_owned()) }
    });
    let secret_key = secret(t, "secret_key", "secret_key_file", needs);
    let (endpoint, secret_id) = (endpoint?, secret_id?);
    // One account may have several keys, and the cloud several endpoints: what lies in the same regions may be the same.
    let mut regions_in_order = regions.clone().unwrap_or_default();
    regions_in_order.sort_unstable();
    let at = format!("cmq://{}", regions_in_order.join(","));
    let cmq = Cmq { regions: regions?, endpoint, secret_id, secret_key: secret_key?, looks_apart: LOOKS_APART };
    Some(Remote { at, protocol: Protocol::Cmq(cmq) })
}

fn endpoint(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    let remedy = "write it like \"https://tdmq.intl.tencentcloudapi.com\", without a path or credentials";
    let (scheme, authority) = given.split_once("://").unwrap_or(("", ""));
    let authority = authority.trim_end_matches('/').to_ascii_lowercase();
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if authority.is_empty() || !authority.chars().all(sound) {
        return Err(format!("is no endpoint: {remedy}"));
    }
    let bare = authority
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(authority.as_str(), |(host, _)| host);
    match scheme {
        "https" => Ok(format!("https://{authority}")),
        "http" if is_local(bare) => Ok(format!("http://{authority}")),
        "http" => Err("http is for this machine alone; write https".to_owned()),
        _ => Err(format!("is no endpoint: {remedy}")),
    }
}

/// Reads the place of a target, and how it is spelt.
pub(super) fn place(t: &mut Table<'_>) -> Option<(String, Place)> {
    let topic = t.has("topic") && !t.has("queue");
    if t.has("topic") && t.has("queue") {
        t.fault("topic", "queue is set too; a target is one of them");
    }
    let named = |value: &::config::Value| text(value).and_then(|spelt| Ok((Named::parse(&spelt)?, spelt)));
    let remedy = "which queue or topic holds it? Write queue = \"mps-{account_id}\", or topic";
    let topic_name = t.maybe("topic", named);
    let (name, spelt) = if topic { topic_name? } else { t.need("queue", remedy, named)? };
    if topic {
        t.refuse("dead_letter_queue", "belongs to a queue: a topic has none");
    }
    let dead_letter_queue = t.maybe("dead_letter_queue", named).map(|(name, _)| name);
    if dead_letter_queue.as_ref().is_some_and(|dead| dead.meets(&name)) {
        t.fault(
            "dead_letter_queue",
            format!("could be the queue of another account by {spelt:?}: their names must begin or end differently"),
        );
    }
    Some((spelt, Place::Cmq { topic, name, dead_letter_queue }))
}
