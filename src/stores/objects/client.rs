//! Speaks to one bucket of S3, of what speaks like it, or of Tencent's COS. Every answer is read as what it must be; an error is sorted by its code, and
//! nothing else of it is repeated.

use std::{error::Error, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use md5::{Digest, Md5};
use reqwest::{Method, StatusCode, Url, header::RETRY_AFTER, redirect};
use secrecy::ExposeSecret;

use super::{
    sign::{self, Signed},
    xml::{self, Element, Entry, Page},
};
use crate::{
    config::{Bucket, Service},
    stores::StoreError,
};

/// No answer is longer: the longest holds a thousand keys.
const LONGEST_ANSWER: usize = 32 << 20;
/// Longer than this nobody is left alone, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// How a kind of thing in a bucket is listed.
#[derive(Debug)]
pub(super) struct Listing {
    /// The parameter that asks for it, and the one that says how many.
    ask: (&'static str, &'static str),
    /// Parameters after which a part begins.
    after: (&'static str, &'static str),
    /// The parameter that one is deleted by.
    by: &'static str,
    /// Many are deleted by one request.
    pub(super) together: bool,
    /// As many at once as are gone in time.
    pub(super) most: usize,
    pub(super) root: &'static str,
    pub(super) entries: &'static [&'static str],
    pub(super) id: &'static str,
    pub(super) next: (&'static str, &'static str),
}

/// Versions and delete markers; of a bucket without versions its objects.
pub(super) const VERSIONS: Listing = Listing {
    ask: ("versions", "max-keys"),
    after: ("key-marker", "version-id-marker"),
    by: "versionId",
    together: true,
    most: 1000,
    root: "ListVersionsResult",
    entries: &["Version", "DeleteMarker"],
    id: "VersionId",
    next: ("NextKeyMarker", "NextVersionIdMarker"),
};

/// Multipart uploads that were not finished.
pub(super) const UPLOADS: Listing = Listing {
    ask: ("uploads", "max-uploads"),
    after: ("key-marker", "upload-id-marker"),
    by: "uploadId",
    together: false,
    most: 250,
    root: "ListMultipartUploadsResult",
    entries: &["Upload"],
    id: "UploadId",
    next: ("NextKeyMarker", "NextUploadIdMarker"),
};

/// A client of one bucket.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    bucket: Bucket,
    /// Scheme, host and port.
    origin: String,
    /// Before every key.
    path: String,
}

impl Client {
    /// Opens no connection.
    pub(super) fn new(bucket: &Bucket) -> Result<Self, StoreError> {
        // Somebody else may have installed it: there is only this one.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent("retentiond")
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(30));
        if bucket.is_local() {
            http = http.no_proxy();
        }
        // What it needs of this machine are root certificates.
        let http = http.build().map_err(|error| StoreError::Refused(format!("cannot be reached with TLS: {}", chain(&error))))?;
        let (origin, path) = bucket.address();
        Ok(Self { http, bucket: bucket.clone(), origin, path })
    }

    /// The part of a listing that comes after a key and id.
    pub(super) async fn list(
        &self,
        listing: &Listing,
        prefix: &str,
        after: Option<&(String, String)>,
        at_most: usize,
    ) -> Result<Page, StoreError> {
        let at_most = at_most.to_string();
        let mut query = vec![(listing.ask.0, ""), (listing.ask.1, at_most.as_str()), ("prefix", prefix), ("encoding-type", "url")];
        if let Some((key, id)) = after {
            query.push((listing.after.0, key));
            if !id.is_empty() {
                query.push((listing.after.1, id));
            }
        }
        let page = xml::page(&self.ask(Method::GET, "", &query, None).await?, listing, prefix)?;
        if page.next.is_some() && page.next.as_ref() == after {
            return Err(StoreError::Refused("gives the same part of a listing again and again".to_owned()));
        }
        Ok(page)
    }

    /// Asks to delete these versions in one request. The codes of the errors that it answers.
    pub(super) async fn erase(&self, versions: &[&Entry]) -> Result<Vec<String>, StoreError> {
        let answer = self.ask(Method::POST, "", &[("delete", "")], Some(&xml::deletion(versions))).await?;
        if answer.name != "DeleteResult" {
            return Err(StoreError::Refused("answers to a deletion with something else".to_owned()));
        }
        Ok(answer.codes())
    }

    /// Asks to delete one version or upload. None there is a success.
    pub(super) async fn erase_one(&self, listing: &Listing, entry: &Entry) -> Result<(), StoreError> {
        let query = [(listing.by, entry.id.as_str())];
        let query = if entry.id.is_empty() { &[] } else { query.as_slice() };
        let (status, body) = self.exchange(Method::DELETE, &entry.key, query, None).await?;
        let code = Element::read(&body).and_then(|answer| answer.code());
        if status.is_success() || code.as_deref().is_some_and(is_gone) { Ok(()) } else { Err(sorted(status, code.as_deref(), None)) }
    }

    /// What the bucket says about itself; none where it was never told.
    pub(super) async fn setting(&self, name: &str) -> Result<Option<Element>, StoreError> {
        let (status, body) = self.exchange(Method::GET, "", &[(name, "")], None).await?;
        let answer = Element::read(&body);
        let code = answer.as_ref().and_then(Element::code);
        match code.as_deref() {
            // A bucket that is not there has no settings either, which is another matter.
            Some("NoSuchBucket") | None if !status.is_success() => Err(sorted(status, code.as_deref(), None)),
            Some(_) if matches!(status.as_u16(), 404 | 405 | 501) => Ok(None),
            Some(_) => Err(sorted(status, code.as_deref(), None)),
            None => answer.map(Some).ok_or_else(|| StoreError::Refused("gives no answer that can be read".to_owned())),
        }
    }

    /// The answer, if it is a good one.
    async fn ask(&self, method: Method, key: &str, query: &[(&str, &str)], body: Option<&str>) -> Result<Element, StoreError> {
        let (status, body) = self.exchange(method, key, query, body).await?;
        let answer = Element::read(&body);
        match answer.as_ref().and_then(Element::code) {
            // An error may come after the status was sent.
            code @ Some(_) => Err(sorted(status, code.as_deref(), None)),
            None if !status.is_success() => Err(sorted(status, None, None)),
            None => answer.ok_or_else(|| StoreError::Refused("gives no answer that can be read".to_owned())),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<(StatusCode, String), StoreError> {
        let path = format!("{}{key}", self.path);
        let (encoded, asked) = (sign::encode(&path, true), sign::query(query));
        let url = Url::parse(&format!("{}{encoded}?{asked}", self.origin)).map_err(|error| StoreError::Refused(error.to_string()))?;
        // `.` and `..` mean something else in an address.
        if url.path() != encoded || url.query() != Some(&asked) {
            return Err(StoreError::Refused("holds a key that no address can name; delete it by hand".to_owned()));
        }
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let (now, text) = (now(), body.unwrap_or_default());
        let (instant, digest) = (sign::s3_instant(now), sign::sha256(text));
        let md5 = body.map(|body| BASE64_STANDARD.encode(Md5::digest(body)));
        let mut headers = vec![("host", host.as_str())];
        headers.extend(md5.as_deref().map(|md5| ("content-md5", md5)));
        headers.extend(body.map(|_| ("content-type", "application/xml")));
        let (id, secret) = (self.bucket.access_key_id.expose_secret(), self.bucket.secret_access_key.expose_secret());
        let authorization = match self.bucket.service {
            Service::S3 => {
                headers.extend([("x-amz-content-sha256", digest.as_str()), ("x-amz-date", &instant)]);
                let signed = Signed { method: method.as_str(), path: &path, query, headers: &headers };
                sign::s3(&signed, id, secret, &self.bucket.region, now)
            }
            Service::Cos => sign::cos(&Signed { method: method.as_str(), path: &path, query, headers: &headers }, id, secret, now),
        };
        let mut request = self.http.request(method, url).header("authorization", authorization);
        for (name, value) in &headers[1..] {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let mut answer = request.send().await.map_err(away)?;
        let status = answer.status();
        if matches!(status.as_u16(), 429 | 503) {
            let pause = answer.headers().get(RETRY_AFTER).and_then(|value| pause(value.to_str().ok()?, now));
            return Err(sorted(status, None, pause));
        }
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(away)? {
            bytes.extend_from_slice(&part);
            if bytes.len() > LONGEST_ANSWER {
                return Err(StoreError::Refused("gives an answer that is too long".to_owned()));
            }
        }
        Ok((status, String::from_utf8(bytes).unwrap_or_default()))
    }
}

/// Sorts an error by what to do about it.
pub(super) fn sorted(status: StatusCode, code: Option<&str>, pause: Option<Duration>) -> StoreError {
    let what = match (code, status.is_success()) {
        (Some(code), true) => code.to_owned(),
        (Some(code), false) => format!("{code} (HTTP {})", status.as_u16()),
        (None, _) => format!("HTTP {}", status.as_u16()),
    };
    match (code.unwrap_or_default(), status.as_u16()) {
        (_, 429 | 503) | ("SlowDown" | "ServiceUnavailable" | "RequestLimitExceeded" | "TooManyRequests", _) => {
            StoreError::Throttled { what, pause }
        }
        (_, 408 | 500 | 502 | 504)
        | ("InternalError" | "RequestTimeout" | "OperationAborted" | "PathConflict" | "ConditionalRequestConflict", _) => {
            StoreError::Away(what)
        }
        (_, 301 | 307 | 308) => StoreError::Refused(format!("{what}: the bucket is elsewhere; look at endpoint and region")),
        ("RequestTimeTooSkewed", _) => StoreError::Refused(format!("{what}: this host's clock is wrong")),
        (_, 451) => StoreError::Refused(format!("{what}: the bucket is blocked, or its bill is not paid")),
        _ => StoreError::Refused(what),
    }
}

/// Whether an error says that there is nothing to delete.
pub(super) fn is_gone(code: &str) -> bool {
    matches!(code, "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload")
}

/// How long to wait, given in seconds or as an instant.
fn pause(said: &str, now: DateTime<Utc>) -> Option<Duration> {
    let seconds = said.trim().parse::<u64>().ok();
    let until = || (DateTime::parse_from_rfc2822(said.trim()).ok()?.to_utc() - now).to_std().ok();
    seconds.map(Duration::from_secs).or_else(until).map(|pause| pause.min(LONGEST_PAUSE))
}

/// What went wrong on the way, without the address: it holds the account.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn away(error: reqwest::Error) -> StoreError {
    if error.is_builder() { StoreError::Refused(chain(&error)) } else { StoreError::Away(chain(&error)) }
}

fn chain(error: &reqwest::Error) -> String {
    let what = match error {
        error if error.is_builder() => "cannot be asked",
        error if error.is_timeout() => "no answer in time",
        error if error.is_connect() => "no connection",
        _ => "no whole answer",
    };
    let mut causes = vec![what.to_owned()];
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes.join(": ")
}

#[expect(clippy::disallowed_methods, reason = "a signature carries the host's time; nothing is decided by it")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_to_do_about_them() {
        let sorted = |status: u16, code| sorted(StatusCode::from_u16(status).unwrap(), code, None);
        for status in [429, 503] {
            assert!(matches!(sorted(status, None), StoreError::Throttled { .. }));
        }
        assert!(matches!(sorted(200, Some("SlowDown")), StoreError::Throttled { .. }));
        for (status, code) in [(500, Some("InternalError")), (502, None), (200, Some("InternalError")), (409, Some("PathConflict"))] {
            assert!(matches!(sorted(status, code), StoreError::Away(_)), "{status}");
        }
        for (status, code, said) in [
            (403, Some("AccessDenied"), "AccessDenied (HTTP 403)"),
            (404, Some("NoSuchBucket"), "NoSuchBucket (HTTP 404)"),
            (301, None, "HTTP 301: the bucket is elsewhere; look at endpoint and region"),
            (
                451,
                Some("UnavailableForLegalReasons"),
                "UnavailableForLegalReasons (HTTP 451): the bucket is blocked, or its bill is not paid",
            ),
        ] {
            assert_eq!(sorted(status, code), StoreError::Refused(said.to_owned()));
        }
    }

    #[test]
    fn a_pause_is_read_in_both_spellings_and_has_a_bound() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(pause("7", now), Some(Duration::from_secs(7)));
        assert_eq!(pause("Thu, 01 Jan 2026 00:00:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(pause("Wed, 31 Dec 2025 00:00:30 GMT", now), None);
        assert_eq!(pause("soon", now), None);
        assert_eq!(pause("99999999", now), Some(LONGEST_PAUSE));
    }
}
