//! Two worlds that differ in one thing: in one of them account `x` has records, in the other it never had any. After the purge they are equal,
//! row by row, and nothing that stood in the records is left in the daemon's tables or its log.

use sqlx::AssertSqlSafe;

use crate::world::World;

/// Stands in every column of the records of `x` that can hold a text.
const CANARY: &str = "canary-7f3a";

/// Records of an account with `word` in every text of them.
fn records(id: &str, word: &str) -> String {
    format!(
        r#"insert into template_configurations (account_id, template_type, parameters) select '{id}', '{word}-' || i, '{{"{word}-key": "{word}-value"}}' from generate_series(1, 3) i;
           insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path)
               select '{word}-' || gen_random_uuid(), '{id}', '{word}', '/{word}/in', '/{word}/out' from generate_series(1, 5);
           insert into queue_messages (account_id, event_type, workflow_task_event, edit_media_task_event, schedule_task_event, session_id, session_context, sign)
               select '{id}', '{word}', '{{"a": "{word}"}}', '["{word}"]', '"{word}"', '{word}', '{word}', '{word}' from generate_series(1, 7);"#
    )
}

/// Every row of every table of a schema as text, table by table. Tables are read from the catalogue, so that a new one is not forgotten.
async fn everything(world: &World, schema: &str) -> Vec<String> {
    let mut connection = world.connect().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = $1 and c.relkind in ('r', 'p') order by 1",
    )
    .bind(schema)
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() > 5, "{tables:?}");
    let mut rows = Vec::new();
    for table in tables {
        let query = format!("select '{table} ' || t::text from {table} t order by t::text");
        rows.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(query)).fetch_all(&mut connection).await.unwrap());
    }
    rows
}

/// Both worlds, and what the program said in each.
struct Twins {
    worlds: [World; 2],
    said: [String; 2],
}

impl Twins {
    async fn sql(&self, statements: &str) {
        for world in &self.worlds {
            world.sql(statements).await;
        }
    }

    /// Runs the program in both; its exit code must be the one expected.
    fn run(&mut self, arguments: &[&str], codes: [i32; 2]) {
        for ((world, said), code) in self.worlds.iter().zip(&mut self.said).zip(codes) {
            let output = world.cli(arguments);
            *said += &(String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap());
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        }
    }

    async fn left(&self, world: usize) -> i64 {
        let mut left = 0;
        for table in ["template_configurations", "task_configurations", "queue_messages"] {
            left += self.worlds[world].count(&format!("{table} where account_id = 'x'")).await;
        }
        left
    }

    /// The next look at everything purged has come.
    async fn look(&self) {
        self.sql("update retention.done_marks set look_at = now()").await;
    }
}

#[tokio::test]
async fn i3_after_its_purge_the_world_is_as_if_the_account_had_never_had_records() {
    let mut with = World::new().await;
    with.set("LOG__LEVEL", "trace").set("EXECUTOR__MAX_ROWS_PER_BATCH", "4");
    // Neighbours whose ids look like it, whose records look like its own, and who are themselves in every state.
    with.account("x", "null", "null", "null").await;
    with.sql("delete from template_configurations; delete from task_configurations; delete from queue_messages").await;
    let days = |n: u32| format!("now() - interval '{n} days'");
    for (id, deleted, terminated) in [
        ("X", "null".to_owned(), "null".to_owned()),
        ("x ", "null".to_owned(), "null".to_owned()),
        ("x1", "null".to_owned(), days(29)),
        ("xx", days(31), "null".to_owned()),
        ("%", "null".to_owned(), "null".to_owned()),
    ] {
        with.account(id, &deleted, &terminated, "null").await;
        with.sql(&records(id, "common")).await;
    }
    // A record that cannot be deleted at first, and the server's words quote its key.
    with.sql(
        "create table kept_tasks (task_id text);
         create function keep() returns trigger language plpgsql as $$ begin
             if exists (select 1 from public.kept_tasks k where k.task_id = old.task_id) then
                 raise exception 'this task is kept' using detail = format('Key (task_id)=(%s) is needed.', old.task_id);
             end if;
             return old;
         end $$;
         create trigger keep before delete on task_configurations for each row execute function keep()",
    )
    .await;
    let without = with.copy().await;
    with.sql(&records("x", CANARY)).await;
    with.sql("insert into kept_tasks select min(task_id) from task_configurations where account_id = 'x'").await;
    let untouched = everything(&with, "public").await;
    assert!(untouched.iter().filter(|row| row.contains(CANARY)).count() > 15);
    let mut twins = Twins { worlds: [with, without], said: Default::default() };

    // Held through a pass that would have purged it.
    let at: String =
        sqlx::query_scalar("select (now() - interval '31 days')::text").fetch_one(&mut twins.worlds[0].connect().await).await.unwrap();
    twins.sql(&format!("update feature_subscriptions set terminated_at = '{at}' where account_id = 'x'")).await;
    twins.run(&["hold", "place", "--account", "x", "--reason", "a court", "--by", "legal"], [0, 0]);
    twins.run(&["run", "--once"], [0, 0]);
    assert_eq!((twins.left(0).await, twins.left(1).await), (15, 0));
    // The queue goes, the configuration fails: one task is kept.
    twins.sql("update retention.holds set released_at = now()").await;
    twins.run(&["run", "--once"], [1, 0]);
    let error = twins.worlds[0].job("x", "configuration").await.last_error.unwrap();
    assert!(error.contains("this task is kept"), "{error}");
    twins.sql("delete from kept_tasks").await;
    twins.run(&["run", "--once"], [0, 0]);
    assert_eq!(twins.left(0).await, 0);
    // A late writer, found by a look and purged; then a look that finds nothing.
    twins.worlds[0].sql(&records("x", CANARY)).await;
    for _ in 0..2 {
        twins.look().await;
        twins.run(&["run", "--once"], [0, 0]);
    }
    for reads in [&["status"][..], &["plan"], &["explain", "x"], &["jobs", "list", "-o", "json"], &["hold", "list"]] {
        twins.run(reads, [0, 0]);
    }

    let [with, without] = &twins.worlds;
    let (one, other) = (everything(with, "public").await, everything(without, "public").await);
    assert_eq!(one, other);
    assert!(one.len() > 50 && one.iter().any(|row| row.contains("common")), "the neighbours are there");
    assert_eq!(with.jobs("x").await.iter().filter(|job| job.state == "completed").count(), 4, "purged twice, both classes");
    for (place, texts) in
        [("the daemon's tables", everything(with, "retention").await), ("what the program said", vec![twins.said[0].clone()])]
    {
        let text = texts.join("\n");
        assert!(text.contains("configuration"), "{place}");
        assert!(!text.contains(CANARY), "{place}: {}", text.lines().find(|line| line.contains(CANARY)).unwrap());
    }
}
