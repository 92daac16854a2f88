//! Who may import whom, and where a record may be deleted. The rules are those of `docs/architecture.md`; this keeps them true.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects and stops where it is not so")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each module may import. A module that is missing here fails the test: somebody has to think about it first.
const MAY_IMPORT: &[(&str, &str)] = &[
    // Vocabulary.
    ("model", ""),
    ("config", "model proof"),
    ("proof", ""),
    ("sql", ""),
    ("clock", ""),
    ("metrics", "config"),
    ("heartbeat", ""),
    ("spans", ""),
    ("crash", ""),
    ("terminal", ""),
    // Gateways. Conditions and fingerprints of one may appear in the SQL of the next; none knows a pass.
    ("database", "config heartbeat"),
    ("pressure", "config database metrics"),
    ("catalog", "config database model"),
    ("retention", "config model"),
    ("source", "catalog config database model retention sql"),
    ("safeguards", "clock config database model sql"),
    ("notices", "config crash database metrics model safeguards"),
    ("ledger", "config crash database model notices proof safeguards spans"),
    ("requests", "database model safeguards"),
    ("jobs", "database model requests retention safeguards sql"),
    ("stores", "catalog clock config database metrics model sql"),
    ("policy", "catalog config database jobs retention source stores"),
    // Passes.
    ("planner", "catalog clock config crash database jobs model policy requests retention safeguards source spans sql stores"),
    ("executor", "clock config crash database jobs ledger metrics model policy pressure requests safeguards spans sql stores"),
    ("verifier", "catalog config crash database jobs policy safeguards spans sql stores"),
    ("levels", "catalog config database policy safeguards sql stores"),
    ("records", "config database jobs safeguards"),
    ("outlook", "config database jobs ledger metrics model policy requests retention safeguards sql stores"),
    // What people do.
    ("acts", "catalog config database jobs model requests safeguards"),
    // Running.
    ("schema", "config database ledger"),
    ("lifecycle", ""),
    ("telemetry", "config metrics model spans terminal"),
    ("http", "terminal"),
    ("failure", "acts catalog config database ledger schema telemetry"),
    (
        "app",
        "catalog clock config database executor failure heartbeat http jobs ledger levels lifecycle metrics model notices outlook planner policy records safeguards schema telemetry terminal verifier",
    ),
    // The operator's surface.
    ("certificate", "config ledger proof"),
    (
        "desk",
        "acts app catalog certificate config database failure http jobs ledger metrics model notices outlook requests safeguards spans terminal",
    ),
    ("embedded", ""),
    ("sample", "embedded"),
    (
        "cli",
        "acts app catalog certificate config database desk embedded failure http jobs ledger lifecycle metrics model notices outlook policy proof requests safeguards sample schema stores telemetry terminal",
    ),
];

const GATEWAYS: [&str; 12] =
    ["database", "pressure", "catalog", "source", "retention", "safeguards", "notices", "ledger", "requests", "jobs", "stores", "policy"];
const PASSES: [&str; 6] = ["planner", "executor", "verifier", "levels", "records", "outlook"];

/// Longer files have become two things.
const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with one of the extensions, by its path from the root.
fn files(folder: &str, extensions: &[&str]) -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.retain(|p| p.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)));
    let named = |p: PathBuf| (p.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&p).unwrap());
    found.into_iter().map(named).collect()
}

/// The top-level module a source file belongs to: `src/cli/jobs.rs` to `cli`.
fn module(path: &str) -> &str {
    let inner = path.strip_prefix("src/").unwrap();
    inner.split(['/', '.']).next().unwrap()
}

/// Code without its comment lines.
fn code(text: &str) -> String {
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every module named as `crate::name` or in a `crate::{…}` list.
fn imports(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let name = |t: &str| t.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut first) = (0, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => first = true,
                c if first && !c.is_whitespace() => {
                    found.insert(name(&list[at..]));
                    first = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn modules() -> BTreeMap<String, BTreeSet<String>> {
    let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in files("src", &["rs"]).iter().filter(|(p, _)| *p != "src/lib.rs" && *p != "src/main.rs") {
        let module = module(path);
        let imports = imports(text).into_iter().filter(|i| i != module);
        modules.entry(module.to_owned()).or_default().extend(imports);
    }
    modules
}

#[test]
fn the_import_reader_sees_lists_paths_and_nested_lists_and_no_comments() {
    let text = "use crate::{\n    a::{self, B},\n    c,\n    d::E,\n};\n// crate::no\n/// [`crate::no`]\nlet x = crate::f::g(crate::h);\nuse crate::i::J;";
    let seen: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(seen, ["a", "c", "d", "f", "h", "i"]);
}

#[test]
fn every_module_imports_only_what_the_table_allows_and_every_module_is_in_the_table() {
    let table: BTreeMap<&str, BTreeSet<&str>> = MAY_IMPORT.iter().map(|(m, may)| (*m, may.split_whitespace().collect())).collect();
    let modules = modules();
    for (module, imports) in &modules {
        let Some(may) = table.get(module.as_str()) else { panic!("{module} is missing in the table of tests/architecture.rs") };
        for import in imports {
            assert!(may.contains(import.as_str()), "{module} may not import {import}");
        }
    }
    for module in table.keys() {
        assert!(modules.contains_key(*module), "{module} is in the table and not in src");
    }
}

#[test]
fn every_module_imports_only_from_above_it_in_the_map() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let map: Vec<&str> = lib.lines().filter_map(|l| l.strip_prefix("//! | [`")?.split('`').next()).collect();
    let declared: BTreeSet<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(map.iter().copied().collect::<BTreeSet<_>>(), declared, "the map in src/lib.rs and its modules differ");
    let place = |module: &str| map.iter().position(|m| *m == module).unwrap_or_else(|| panic!("{module} is not in the map"));
    for (module, imports) in modules() {
        for import in imports {
            assert!(place(&import) < place(&module), "{module} imports {import}, which is below it in the map");
        }
    }
}

#[test]
fn gateways_and_what_is_above_them_know_no_pass() {
    let modules = modules();
    for gateway in GATEWAYS {
        for pass in PASSES {
            assert!(!modules[gateway].contains(pass), "{gateway} imports the pass {pass}");
        }
    }
    // A pass is run by `app` alone; `outlook` writes nothing, and is asked by the command line and the desk too.
    for (module, imports) in &modules {
        for pass in PASSES.iter().filter(|pass| imports.contains(**pass)) {
            assert!(
                module == "app" || (["cli", "desk"].contains(&module.as_str()) && *pass == "outlook"),
                "{module} imports the pass {pass}"
            );
        }
    }
}

#[test]
fn the_rules_are_pure() {
    for (path, text) in files("src", &["rs"]).iter().filter(|(p, _)| module(p) == "retention") {
        let rules = code(text);
        for impure in ["sqlx", "tokio", "tracing", "::now(", "std::env", "std::fs", "async "] {
            assert!(!rules.contains(impure), "{path} mentions {impure}");
        }
    }
}

#[test]
fn i3_records_are_deleted_in_one_function_of_the_store_that_holds_them() {
    let mut elsewhere = Vec::new();
    let mut statements = 0;
    for (path, text) in files("src", &["rs", "sql"]) {
        let text = code(text.split("#[cfg(test)]").next().unwrap_or_default()).to_lowercase();
        for (at, _) in text.match_indices("delete from ") {
            let table = text[at + "delete from ".len()..].split_whitespace().next().unwrap_or_default().to_owned();
            if path == "src/stores/postgres.rs" {
                let function = text[..at].rfind("pub fn ").map(|from| &text[from..at]);
                assert!(function.is_some_and(|f| f.starts_with("pub fn delete(")), "{path}: {function:?}");
                statements += 1;
            } else if path.starts_with("src/stores/") {
                let function = text[..at].rfind("async fn ").map(|from| &text[from..at]);
                // To ask whether it might, `check` deletes nothing.
                let harmless = text[at..].lines().next().is_some_and(|line| line.contains("where 1 = 0"));
                assert!(harmless || function.is_some_and(|f| f.starts_with("async fn purge(")), "{path}: {function:?}");
            } else if !table.starts_with("retention.") {
                elsewhere.push(format!("{path}: {table}"));
            }
        }
        for destructive in ["truncate table", "truncate retention", "drop table", "drop schema", "alter table"] {
            assert!(!text.contains(destructive), "{path}: {destructive}");
        }
        // A statement built from here and there would escape the search above.
        for built in ["\"delete \"", "delete from \""] {
            assert!(!text.contains(built), "{path}: {built}");
        }
    }
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert_eq!(statements, 4, "whole accounts, a slice of one, a stretch of one, and what others point at");
}

#[test]
fn i3_only_the_batch_asks_a_store_to_delete() {
    for (path, text) in files("src", &["rs"]) {
        let asks = code(&text).contains(".delete(");
        assert!(!asks || path == "src/executor.rs" || path == "src/executor/batch.rs", "{path}");
        let purges = code(&text).contains(".client.purge(");
        assert!(!purges || path == "src/executor/away.rs", "{path}");
    }
}

#[test]
fn the_platform_is_written_to_by_the_sample_alone() {
    for (path, text) in files("src", &["rs", "sql"]).iter().filter(|(p, _)| module(p) != "sample") {
        let text = text.to_lowercase();
        for (at, _) in text.match_indices("insert into ") {
            let table = text[at + "insert into ".len()..].split_whitespace().next().unwrap_or_default();
            assert!(table.starts_with("retention."), "{path}: {table}");
        }
    }
}

#[test]
fn every_file_says_at_its_top_what_it_is_for() {
    for folder in ["src", "tests"] {
        for (path, text) in files(folder, &["rs"]) {
            assert!(text.starts_with("//! "), "{path}");
        }
    }
    for folder in ["src", "migrations"] {
        for (path, text) in files(folder, &["sql"]) {
            assert!(text.starts_with("-- "), "{path}");
        }
    }
}

#[test]
fn no_file_is_too_long_and_none_has_a_name_that_means_nothing() {
    for (path, text) in files("src", &["rs", "sql"]) {
        let lines = text.lines().count();
        assert!(path.ends_with("/tests.rs") || lines <= MOST_LINES, "{path} has {lines} lines: it has become two things");
        let name = path.rsplit('/').next().unwrap();
        for empty in ["mod.rs", "util", "misc", "manager", "common", "helper", "new_"] {
            assert!(!name.starts_with(empty), "{path}");
        }
    }
}
