//! Lists of GitHub's that are looked at again and again. A page that is as it was is not sent again, and does not count against the
//! limit: <https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api#use-conditional-requests-if-appropriate>
//!
//! Comes in: a list's path, and what is to be read of each item. Goes out: what was read, of all its pages. What is kept is what was read,
//! never GitHub's own text, which is a hundred times as much.

use std::collections::HashMap;

use serde_json::Value;

use super::{GitHub, GitHubError, Speaker};

/// Items of a full page, as it is asked for.
pub(super) const PER_PAGE: usize = 100;
/// Pages that are kept; past that, all are forgotten, and asked for whole once.
const KEPT: usize = 64;

/// What was read of pages.
pub(super) struct Pages<T> {
    known: HashMap<String, Page<T>>,
}

struct Page<T> {
    /// By which GitHub knows it again.
    etag: String,
    items: Vec<T>,
    next: Option<String>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<T: Clone> Pages<T> {
    /// The items of a list that can be read, of at most so many pages, until `has_enough` of a page.
    ///
    /// # Errors
    /// As [`GitHub::ask`].
    pub(super) async fn look_through(
        &mut self,
        github: &GitHub,
        speaker: Speaker<'_>,
        mut path: String,
        pages: usize,
        read: fn(&Value) -> Option<T>,
        mut has_enough: impl FnMut(&[T]) -> bool + Send,
    ) -> Result<Vec<T>, GitHubError> {
        let mut all = Vec::new();
        for _ in 0..pages {
            let etag = self.known.get(&path).map(|page| page.etag.clone());
            let (items, next) = match github.ask_unless_same(speaker, &path, etag.as_deref()).await? {
                Some(answer) => {
                    let items: Vec<T> = answer.body.as_array().into_iter().flatten().filter_map(read).collect();
                    // a full last page is the same still when another comes behind it
                    let is_full = answer.body.as_array().is_some_and(|page| page.len() >= PER_PAGE);
                    let etag = answer.etag.filter(|_| answer.next.is_some() || !is_full);
                    self.keep(&path, etag, &items, answer.next.clone());
                    (items, answer.next)
                }
                None => self.known.get(&path).map(|page| (page.items.clone(), page.next.clone())).unwrap_or_default(),
            };
            let is_enough = has_enough(&items);
            all.extend(items);
            match next {
                Some(next) if !is_enough => path = next,
                _ => break,
            }
        }
        Ok(all)
    }

    fn keep(&mut self, path: &str, etag: Option<String>, items: &[T], next: Option<String>) {
        self.known.remove(path);
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        if let Some(etag) = etag {
            self.known.insert(path.to_owned(), Page { etag, items: items.to_vec(), next });
        }
    }
}
