//! Puts an account's id into a name, as it is or not at all (R8): an id that is escaped or cut would name a place that nobody looks at, and one that
//! holds what separates places would lie inside another account's.

use super::StoreError;
use crate::config::ACCOUNT;

/// The name of the account's own place.
///
/// # Errors
/// When the id cannot stand in a name.
pub(super) fn name(template: &str, account: &str) -> Result<String, StoreError> {
    let why = match account {
        "" => "is empty",
        id if id.contains(['/', '\\']) => "holds a slash or a backslash",
        id if id.contains("..") => "holds two dots in a row",
        id if id.chars().any(char::is_control) => "holds a control character",
        id => return Ok(template.replacen(ACCOUNT, id, 1)),
    };
    Err(StoreError::Refused(format!("the account's id {why}, and cannot stand in {template:?} as it is")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r8_an_id_stands_in_a_name_as_it_is_or_not_at_all() {
        for id in ["7", "Zoë 7.%2f*#", "{account_id}"] {
            assert_eq!(name("mps.{account_id}", id).unwrap(), format!("mps.{id}"));
        }
        for id in ["", "a/b", "a\\b", "..", "a..b", "a\nb", "a\0", "a\u{85}"] {
            let Err(StoreError::Refused(why)) = name("mps.{account_id}", id) else { panic!("{id:?}") };
            assert!(why.contains("cannot stand in \"mps.{account_id}\""), "{why}");
        }
    }
}
