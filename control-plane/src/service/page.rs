//! Pages of a sorted list (AIP-158). A token holds the last key of its page, so a list that changes
//! between pages skips and repeats nothing that stayed.
//!
//! Pure. A page ends at its size or at `PAGE_BYTES_MAX`, whichever comes first, but has one entry
//! at least. Cost: entries rendered.

use prost::Message;
use tonic::Status;

use super::error;

/// Entries of a page without `page_size`.
const PAGE_SIZE_DEFAULT: usize = 100;
/// The largest page. A larger `page_size` counts as this.
const PAGE_SIZE_MAX: usize = 1000;
/// Encoded bytes after which a page ends: a quarter of what a message may have.
const PAGE_BYTES_MAX: usize = pincer_proto::limits::MESSAGE_BYTES_MAX / 4;
/// Bytes of a token: a peer's address, an upstream's name and the list's, in hexadecimal.
const TOKEN_BYTES_MAX: usize = 2048;

/// Where a page starts and ends.
#[derive(Debug)]
pub struct Page {
    list: String,
    after: Option<String>,
    size: usize,
}

/// A page and the token of the next; empty on the last.
pub type Paged<T> = (Vec<T>, String);

impl Page {
    /// Reads the caller's page of `list`; a token of another list is refused.
    pub fn parse(list: &str, size: i32, token: &str) -> Result<Self, Status> {
        let size = usize::try_from(size).map_err(|_| error::invalid("page_size", "must not be negative"))?;
        let size = if size == 0 { PAGE_SIZE_DEFAULT } else { size.min(PAGE_SIZE_MAX) };
        let after = if token.is_empty() { None } else { Some(decode(list, token)?) };
        Ok(Self { list: list.to_owned(), after, size })
    }

    /// Whether `key` comes after the last page.
    fn is_due(&self, key: &str) -> bool {
        self.after.as_deref().is_none_or(|after| key > after)
    }

    /// Renders the page of `entries`, which are sorted by key.
    pub fn take<'a, E, T: Message>(
        &self,
        entries: impl Iterator<Item = (&'a str, E)>,
        mut render: impl FnMut(&'a str, E) -> T,
    ) -> Paged<T> {
        let (mut page, mut bytes, mut last) = (Vec::new(), 0, "");
        for (key, entry) in entries.filter(|(key, _)| self.is_due(key)) {
            if page.len() == self.size || bytes >= PAGE_BYTES_MAX {
                return (page, encode(&self.list, last));
            }
            let rendered = render(key, entry);
            bytes += rendered.encoded_len();
            page.push(rendered);
            last = key;
        }
        (page, String::new())
    }
}

fn encode(list: &str, key: &str) -> String {
    format!("{list}\0{key}").bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(list: &str, token: &str) -> Result<String, Status> {
    let bad = || error::invalid("page_token", "is not one that this list gave");
    if token.len() > TOKEN_BYTES_MAX || !token.len().is_multiple_of(2) || !token.is_ascii() {
        return Err(bad());
    }
    let digits = |at| token.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(digits).collect();
    let text = String::from_utf8(bytes.ok_or_else(bad)?).map_err(|_| bad())?;
    match text.split_once('\0') {
        Some((of, key)) if of == list => Ok(key.to_owned()),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn take(page: &Page, entries: &BTreeMap<String, String>) -> Paged<String> {
        page.take(entries.iter().map(|(k, v)| (k.as_str(), v)), |_, v| v.clone())
    }

    #[test]
    fn the_pages_together_are_the_list() {
        let entries: BTreeMap<_, _> = (0..25).map(|n| (format!("k{n:02}"), format!("v{n:02}"))).collect();
        let (mut all, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (page, next) = take(&Page::parse("list", 10, &token).unwrap(), &entries);
            all.extend(page);
            pages += 1;
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(pages, 3);
        assert_eq!(all, entries.values().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn a_full_last_page_has_no_next() {
        let entries: BTreeMap<_, _> = (0..10).map(|n| (format!("k{n}"), String::new())).collect();
        assert_eq!(take(&Page::parse("list", 10, "").unwrap(), &entries).1, "");
    }

    #[test]
    fn a_page_ends_before_its_message_is_too_long() {
        let entries: BTreeMap<_, _> = (0..10).map(|n| (format!("k{n}"), "v".repeat(PAGE_BYTES_MAX / 2))).collect();
        assert_eq!(take(&Page::parse("list", 10, "").unwrap(), &entries).0.len(), 2);
    }

    #[test]
    fn tokens_of_another_list_and_nonsense_are_refused() {
        let token = encode("other", "key");
        for token in [token.as_str(), "zz", "a", "é", "ff", &"00".repeat(5000)] {
            assert!(Page::parse("list", 10, token).is_err(), "{token:?} was taken");
        }
        assert!(Page::parse("list", -1, "").is_err());
    }
}
