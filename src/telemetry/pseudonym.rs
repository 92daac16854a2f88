//! Account ids in the log under another name: the same account has the same in every line of every process with the same key, and
//! nobody without the key finds the account behind it. Applied where every line passes, so that no caller has to think of it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use super::fields::{Fields, Value};

/// From so many bytes on an id is replaced wherever it stands in a text, also within a longer word.
const UNLIKELY: usize = 6;
/// What stands in place of what may name an account.
const WITHHELD: &str = "withheld: it may name an account";
/// Fields that never hold an id, and whose values are words that must stay what they are.
const WORDS: [&str; 8] = ["event", "feature", "data_class", "starting_point", "job_id", "sqlstate", "retain_until", "delete_by"];

/// Makes pseudonyms.
#[derive(Clone)]
pub(super) struct Pseudonyms {
    key: SecretString,
}

impl Pseudonyms {
    pub(super) fn new(key: SecretString) -> Self {
        Self { key }
    }

    /// `a~` and 64 bits of HMAC-SHA256.
    pub(super) fn of(&self, account: &str) -> String {
        // What the log would cut is cut first, so that both are one account.
        let Value::Text(account) = Value::text(account) else { return WITHHELD.to_owned() };
        // A key of any length will do.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.expose_secret().as_bytes()) else { return WITHHELD.to_owned() };
        mac.update(account.as_bytes());
        format!("a~{}", hex::encode(&mac.finalize().into_bytes()[..8]))
    }

    /// Takes every account id out of a line: the one in `account_id`, wherever else it stands; what others said, which stands in “ ” and may name any;
    /// what a person wrote; and whatever another library says.
    pub(super) fn hide(&self, fields: &mut Fields, ours: bool) {
        if !ours {
            fields.clear();
            fields.set("message", Value::text(WITHHELD));
            return;
        }
        let account = fields.text("account_id").map(ToOwned::to_owned);
        let hidden = account.as_deref().map(|account| (account, self.of(account)));
        let by_a_person = fields.get("actor").is_some();
        for (name, value) in fields.iter_mut() {
            match value {
                Value::Accounts(accounts) => accounts.iter_mut().for_each(|account| *account = self.of(account)),
                Value::Text(text) if name == "account_id" => *text = self.of(text),
                Value::Text(text) if name == "reason" && by_a_person => WITHHELD.clone_into(text),
                Value::Text(text) if !WORDS.contains(&name) => {
                    cut_quoted(text);
                    if let Some((account, pseudonym)) = &hidden {
                        replace(text, account, pseudonym);
                    }
                }
                Value::Text(_) | Value::Json(_) => {}
            }
        }
    }
}

/// Takes out what stands in “ ”.
fn cut_quoted(text: &mut String) {
    let mut from = 0;
    while let Some(open) = text[from..].find('“').map(|at| from + at + '“'.len_utf8()) {
        // Quotes within quotes belong to the outer pair; one that is never closed reaches to the end.
        let (mut depth, mut close) = (1, text.len());
        for (at, c) in text[open..].char_indices() {
            depth += i32::from(c == '“') - i32::from(c == '”');
            if depth == 0 {
                close = open + at;
                break;
            }
        }
        text.replace_range(open..close, "…");
        from = open + '…'.len_utf8();
    }
}

/// Puts the pseudonym wherever the id stands; a short id only where it is a word of its own.
fn replace(text: &mut String, account: &str, pseudonym: &str) {
    if account.is_empty() || !text.contains(account) {
        return;
    }
    let mut told = String::with_capacity(text.len());
    let mut from = 0;
    for (at, _) in text.match_indices(account) {
        let word = |c: char| c.is_alphanumeric();
        let within = text[..at].chars().next_back().is_some_and(word) || text[at + account.len()..].chars().next().is_some_and(word);
        if within && account.len() < UNLIKELY {
            continue;
        }
        told.push_str(&text[from..at]);
        told.push_str(pseudonym);
        from = at + account.len();
    }
    told.push_str(&text[from..]);
    *text = told;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(fields: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut all = Fields::default();
        for (name, value) in fields {
            all.set(name, Value::text(*value));
        }
        Pseudonyms::new("0123456789abcdef".into()).hide(&mut all, true);
        all.iter().map(|(name, value)| (name, value.shown().into_owned())).collect()
    }

    #[test]
    fn one_account_has_one_pseudonym_under_one_key() {
        let (one, other) = (Pseudonyms::new("0123456789abcdef".into()), Pseudonyms::new("0123456789abcdeg".into()));
        // The first 8 bytes of `printf acme | openssl dgst -sha256 -hmac 0123456789abcdef`.
        assert_eq!(one.of("acme"), "a~42dd7a21e34198f4");
        assert_ne!(one.of("acme"), other.of("acme"));
        assert_ne!(one.of("acme"), one.of("acme "));
        let long = "x".repeat(5_000);
        let Value::Text(cut) = Value::text(long.clone()) else { panic!("text") };
        assert_eq!(one.of(&long), one.of(&cut), "the log cuts it first");
    }

    #[test]
    fn the_id_goes_from_every_text_of_its_line_and_words_stay() {
        let told = hidden(&[
            ("message", "purge of customer-1 begins"),
            ("account_id", "customer-1"),
            ("feature", "customer-1"),
            ("error", "xcustomer-1x and “the disk of “customer-2”, no, customer-3” failed (“never closed"),
        ]);
        let pseudonym = &told[1].1;
        assert!(pseudonym.starts_with("a~") && pseudonym.len() == 18, "{told:?}");
        assert_eq!(told[0].1, format!("purge of {pseudonym} begins"));
        assert_eq!(told[2].1, "customer-1");
        assert_eq!(told[3].1, format!("x{pseudonym}x and “…” failed (“…"));
    }

    #[test]
    fn a_short_id_is_replaced_only_where_it_is_a_word() {
        let told = hidden(&[("message", "1 of 21, a1; 1"), ("account_id", "1")]);
        assert_eq!(told[0].1.matches("a~").count(), 2, "{told:?}");
        assert!(told[0].1.contains("of 21, a1;"), "{told:?}");
    }

    #[test]
    fn what_a_person_wrote_is_withheld_and_a_reason_of_ours_is_not() {
        assert_eq!(hidden(&[("reason", "acme asked"), ("actor", "jo")])[0].1, WITHHELD);
        assert_eq!(hidden(&[("reason", "held")])[0].1, "held");
    }
}
