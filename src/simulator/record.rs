//! What the simulator saw of each request, for whoever judges what really went upstream.
//!
//! Invariant: names, sizes and digests only. A value of the body is held only where the simulator
//! was started to record bodies, and even then `Debug` does not print it.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, header, request::Parts};
use jiff::Timestamp;
use serde::Serialize;

/// One request that reached the simulator, anything but a control call.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Counts from 1 and goes on when the list is cleared.
    pub sequence: u64,
    /// When its head had arrived (RFC 3339).
    pub time: String,
    /// The body's `service`, cut after 64 characters.
    pub service: Option<String>,
    /// The request's method.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// Whether there was a query. What it said is not kept.
    pub query: bool,
    /// Header names in lower case with their values; of a header that carries a secret
    /// (`authorization`, `proxy-authorization`, `cookie`) only that it is `present`.
    pub headers: Vec<(String, String)>,
    /// What `Content-Length` said.
    pub content_length: Option<u64>,
    /// Bytes of the body that arrived.
    pub body_bytes: u64,
    /// False where the client left, or sent more than the limit, before the body ended.
    pub body_complete: bool,
    /// What is wrong with the body as a JSON object, where something is.
    pub malformed: Option<String>,
    /// All member names as JSON pointers, in order, with duplicates, escapes decoded and letter
    /// case kept. The list ends after 16 KiB of names.
    pub members: Vec<String>,
    /// How many members there were.
    pub members_total: u64,
    /// Members named `user` in any letter case, at any depth.
    pub user_members: u64,
    /// Members named `pass` in any letter case, at any depth.
    pub pass_members: u64,
    /// Whether the top level's `user` and `pass` are an accepted pair.
    pub credentials: Credentials,
    /// Which of the pairs accepted at that time has this user name.
    pub user_index: Option<usize>,
    /// The status that was answered; `null` where none was sent.
    pub status: Option<u16>,
    /// The faults that this request met.
    pub faults: Vec<&'static str>,
    /// Whether the request changed a stored customer.
    pub stored: bool,
    /// The images in `target.documents`.
    pub images: Images,
    /// The body, where bodies are recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<RecordedBody>,
}

impl Record {
    /// What is known when the head has arrived.
    pub(super) fn arrived(head: &Parts, now: Timestamp) -> Self {
        let declared = head.headers.get(header::CONTENT_LENGTH);
        Self {
            sequence: 0,
            time: now.to_string(),
            service: None,
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().is_some(),
            headers: headers(&head.headers),
            content_length: declared
                .and_then(|value| value.to_str().ok())
                .and_then(|text| text.parse().ok()),
            body_bytes: 0,
            body_complete: false,
            malformed: None,
            members: Vec::new(),
            members_total: 0,
            user_members: 0,
            pass_members: 0,
            credentials: Credentials::Missing,
            user_index: None,
            status: None,
            faults: Vec::new(),
            stored: false,
            images: Images::default(),
            body: None,
        }
    }
}

/// Whether the request's `user` and `pass` are an accepted pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// They are.
    Accepted,
    /// One of them is absent, empty or not a string.
    Missing,
    /// They are not.
    Refused,
}

/// The images of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Images {
    /// `target.documents.front`
    pub front: Option<ImageRecord>,
    /// `target.documents.back`
    pub back: Option<ImageRecord>,
}

/// The base64 text of an image, by size and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageRecord {
    /// Bytes of the text, with escapes decoded.
    pub bytes: usize,
    /// SHA-256 of the text, in hexadecimal.
    pub sha256: String,
}

impl ImageRecord {
    /// Describes a text.
    pub fn of(text: &str) -> Self {
        Self {
            bytes: text.len(),
            sha256: hex(digest(&SHA256, text.as_bytes()).as_ref()),
        }
    }
}

/// A recorded body; bytes that are not UTF-8 are replaced by U+FFFD.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RecordedBody(String);

impl RecordedBody {
    pub(super) fn new(body: &[u8]) -> Self {
        Self(String::from_utf8_lossy(body).into_owned())
    }

    /// The body.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RecordedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Header names and values, without those that carry a secret.
fn headers(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .map(|(name, value)| {
            let secret = [
                header::AUTHORIZATION,
                header::COOKIE,
                header::PROXY_AUTHORIZATION,
            ]
            .contains(name);
            let shown = if secret {
                "present".into()
            } else {
                String::from_utf8_lossy(value.as_bytes())
            };
            (name.as_str().to_owned(), shown.into_owned())
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

/// The last requests, oldest first. At most 10,000, and at most 512 MiB of recorded bodies (beside
/// at most 16 KiB of member names and 64 KiB of headers each); the oldest go first.
#[derive(Default)]
pub(super) struct Records {
    list: VecDeque<Record>,
    body_bytes: usize,
    last: u64,
}

const MAX_RECORDS: usize = 10_000;
const MAX_BODY_BYTES: usize = 512 * 1024 * 1024;

impl Records {
    /// Numbers the record, adds it, and returns its number.
    pub(super) fn push(&mut self, mut record: Record) -> u64 {
        self.last += 1;
        record.sequence = self.last;
        self.body_bytes += held(&record);
        self.list.push_back(record);
        self.shrink(MAX_RECORDS, MAX_BODY_BYTES);
        self.last
    }

    fn shrink(&mut self, records: usize, body_bytes: usize) {
        while self.list.len() > records || self.body_bytes > body_bytes {
            let Some(oldest) = self.list.pop_front() else {
                return;
            };
            self.body_bytes -= held(&oldest);
        }
    }

    pub(super) fn list(&self) -> Vec<Record> {
        self.list.iter().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.body_bytes = 0;
    }
}

fn held(record: &Record) -> usize {
    record.body.as_ref().map_or(0, |body| body.0.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Record {
        let (head, ()) = http::Request::new(()).into_parts();
        Record::arrived(&head, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_list_is_bounded_and_numbers_go_on() {
        let mut records = Records::default();
        for _ in 0..MAX_RECORDS + 5 {
            records.push(empty());
        }
        let list = records.list();
        assert_eq!(list.len(), MAX_RECORDS);
        assert_eq!(list[0].sequence, 6);
        records.clear();
        assert_eq!(records.push(empty()), 10_006);
        assert_eq!(records.list().len(), 1);
    }

    #[test]
    fn recorded_bodies_are_bounded_by_their_bytes() {
        let mut records = Records::default();
        let mut record = empty();
        record.body = Some(RecordedBody("x".repeat(100)));
        for _ in 0..5 {
            records.push(record.clone());
        }
        records.shrink(MAX_RECORDS, 399);
        assert_eq!((records.list.len(), records.body_bytes), (3, 300));
        assert!(!format!("{record:?}").contains("xx"));
    }

    #[test]
    fn a_secret_header_is_shown_as_present() {
        let mut map = HeaderMap::new();
        map.insert(header::AUTHORIZATION, "Bearer hunter2".parse().unwrap());
        map.insert(header::COOKIE, "hunter2".parse().unwrap());
        map.insert(header::ACCEPT, "text/html".parse().unwrap());
        let shown = headers(&map);
        assert!(shown.contains(&("authorization".to_owned(), "present".to_owned())));
        assert!(shown.contains(&("accept".to_owned(), "text/html".to_owned())));
        assert!(!format!("{shown:?}").contains("hunter2"));
    }

    #[test]
    fn an_image_is_known_by_its_digest() {
        assert_eq!(
            ImageRecord::of("abc").sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
