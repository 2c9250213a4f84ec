//! Pages of Markdown: sections with their fenced blocks.

use super::repository_file;

/// What stands under one heading, up to the next.
#[derive(Debug)]
pub struct Section {
    /// The heading, without its `#` and backticks.
    pub heading: String,
    /// The text, without fenced blocks.
    pub text: String,
    /// The fenced blocks: what stands after the backticks, and what is in them.
    pub blocks: Vec<(String, String)>,
}

/// The sections of a page, in order; what stands above the first heading is left out.
pub fn sections(path: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut block: Option<(String, String)> = None;
    for line in repository_file(path).lines() {
        match &mut block {
            Some((_, body)) if line != "```" => {
                body.push_str(line);
                body.push('\n');
            }
            Some(_) => {
                let done = block.take().unwrap();
                if let Some(section) = sections.last_mut() {
                    section.blocks.push(done);
                }
            }
            None if line.starts_with("```") => block = Some((line[3..].to_owned(), String::new())),
            None if line.starts_with("## ") || line.starts_with("### ") => sections.push(Section {
                heading: line.trim_start_matches('#').trim().trim_matches('`').to_owned(),
                text: String::new(),
                blocks: Vec::new(),
            }),
            None => {
                if let Some(section) = sections.last_mut() {
                    section.text.push_str(line);
                    section.text.push('\n');
                }
            }
        }
    }
    assert!(block.is_none(), "{path}: a fenced block is not closed");
    sections
}
