//! The two ways a word may become SQL text: as a quoted literal, or as a quoted name (`model::Ident`). There is no third.

/// A text literal. The session keeps `standard_conforming_strings` on, so a quote is the only character that needs care.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

/// A `text[]` literal.
#[must_use]
pub fn literals(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|t| literal(t)).collect();
    format!("array[{}]::text[]", texts.join(", "))
}
