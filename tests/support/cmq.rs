//! A stand-in for TDMQ for CMQ: the part of its control API that a purge needs, with a memory per region. It verifies each signature by itself, and can be
//! told to be slow to notice, to refuse, to be away, and to say that it did what it did not do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const SECRET_ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_KEY: &str = "hunter2";
/// Stands in what the service says beside its codes.
const MESSAGE: &str = "not to be logged";

/// A running stand-in; it ends with the program.
pub(crate) struct StandIn {
    pub(crate) port: u16,
    cloud: Arc<Mutex<Cloud>>,
}

/// Everything it knows.
#[derive(Default)]
pub(crate) struct Cloud {
    pub(crate) queues: BTreeMap<(String, String), Queue>,
    pub(crate) topics: BTreeMap<(String, String), Topic>,
    /// What was asked for: region, action, name.
    pub(crate) asked: Vec<(String, String, String)>,
    /// Regions that answer like this, whatever they are asked.
    pub(crate) faults: BTreeMap<String, Fault>,
    /// Actions that the key may not ask for.
    pub(crate) forbidden: BTreeSet<String>,
    /// Names that stay, whatever is said about them, by what they begin with.
    pub(crate) kept: BTreeSet<String>,
    /// Actions that are done, once, and then nobody hears of it.
    pub(crate) lost: BTreeSet<String>,
    /// Names that are not shown for now.
    pub(crate) hidden: BTreeSet<String>,
}

#[derive(Default, Clone)]
pub(crate) struct Queue {
    pub(crate) messages: i64,
    /// Consumed ones that can be brought back.
    pub(crate) consumed: i64,
    pub(crate) rewind: i64,
    pub(crate) dead_letters_to: Option<String>,
    /// What its figures say instead of the truth.
    pub(crate) shown: Option<i64>,
    /// It is spelt like this.
    pub(crate) spelt: Option<String>,
}

#[derive(Default, Clone)]
pub(crate) struct Topic {
    pub(crate) messages: i64,
    pub(crate) subscriptions: BTreeSet<String>,
}

#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// An HTTP status without anything else.
    Status(u16),
    /// A code of the service.
    Code(&'static str),
    /// It asks for patience, for so many seconds.
    Patience(u64),
}

impl StandIn {
    pub(crate) fn start() -> Self {
        let cloud = Arc::new(Mutex::new(Cloud::default()));
        let (tell, told) = mpsc::channel();
        let app = Router::new().route("/", post(serve)).with_state(Arc::clone(&cloud));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { port: told.recv().unwrap(), cloud }
    }

    /// The keys of a store that is reached at this port.
    pub(crate) fn store(regions: &[&str], port: u16) -> String {
        format!(
            "kind = \"cmq\"\nregions = {regions:?}\nendpoint = \"http://127.0.0.1:{port}/\"\nsecret_id = \"{SECRET_ID}\"\nsecret_key = \"{SECRET_KEY}\"\n"
        )
    }

    pub(crate) fn cloud(&self) -> MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts messages into a queue, which is made if need be.
    pub(crate) fn put(&self, region: &str, queue: &str, messages: i64) {
        self.cloud().queues.entry(key(region, queue)).or_default().messages += messages;
    }

    /// Messages that are in a queue, or can be brought back into it.
    pub(crate) fn count(&self, region: &str, queue: &str) -> i64 {
        self.cloud().queues.get(&key(region, queue)).map_or(0, |queue| queue.messages + queue.consumed)
    }

    /// Changes a queue, which is made if need be.
    pub(crate) fn queue(&self, region: &str, queue: &str, change: impl FnOnce(&mut Queue)) {
        change(self.cloud().queues.entry(key(region, queue)).or_default());
    }

    pub(crate) fn has(&self, region: &str, queue: &str) -> bool {
        self.cloud().queues.contains_key(&key(region, queue))
    }

    /// What was asked for about a name, in order.
    pub(crate) fn asked(&self, name: &str) -> Vec<String> {
        self.cloud().asked.iter().filter(|(.., about)| about == name).map(|(_, action, _)| action.clone()).collect()
    }
}

impl Queue {
    /// Consumers take everything.
    pub(crate) fn consume(&mut self) {
        self.consumed += if self.rewind > 0 { self.messages } else { 0 };
        self.messages = 0;
    }

    /// What can be brought back comes back.
    pub(crate) fn bring_back(&mut self) {
        self.messages += std::mem::take(&mut self.consumed);
    }
}

/// Names are one whether they are written in upper or lower case.
fn key(region: &str, name: &str) -> (String, String) {
    (region.to_owned(), name.to_ascii_lowercase())
}

async fn serve(State(cloud): State<Arc<Mutex<Cloud>>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    let (region, action) = (header("x-tc-region"), header("x-tc-action"));
    let mut cloud = cloud.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = cloud.faults.get(&region).copied();
    match fault {
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Patience(seconds)) => {
            return (StatusCode::TOO_MANY_REQUESTS, [("Retry-After", seconds.to_string())]).into_response();
        }
        _ => {}
    }
    let answer = match fault {
        Some(Fault::Code(code)) => Err(code),
        _ => signed(&headers, &body).and_then(|()| cloud.answer(&region, &action, &serde_json::from_str(&body).unwrap())),
    };
    if cloud.lost.remove(&action) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let mut answer = answer.unwrap_or_else(|code| json!({ "Error": { "Code": code, "Message": MESSAGE } }));
    answer["RequestId"] = "7f3b-request".into();
    axum::response::IntoResponse::into_response(json!({ "Response": answer }).to_string())
}

/// TC3-HMAC-SHA256, from its description.
fn signed(headers: &HeaderMap, body: &str) -> Result<(), &'static str> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mac = |key: &[u8], message: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(message.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    #[expect(clippy::disallowed_methods, reason = "the service has a clock of its own")]
    let (timestamp, now) = (header("x-tc-timestamp"), chrono::Utc::now().timestamp());
    let at: i64 = timestamp.parse().map_err(|_| "AuthFailure.InvalidAuthorization")?;
    if (now - at).abs() > 300 {
        return Err("AuthFailure.SignatureExpire");
    }
    if header("x-tc-version") != "2020-02-17" {
        return Err("InvalidParameter.Version");
    }
    let lines = format!("content-type:{}\nhost:{}\n", header("content-type"), header("host"));
    let canonical = format!("POST\n/\n\n{lines}\ncontent-type;host\n{}", hex::encode(Sha256::digest(body)));
    let date = chrono::DateTime::from_timestamp(at, 0).unwrap().date_naive().to_string();
    let scope = format!("{date}/tdmq/tc3_request");
    let to_sign = format!("TC3-HMAC-SHA256\n{timestamp}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let key = ["tdmq", "tc3_request"].iter().fold(mac(format!("TC3{SECRET_KEY}").as_bytes(), &date), |key, part| mac(&key, part));
    let wanted = format!(
        "TC3-HMAC-SHA256 Credential={SECRET_ID}/{scope}, SignedHeaders=content-type;host, Signature={}",
        hex::encode(mac(&key, &to_sign))
    );
    if header("authorization") == wanted { Ok(()) } else { Err("AuthFailure.SignatureFailure") }
}

impl Cloud {
    fn answer(&mut self, region: &str, action: &str, body: &Value) -> Result<Value, &'static str> {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let named = ["QueueName", "TopicName", "SourceQueueName"].iter().map(|name| text(name)).find(|name| !name.is_empty());
        let name = named.or_else(|| body["QueueNameList"][0].as_str().map(str::to_owned)).unwrap_or_default();
        self.asked.push((region.to_owned(), action.to_owned(), name.clone()));
        if self.forbidden.contains(action) {
            return Err("AuthFailure.UnauthorizedOperation");
        }
        let (at, done) = (key(region, &name), Ok(json!({})));
        let kept = self.kept.iter().any(|kept| at.1.starts_with(&kept.to_ascii_lowercase()));
        match action {
            "DescribeCmqQueues" => {
                let exact = body["QueueNameList"].is_array();
                let fits = |(of, called): &(String, String)| of == region && if exact { *called == at.1 } else { called.contains(&at.1) };
                let keys: Vec<_> = self.queues.keys().filter(|key| fits(key) && !self.hidden.contains(&key.1)).cloned().collect();
                let list: Vec<Value> = keys.iter().take(50).map(|key| self.shown(key)).collect();
                Ok(json!({ "TotalCount": keys.len(), "QueueList": list }))
            }
            "DescribeCmqQueueDetail" if self.queues.contains_key(&at) && !self.hidden.contains(&at.1) => {
                Ok(json!({ "QueueDescribe": self.shown(&at) }))
            }
            "ModifyCmqQueueAttribute" => {
                let queue = self.queues.get_mut(&at).ok_or("ResourceNotFound")?;
                queue.rewind = body["RewindSeconds"].as_i64().unwrap();
                queue.consumed = if queue.rewind > 0 { queue.consumed } else { 0 };
                done
            }
            "UnbindCmqDeadLetter" => {
                self.queues.get_mut(&at).ok_or("ResourceNotFound")?.dead_letters_to = None;
                done
            }
            // Nobody says whether what is cleared can be brought back: the worst is taken for true.
            "ClearCmqQueue" => {
                let queue = self.queues.get_mut(&at).ok_or("ResourceNotFound")?;
                if !kept {
                    queue.consume();
                }
                done
            }
            "DeleteCmqQueue" => {
                let bound = |queue: &Queue| queue.dead_letters_to.as_ref().is_some_and(|to| to.eq_ignore_ascii_case(&name));
                if self.queues.iter().any(|((of, _), queue)| of == region && bound(queue)) {
                    return Err("ResourceInUse.Queue");
                }
                if !self.queues.contains_key(&at) {
                    return Err("ResourceNotFound");
                }
                if !kept {
                    self.queues.remove(&at);
                }
                done
            }
            "DescribeCmqTopicDetail" if self.topics.contains_key(&at) => {
                Ok(json!({ "TopicDescribe": { "TopicName": name, "MsgCount": self.topics[&at].messages } }))
            }
            "DescribeCmqTopics" => Ok(json!({ "TotalCount": 0, "TopicList": [] })),
            "DescribeCmqSubscriptionDetail" if self.topics.contains_key(&at) => {
                let all = &self.topics[&at].subscriptions;
                let page: Vec<Value> = all.iter().take(50).map(|name| json!({ "SubscriptionName": name })).collect();
                Ok(json!({ "TotalCount": all.len(), "SubscriptionSet": page }))
            }
            "DeleteCmqSubscribe" if self.topics.contains_key(&at) => {
                self.topics.get_mut(&at).unwrap().subscriptions.remove(&text("SubscriptionName"));
                done
            }
            "DeleteCmqTopic" if self.topics.contains_key(&at) => {
                if !self.topics[&at].subscriptions.is_empty() {
                    return Err("FailedOperation.DeleteTopics");
                }
                self.topics.remove(&at);
                done
            }
            _ => Err("ResourceNotFound"),
        }
    }

    fn shown(&self, at: &(String, String)) -> Value {
        let queue = &self.queues[at];
        let sources: Vec<Value> = self
            .queues
            .iter()
            .filter(|((region, _), source)| {
                *region == at.0 && source.dead_letters_to.as_ref().is_some_and(|to| to.eq_ignore_ascii_case(&at.1))
            })
            .map(|((_, name), _)| json!({ "QueueName": name }))
            .collect();
        let name = queue.spelt.clone().unwrap_or_else(|| at.1.clone());
        json!({
            "QueueName": name, "RewindSeconds": queue.rewind, "ActiveMsgNum": queue.shown.unwrap_or(queue.messages), "InactiveMsgNum": 0,
            "DelayMsgNum": null, "RewindMsgNum": queue.consumed, "MinMsgTime": null, "DeadLetterSource": sources,
            "DeadLetterPolicy": queue.dead_letters_to.as_ref().map(|to| json!({ "DeadLetterQueue": to, "Policy": 0, "MaxReceiveCount": 3 })),
        })
    }
}
