//! Signs requests: AWS Signature Version 4 for S3, and the signature of Tencent's COS. The secret itself never leaves this machine.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// How far a clock may be behind ours, and how long a COS signature is good for.
const COS_BEFORE: i64 = 60;
const COS_AFTER: i64 = 600;

/// What of a request is signed. Names of headers are in lower case.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// As it was before it was encoded.
    pub(super) path: &'a str,
    /// Likewise.
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'a str, &'a str)],
}

/// Bytes that need no encoding stay, all others become `%XX`.
pub(super) fn encode(text: &str, keep_slash: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slash && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    encoded
}

/// Parameters encoded, in the order of their names, joined.
pub(super) fn query(parameters: &[(&str, &str)]) -> String {
    let mut encoded: Vec<String> = parameters.iter().map(|(k, v)| format!("{}={}", encode(k, false), encode(v, false))).collect();
    encoded.sort_unstable();
    encoded.join("&")
}

/// The digest of a body as S3 wants it in a header.
pub(super) fn sha256(body: &str) -> String {
    hex::encode(Sha256::digest(body))
}

/// When something was signed, as S3 wants it in a header.
pub(super) fn s3_instant(now: DateTime<Utc>) -> String {
    now.format("%Y%m%dT%H%M%SZ").to_string()
}

/// The `authorization` of a request to S3. Its headers hold `x-amz-content-sha256` and `x-amz-date`.
pub(super) fn s3(request: &Signed<'_>, id: &str, secret: &str, region: &str, now: DateTime<Utc>) -> String {
    let mut headers = request.headers.to_vec();
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let lines = lines.concat();
    let digest = headers.iter().find(|(name, _)| *name == "x-amz-content-sha256").map_or("", |(_, value)| value);
    let canonical = format!("{}\n{}\n{}\n{lines}\n{names}\n{digest}", request.method, encode(request.path, true), query(request.query));
    let (instant, date) = (s3_instant(now), now.format("%Y%m%d").to_string());
    let scope = format!("{date}/{region}/s3/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{instant}\n{scope}\n{}", sha256(&canonical));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date.as_str(), region, "s3", "aws4_request", &to_sign] {
        key = mac::<Hmac<Sha256>>(&key, part);
    }
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={}", hex::encode(key))
}

/// The `authorization` of a request to COS.
pub(super) fn cos(request: &Signed<'_>, id: &str, secret: &str, now: DateTime<Utc>) -> String {
    let time = format!("{};{}", now.timestamp() - COS_BEFORE, now.timestamp() + COS_AFTER);
    let sign_key = hex::encode(mac::<Hmac<Sha1>>(secret.as_bytes(), &time));
    cos_with(request, id, &sign_key, &time)
}

fn cos_with(request: &Signed<'_>, id: &str, sign_key: &str, time: &str) -> String {
    let (names, headers) = cos_list(request.headers);
    let (parameters, query) = cos_list(request.query);
    let described = format!("{}\n{}\n{query}\n{headers}\n", request.method.to_ascii_lowercase(), request.path);
    let to_sign = format!("sha1\n{time}\n{}\n", hex::encode(Sha1::digest(described)));
    let signature = hex::encode(mac::<Hmac<Sha1>>(sign_key.as_bytes(), &to_sign));
    format!(
        "q-sign-algorithm=sha1&q-ak={id}&q-sign-time={time}&q-key-time={time}&q-header-list={names}&q-url-param-list={parameters}&q-signature={signature}"
    )
}

/// The names in their order, and names with values.
fn cos_list(pairs: &[(&str, &str)]) -> (String, String) {
    let mut pairs: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| (encode(name, false).to_lowercase(), encode(value, false))).collect();
    pairs.sort_unstable();
    let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    let both: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    (names.join(";"), both.join("&"))
}

fn mac<M: Mac + KeyInit>(key: &[u8], text: &str) -> Vec<u8> {
    // Keys of every length are taken: of a longer one its digest.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn aws(path: &str, query: &[(&str, &str)], more: &[(&str, &str)]) -> String {
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        let mut headers =
            vec![("x-amz-date", "20130524T000000Z"), ("host", "examplebucket.s3.amazonaws.com"), ("x-amz-content-sha256", EMPTY)];
        headers.extend(more);
        let request = Signed { method: "GET", path, query, headers: &headers };
        let signed = s3(&request, "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1", now);
        signed.rsplit_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn signatures_of_s3_are_those_that_aws_has_published() {
        assert_eq!(sha256(""), EMPTY);
        assert_eq!(aws("/", &[("lifecycle", "")], &[]), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
        assert_eq!(
            aws("/", &[("prefix", "J"), ("max-keys", "2")], &[]),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        assert_eq!(aws("/test.txt", &[], &[("range", "bytes=0-9")]), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    }

    #[test]
    fn signatures_of_cos_are_those_that_tencent_has_published() {
        let host = ("host", "examplebucket-1250000000.cos.ap-beijing.myqcloud.com");
        let put = Signed {
            method: "PUT",
            path: "/exampleobject(腾讯云)",
            query: &[],
            headers: &[
                ("date", "Thu, 16 May 2019 06:45:51 GMT"),
                host,
                ("content-type", "text/plain"),
                ("content-length", "13"),
                ("content-md5", "mQ/fVh815F3k6TAUm8m0eg=="),
                ("x-cos-acl", "private"),
                ("x-cos-grant-read", "uin=\"100000000011\""),
            ],
        };
        let signed = cos_with(&put, "ID", "eb2519b498b02ac213cb1f3d1a3d27a3b3c9bc5f", "1557989151;1557996351");
        assert_eq!(
            signed,
            "q-sign-algorithm=sha1&q-ak=ID&q-sign-time=1557989151;1557996351&q-key-time=1557989151;1557996351\
             &q-header-list=content-length;content-md5;content-type;date;host;x-cos-acl;x-cos-grant-read&q-url-param-list=\
             &q-signature=3b8851a11a569213c17ba8fa7dcf2abec6935172"
        );
        let get = Signed {
            method: "GET",
            path: "/exampleobject(腾讯云)",
            query: &[("response-content-type", "application/octet-stream"), ("response-cache-control", "max-age=600")],
            headers: &[("date", "Thu, 16 May 2019 06:55:53 GMT"), host],
        };
        let signed = cos_with(&get, "ID", "937914bf490e9e8c189836aad2052e4feeb35eaf", "1557989753;1557996953");
        assert!(
            signed.ends_with(
                "&q-url-param-list=response-cache-control;response-content-type&q-signature=01681b8c9d798a678e43b685a9f1bba0f6c0e012"
            ),
            "{signed}"
        );
    }

    #[test]
    fn a_signature_of_cos_for_many_deletes_is_that_of_its_parts() {
        let delete = Signed {
            method: "POST",
            path: "/",
            query: &[("delete", "")],
            headers: &[
                ("content-length", "133"),
                ("content-md5", "exARMOT5gl6qcuwh/yMAwg=="),
                ("content-type", "application/xml"),
                ("host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"),
            ],
        };
        let time = "1735689600;1735690200";
        let key = hex::encode(mac::<Hmac<Sha1>>(b"Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", time));
        assert_eq!(key, "24bce9e01208eaa182719c673aea4a70243c5b2e");
        assert!(cos_with(&delete, "ID", &key, time).ends_with("q-signature=4ff70c7e1c0f4d2fa85ed67f75e618eb10f9090d"));
        // The instant makes the period.
        let now = DateTime::from_timestamp(1_735_689_660, 0).unwrap();
        assert!(cos(&delete, "ID", "secret", now).contains("q-sign-time=1735689600;1735690260&"));
    }
}
