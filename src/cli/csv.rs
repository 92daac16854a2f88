//! One line of CSV as RFC 4180 has it, safe to open in a spreadsheet.

/// The fields as one line, without its end, which is CRLF.
///
/// A field that a spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage return) gets an apostrophe in front, and is quoted.
/// Names in reports come from the configuration and begin with letters: a program that reads the file meets the apostrophe only where something is odd.
pub(super) fn line<S: AsRef<str>>(fields: impl IntoIterator<Item = S>) -> String {
    fields.into_iter().map(|field| self::field(field.as_ref())).collect::<Vec<_>>().join(",")
}

fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula || text.contains([',', '"', '\r', '\n']) {
        format!("\"{}{}\"", if formula { "'" } else { "" }, text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_field_is_quoted_and_nothing_else() {
        assert_eq!(line(["a", "b c", ""]), "a,b c,");
        assert_eq!(line(["a,b", "say \"so\"", "two\nlines"]), "\"a,b\",\"say \"\"so\"\"\",\"two\nlines\"");
    }

    #[test]
    fn nothing_is_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(line([formula]), format!("\"'{formula}\""));
        }
        assert_eq!(line(["1-1", "a=b", "'x"]), "1-1,a=b,'x");
    }
}
