//! What anybody can check, pure: a Merkle tree as RFC 6962 has it, in tiles as C2SP tlog-tiles has them, checkpoints as signed notes, entries as canonical
//! JSON (RFC 8785), subjects as keyed commitments. No database, no clock, no files; `ledger` and `certificate` are made of it.

pub mod note;
pub mod tiles;
pub mod tree;

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

pub use note::{Checkpoint, NoteError, SigningKey, VerifierKey};
pub use tree::{Hash, Unproven};

/// The largest entry that a tile can hold.
pub const LONGEST_ENTRY: usize = 65_535;

/// What an entry says of a person, an actor or a reason: nothing, to whoever does not have the salt. `what` keeps the kinds apart.
#[must_use]
pub fn commitment(salt: &[u8], what: &str, text: &str) -> String {
    // A key may be of any length, so there is no error to have.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt) else { return String::new() };
    mac.update(b"retentiond/v1/");
    mac.update(what.as_bytes());
    mac.update(&[0]);
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// The one text of a JSON value (RFC 8785): members in the order of their names' UTF-16 code units, no space. `None` for a number that is no whole one
/// below 2^53, which no entry has.
#[must_use]
pub fn canonical(value: &Value) -> Option<String> {
    let mut text = String::new();
    write_canonical(value, &mut text)?;
    Some(text)
}

fn write_canonical(value: &Value, text: &mut String) -> Option<()> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => write!(text, "{value}").ok()?,
        Value::Number(number) => {
            let whole = number.as_i64().filter(|n| n.unsigned_abs() < 1 << 53)?;
            write!(text, "{whole}").ok()?;
        }
        Value::Array(values) => {
            text.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_canonical(value, text)?;
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write!(text, "{}:", Value::String(name.clone())).ok()?;
                write_canonical(value, text)?;
            }
            text.push('}');
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn canonical_text_is_that_of_rfc_8785() {
        // The order of the standard's own example: by UTF-16 code units, in which the emoji comes before the ligature.
        let names = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        assert_eq!(
            canonical(&names).unwrap(),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}"
        );
        let controls = json!("\u{8}\t\n\u{c}\r\"\\\u{1}\u{7f}/");
        assert_eq!(canonical(&controls).unwrap(), "\"\\b\\t\\n\\f\\r\\\"\\\\\\u0001\u{7f}/\"");
        assert_eq!(
            canonical(&json!({"b": [1, -2, null], "a": {"d": true, "c": ""}})).unwrap(),
            r#"{"a":{"c":"","d":true},"b":[1,-2,null]}"#
        );
        assert_eq!(canonical(&json!(1.5)), None);
        assert_eq!(canonical(&json!(9_007_199_254_740_992_i64)), None);
    }

    #[test]
    fn i15_a_commitment_depends_on_salt_kind_and_text() {
        let one = commitment(&[1; 32], "subject", "alice");
        assert_eq!(one.len(), 64);
        assert_eq!(one, commitment(&[1; 32], "subject", "alice"));
        for other in
            [commitment(&[2; 32], "subject", "alice"), commitment(&[1; 32], "actor", "alice"), commitment(&[1; 32], "subject", "alicf")]
        {
            assert_ne!(one, other);
        }
        // HMAC-SHA256 as RFC 4231 has it, through another road: the first test case's key over our own prefix would not tell a wrong MAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&[0x0b; 20]) else { panic!("any length") };
        mac.update(b"Hi There");
        assert_eq!(hex::encode(mac.finalize().into_bytes()), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }
}
