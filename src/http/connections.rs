//! Accepts and ends connections so that no client, slow, silent or malicious, holds the process or keeps others out.
//! What is answered is the router's.

use std::{io, pin::pin, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Peer;

/// How long a client may take to send a request's head; also how long it may idle between two.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long one connection may live. Scrapers that keep theirs busy are asked to open another.
const LIFE_LIMIT: Duration = Duration::from_secs(30);
/// How long the last response may take after that, or after the stop: more than the readiness probe's limit.
const LAST_RESPONSE_LIMIT: Duration = Duration::from_secs(3);
/// Connections served at once; others wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// Serves until the stop; then lets running responses end, three seconds at most.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // How it ended is told by the connection itself; a panic by the panic hook.
            Some(_) = open.join_next() => continue,
            accepted = listener.accept(), if open.len() < CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                open.spawn(connection(stream, Peer(peer.ip()), router.clone(), stop.clone()));
            }
            Err(error) => refused(&error, &stop).await,
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// A failed accept is the client's affair, unless descriptors ran out: then trying at once again would only burn the CPU.
async fn refused(error: &io::Error, stop: &CancellationToken) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if [ConnectionAborted, ConnectionReset, Interrupted].contains(&error.kind()) {
        return;
    }
    tracing::warn!(event = "http.accept_failed", %error, "cannot accept a connection");
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(Duration::from_secs(1)) => {}
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, stop: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut served = pin!(
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).serve_connection(TokioIo::new(stream), service),
    );
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = async { tokio::select! { () = stop.cancelled() => {} () = sleep(LIFE_LIMIT) => {} } } => {
            served.as_mut().graceful_shutdown();
            timeout(LAST_RESPONSE_LIMIT, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(event = "http.connection_failed", %error, "connection failed");
    }
}
