//! Acts in the log: each has the event of its kind, and all have `operator.action`.

use super::{Act, Done, Performed};
use crate::{
    config::Role,
    model::rfc3339,
    requests::Request,
    safeguards::control::{Hold, Scope},
};

macro_rules! tell_request {
    ($event:literal, $request:expr, $performed:expr, $what:expr) => {{
        let request: &Request = $request;
        tracing::warn!(
            event = $event,
            request_id = request.id,
            account_id = request.account_id,
            feature = request.feature,
            data_class = request.data_class,
            due_by = request.due_by.map(rfc3339),
            reason = if $performed.reason.is_empty() { &request.reason } else { &$performed.reason },
            actor = $performed.by,
            "{}",
            $what
        )
    }};
}

macro_rules! tell_hold {
    ($event:literal, $hold:expr, $performed:expr, $what:expr) => {{
        let hold: &Hold = $hold;
        tracing::warn!(
            event = $event,
            hold_id = hold.id,
            account_id = hold.account_id,
            feature = hold.feature,
            data_class = hold.data_class,
            reason = $performed.reason,
            actor = $performed.by,
            $what
        )
    }};
}

impl Performed {
    /// Says what was done; call it once its transaction has committed. Returns what came of it.
    #[must_use]
    pub fn tell(self) -> Done {
        match (&self.act, &self.done) {
            (_, Done::Waits { .. }) => {}
            (Act::PlaceHold { .. }, Done::Hold(hold)) => {
                tell_hold!("hold.placed", hold, self, "nothing it covers is deleted any more");
            }
            (Act::ReleaseHold { .. }, Done::Hold(hold)) => tell_hold!("hold.released", hold, self, "what it covered is eligible again"),
            (Act::Pause { scope }, _) => self.tell_paused(scope),
            (Act::Resume { scope }, Done::Resumed { lifted }) => self.tell_resumed(scope, *lifted),
            (Act::ReleaseGuard, Done::GuardReleased { jobs }) => {
                tracing::warn!(event = "guard.released", jobs, reason = self.reason, actor = self.by, "what was waiting may begin");
            }
            (Act::AcceptPolicy, Done::PolicyAccepted { policy, changes }) => {
                let (changes, reason, actor) = (changes.join("; "), &self.reason, &self.by);
                tracing::warn!(event = "policy.accepted", policy, changes, reason, actor, "the policy of this configuration is in force");
            }
            (Act::CloseJob { .. }, Done::Job(job)) => {
                tracing::warn!(
                    event = "job.cancelled",
                    job_id = job.id,
                    account_id = job.account_id,
                    feature = job.feature,
                    data_class = job.data_class,
                    starting_point = job.starting_point,
                    retain_until = rfc3339(job.retain_until),
                    delete_by = rfc3339(job.delete_by),
                    cancel_reason = "unverifiable",
                    partial = job.purge_began_at.is_some(),
                    reason = self.reason,
                    actor = self.by,
                    "closed by hand: nothing says that its records are gone"
                );
            }
            (Act::PlaceRequest { .. }, Done::Request(request)) => {
                let at_once = request.accepted_at.is_some();
                let what = if at_once { "it is carried out at once" } else { "it waits until another person approves it" };
                tell_request!("request.placed", request, self, what);
                if at_once {
                    tell_request!("request.accepted", request, self, "its account's records are due");
                }
            }
            (Act::ApproveRequest { .. }, Done::Request(request)) => {
                tell_request!("request.accepted", request, self, "its account's records are due");
            }
            (Act::WithdrawRequest { .. }, Done::Request(request)) => {
                tell_request!("request.withdrawn", request, self, "nothing is deleted for it any more");
            }
            // A retry changes nothing that the job's own events do not tell. No other act ends so.
            (_, _) => {}
        }
        let outcome = if matches!(self.done, Done::Waits { .. }) { "waits" } else { "done" };
        action(&self.act, self.surface.as_str(), &self.by, None, outcome);
        self.done
    }

    fn tell_paused(&self, scope: &Scope) {
        let (account_id, data_class) = (&scope.account, &scope.data_class);
        tracing::warn!(event = "control.paused", account_id, data_class, reason = self.reason, actor = self.by, "deletion is paused");
    }

    fn tell_resumed(&self, scope: &Scope, lifted: u64) {
        let (account_id, data_class, reason, actor) = (&scope.account, &scope.data_class, &self.reason, &self.by);
        tracing::warn!(event = "control.resumed", account_id, data_class, lifted, reason, actor, "deletion goes on");
    }
}

/// What somebody did or tried to do; `outcome` is done, waits, or why not in one word.
pub fn action(act: &Act, surface: &str, actor: &str, role: Option<Role>, outcome: &str) {
    let (account_id, role) = (act.scope().and_then(|scope| scope.account.as_ref()), role.map(Role::as_str));
    tracing::info!(event = "operator.action", action = act.as_str(), surface, actor, role, account_id, outcome, "an act of a person");
}
