//! Signed notes (C2SP signed-note, Ed25519) and the checkpoints they carry (C2SP tlog-checkpoint): what is published of a ledger, readable by verifiers
//! that are not ours.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::Signer;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::tree::Hash;

/// The algorithm byte of Ed25519.
const ED25519: u8 = 1;
/// What a signature line begins with: an em dash and a space.
const SIGNED_BY: &str = "\u{2014} ";

/// Why a note, a key or a checkpoint is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not in the form that a key has.
    #[error("is no Ed25519 key of a signed note: {0}")]
    Key(&'static str),
    /// Not in the form that a note has.
    #[error("is no signed note: {0}")]
    Form(&'static str),
    /// No line of the key that is asked for.
    #[error("is not signed by {0}")]
    Unsigned(String),
    /// A line of that key, whose signature is of another text or another key.
    #[error("has a signature of {0} that does not fit it")]
    Forged(String),
}

fn key_id(name: &str, public: &[u8]) -> u32 {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public).finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// A key that checks signatures; written as `name+id+key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifierKey {
    /// Reads a key.
    ///
    /// # Errors
    /// When it is none, or its parts do not fit each other.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("it is not written as name+id+key"));
        };
        let public = key_bytes(key)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&public).map_err(|_| NoteError::Key("it is no point of the curve"))?;
        if key.is_weak() {
            return Err(NoteError::Key("it is a weak one"));
        }
        named(name)?;
        if format!("{:08x}", key_id(name, &public)) != id {
            return Err(NoteError::Key("its id belongs to another key"));
        }
        Ok(Self { name: name.to_owned(), key })
    }

    /// Whose key it is: the origin of the ledger.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a note that this key signed.
    ///
    /// # Errors
    /// When it did not, or the note is none. Signatures of others are passed over.
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str, NoteError> {
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Form("no blank line before its signatures"))?;
        let text = &note[..=text.len()];
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Form("its last line does not end"))?;
        let id = key_id(&self.name, self.key.as_bytes());
        for line in signatures.split('\n') {
            let line = line.strip_prefix(SIGNED_BY).ok_or(NoteError::Form("a line that is no signature"))?;
            let (name, signature) = line.split_once(' ').ok_or(NoteError::Form("a line that is no signature"))?;
            let signature = BASE64_STANDARD.decode(signature).map_err(|_| NoteError::Form("a signature that is no base64"))?;
            let Some((of, signature)) = signature.split_at_checked(4) else { return Err(NoteError::Form("a signature that is too short")) };
            if name != self.name || of != id.to_be_bytes() {
                continue;
            }
            let forged = || NoteError::Forged(self.name.clone());
            let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| forged())?;
            // Strict: no two signatures of one text, no small-order keys, whatever else verifies the note.
            return self.key.verify_strict(text.as_bytes(), &signature).map(|()| text).map_err(|_| forged());
        }
        Err(NoteError::Unsigned(self.name.clone()))
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = self.key.as_bytes();
        let encoded = BASE64_STANDARD.encode([&[ED25519], public.as_slice()].concat());
        write!(f, "{}+{:08x}+{encoded}", self.name, key_id(&self.name, public))
    }
}

/// A key that signs; written as `PRIVATE+KEY+name+id+key`, and never printed.
#[derive(Clone)]
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A key from 32 random bytes.
    ///
    /// # Errors
    /// When the name cannot stand in a note.
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        named(name)?;
        Ok(Self { name: name.to_owned(), key: ed25519_dalek::SigningKey::from_bytes(seed) })
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it is none, or its parts do not fit each other. What was read is not in the message.
    pub fn parse(text: &SecretString) -> Result<Self, NoteError> {
        let text = text.expose_secret().trim().strip_prefix("PRIVATE+KEY+").ok_or(NoteError::Key("it does not begin with PRIVATE+KEY+"))?;
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("it is not written as PRIVATE+KEY+name+id+key"));
        };
        let key = Self::new(name, &key_bytes(key)?)?;
        if format!("{:08x}", key_id(name, key.key.verifying_key().as_bytes())) != id {
            return Err(NoteError::Key("its id belongs to another key"));
        }
        Ok(key)
    }

    /// The key as it is kept.
    #[must_use]
    pub fn secret(&self) -> SecretString {
        let id = key_id(&self.name, self.key.verifying_key().as_bytes());
        let encoded = BASE64_STANDARD.encode([&[ED25519], self.key.as_bytes().as_slice()].concat());
        format!("PRIVATE+KEY+{}+{id:08x}+{encoded}", self.name).into()
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub fn verifier(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a text, which must end with a newline.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        let id = key_id(&self.name, self.key.verifying_key().as_bytes());
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let encoded = BASE64_STANDARD.encode([id.to_be_bytes().as_slice(), signature.as_slice()].concat());
        format!("{text}\n{SIGNED_BY}{} {encoded}\n", self.name)
    }
}

/// The 32 bytes of a key behind its algorithm.
fn key_bytes(encoded: &str) -> Result<[u8; 32], NoteError> {
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| NoteError::Key("it is no base64"))?;
    match bytes.split_first() {
        Some((&ED25519, key)) => key.try_into().map_err(|_| NoteError::Key("it has another length than 32 bytes")),
        Some(_) | None => Err(NoteError::Key("it is of another algorithm")),
    }
}

fn named(name: &str) -> Result<(), NoteError> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(NoteError::Key("its name is empty, or holds a space or a plus sign"));
    }
    Ok(())
}

/// What a ledger was at some instant: how many entries, and the root of their tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which ledger.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }

    /// The checkpoint in a note that this key signed, for the ledger that bears the key's name.
    ///
    /// # Errors
    /// When it is none, or of another ledger.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let text = key.open(note)?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Form("it is no checkpoint"));
        };
        let decimal = size == "0" || (!size.starts_with('0') && size.bytes().all(|b| b.is_ascii_digit()));
        let size = size.parse().ok().filter(|_| decimal).ok_or(NoteError::Form("its size is no number"))?;
        let root = BASE64_STANDARD.decode(root).ok().and_then(|root| root.try_into().ok()).ok_or(NoteError::Form("its root is no hash"))?;
        if origin != key.name() {
            return Err(NoteError::Form("it is of another ledger"));
        }
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::new("retentiond/test", &[seed; 32]).unwrap()
    }

    #[test]
    fn the_example_of_the_standard_library_that_notes_come_from_verifies() {
        let verifier = VerifierKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let note = format!(
            "{text}\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        );
        assert_eq!(verifier.open(&note), Ok(text));
        let secret = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz".to_owned().into();
        let signer = SigningKey::parse(&secret).unwrap();
        assert_eq!(signer.sign(text), note);
        assert_eq!(signer.secret().expose_secret(), secret.expose_secret());
        assert_eq!(signer.verifier().to_string(), verifier.to_string());
    }

    #[test]
    fn independent_code_opens_our_checkpoint() {
        use signed_note::{Note, StandardVerifier, VerifierList};
        let checkpoint = Checkpoint { origin: "retentiond/test".to_owned(), size: 3, root: [7; 32] };
        let note = key(1).sign(&checkpoint.text());
        let verifier = StandardVerifier::new(&key(1).verifier().to_string()).unwrap();
        let (signed_by, _) = Note::from_bytes(note.as_bytes()).unwrap().verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
        assert_eq!(signed_by.len(), 1);
        let theirs = tlog_tiles::Checkpoint::from_bytes(checkpoint.text().as_bytes()).unwrap();
        assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), ("retentiond/test", 3, [7; 32]));
        assert_eq!(Checkpoint::open(&note, &key(1).verifier()), Ok(checkpoint));
    }

    #[test]
    fn a_note_that_was_touched_or_signed_by_another_does_not_open() {
        let checkpoint = Checkpoint { origin: "retentiond/test".to_owned(), size: 3, root: [7; 32] };
        let note = key(1).sign(&checkpoint.text());
        let by = key(1).verifier();
        assert_eq!(Checkpoint::open(&note.replace("\n3\n", "\n4\n"), &by), Err(NoteError::Forged("retentiond/test".to_owned())));
        let resigned = key(2).sign(&checkpoint.text());
        assert_eq!(Checkpoint::open(&resigned, &by), Err(NoteError::Unsigned("retentiond/test".to_owned())));
        // Another key's line beside ours is passed over.
        let line = resigned.rsplit_once("\n\n").unwrap().1;
        assert_eq!(Checkpoint::open(&format!("{note}{line}"), &by), Ok(checkpoint.clone()));
        for torn in ["", "text\n", "text\n\n", &note[..note.len() - 1], &note.replace(SIGNED_BY, "- ")] {
            assert!(by.open(torn).is_err(), "{torn:?}");
        }
        let elsewhere = Checkpoint { origin: "retentiond/other".to_owned(), ..checkpoint };
        assert_eq!(Checkpoint::open(&key(1).sign(&elsewhere.text()), &by), Err(NoteError::Form("it is of another ledger")));
        let leading = key(1).sign(&elsewhere.text().replace("other\n3", "test\n03"));
        assert_eq!(Checkpoint::open(&leading, &by), Err(NoteError::Form("its size is no number")));
    }

    #[test]
    fn keys_that_are_none_say_why_and_never_what_they_were() {
        let good = key(1).verifier().to_string();
        let id = good.split('+').nth(1).unwrap().to_owned();
        for (text, why) in [
            ("", "name+id+key"),
            ("a+b", "name+id+key"),
            (&good.replace(&id, "00000000"), "another key"),
            (&good.replace("retentiond/test", "x"), "another key"),
            (&good.replace("+AY", "+BY"), "another algorithm"),
            (&good[..good.len() - 4], "32 bytes"),
        ] {
            let said = VerifierKey::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
        let secret = key(1).secret();
        assert!(!format!("{:?}", key(1)).contains(secret.expose_secret().rsplit('+').next().unwrap()));
        assert!(SigningKey::new("two words", &[1; 32]).is_err());
    }
}
