//! What the pages are made of: times, ids, counts, tables, fields, forms.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use maud::{Markup, PreEscaped, html};

use super::{Page, links};
use crate::terminal::{printable, relative};

/// Text from outside with what a browser would obey instead of show written as an escape.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    printable(text)
}

/// An instant: absolute, and how far from now.
pub(super) fn time(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(crate::model::rfc3339(at)) data-relative {
            span class="abs" { (at.format("%Y-%m-%d %H:%M:%S")) " UTC" } " " span class="rel" { (relative(at, now)) }
        }
    }
}

/// How far an instant is from now, where there is no room for more.
pub(super) fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(crate::model::rfc3339(at)) title=(at.format("%Y-%m-%d %H:%M:%S UTC")) data-relative { span class="rel" { (relative(at, now)) } }
    }
}

/// An instant alone.
pub(super) fn stamp(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(crate::model::rfc3339(at)) { (at.format("%Y-%m-%d %H:%M:%S")) " UTC" } }
}

/// An instant that there may not be.
pub(super) fn maybe(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Markup {
    at.map_or_else(none, |at| time(at, now))
}

/// What is not there.
pub(super) fn none() -> Markup {
    html! { span class="quiet" { "–" } }
}

/// An account id that leads to what is known of it.
pub(super) fn account(id: &str) -> Markup {
    html! { a class="id" href=(links::explain(id)) { (shown(id)) } }
}

/// A job id that leads to its page.
pub(super) fn job(id: &str) -> Markup {
    html! { a href=(links::job(id)) { "#" (id) } }
}

/// A word with a look.
pub(super) fn badge(class: &str, word: &str) -> Markup {
    html! { span class=(format!("badge {class}")) { (word) } }
}

/// A number with its thousands apart.
pub(super) fn count(number: i64) -> Markup {
    PreEscaped(grouped(number))
}

fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        out.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // Narrow, and no place to break a line.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `1 job`, `2 jobs`.
pub(super) fn plural(number: i64, one: &str, more: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { more })
}

/// A share in percent; only all of them are 100.
pub(super) fn percent(part: i64, whole: i64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let hundredths = i128::from(part) * 10_000 / i128::from(whole);
    if hundredths == 10_000 { "100%".to_owned() } else { format!("{}.{:02}%", hundredths / 100, hundredths % 100) }
}

/// A figure of the overview: a number under its name, with what it means.
pub(super) fn tile(class: &str, name: &str, value: &Markup, below: &Markup, href: Option<&str>) -> Markup {
    html! {
        div class=(format!("tile {class}")) {
            p class="name" { @if let Some(href) = href { a href=(href) { (name) } } @else { (name) } }
            p class="value" { (value) }
            p class="below" { (below) }
        }
    }
}

/// Names and what they are.
pub(super) fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! { dl class="facts" { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } } }
}

/// A table that scrolls in itself when the page is narrow. `heads`: the names; one that begins with `#` is over numbers.
pub(super) fn table(caption: &str, heads: &[&str], rows: &[Vec<Markup>], empty: &str) -> Markup {
    if rows.is_empty() {
        return html! { p class="empty" { (empty) } };
    }
    let number = |at: usize| heads.get(at).is_some_and(|head| head.starts_with('#'));
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table class="rows" {
                caption class="unseen" { (caption) }
                thead { tr { @for (at, head) in heads.iter().enumerate() { th scope="col" class=[number(at).then_some("n")] { (head.trim_start_matches('#')) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (at, cell) in row.iter().enumerate() {
                                td class=[number(at).then_some("n")] data-head=[heads.get(at).map(|head| head.trim_start_matches('#'))] { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Links to the first part of a list, and to the one behind this.
pub(super) fn paging(first: Option<&str>, next: Option<&str>) -> Markup {
    html! {
        @if first.is_some() || next.is_some() {
            nav class="paging" aria-label="More" {
                @if let Some(href) = first { a href=(href) { "⇤ First" } }
                @if let Some(href) = next { a href=(href) rel="next" { "More →" } }
            }
        }
    }
}

/// A field of a form: its label, and what it is filled in with.
pub(super) struct Field<'a> {
    /// Unlike any other on the page.
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) value: &'a str,
    pub(super) hint: &'a str,
    pub(super) required: bool,
}

impl<'a> Field<'a> {
    pub(super) fn new(id: &'a str, name: &'a str, label: &'a str) -> Self {
        Self { id, name, label, value: "", hint: "", required: false }
    }

    pub(super) fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub(super) fn value(self, value: &'a str) -> Self {
        Self { value, ..self }
    }

    pub(super) fn hint(self, hint: &'a str) -> Self {
        Self { hint, ..self }
    }

    /// A line of text, or what `kind` says: `date`, `datetime-local`, `password`.
    pub(super) fn input(&self, kind: &str) -> Markup {
        let described = (!self.hint.is_empty()).then(|| format!("{}-hint", self.id));
        html! {
            div class="field" {
                label for=(self.id) { (self.label) }
                input id=(self.id) name=(self.name) type=(kind) value=[(!self.value.is_empty()).then_some(self.value)] required[self.required]
                    step=[(kind == "datetime-local").then_some("1")] aria-describedby=[described.as_deref()] autocomplete="off" spellcheck="false";
                (self.hint_of())
            }
        }
    }

    /// One of several values; the empty one is called `all`.
    pub(super) fn select(&self, all: &str, values: &[String]) -> Markup {
        html! {
            div class="field" {
                label for=(self.id) { (self.label) }
                select id=(self.id) name=(self.name) {
                    option value="" { (all) }
                    @for value in values { option value=(value) selected[value == self.value] { (shown(value)) } }
                }
                (self.hint_of())
            }
        }
    }

    /// A box to tick.
    pub(super) fn tick(&self) -> Markup {
        html! {
            div class="field tick" {
                input id=(self.id) name=(self.name) type="checkbox" value="true" checked[self.value == "true"];
                label for=(self.id) { (self.label) }
            }
        }
    }

    fn hint_of(&self) -> Markup {
        html! { @if !self.hint.is_empty() { p class="hint" id=(format!("{}-hint", self.id)) { (self.hint) } } }
    }
}

/// An act with a reason. `name` is unlike that of any other form on the page.
pub(super) struct Form<'a> {
    pub(super) name: &'a str,
    pub(super) action: &'a str,
    /// What the button says.
    pub(super) button: &'a str,
    /// The button warns.
    pub(super) grave: bool,
    /// A word or id that has to be typed, so that no click does it alone.
    pub(super) confirm: Option<&'a str>,
    /// Why has to be said.
    pub(super) why: bool,
    /// The tag of what it is about, so that nothing is done to what has changed since.
    pub(super) seen: Option<String>,
}

impl Form<'_> {
    /// The form, with `fields` before its reason.
    pub(super) fn with(&self, page: &Page, fields: &Markup) -> Markup {
        let id = |part: &str| format!("{}-{part}", self.name);
        let (reason, confirm) = (id("reason"), id("confirm"));
        html! {
            form class="act" method="post" action=(self.action) {
                input type="hidden" name="idempotency_key" value=(format!("{}-{}", page.key, self.name));
                @if let Some(seen) = &self.seen { input type="hidden" name="seen" value=(seen); }
                (fields)
                @let field = Field::new(&reason, "reason", if self.why { "Reason" } else { "Reason, if there is one" }).hint("Goes on record with your name.");
                (if self.why { field.required() } else { field }.input("text"))
                @if let Some(word) = self.confirm {
                    @let label = format!("Type “{}” to confirm", shown(word));
                    (Field::new(&confirm, "confirm", &label).required().input("text"))
                }
                button class=[self.grave.then_some("grave")] { (self.button) }
            }
        }
    }
}

/// A form that is out of sight until somebody asks for it.
pub(super) fn folded(summary: &str, form: &Markup) -> Markup {
    html! { details class="fold" { summary { (summary) } (form) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_thousands_apart_and_only_all_are_a_hundred_percent() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1\u{202f}000");
        assert_eq!(grouped(-1_234_567), "-1\u{202f}234\u{202f}567");
        assert_eq!(percent(10, 10), "100%");
        assert_eq!(percent(999_999, 1_000_000), "99.99%");
        assert_eq!(percent(0, 0), "–");
    }
}
