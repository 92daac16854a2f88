//! A notice as it is sent: the JSON of a CloudEvent 1.0, and the signature of Standard Webhooks over it. Pure.

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::model::rfc3339;

/// What `retentiond notices test` sends.
pub const TEST: &str = "retention.test";
/// No body is longer.
const LONGEST: usize = 20_000;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The fact; the same in each try.
    pub id: &'a str,
    /// The ledger's name.
    pub source: &'a str,
    /// What happened.
    pub kind: &'a str,
    /// Whose records it is about.
    pub account: Option<&'a str>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Ids, dates and counts.
    pub data: &'a Value,
}

impl Event<'_> {
    /// Its text, the same whenever it is asked for. Counts by target are left out where it would be too long.
    #[must_use]
    pub fn body(&self) -> String {
        let whole = self.with(self.data).to_string();
        if whole.len() < LONGEST {
            return whole;
        }
        let mut data = self.data.clone();
        if let Some(data) = data.as_object_mut() {
            data.remove("records_deleted");
            data.insert("shortened".to_owned(), Value::Bool(true));
        }
        self.with(&data).to_string()
    }

    fn with(&self, data: &Value) -> Value {
        let mut event = json!({
            "specversion": "1.0", "id": self.id, "source": reference(self.source), "type": self.kind, "time": rfc3339(self.at),
            "datacontenttype": "application/json", "data": data,
        });
        // An attribute that is not there is left out; null would be none of the format's.
        if let (Some(account), Some(event)) = (self.account, event.as_object_mut()) {
            event.insert("subject".to_owned(), Value::String(account.to_owned()));
        }
        event
    }
}

/// The name of a ledger as a URI reference.
fn reference(name: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `webhook-signature`: one for each secret, over id, seconds since 1970 and body.
#[must_use]
pub fn sign(secrets: &[SecretSlice<u8>], id: &str, timestamp: i64, body: &str) -> String {
    let one = |secret: &SecretSlice<u8>| {
        // A key may be of any length, so there is no error to have.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret()).ok()?;
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        Some(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
    };
    secrets.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_the_standard_prints() {
        // The example of the specification of Standard Webhooks.
        let key = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signed = sign(&[key.into()], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs_for_itself() {
        let (old, new): (SecretSlice<u8>, SecretSlice<u8>) = (vec![1; 32].into(), vec![2; 32].into());
        let both = sign(&[new.clone(), old.clone()], "id", 1, "body");
        assert_eq!(both, format!("{} {}", sign(&[new], "id", 1, "body"), sign(&[old], "id", 1, "body")));
    }

    #[test]
    fn a_body_has_what_the_format_asks_for_and_is_never_too_long() {
        let at = "2026-01-02T03:04:05.000006Z".parse().unwrap();
        let many: Value = (0..2_000).map(|n| (format!("platform/table_{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
        let data = json!({"job_id": "7", "records_deleted": many});
        let event = Event { id: "entry-1", source: "retentiond/a b", kind: TEST, account: Some("a\"1"), at, data: &data };
        let body = event.body();
        assert!(body.len() < LONGEST);
        let read: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            read,
            json!({"specversion": "1.0", "id": "entry-1", "source": "retentiond/a%20b", "type": "retention.test", "subject": "a\"1",
                   "time": "2026-01-02T03:04:05.000006Z", "datacontenttype": "application/json", "data": {"job_id": "7", "shortened": true}})
        );
        let none = Event { account: None, ..event }.body();
        assert!(serde_json::from_str::<Value>(&none).unwrap().get("subject").is_none());
    }
}
