//! `run`: the daemon, or one full pass of it.

use std::sync::Arc;

use super::{Cli, block_on, log_before_configuration};
use crate::{
    app::{self, Again, App},
    config::{self, Needs},
    desk,
    failure::Failure,
    lifecycle::Stop,
    model::Mode,
    telemetry,
};

impl Cli {
    pub(super) fn run(&self, once: bool) -> Result<(), Failure> {
        let config = match self.load(Needs::Database) {
            Ok(config) => Arc::new(config),
            Err(failure) => {
                log_before_configuration();
                return Err(failure);
            }
        };
        let traces = telemetry::begin(&config).map_err(|e| Failure::Other(e.into()))?;
        for warning in &config.warnings {
            tracing::warn!(event = "config.warning", "{warning}");
        }
        if config.mode == Mode::Observe {
            tracing::warn!(event = "mode.observe", "mode is observe: jobs are planned, nothing is deleted");
        }
        let ended = block_on(async {
            if !once {
                let files = config.origin.files.clone();
                let again: Again = Box::new(move || config::load(&files, &config::environment(), Needs::Database));
                return app::run(config, None, Some(again), desk::serve).await;
            }
            let app = App::prepare_patiently(config).await?;
            let ended = app.run_once(&Stop::default()).await;
            app.database.close().await;
            ended
        });
        traces.finish();
        ended
    }
}
