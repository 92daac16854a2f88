//! What a service manager is told (systemd's `sd_notify`): ready, reloading, stopping, and that the daemon lives, as `/livez` would say it. Without
//! `NOTIFY_SOCKET` nobody is told anything; a manager that does not listen is no reason to fail.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;

use super::daemon::Daemon;
use crate::config::Config;

/// The database was found to fit, and the passes begin.
pub(super) fn ready(config: &Config) {
    let status = format!("{}: {} data classes", config.mode.as_str(), config.data_classes.len());
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The configuration is read again; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

/// Says that the daemon lives, twice as often as it must, while it does; and that it stops.
pub(super) async fn tell(daemon: Arc<Daemon>) {
    say(&[NotifyState::Status("waiting for the database")]);
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_hours(1), |limit| limit / 2);
    let watched = sd_notify::watchdog_enabled().is_some();
    loop {
        if watched && daemon.live().iter().all(|(_, outcome)| outcome.is_ok()) {
            say(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = daemon.stop.soft.cancelled() => break,
        }
    }
    say(&[NotifyState::Stopping, NotifyState::Status("finishing running batches")]);
}

fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!(event = "service.unheard", %error, "the service manager could not be told");
    }
}
