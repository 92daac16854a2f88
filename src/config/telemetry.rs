//! `[telemetry]`: where traces are sent, if anywhere. What a trace holds is `src/spans.rs`, how it is sent `src/telemetry/traces.rs`.

use std::{collections::BTreeSet, fs};

use secrecy::SecretString;

use super::{
    raw::unreadable,
    remote::{host, is_local},
    table::{Read, Table, text},
    validate::Needs,
};

/// Where receivers of OTLP over HTTP take traces.
const PATH: &str = "/v1/traces";
/// Longest name of a service.
const LONGEST_NAME: usize = 100;

/// A receiver of traces, by OTLP over HTTP.
#[derive(Debug, Clone)]
pub struct Traces {
    /// The whole address, with its path. Holds no secret.
    pub endpoint: String,
    /// Headers of each request, which may be what lets us in: never printed.
    pub headers: Vec<(String, SecretString)>,
    /// What receivers call this daemon.
    pub service_name: String,
}

/// `None`: no traces, or a fault that is on record.
pub(super) fn traces(t: &mut Table<'_>, needs: Needs, warnings: &mut Vec<String>) -> Option<Traces> {
    let service_name = t.scalar("service_name", |value| {
        let name = text(value)?;
        if name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control) {
            Ok(name)
        } else {
            Err(format!("is no name: at most {LONGEST_NAME} characters, none of them a control character"))
        }
    });
    let endpoint = t.maybe("otlp_endpoint", endpoint);
    let given = t.has("otlp_headers_file");
    let headers = t.maybe("otlp_headers_file", |value| {
        let path = text(value)?;
        if needs == Needs::Nothing {
            return Ok(Vec::new());
        }
        let content = fs::read_to_string(&path).map_err(|error| format!("{path:?} {}", unreadable(&error)))?;
        headers(&content).map_err(|why| format!("{path:?}, {why}"))
    });
    if given && !t.has("otlp_endpoint") {
        t.fault("otlp_headers_file", "is of no use without otlp_endpoint: set that too, or leave this out");
    }
    let endpoint = endpoint?;
    if cfg!(not(feature = "otlp")) {
        t.fault("otlp_endpoint", "this program was built without the feature `otlp`: leave it out, or build with it");
    }
    if endpoint.contains(":4317/") {
        warnings.push(format!(
            "{}: 4317 is mostly the port of OTLP over gRPC; over HTTP, which is spoken here, it is 4318",
            t.key("otlp_endpoint")
        ));
    }
    if given && endpoint.starts_with("http://") && !is_local(&host(&endpoint)) {
        warnings
            .push(format!("{}: the headers leave this machine in clear; https:// does not let anybody read them", t.key("otlp_endpoint")));
    }
    Some(Traces { endpoint, headers: headers.unwrap_or_default(), service_name: service_name? })
}

/// Judges the address; repeats it only where it can hold no secret.
fn endpoint(value: &::config::Value) -> Read<String> {
    let given = text(value)?;
    let remedy = "write it like \"http://127.0.0.1:4318\"";
    if given.contains('@') {
        return Err("holds a user or a password, or what looks like one; what the receiver asks for goes into otlp_headers_file".to_owned());
    }
    if given.contains(['?', '#', '\\']) || given.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{given:?} holds a space, a control character, ?, # or a backslash: {remedy}"));
    }
    let Some(("http" | "https", rest)) = given.split_once("://") else {
        return Err(format!("{given:?} starts with neither http:// nor https://: {remedy}"));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    // In [ ] the colons are an address.
    let (name, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    if name.is_empty() {
        return Err(format!("{given:?} names no host: {remedy}"));
    }
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(format!("{given:?} has a port that is none: {remedy}"));
    }
    let base = given.trim_end_matches('/');
    Ok(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

/// One `name: value` per line; empty lines count for nothing. Never repeats a line.
fn headers(content: &str) -> Read<Vec<(String, SecretString)>> {
    let mut names = BTreeSet::new();
    let mut headers = Vec::new();
    for (at, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = at + 1;
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("line {at} is no header: write `name: value`"));
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            return Err(format!("line {at} has no name of a header before its colon: letters, digits, - and _"));
        }
        if value.is_empty() || value.chars().any(|c| !(c.is_ascii_graphic() || c == ' ')) {
            return Err(format!("line {at} has a value that no header can have: it is empty, or not plain ASCII"));
        }
        if !names.insert(name.clone()) {
            return Err(format!("line {at} names a header a second time"));
        }
        headers.push((name, value.into()));
    }
    Ok(headers)
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use std::collections::BTreeMap;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::{Config, Invalid, SHIPPED, parse};

    fn with(keys: &[(&str, &str)]) -> Result<Config, Invalid> {
        let mut environment: BTreeMap<String, String> = [("RETENTIOND__MODE", "enforce"), ("DATABASE_URL", "postgres://a@localhost/a")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        environment.extend(keys.iter().map(|(key, value)| (format!("RETENTIOND__TELEMETRY__{key}"), (*value).to_owned())));
        parse(&[("retentiond.toml", SHIPPED)], &environment, Needs::Database)
    }

    #[test]
    fn without_an_endpoint_there_are_no_traces_and_with_one_they_go_where_otlp_takes_them() {
        assert!(with(&[]).unwrap().traces.is_none());
        for (given, meant) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/prefix", "https://otel.example/prefix/v1/traces"),
            ("https://otel.example/v1/traces", "https://otel.example/v1/traces"),
            ("http://[::1]:65535", "http://[::1]:65535/v1/traces"),
            ("http://[::1]", "http://[::1]/v1/traces"),
        ] {
            let config = with(&[("OTLP_ENDPOINT", given)]).unwrap();
            let traces = config.traces.unwrap();
            assert_eq!((traces.endpoint.as_str(), traces.service_name.as_str()), (meant, "retentiond"));
            assert_eq!(config.warnings, [""; 0], "{given}");
        }
        assert_eq!(with(&[("OTLP_ENDPOINT", "http://a"), ("SERVICE_NAME", "eu")]).unwrap().traces.unwrap().service_name, "eu");
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_its_key_and_what_to_write() {
        for (given, problem) in [
            ("127.0.0.1:4318", "\"127.0.0.1:4318\" starts with neither http:// nor https://: write it like \"http://127.0.0.1:4318\""),
            ("grpc://a:4317", "starts with neither"),
            ("http://", "names no host"),
            ("http://:4318", "names no host"),
            ("http://a:x", "has a port that is none"),
            ("http://a:0", "has a port that is none"),
            ("http://a:65536", "has a port that is none"),
            ("http://a/?x=1", "holds a space"),
            ("http://a b", "holds a space"),
            ("", "must not be empty"),
        ] {
            let faults = with(&[("OTLP_ENDPOINT", given)]).unwrap_err().faults;
            assert_eq!((faults.len(), faults[0].key.as_str()), (1, "telemetry.otlp_endpoint"), "{given}: {faults:?}");
            assert!(faults[0].problem.contains(problem), "{given}: {}", faults[0].problem);
        }
        let told = with(&[("OTLP_ENDPOINT", "http://u:hunter2@a")]).unwrap_err().to_string();
        assert!(told.contains("otlp_headers_file") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn headers_are_read_line_by_line_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let read = |content: &str, endpoint: &str| {
            fs::write(file.path(), content).unwrap();
            with(&[("OTLP_ENDPOINT", endpoint), ("OTLP_HEADERS_FILE", path)])
        };
        let config = read("Authorization: Bearer hunter2:x\n\n x-scope : a \n", "https://a").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let headers = config.traces.unwrap().headers;
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
        assert_eq!(headers, [("authorization", "Bearer hunter2:x"), ("x-scope", "a")]);
        for (content, problem) in [
            ("hunter2", "line 1 is no header"),
            ("a: b\n\nhunt er2: c", "line 3 has no name"),
            ("hunter2:", "line 1 has a value"),
            ("a: hunter2é", "line 1 has a value"),
            ("a: hunter2\nA: c", "line 2 names a header a second time"),
        ] {
            let faults = read(content, "https://a").unwrap_err().faults;
            assert_eq!(faults[0].key, "telemetry.otlp_headers_file");
            assert!(faults[0].problem.contains(problem) && !faults[0].problem.contains("hunter2"), "{}", faults[0].problem);
        }
        let faults = with(&[("OTLP_HEADERS_FILE", path)]).unwrap_err().to_string();
        assert!(faults.contains("second time") && faults.contains("without otlp_endpoint"), "{faults}");
        let missing = with(&[("OTLP_ENDPOINT", "https://a"), ("OTLP_HEADERS_FILE", "/nowhere")]).unwrap_err().to_string();
        assert!(missing.contains("/nowhere") && missing.contains("cannot be read"), "{missing}");
    }

    #[test]
    fn what_is_most_likely_a_mistake_is_a_warning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "a: b").unwrap();
        let path = file.path().to_str().unwrap();
        let warnings = |keys: &[(&str, &str)]| with(keys).unwrap().warnings.join("\n");
        assert!(warnings(&[("OTLP_ENDPOINT", "http://a:4317")]).contains("4318"));
        assert!(warnings(&[("OTLP_ENDPOINT", "http://a"), ("OTLP_HEADERS_FILE", path)]).contains("in clear"));
        for fine in ["https://a", "http://localhost:4318", "http://127.0.0.1"] {
            assert_eq!(warnings(&[("OTLP_ENDPOINT", fine), ("OTLP_HEADERS_FILE", path)]), "");
        }
    }
}
