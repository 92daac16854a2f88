//! Events that others send, so that a new starting point is looked for at once: CloudEvents 1.0 as structured JSON, one or a batch. They decide nothing; the
//! source says what stands. What was sent before is known again as long as this process remembers it.

use std::{
    collections::{HashSet, VecDeque},
    sync::Mutex,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The longest body, in bytes.
const LONGEST: usize = 64 << 10;
/// Events that are known again.
const REMEMBERED: usize = 10_000;

/// Why an event is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// More than 64 KiB.
    #[error("the body has more than {LONGEST} bytes: send fewer events at once")]
    TooLong,
    /// Not the content type of structured JSON.
    #[error("the content type is not application/cloudevents+json or application/cloudevents-batch+json")]
    ContentType,
    /// Not JSON, or not an object or an array of them.
    #[error("the body is not JSON as the content type says: {0}")]
    Body(&'static str),
    /// An attribute is missing or is no text.
    #[error("event {event}: {attribute} must be a text that is not empty")]
    Attribute {
        /// Which of a batch, from 0.
        event: usize,
        /// Its name.
        attribute: &'static str,
    },
    /// Another version of the format.
    #[error("event {0}: specversion must be \"1.0\"")]
    Version(usize),
}

/// What was sent before.
#[derive(Debug, Default)]
pub struct Inbound(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    known: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Inbound {
    /// The accounts (`subject`) of the events that were not sent before, each once. Nothing of a batch is taken when one event of it is wrong.
    ///
    /// # Errors
    /// What is wrong with it, for whoever sent it; no content is repeated.
    pub fn accept(&self, content_type: Option<&str>, body: &[u8]) -> Result<Vec<String>, InboundError> {
        if body.len() > LONGEST {
            return Err(InboundError::TooLong);
        }
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let batch = match media.as_str() {
            "application/cloudevents+json" => false,
            "application/cloudevents-batch+json" => true,
            _ => return Err(InboundError::ContentType),
        };
        let read: Value = serde_json::from_slice(body).map_err(|_| InboundError::Body("it cannot be parsed"))?;
        let events = if batch {
            serde_json::from_value::<Vec<Value>>(read).map_err(|_| InboundError::Body("a batch is an array"))?
        } else if read.is_object() {
            vec![read]
        } else {
            return Err(InboundError::Body("an event is an object"));
        };
        let read: Vec<([u8; 32], String)> = events.iter().enumerate().map(|(at, event)| one(at, event)).collect::<Result<_, _>>()?;
        let mut accounts = Vec::new();
        // A poisoned memory is still a memory.
        let mut seen = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (key, account) in read {
            if seen.is_new(key) && !accounts.contains(&account) {
                accounts.push(account);
            }
        }
        Ok(accounts)
    }
}

impl Seen {
    fn is_new(&mut self, key: [u8; 32]) -> bool {
        let new = self.known.insert(key);
        if new {
            self.order.push_back(key);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
        new
    }
}

/// What an event is known by, and its account.
fn one(at: usize, event: &Value) -> Result<([u8; 32], String), InboundError> {
    let attribute = |attribute| {
        let text = event[attribute].as_str().filter(|text| !text.is_empty());
        text.ok_or(InboundError::Attribute { event: at, attribute })
    };
    if attribute("specversion")? != "1.0" {
        return Err(InboundError::Version(at));
    }
    attribute("type")?;
    let (source, id, subject) = (attribute("source")?, attribute("id")?, attribute("subject")?);
    let key = Sha256::new().chain_update(source).chain_update([0]).chain_update(id).finalize().into();
    Ok((key, subject.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ONE: Option<&str> = Some("application/cloudevents+json; charset=UTF-8");
    const MANY: Option<&str> = Some("application/cloudevents-batch+json");

    fn event(source: &str, id: &str, subject: &str) -> Value {
        json!({"specversion": "1.0", "id": id, "source": source, "type": "com.example.account.terminated.v1", "subject": subject, "data": {"any": 1}})
    }

    #[test]
    fn an_event_names_its_account_once_however_often_it_is_sent() {
        let inbound = Inbound::default();
        let send = |event: &Value| inbound.accept(ONE, event.to_string().as_bytes());
        assert_eq!(send(&event("/a", "1", "alice")).unwrap(), ["alice"]);
        assert!(send(&event("/a", "1", "alice")).unwrap().is_empty());
        assert_eq!(send(&event("/b", "1", "alice")).unwrap(), ["alice"], "another source");
        assert_eq!(send(&event("/a", "2", "alice")).unwrap(), ["alice"], "another id");
        let batch = json!([event("/a", "2", "alice"), event("/a", "3", "bob"), event("/a", "4", "bob")]);
        assert_eq!(inbound.accept(MANY, batch.to_string().as_bytes()).unwrap(), ["bob"]);
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_of_it_is_taken() {
        let inbound = Inbound::default();
        for attribute in ["id", "source", "type", "subject", "specversion"] {
            for wrong in [json!(null), json!(7), json!("")] {
                let mut second = event("/a", "2", "bob");
                second[attribute] = wrong;
                let batch = json!([event("/a", "1", "alice"), second]);
                let refused = inbound.accept(MANY, batch.to_string().as_bytes()).unwrap_err();
                assert_eq!(refused, InboundError::Attribute { event: 1, attribute });
            }
        }
        assert_eq!(inbound.accept(ONE, event("/a", "1", "alice").to_string().as_bytes()).unwrap(), ["alice"], "it was not taken before");
        let mut other = event("/a", "9", "alice");
        other["specversion"] = json!("0.3");
        assert_eq!(inbound.accept(ONE, other.to_string().as_bytes()), Err(InboundError::Version(0)));
        assert!(matches!(inbound.accept(ONE, b"{"), Err(InboundError::Body(_))));
        assert!(matches!(inbound.accept(ONE, b"[]"), Err(InboundError::Body(_))));
        assert!(matches!(inbound.accept(MANY, b"{}"), Err(InboundError::Body(_))));
        assert_eq!(inbound.accept(Some("application/json"), b"{}"), Err(InboundError::ContentType));
        assert_eq!(inbound.accept(None, b"{}"), Err(InboundError::ContentType));
    }

    #[test]
    fn a_body_may_be_64_kib_long_and_no_longer() {
        let inbound = Inbound::default();
        let mut long = event("/a", "1", "alice").to_string();
        long.push_str(&" ".repeat(LONGEST - long.len()));
        assert_eq!(inbound.accept(ONE, long.as_bytes()).unwrap(), ["alice"]);
        long.push(' ');
        assert_eq!(inbound.accept(ONE, long.as_bytes()), Err(InboundError::TooLong));
    }

    #[test]
    fn the_oldest_is_forgotten_and_not_the_newest() {
        let inbound = Inbound::default();
        let send = |id: usize| inbound.accept(ONE, event("/a", &id.to_string(), "alice").to_string().as_bytes()).unwrap().len();
        assert_eq!((0..=REMEMBERED).map(send).sum::<usize>(), REMEMBERED + 1);
        assert_eq!((send(REMEMBERED), send(1), send(0)), (0, 0, 1));
    }
}
