//! Counts all jobs beside the screens: none of them waits for it longer than a moment, and counting takes a fiftieth of the time at most. While nobody
//! asks, nothing is counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{
    database::{Database, DatabaseError, Purpose},
    jobs::{self, Figures},
};

/// How long a screen waits for figures that are being counted.
const PATIENCE: Duration = Duration::from_millis(100);
/// And for the first ones.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// Older figures are none, unless counting takes a hundredth of that.
const OLDEST: Duration = Duration::from_mins(10);
/// Figures that took this part of their age to count are young enough.
const SHARE: u32 = 50;
/// A failure is not repeated sooner.
const AFTER_FAILURE: Duration = Duration::from_mins(1);

/// The figures as they were counted last.
#[derive(Debug)]
pub(super) struct Counter {
    asked: Notify,
    counted: watch::Sender<Option<Counted>>,
}

#[derive(Debug, Clone)]
struct Counted {
    figures: Arc<Figures>,
    at: Instant,
    took: Duration,
}

impl Counted {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < self.took * SHARE
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self { asked: Notify::new(), counted: watch::Sender::new(None) }
    }
}

impl Counter {
    /// The figures: fresh ones if they are there within a tenth of a second, else those there are.
    pub(super) async fn figures(&self) -> Option<Arc<Figures>> {
        let mut counted = self.counted.subscribe();
        let known = counted.borrow_and_update().clone();
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh()) {
            return Some(Arc::clone(&known.figures));
        }
        self.asked.notify_one();
        let patience = if known.is_some() { PATIENCE } else { FIRST_PATIENCE };
        let _ = timeout(patience, counted.changed()).await;
        let young = |counted: &&Counted| counted.at.elapsed() < OLDEST.max(counted.took * SHARE * 2);
        counted.borrow().as_ref().filter(young).map(|counted| Arc::clone(&counted.figures))
    }

    /// Counts once, and then whenever somebody asks, for ever.
    pub(super) async fn run(&self, database: &Database) {
        // Once at the start, so that the first screen has them.
        self.asked.notify_one();
        loop {
            self.asked.notified().await;
            if self.counted.borrow().as_ref().is_some_and(Counted::is_fresh) {
                continue;
            }
            let at = Instant::now();
            match count(database).await {
                Ok(figures) => {
                    let counted = Counted { figures: Arc::new(figures), at, took: at.elapsed() };
                    self.counted.send_replace(Some(counted));
                }
                Err(error) => {
                    tracing::warn!(event = "figures.failed", error = %error, sqlstate = error.sqlstate(), "the jobs could not be counted for the pages");
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
    }
}

async fn count(database: &Database) -> Result<Figures, DatabaseError> {
    let mut tx = database.begin(Purpose::Read).await?;
    jobs::figures(&mut tx).await
}
