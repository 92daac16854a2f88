//! The certificate as a page that a person can print. It holds the certificate itself, so that the one file is both; and it is made from it alone.

use std::fmt::Write;

use super::{Certificate, Statement};

const OPEN: &str = "<script type=\"application/json\" id=\"certificate\">";
const CLOSE: &str = "</script>";

const STYLE: &str = "body{font:16px/1.5 Georgia,serif;max-width:46em;margin:2em auto;padding:0 1em;color:#111}\
h1{font-size:1.6em;margin-bottom:0}h2{font-size:1.1em;margin-top:1.6em;border-bottom:1px solid #999}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.25em .8em .25em 0}\
th{font-weight:normal;color:#555;width:14em}td.n{text-align:right;width:8em}code{font-size:.8em;overflow-wrap:anywhere}\
.outcome{font-size:1.2em}@media print{body{margin:0;font-size:11pt}h2{break-after:avoid}}";

/// The page of a certificate.
#[must_use]
pub fn page(certificate: &Certificate) -> String {
    let statement = &certificate.statement;
    let mut page = String::new();
    let title = format!("Certificate of deletion, job {}", statement.job);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title><style>{STYLE}</style></head><body>\n<h1>Certificate of deletion</h1>\n",
        escaped(&title)
    );
    let _ = writeln!(page, "<p class=\"outcome\">{}</p>", escaped(&outcome(statement)));
    section(&mut page, "What", &what(certificate));
    section(&mut page, "When", &when(statement));
    let _ = write!(page, "<h2>What was deleted</h2>\n<table><tr><th>place</th><th>found</th><td class=\"n\">records deleted</td></tr>\n");
    for (name, target) in &statement.targets {
        let (word, records) = (target.outcome.as_deref().unwrap_or("-"), target.records_deleted);
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td><td class=\"n\">{records}</td></tr>", escaped(name), escaped(word));
    }
    page.push_str("</table>\n");
    section(&mut page, "How it was verified", &verified(statement));
    if !statement.events.is_empty() {
        let events: Vec<(String, String)> = statement
            .events
            .iter()
            .map(|event| (event.at.clone(), format!("{} ({}, entry {})", event.what, event.about, event.entry)))
            .collect();
        section(&mut page, "What else happened", &events);
    }
    page.push_str("<h2>What this does not cover</h2>\n<ul>\n");
    for what in &statement.out_of_scope {
        let _ = writeln!(page, "<li>{}</li>", escaped(what));
    }
    page.push_str("</ul>\n");
    section(&mut page, "Proof", &proof(certificate));
    let _ = writeln!(page, "<p>{}</p>", escaped(&statement.meaning));
    let _ = writeln!(
        page,
        "<p>This page holds its own proof. <code>retentiond certificate verify FILE</code> checks it, without a database and without a network.</p>"
    );
    let json = serde_json::to_string(certificate).unwrap_or_default();
    // Nothing in it ends the element that holds it.
    let _ = write!(page, "{OPEN}{}{CLOSE}\n</body></html>\n", json.replace('<', "\\u003c"));
    page
}

/// The certificate that a page holds.
pub(super) fn json_in(page: &str) -> Option<&str> {
    Some(page.split_once(OPEN)?.1.split_once(CLOSE)?.0)
}

fn outcome(statement: &Statement) -> String {
    match (statement.outcome.as_str(), statement.in_time) {
        ("completed", Some(true)) => "Completed: nothing of it was left in the places below, in time.".to_owned(),
        ("completed", _) => "Completed: nothing of it was left in the places below, later than promised.".to_owned(),
        ("cancelled", _) => {
            let why = statement.cancel_reason.as_deref().unwrap_or("unknown");
            format!("Cancelled ({why}): this is no proof that anything is gone.")
        }
        _ => "Not completed: this is no proof that anything is gone.".to_owned(),
    }
}

fn what(certificate: &Certificate) -> Vec<(String, String)> {
    let statement = &certificate.statement;
    let account = certificate.account_id.clone().unwrap_or_else(|| "not known any more; the entries hold a commitment to it".to_owned());
    rows([
        ("account", account),
        ("data class", format!("{}/{}", statement.feature, statement.data_class)),
        ("job", statement.job.clone()),
        ("starting point", format!("{}, {}", statement.starting_point, statement.started_at)),
        ("rule", statement.rule.clone()),
        ("policy", statement.policy.clone().unwrap_or_else(|| "-".to_owned())),
    ])
}

fn when(statement: &Statement) -> Vec<(String, String)> {
    let or_dash = |at: &Option<String>| at.clone().unwrap_or_else(|| "-".to_owned());
    rows([
        ("not before", statement.retain_until.clone()),
        ("not after", statement.delete_by.clone()),
        ("scheduled", or_dash(&statement.scheduled_at)),
        ("opened", or_dash(&statement.opened_at)),
        ("ended", or_dash(&statement.ended_at)),
        ("last other copy gone", or_dash(&statement.residual_copies_end)),
    ])
}

fn verified(statement: &Statement) -> Vec<(String, String)> {
    let exact = match statement.counts_exact {
        Some(true) => "exact",
        Some(false) => "lower bounds: a store that was asked cannot count exactly",
        None => "-",
    };
    let mut verified = rows([("method", statement.verification.clone()), ("counts", exact.to_owned())]);
    verified.extend(statement.levels.iter().map(|(level, at)| (format!("level: {level}"), at.clone())));
    verified
}

fn proof(certificate: &Certificate) -> Vec<(String, String)> {
    let entries: Vec<String> = certificate.entries.iter().map(|entry| entry.index.to_string()).collect();
    rows([
        ("ledger", certificate.statement.ledger.clone()),
        ("as of", format!("{} entries", certificate.statement.as_of_entry)),
        ("entries", entries.join(", ")),
        ("key", certificate.key.clone()),
        ("written by", certificate.software.clone()),
    ])
}

fn rows<const N: usize>(rows: [(&str, String); N]) -> Vec<(String, String)> {
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn section(page: &mut String, title: &str, rows: &[(String, String)]) {
    let _ = write!(page, "<h2>{title}</h2>\n<table>\n");
    for (name, value) in rows {
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value));
    }
    page.push_str("</table>\n");
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What would turn the text around, or hide in it, is shown as what it is.
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
        out
    })
}
