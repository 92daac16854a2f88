//! The API under whatever a client may send: made from its own `OpenAPI` document, so that a new address is tried as soon as it is there. Nothing is answered
//! that the document does not say, nothing breaks, and nothing that was planted comes out.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    client::{Reply, send},
    world::{World, until},
};

const OLD: &str = "now() - interval '40 days'";
/// What no answer may hold: it is in records, in secrets and in an address of the database.
const CANARY: &str = "canary-7c1f";

/// Always the same throws.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const TEXTS: [&str; 22] = [
    "",
    "a",
    "1",
    "-1",
    "0",
    "9223372036854775807",
    "9223372036854775808",
    "1e3",
    "null",
    "true",
    "'; drop table retention.jobs; --",
    "\u{0}",
    "%",
    "%zz",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "ä漢🦀",
    "\u{202e}",
    "2026-01-01T00:00:00Z",
    "-200000-01-01T00:00:00Z",
    "+262000-01-01T00:00:00Z",
    "mps",
];

/// Percent-encodes everything but letters and digits.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |text, b| {
        if b.is_ascii_alphanumeric() { text + &char::from(b).to_string() } else { text + &format!("%{b:02X}") }
    })
}

/// A value for the schema, or something else.
fn value(dice: &mut Dice, document: &Value, schema: &Value) -> Value {
    if dice.below(8) == 0 {
        return [json!(null), json!(-1), json!([]), json!({}), json!(1.5), json!("x".repeat(2_000))][dice.below(6)].clone();
    }
    let schema = resolved(document, schema);
    if let Some(properties) = schema["properties"].as_object() {
        let mut object = serde_json::Map::new();
        for (name, part) in properties {
            if dice.below(6) > if required(schema, name) { 0 } else { 3 } {
                object.insert(name.clone(), value(dice, document, part));
            }
        }
        if dice.below(10) == 0 {
            object.insert("unknown".to_owned(), json!(1));
        }
        return Value::Object(object);
    }
    json!(dice.one(&TEXTS))
}

fn required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|required| required == name))
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            resolved(document, document.pointer(reference.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{reference}")))
        }
        None => schema,
    }
}

/// What of a value its schema does not say; nothing when all is said.
fn unsaid(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let none = choices.iter().all(|choice| !unsaid(document, choice, value, at).is_empty());
        return if none { vec![format!("{at}: {value} is none of the choices")] } else { Vec::new() };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Vec::new(),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = types.contains(&is) || is == "integer" && types.contains(&"number");
    if !fits {
        return vec![format!("{at}: {value} is no {types:?}")];
    }
    let mut found = Vec::new();
    if let (Value::Object(object), Some(properties)) = (value, schema["properties"].as_object()) {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(required) {
                found.push(format!("{at}.{required} is missing"));
            }
        }
        for (name, value) in object {
            match properties.get(name) {
                Some(schema) => found.extend(unsaid(document, schema, value, &format!("{at}.{name}"))),
                None => found.push(format!("{at}.{name} is not in the document")),
            }
        }
    }
    if let Value::Array(items) = value {
        for item in items {
            found.extend(unsaid(document, &schema["items"], item, &format!("{at}[]")));
        }
    }
    found
}

struct Tried<'a> {
    addr: SocketAddr,
    document: &'a Value,
}

impl Tried<'_> {
    /// Sends one request to an address of the document, and judges the answer.
    fn once(&self, dice: &mut Dice, path: &str, method: &str, operation: &Value) -> u16 {
        let (mut address, mut query, mut key, mut tag) = (path.to_owned(), Vec::new(), None, None);
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            let text = if place == "path" && dice.below(2) == 0 { dice.one(&["1", "2", "3", "a"]) } else { dice.one(&TEXTS) };
            match place {
                "path" => address = address.replace(&format!("{{{name}}}"), &encoded(text)),
                "query" if dice.below(4) == 0 => query.push(format!("{name}={}", encoded(text))),
                _ if name == "Idempotency-Key" => key = Some(format!("k{}", dice.below(1_000_000))),
                _ if name == "If-Match" => tag = Some("*".to_owned()),
                _ => {}
            }
        }
        if !query.is_empty() {
            address = format!("{address}?{}", query.join("&"));
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = if schema.is_null() {
            String::new()
        } else if dice.below(12) == 0 {
            "{\"reason\":".to_owned()
        } else {
            value(dice, self.document, schema).to_string()
        };
        let mut headers = vec![("Authorization", "Bearer t-olga"), ("Content-Type", "application/json")];
        headers.extend(key.as_deref().map(|key| ("Idempotency-Key", key)));
        headers.extend(tag.as_deref().map(|tag| ("If-Match", tag)));
        let reply = send(self.addr, &method.to_ascii_uppercase(), &address, &headers, body.as_bytes());
        self.judge(&format!("{method} {address} {body}"), operation, &reply);
        reply.status
    }

    fn judge(&self, asked: &str, operation: &Value, reply: &Reply) {
        assert!(reply.status < 500, "{asked}: {} {}", reply.status, reply.body);
        assert!(!reply.body.contains(CANARY), "{asked}: {}", reply.body);
        if reply.status >= 400 {
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{asked}");
            let problem = unsaid(self.document, &json!({"$ref": "#/components/schemas/Problem"}), &reply.json(), "problem");
            assert!(problem.is_empty(), "{asked}: {problem:?}");
            return;
        }
        let said = &operation["responses"][reply.status.to_string()];
        assert!(said.is_object(), "{asked}: {} is not in the document", reply.status);
        if let Some(schema) =
            said["content"].get("application/json").map(|content| &content["schema"]).filter(|schema| schema["$ref"].is_string())
        {
            let found = unsaid(self.document, schema, &reply.json(), "answer");
            assert!(found.is_empty(), "{asked}: {found:?}");
        }
    }
}

#[tokio::test]
async fn whatever_is_sent_is_answered_as_the_document_says_and_tells_no_secret() {
    let mut world = World::new().await;
    let hash = hex::encode(retentiond::desk::hash("t-olga"));
    world.rules.extend(["\n[[http.tokens]]\nname = \"olga\"\nrole = \"officer\"\nsha256 = \"", &hash, "\"\n"]);
    for id in ["a", "ä漢🦀", "1"] {
        world.account(id, "null", OLD, "null").await;
    }
    world.account("young", "null", "now() - interval '10 days'", "null").await;
    // What customers wrote, which nobody here has any business with.
    world.sql(&format!("update template_configurations set parameters = '{{\"x\": \"{CANARY}\"}}'")).await;
    let daemon = world.daemon();
    let started = daemon.wait_for("its start", |e| e["event"] == "daemon.started").await;
    let addr: SocketAddr = started["listen"].as_str().unwrap().parse().unwrap();
    until("the purges", || async { world.count("retention.history").await >= 4 }).await;

    let document = send(addr, "GET", "/api/v1/openapi.json", &[], b"").json();
    assert_eq!(document["openapi"].as_str().map(|v| v.starts_with("3.1")), Some(true));
    let tried = Tried { addr, document: &document };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut addresses, mut answered) = (0, std::collections::BTreeMap::new());
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            addresses += 1;
            assert!(operation["description"].is_string() || operation["summary"].is_string(), "{method} {path} says nothing about itself");
            for _ in 0..40 {
                *answered.entry(tried.once(&mut dice, path, method, operation)).or_insert(0) += 1;
                // The client is one of those that are asked to be slower.
                if answered.contains_key(&429) {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    answered.remove(&429);
                }
            }
        }
    }
    // The dice hit: things were answered, done and refused.
    assert!(
        addresses > 25 && answered[&200] > 100 && answered[&201] > 5 && answered[&400] > 100 && answered[&404] > 20,
        "{addresses} {answered:?}"
    );
    for (method, path) in
        [("PUT", "/api/v1/status"), ("DELETE", "/api/v1/holds/1"), ("GET", "/api/v1/nothing"), ("GET", "/api/v1/accounts/%FF/explain")]
    {
        let reply = send(addr, method, path, &[("Authorization", "Bearer t-olga")], b"");
        assert!(
            (400..500).contains(&reply.status) && reply.header("content-type") == Some("application/problem+json"),
            "{method} {path}: {reply:?}"
        );
    }
    let huge = format!("{{\"reason\":\"{}\"}}", "x".repeat(100_000));
    let headers = [("Authorization", "Bearer t-olga"), ("Content-Type", "application/json"), ("Idempotency-Key", "huge")];
    assert!((400..500).contains(&send(addr, "POST", "/api/v1/pauses", &headers, huge.as_bytes()).status));
    // It lives, and the log holds nothing that it should not.
    until("an answer", || async { send(addr, "GET", "/api/v1/status", &[("Authorization", "Bearer t-olga")], b"").status == 200 }).await;
    let log = std::fs::read_to_string(&daemon.log).unwrap();
    assert!(!log.contains(CANARY) && !log.contains("t-olga") && !log.contains("daemon.panicked"));
}
