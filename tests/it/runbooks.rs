//! What the runbooks have people ask the database can be asked.

use sqlx::AssertSqlSafe;

use crate::world::World;

/// The statements that a page gives to `psql -c`, in single or double quotes.
fn statements(page: &str) -> Vec<String> {
    let given = page.lines().filter_map(|line| line.strip_prefix("psql -c "));
    given.map(|quoted| quoted.trim().trim_matches(quoted.chars().next().unwrap()).to_owned()).collect()
}

#[tokio::test]
async fn every_statement_that_a_runbook_shows_is_answered() {
    let world = World::new().await;
    let mut conn = world.connect().await;
    let mut seen = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        for statement in statements(&std::fs::read_to_string(&path).unwrap()) {
            sqlx::query(AssertSqlSafe(statement.clone()))
                .fetch_all(&mut conn)
                .await
                .unwrap_or_else(|error| panic!("{}: {statement}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 5, "the search finds statements: {seen}");
}
