//! An endpoint of a platform, on loopback: it keeps what it is sent, and answers what a test tells it to.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
};

use axum::{Router, body, extract::Request, http::Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) signature: String,
    pub(crate) content_type: String,
    pub(crate) text: String,
    pub(crate) event: Value,
}

impl Got {
    pub(crate) fn kind(&self) -> &str {
        self.event["type"].as_str().unwrap()
    }
}

/// What it answers: a status, and where a redirect leads. 0 is nothing at all.
pub(crate) type Answer = (u16, String);

/// A running endpoint.
pub(crate) struct Receiver {
    pub(crate) port: u16,
    got: Arc<Mutex<Vec<Got>>>,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Takes everything.
    pub(crate) fn start() -> Self {
        Self::answering(|_| (204, String::new()))
    }

    /// Answers as told, on a free port.
    pub(crate) fn answering(answer: impl Fn(&Got) -> Answer + Clone + Send + Sync + 'static) -> Self {
        let (end, (tell, told)) = (CancellationToken::new(), mpsc::channel());
        let (ends, got) = (end.clone(), Arc::<Mutex<Vec<Got>>>::default());
        let keep = Arc::clone(&got);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                let routes = Router::new().fallback(move |request: Request| {
                    let (answer, keep) = (answer.clone(), Arc::clone(&keep));
                    async move {
                        let (head, body) = request.into_parts();
                        let text = String::from_utf8(body::to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
                        let header = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
                        let got = Got {
                            id: header("webhook-id"),
                            timestamp: header("webhook-timestamp"),
                            signature: header("webhook-signature"),
                            content_type: header("content-type"),
                            event: serde_json::from_str(&text).unwrap_or_default(),
                            text,
                        };
                        keep.lock().unwrap().push(got.clone());
                        let (status, location) = answer(&got);
                        if status == 0 {
                            std::future::pending::<()>().await;
                        }
                        Response::builder().status(status).header("location", location).body(body::Body::from("CANARY-ANSWER")).unwrap()
                    }
                });
                ends.run_until_cancelled(axum::serve(listener, routes).into_future()).await
            });
        });
        Self { port: told.recv().unwrap(), got, end, thread: Some(thread) }
    }

    /// Everything so far, in the order in which it came.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Types about an account so far.
    pub(crate) fn kinds(&self, account: &str) -> Vec<String> {
        self.got().iter().filter(|got| got.event["subject"] == account).map(|got| got.kind().replace("retention.", "")).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
