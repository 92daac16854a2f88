//! A TCP proxy on loopback that can cut connections, all or some, hold everything back for a while, and be pointed at another server.
//! It runs in a thread of its own, so that a test which blocks its runtime does not stop it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A running proxy; every connection through it ends with it.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// The port that new connections are led to.
    upstream: AtomicU16,
    open: Mutex<Vec<CancellationToken>>,
    stalled: watch::Sender<bool>,
    end: CancellationToken,
}

impl Proxy {
    /// Listens on a free port and leads to `upstream`, another port of this machine.
    pub(crate) fn start(upstream: u16) -> Self {
        let shared = Arc::new(Shared {
            upstream: AtomicU16::new(upstream),
            open: Mutex::default(),
            stalled: watch::Sender::new(false),
            end: CancellationToken::new(),
        });
        let (tell, told) = mpsc::channel();
        let mine = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                listen(&listener, &mine).await;
            });
        });
        Self { port: told.recv().unwrap(), shared, thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// New connections lead there from now on; those that are open stay where they are.
    pub(crate) fn lead_to(&self, upstream: u16) {
        self.shared.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Cuts each open connection for which `chosen` says so. How many.
    pub(crate) fn cut(&self, mut chosen: impl FnMut() -> bool) -> usize {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.is_cancelled());
        let cut: Vec<CancellationToken> = open.extract_if(.., |_| chosen()).collect();
        cut.iter().for_each(CancellationToken::cancel);
        cut.len()
    }

    /// Holds back every byte, in both directions, until told otherwise.
    pub(crate) fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

async fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    let connections = TaskTracker::new();
    while let Some(Ok((client, _))) = shared.end.run_until_cancelled(listener.accept()).await {
        let token = shared.end.child_token();
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).push(token.clone());
        let shared = Arc::clone(shared);
        connections.spawn(async move {
            token.run_until_cancelled(lead(client, &shared)).await;
            // Whichever way it ended: it need not be cut any more.
            token.cancel();
        });
    }
    connections.close();
    connections.wait().await;
}

async fn lead(client: TcpStream, shared: &Shared) {
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, shared.upstream.load(Ordering::SeqCst)));
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _faster = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // Either end closing ends both: a half-open connection is not what any of these programs expects.
    tokio::select! {
        _ = pump(from_client, to_server, shared.stalled.subscribe()) => {}
        _ = pump(from_server, to_client, shared.stalled.subscribe()) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut stalled: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        drop(stalled.wait_for(|stalled| !stalled).await);
        to.write_all(&buffer[..read]).await?;
    }
}
