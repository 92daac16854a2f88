//! Signs requests to Tencent Cloud's API 3.0 (TC3-HMAC-SHA256). The key of a signature is good for one day, in UTC, and one service.

use chrono::DateTime;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// What the body is, as it is signed and sent.
pub(super) const CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// The header `Authorization` of a POST of `body` to the root of `host`, at so many seconds since 1970. `host` as the header says it, with its port if that
/// does; `service` is the first part of its name.
pub(super) fn authorization(id: &str, key: &SecretString, (service, host): (&str, &str), body: &str, timestamp: i64) -> String {
    let date = DateTime::from_timestamp(timestamp, 0).unwrap_or_default().format("%Y-%m-%d").to_string();
    let scope = format!("{date}/{service}/tc3_request");
    let to_sign = format!("TC3-HMAC-SHA256\n{timestamp}\n{scope}\n{}", canonical(host, body));
    let mut secret = format!("TC3{}", key.expose_secret()).into_bytes();
    for part in [date.as_str(), service, "tc3_request"] {
        secret = hmac(&secret, part);
    }
    let signature = hex::encode(hmac(&secret, &to_sign));
    format!("TC3-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders=content-type;host, Signature={signature}")
}

/// The hash of the request in its one form.
fn canonical(host: &str, body: &str) -> String {
    let body = hex::encode(Sha256::digest(body));
    hex::encode(Sha256::digest(format!("POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\n\ncontent-type;host\n{body}")))
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    // A key of any length is a key.
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    hmac.update(message.as_bytes());
    hmac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE";

    fn signed(service: &str, host: &str, body: &str, timestamp: i64) -> String {
        let key = "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE".into();
        let whole = authorization(ID, &key, (service, host), body, timestamp);
        let (head, signature) = whole.split_once(", Signature=").unwrap();
        let date = DateTime::from_timestamp(timestamp, 0).unwrap().date_naive();
        assert_eq!(head, format!("TC3-HMAC-SHA256 Credential={ID}/{date}/{service}/tc3_request, SignedHeaders=content-type;host"));
        signature.to_owned()
    }

    #[test]
    fn the_published_example_is_signed_as_published() {
        let body = r#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#;
        let host = "cvm.tencentcloudapi.com";
        assert_eq!(hex::encode(Sha256::digest(body)), "35e9c5b0e3ae67532d3c9f17ead6c90222632e5b1ff7f6e89887f1398934f064");
        assert_eq!(canonical(host, body), "5ffe6a04c0664d6b969fab9a13bdab201d63ee709638e2749d62a09ca18d7031");
        assert_eq!(signed("cvm", host, body, 1_551_113_065), "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168");
    }

    #[test]
    fn a_signature_is_of_its_day_and_its_service() {
        let body = r#"{"QueueName":"mps-events"}"#;
        for (timestamp, signature) in [
            (1_735_689_599, "e1e05d30285f0f22f5bdd2de9f74dfe12c2693337e7eae32f9c30d2ea6292bb6"),
            (1_735_689_600, "4a869774b0ca8d7833ef45c7c65182f92547c4055a6bdbca13aa50fb66d51b50"),
        ] {
            assert_eq!(signed("tdmq", "tdmq.tencentcloudapi.com", body, timestamp), signature);
        }
        for (body, signature) in [
            (r#"{"Definition":100010}"#, "4eae051b9f468aa45028debf9a3d427b2ad7ba241d7f604341387dfdcb7cb450"),
            ("{}", "623c9516732e65d8d527343a308a6982a4e94b19508d74a985b0f1891f872a8a"),
        ] {
            assert_eq!(signed("mps", "mps.intl.tencentcloudapi.com", body, 1_735_689_600), signature);
        }
    }
}
