//! A bucket with versions in a test's hands: it lists and deletes as S3 does, page by page, and can lie.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use crate::standin::{Asked, Said, StandIn};

/// A bucket in a test's hands: what it holds, and what it is like.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Keys with their versions.
    pub(crate) versions: BTreeSet<(String, String)>,
    /// No page has more, whatever it is asked for.
    pub(crate) page: usize,
    /// What is not deleted, and what is said then.
    pub(crate) locked: BTreeSet<String>,
    /// It says that it deletes, and does not.
    pub(crate) lies: bool,
    /// Versions in each request to delete.
    pub(crate) requests: Vec<usize>,
}

impl Bucket {
    pub(crate) fn start(self) -> (StandIn, Arc<Mutex<Self>>) {
        let bucket = Arc::new(Mutex::new(self));
        let mine = Arc::clone(&bucket);
        let server = StandIn::start(move |asked| {
            let said = mine.lock().unwrap().answer(&asked);
            async move { said }
        });
        (server, bucket)
    }

    pub(crate) fn answer(&mut self, asked: &Asked) -> Said {
        let query = asked.path.split_once('?').unwrap().1;
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(decoded);
        if query == "delete=" {
            return Said::xml(&self.delete(&asked.body));
        }
        if parameter("uploads").is_some() {
            return Said::xml("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>");
        }
        let most = parameter("max-keys").unwrap().parse::<usize>().unwrap().min(self.page);
        let after = parameter("key-marker").map(|key| (key, parameter("version-id-marker").unwrap()));
        let prefix = parameter("prefix").unwrap();
        let mut rest = self.versions.iter().filter(|version| version.0.starts_with(&prefix) && after.as_ref().is_none_or(|a| *version > a));
        let page: Vec<_> = rest.by_ref().take(most).collect();
        let mut body = page
            .iter()
            .fold(String::new(), |body, (key, id)| body + &format!("<Version><Key>{key}</Key><VersionId>{id}</VersionId></Version>"));
        let more = rest.next().is_some();
        if let (true, Some((key, id))) = (more, page.last()) {
            body = format!("{body}<NextKeyMarker>{key}</NextKeyMarker><NextVersionIdMarker>{id}</NextVersionIdMarker>");
        }
        Said::xml(&format!("<ListVersionsResult><IsTruncated>{more}</IsTruncated>{body}</ListVersionsResult>"))
    }

    fn delete(&mut self, body: &str) -> String {
        let between = |text: &str, tag: &str| text.split_once(&format!("<{tag}>")).unwrap().1.split('<').next().unwrap().to_owned();
        let objects: Vec<_> = body.split("<Object>").skip(1).map(|object| (between(object, "Key"), between(object, "VersionId"))).collect();
        self.requests.push(objects.len());
        let mut errors = Vec::new();
        for version in objects {
            if self.locked.contains(&version.0) {
                errors.push(format!("<Error><Key>{}</Key><Code>AccessDenied</Code><Message>not to be logged</Message></Error>", version.0));
            } else if !self.lies {
                self.versions.remove(&version);
            }
        }
        format!("<DeleteResult>{}</DeleteResult>", errors.concat())
    }

    /// So many versions of an account, two of each key.
    pub(crate) fn with(mut self, account: &str, versions: usize) -> Self {
        self.versions.extend((0..versions).map(|n| (format!("b/{account}/{:05}", n / 2), format!("v{n}"))));
        self
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { hex::decode([bytes.next().unwrap(), bytes.next().unwrap()]).unwrap()[0] } else { byte });
    }
    String::from_utf8(decoded).unwrap()
}
