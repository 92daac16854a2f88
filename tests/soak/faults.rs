//! What happens to the network and to the servers.

use std::{sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::{dice::Dice, world::World};

/// Connections are cut, all or some, and held up.
pub(crate) async fn network(world: Arc<World>, mut dice: Dice) {
    while world.rest(dice.millis(1_000, 7_000)).await {
        let (proxy, name) = if dice.percent(50) { (&world.direct, "past the pooler") } else { (&world.pooled, "to the pooler") };
        match dice.below(10) {
            0..3 => {
                world.did(&format!("every connection {name} cut"));
                proxy.cut(|| true);
            }
            3..8 => {
                world.did(&format!("some connections {name} cut"));
                proxy.cut(|| dice.percent(40));
            }
            _ => {
                world.did(&format!("everything {name} held up"));
                proxy.stall(true);
                tokio::time::sleep(dice.millis(500, 8_000)).await;
                proxy.stall(false);
            }
        }
    }
}

/// Postgres and the pooler are killed and restarted, and single sessions ended.
pub(crate) async fn servers(world: Arc<World>, mut dice: Dice) {
    while world.rest(dice.millis(5_000, 25_000)).await {
        match dice.below(10) {
            0..2 => {
                world.did("Postgres killed (immediate) and restarted");
                world.restart(Signal::QUIT, dice.millis(0, 2_000)).await;
            }
            2..4 => {
                world.did("Postgres restarted (fast)");
                world.restart(Signal::INT, dice.millis(0, 2_000)).await;
            }
            4..6 => {
                if let Some(backend) = a_backend_of_the_daemon(&world).await {
                    world.did("a backend killed (SIGKILL), Postgres recovers");
                    // It may have ended meanwhile.
                    let _gone = kill_process(backend, Signal::KILL);
                }
            }
            6..9 => {
                if let Some(backend) = a_backend_of_the_daemon(&world).await {
                    world.did("a session of the daemon terminated");
                    let _gone = kill_process(backend, Signal::TERM);
                }
            }
            _ => {
                world.did("pgbouncer killed and restarted");
                let mut pooler = world.pooler.lock().await;
                tokio::task::block_in_place(|| pooler.restart());
            }
        }
    }
}

async fn a_backend_of_the_daemon(world: &World) -> Option<Pid> {
    let mut connection = tokio::time::timeout(Duration::from_secs(5), world.connect()).await.ok()?;
    let of_the_daemon =
        "select pid from pg_stat_activity where application_name = 'retentiond' and state <> 'idle' order by random() limit 1";
    let pid: Option<i32> = sqlx::query_scalar(of_the_daemon).fetch_optional(&mut connection).await.ok()?;
    Pid::from_raw(pid?)
}
