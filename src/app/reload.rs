//! SIGHUP: the configuration is read again, and put into force when it changes nothing that needs a start. All of it, or nothing.

use std::sync::Arc;

use super::{
    daemon::{Again, Daemon},
    service,
};
use crate::{
    config::{Config, Invalid, reload},
    lifecycle::Hangups,
    metrics, telemetry,
};

/// Reads the configuration again at each signal, until the stop.
pub(super) async fn reload(daemon: Arc<Daemon>, again: Again, mut hangups: Hangups) {
    let again = Arc::new(again);
    loop {
        tokio::select! {
            () = hangups.next() => {}
            () = daemon.stop.soft.cancelled() => return,
        }
        service::reloading();
        let read = Arc::clone(&again);
        // Files may be on a disk that is slow, or away.
        if let Ok(read) = tokio::task::spawn_blocking(move || read()).await {
            metrics::reloaded(take(&daemon, read));
        }
        service::ready(&daemon.config());
    }
}

/// Whether the configuration is in force now.
fn take(daemon: &Daemon, read: Result<Config, Invalid>) -> bool {
    let new = match read {
        Ok(new) => new,
        Err(invalid) => {
            tracing::error!(event = "config.reload_failed", error = %invalid, "the configuration is at fault; the old one stays");
            return false;
        }
    };
    let old = daemon.config();
    let changed = match reload::judge(&old, &new) {
        Ok(changed) => changed,
        Err(refused) => {
            let keys = refused.iter().map(|r| r.key.as_str()).collect::<Vec<_>>().join(", ");
            let error = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::error!(
                event = "config.reload_refused",
                keys,
                error,
                "only a start may change this; the old configuration stays as a whole"
            );
            return false;
        }
    };
    if let Err(error) = telemetry::set_level(&new.log.level) {
        tracing::error!(event = "config.reload_failed", error = %error, "the configuration is at fault; the old one stays");
        return false;
    }
    for warning in &new.warnings {
        tracing::warn!(event = "config.warning", "{warning}");
    }
    let only_the_log = changed.iter().all(|key| key == "log.level");
    if only_the_log {
        daemon.keep(Arc::new(new));
    } else {
        daemon.take(Arc::new(new));
    }
    tracing::info!(event = "config.reloaded", changed_keys = changed.join(", "), "the configuration was read again and is in force");
    true
}
