//! A server of HTTP that answers what a test tells it to, on loopback, in a thread of its own.

use std::{net::Ipv4Addr, sync::mpsc, thread::JoinHandle};

use axum::{Router, body, extract::Request, http::Response};
use tokio_util::sync::CancellationToken;

/// What it was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) authorization: String,
    pub(crate) body: String,
}

/// What it answers: a status, one header, a body.
#[derive(Debug)]
pub(crate) struct Said(pub(crate) u16, pub(crate) (&'static str, &'static str), pub(crate) String);

impl Said {
    /// A good answer.
    pub(crate) fn xml(body: &str) -> Self {
        Self(200, ("content-type", "application/xml"), body.to_owned())
    }
}

/// A running stand-in.
pub(crate) struct StandIn {
    pub(crate) port: u16,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Listens on a free port.
    pub(crate) fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Said> + Send + 'static,
    {
        let (end, (tell, told)) = (CancellationToken::new(), mpsc::channel());
        let ends = end.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                let routes = Router::new().fallback(move |request: Request| {
                    let answer = answer.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body::to_bytes(body, 1 << 20).await.unwrap();
                        let authorization = head.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
                        let asked = Asked {
                            method: head.method.to_string(),
                            path: head.uri.path_and_query().unwrap().to_string(),
                            authorization: authorization.to_owned(),
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        };
                        let Said(status, (name, value), body) = answer(asked).await;
                        Response::builder().status(status).header(name, value).body(body::Body::from(body)).unwrap()
                    }
                });
                ends.run_until_cancelled(axum::serve(listener, routes).into_future()).await
            });
        });
        Self { port: told.recv().unwrap(), end, thread: Some(thread) }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
