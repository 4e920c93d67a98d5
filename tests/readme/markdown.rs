//! The repository's documents, as far as tests read them: fenced blocks below headings.

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// What stands behind the fence: `sh`, `nginx`, `text`.
    pub language: String,
    /// The nearest heading above, without its `#`.
    pub heading: String,
    /// Its lines.
    pub text: String,
}

/// The fenced blocks of a document, in order.
pub fn blocks(document: &str) -> Vec<Block> {
    let (mut found, mut heading, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in document.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let language = language.to_owned();
                open = Some(Block { language, heading: heading.clone(), text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) if line.starts_with('#') => line.trim_start_matches('#').trim().clone_into(&mut heading),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    found
}
