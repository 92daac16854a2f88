//! `retentiond` deletes what was promised to be deleted when an account or a feature ends, at the instant that was promised.
//!
//! Library and program are one package. The program is [`cli::main`]; everything it does is here. `docs/architecture.md` tells the same in
//! full: the job protocol, the batch, and which code keeps which invariant.
//!
//! # The map
//!
//! Data flows down this list, from what was configured to what was deleted. A module imports only from above.
//!
//! | module | what it is for |
//! |---|---|
//! | [`model`] | words with a type: modes, names, periods, how an instant is printed |
//! | [`proof`] | what anybody can check, pure: tree, signed notes, canonical entries, commitments |
//! | [`config`] | files and environment, judged as a whole; the rules as values |
//! | [`sql`] | how a word may become SQL text |
//! | [`clock`] | the database's clock watched by ours |
//! | [`metrics`] | the figures for monitors, behind plain functions |
//! | [`heartbeat`] | whether each pass moves |
//! | [`spans`] | the pieces of work that a trace shows |
//! | [`crash`] | points at which a test can kill the program; nothing in a release build |
//! | [`terminal`] | what people see: tables, relative times, a progress bar |
//! | [`database`] | the way to the main Postgres, and what to do about its errors |
//! | [`pressure`] | how hard the platform's database is pressed |
//! | [`catalog`] | what Postgres knows about the configured tables: types, indexes, grants, cascades |
//! | [`retention`] | the rules, pure: what stands and what is scheduled give one decision |
//! | [`source`] | the platform's tables, read only: which starting points stand |
//! | [`safeguards`] | holds, pauses, the guard |
//! | [`notices`] | what platforms are told before and after: what waits, how it is sent, what they send us |
//! | [`ledger`] | what was done, numbered and signed; files outside, verification, replay |
//! | [`requests`] | deletion that somebody asked for, ahead of every starting point |
//! | [`jobs`] | the job table, leases and fences |
//! | [`stores`] | places that hold records: count, look, delete |
//! | [`policy`] | configuration and catalogue joined: each data class, ready to be asked |
//! | [`planner`] | pass: what stands is compared with what is scheduled |
//! | [`executor`] | pass: what is due is deleted, one bounded transaction at a time |
//! | [`verifier`] | pass: what was purged is looked at again |
//! | [`levels`] | pass: what is gone is followed through replicas, vacuum and copies |
//! | [`records`] | pass: what the daemon has kept about its own work for long enough is forgotten |
//! | [`outlook`] | pass that writes nothing: plan, explain, status |
//! | [`acts`] | what a person may do, whatever the surface: checked, done, written down |
//! | [`schema`] | creates and checks the daemon's own tables |
//! | [`lifecycle`] | signals, the drain, tasks that nobody forgets |
//! | [`telemetry`] | the log, and where traces go |
//! | [`http`] | the ops listener and its probe |
//! | [`failure`] | exit codes |
//! | [`app`] | puts all of it together and runs the passes |
//! | [`certificate`] | one file that says what became of a job, and proves it |
//! | [`desk`] | the API and the pages |
//! | [`embedded`] | a Postgres of our own, for demo and tests |
//! | [`sample`] | sample accounts, for the demo |
//! | [`cli`] | the verbs |
//!
//! # Glossary
//!
//! One word for each thing, the same in code, SQL, logs, command line and documents.
//!
//! | word | meaning |
//! |---|---|
//! | account | a customer of the platform; its id is the canonical text of the column that holds it |
//! | feature | a service an account uses, like `mps` |
//! | data class | records of one feature under one rule, like `mps/queue` |
//! | store | a system that holds records; in this version the main Postgres |
//! | target | one place in a store that holds records of a data class: `store/table` |
//! | starting point | an instant in the source from which the period runs; in force while its column is not null |
//! | `retain_until` | starting point plus period: nothing is deleted before |
//! | `delete_by` | `retain_until` plus allowance: the job is overdue after |
//! | job | one purge of one data class of one account |
//! | attempt | one try of a job; may take several batches |
//! | lease | how long a claimed job belongs to a worker that gives no sign of life |
//! | fence | a number that grows with each claim and each change of plan; whoever carries an older one changes nothing |
//! | batch | one bounded transaction that deletes |
//! | hold | keeps one account's records, whatever is due |
//! | pause | stops deletion of everything, of an account or of a data class |
//! | pressure | replicas that lag, sessions that wait for locks, connections that run out: deletion slows down |
//! | guard | stops a purge of more accounts than configured, until somebody releases it |
//! | done-mark | says that a starting point which still stands has been carried out |
//! | quarantine | source values that cannot be instants, each left alone |
//! | absence | a row that was in the source and is not any more |
//! | residue | records that are there when they should be gone |
//! | level | how far a deletion has come beyond the empty look: absent, replicated, cleaned, expired |
//! | witness | a second role that may look and not delete |
//! | pass, look | one bounded, repeatable piece of work; the planner's and the verifier's are looks |
//! | ledger | what was scheduled, begun, deleted, held and decided, in an order that cannot be changed unseen |
//! | entry | one line of the ledger; pending until it has a number |
//! | commitment | stands in an entry for who or why; opened by a salt, names nobody without it |
//! | checkpoint | the signed root of the tree over all entries so far |
//! | certificate | one file that says what became of one job, with its entries and their proofs |
//! | request | somebody asks that an account's records be deleted early; stands from when it was accepted until it is fulfilled or withdrawn |
//! | notice | what an endpoint of the platform is told of a job, a hold or the guard |
//! | approval | what one person said to an act that needs two |

// Vocabulary: imported by all, imports nothing further down.
pub mod model;
pub mod proof;
pub mod config;
pub mod sql;
pub mod clock;
pub mod metrics;
pub mod heartbeat;
pub mod spans;
pub mod crash;

// Gateways: one outside thing each.
pub mod database;
pub mod pressure;
pub mod catalog;
pub mod source;
pub mod retention;
pub mod safeguards;
pub mod notices;
pub mod ledger;
pub mod requests;
pub mod jobs;
pub mod stores;
pub mod policy;

// Passes: the only code that joins gateways.
pub mod planner;
pub mod executor;
pub mod verifier;
pub mod levels;
pub mod records;
pub mod outlook;

// What people do.
pub mod acts;

// Running: what the passes need to be a program.
pub mod schema;
pub mod lifecycle;
pub mod telemetry;
pub mod http;
pub mod failure;
pub mod app;

// The operator's surface.
pub mod terminal;
pub mod certificate;
pub mod desk;
pub mod embedded;
pub mod sample;
pub mod cli;
