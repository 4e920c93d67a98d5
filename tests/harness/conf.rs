//! Fills in configurations: `{{name}}` placeholders of the harness' own templates, and the
//! documented replacements of the files in `nginx-conf/`.
//!
//! A placeholder without a value and a replacement that matches nothing are errors: a renamed port
//! must not go unnoticed.

/// Replaces each `{{name}}` by its value.
///
/// # Panics
/// When a placeholder remains.
#[must_use]
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    if let Some((_, rest)) = text.split_once("{{") {
        panic!("no value for {{{{{}", rest.split_once("}}").map_or(rest, |(name, _)| name));
    }
    text
}

/// Replaces each text by its value everywhere.
///
/// # Panics
/// When a text does not occur.
#[must_use]
pub fn replace(text: &str, replacements: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in replacements {
        assert!(text.contains(from), "the configuration has no {from:?}");
        text = text.replace(from, to);
    }
    text
}

/// `server ADDRESS PARAMETERS;` lines for an upstream block.
#[must_use]
pub fn servers<'a>(addresses: impl IntoIterator<Item = &'a str>, parameters: &str) -> String {
    addresses.into_iter().map(|address| format!("server {address} {parameters};\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_everywhere() {
        assert_eq!(fill("a {{x}} b {{x}} {{y}}", &[("x", "1"), ("y", "2")]), "a 1 b 1 2");
    }

    #[test]
    #[should_panic(expected = "no value for {{z")]
    fn a_forgotten_placeholder_is_an_error() {
        let _ = fill("{{z}}", &[]);
    }

    #[test]
    #[should_panic(expected = "has no")]
    fn a_replacement_that_matches_nothing_is_an_error() {
        let _ = replace("listen 8080;", &[("9090", "1")]);
    }
}
