//! The answers of an object store, and the one question that is XML. An answer is what it has to be, whole, or it is none: a page of somebody's proxy
//! must not read like an empty bucket.

use std::fmt::Write;

use quick_xml::{
    Reader,
    escape::{escape, resolve_predefined_entity},
    events::Event,
};

use super::client::Listing;
use crate::stores::StoreError;

/// Answers are flat; deeper ones are not ours.
const DEEPEST: usize = 16;

/// One version, delete marker or unfinished upload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Of the version or the upload; empty where there are no versions.
    pub(super) id: String,
}

/// A part of a listing.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// After which key and id the next part begins; none after the last.
    pub(super) next: Option<(String, String)>,
}

/// An element with what is in it.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    text: String,
    children: Vec<Self>,
}

impl Element {
    /// Reads a document.
    pub(super) fn read(document: &str) -> Option<Self> {
        let mut reader = Reader::from_str(document);
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().ok()?;
            let depth = open.len();
            let inner = open.last_mut()?;
            match event {
                Event::Start(start) if depth < DEEPEST => {
                    open.push(Self { name: start.local_name().into_inner().to_owned(), ..Self::default() });
                }
                Event::Empty(empty) => inner.children.push(Self { name: empty.local_name().into_inner().to_owned(), ..Self::default() }),
                Event::End(_) => {
                    let whole = open.pop()?;
                    open.last_mut()?.children.push(whole);
                }
                Event::Text(text) => inner.text.push_str(&text.into_inner()),
                Event::CData(text) => inner.text.push_str(&text.into_inner()),
                Event::GeneralRef(reference) => match reference.resolve_char_ref().ok()? {
                    Some(character) => inner.text.push(character),
                    None => inner.text.push_str(resolve_predefined_entity(&reference.into_inner())?),
                },
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                // Nobody has a use for its own entities; and an end that comes too early is none.
                Event::Eof if depth == 1 => break,
                Event::DocType(_) | Event::Eof | Event::Start(_) => return None,
            }
        }
        let mut documents = open.pop()?.children;
        (documents.len() == 1).then(|| documents.remove(0))
    }

    fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Self> + use<'a, 'n> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of this name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.text.as_str())
    }

    /// The text of each element of this name, wherever it is.
    pub(super) fn texts<'a>(&'a self, name: &str) -> Vec<&'a str> {
        let mut found: Vec<&str> = self.all(name).map(|child| child.text.as_str()).collect();
        found.extend(self.children.iter().flat_map(|child| child.texts(name)));
        found
    }

    /// The code of an error, if this is one. Whatever else an error holds may quote a key.
    pub(super) fn code(&self) -> Option<String> {
        (self.name == "Error").then(|| word(self.text("Code").unwrap_or("?")))
    }

    /// The codes of the errors in an answer to many deletes.
    pub(super) fn codes(&self) -> Vec<String> {
        self.all("Error").map(|error| word(error.text("Code").unwrap_or("?"))).collect()
    }
}

/// A code as it may be repeated.
fn word(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').take(64).collect()
}

/// Reads a part of a listing of what is under the prefix.
pub(super) fn page(answer: &Element, listing: &Listing, prefix: &str) -> Result<Page, StoreError> {
    let refused = |why: &str| StoreError::Refused(format!("gives a listing {why}"));
    let truncated = match answer.text("IsTruncated") {
        _ if answer.name != listing.root => return Err(refused("that is none")),
        Some("true") => true,
        Some("false") => false,
        _ => return Err(refused("that does not say whether it is all")),
    };
    // COS spells it otherwise in one of its answers.
    let encoded = ["EncodingType", "Encoding-Type"].iter().any(|name| answer.text(name) == Some("url"));
    let decoded = |text: &str| if encoded { decode(text) } else { Some(text.to_owned()) };
    let mut entries = Vec::new();
    for entry in answer.children.iter().filter(|child| listing.entries.contains(&child.name.as_str())) {
        let key = entry.text("Key").and_then(decoded).ok_or_else(|| refused("with a key that is none"))?;
        if !key.starts_with(prefix) {
            return Err(refused("of other keys than it was asked for"));
        }
        entries.push(Entry { key, id: entry.text(listing.id).unwrap_or_default().to_owned() });
    }
    let next = match answer.text(listing.next.0) {
        _ if !truncated => None,
        Some(key) if !key.is_empty() => {
            let key = decoded(key).ok_or_else(|| refused("with a key that is none"))?;
            Some((key, answer.text(listing.next.1).unwrap_or_default().to_owned()))
        }
        _ => return Err(refused("that has more and does not say where")),
    };
    Ok(Page { entries, next })
}

fn decode(text: &str) -> Option<String> {
    let (mut bytes, mut decoded) = (text.bytes(), Vec::with_capacity(text.len()));
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex::decode([bytes.next()?, bytes.next()?]).ok()?[0],
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Whether a question in XML can name the key: not all characters are allowed in it, and white space at an end gets lost.
pub(super) fn can_name(key: &str) -> bool {
    key.trim() == key && !key.contains(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// The question to delete so many versions.
pub(super) fn deletion(entries: &[&Entry]) -> String {
    let mut text = "<Delete><Quiet>true</Quiet>".to_owned();
    for Entry { key, id } in entries {
        let _never_fails = write!(text, "<Object><Key>{}</Key>", escape(key.as_str()));
        if !id.is_empty() {
            let _never_fails = write!(text, "<VersionId>{}</VersionId>", escape(id.as_str()));
        }
        text.push_str("</Object>");
    }
    text + "</Delete>"
}

#[cfg(test)]
mod tests {
    use super::{
        super::client::{UPLOADS, VERSIONS},
        *,
    };

    fn versions(body: &str) -> Result<Page, StoreError> {
        page(&Element::read(body).unwrap(), &VERSIONS, "b/a/")
    }

    fn entry(key: &str, id: &str) -> Entry {
        Entry { key: key.to_owned(), id: id.to_owned() }
    }

    #[test]
    fn a_listing_is_read_in_its_order_with_markers_and_odd_keys() {
        let body = "<?xml version=\"1.0\"?>\n<ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">
            <EncodingType>url</EncodingType><Prefix>b/a/</Prefix><IsTruncated>true</IsTruncated><NextKeyMarker>b/a/%C3%A4+%2B</NextKeyMarker>
            <NextVersionIdMarker>3</NextVersionIdMarker><Version><Key>b/a/%C3%A4+%2B</Key><VersionId>1</VersionId><Owner><ID>Key</ID></Owner></Version>
            <DeleteMarker><Key>b/a/x</Key><VersionId>2</VersionId></DeleteMarker><Version><Key>b/a/x</Key><VersionId>null</VersionId></Version>
            </ListVersionsResult>";
        let page = versions(body).unwrap();
        assert_eq!(page.entries, [entry("b/a/ä +", "1"), entry("b/a/x", "2"), entry("b/a/x", "null")]);
        assert_eq!(page.next, Some(("b/a/ä +".to_owned(), "3".to_owned())));
        let plain =
            "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>b/a/&lt;&#x2B;+%41</Key></Version></ListVersionsResult>";
        assert_eq!(versions(plain).unwrap().entries, [entry("b/a/<++%41", "")]);
        let uploads = "<ListMultipartUploadsResult><Encoding-Type>url</Encoding-Type><IsTruncated>false</IsTruncated><Upload><Key>b%2Fa%2Fu</Key><UploadId>7</UploadId></Upload></ListMultipartUploadsResult>";
        assert_eq!(page_of_uploads(uploads).entries, [entry("b/a/u", "7")]);
    }

    fn page_of_uploads(body: &str) -> Page {
        page(&Element::read(body).unwrap(), &UPLOADS, "b/a/").unwrap()
    }

    #[test]
    fn an_answer_that_is_not_the_whole_listing_is_none() {
        for (body, why) in [
            ("<html><IsTruncated>false</IsTruncated></html>", "that is none"),
            ("<Error><Code>x</Code></Error>", "that is none"),
            ("<ListVersionsResult/>", "does not say whether it is all"),
            ("<ListVersionsResult><IsTruncated>true</IsTruncated></ListVersionsResult>", "does not say where"),
            (
                "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>b/a1/x</Key></Version></ListVersionsResult>",
                "of other keys",
            ),
            ("<ListVersionsResult><IsTruncated>false</IsTruncated><Version/></ListVersionsResult>", "with a key that is none"),
        ] {
            let error = versions(body).unwrap_err().to_string();
            assert!(error.contains(why), "{body}: {error}");
        }
        for broken in ["", "<a>", "<a/><b/>", "<a></b>", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>", "<a>&b;</a>", &"<a>".repeat(9999)] {
            assert!(Element::read(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn an_error_gives_its_code_and_no_key() {
        let error =
            Element::read("<Error><Code>Access<![CDATA[Denied ä]]></Code><Key>secret</Key><Message>secret</Message></Error>").unwrap();
        assert_eq!(error.code().unwrap(), "AccessDenied");
        let some =
            Element::read("<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>X</Code></Error></DeleteResult>").unwrap();
        assert_eq!((some.code(), some.codes()), (None, vec!["X".to_owned()]));
    }

    #[test]
    fn a_deletion_names_each_version_and_keys_that_xml_cannot_hold_are_told() {
        let (odd, bare) = (entry("b/a/<&\"ä", "1"), entry("x", ""));
        let text = deletion(&[&odd, &bare]);
        let read = Element::read(&text).unwrap();
        assert_eq!((read.texts("Key"), read.texts("VersionId")), (vec!["b/a/<&\"ä", "x"], vec!["1"]));
        for (key, nameable) in [("b/a/x", true), ("b/a/x ", false), ("b/\u{1}", false), ("b/\u{ffff}", false), ("b/ \u{a0}ä", true)] {
            assert_eq!(can_name(key), nameable, "{key:?}");
        }
    }
}
