//! hyper's own answers to what it cannot parse (a bare 400, 414 or 431), and what is sent instead.
//!
//! Pure. Invariant: only what is byte for byte one of those answers is recognised; an answer of a
//! handler with such a status has a body, and so is never taken for one.

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH},
};

use crate::segments::Segments;

/// The status of one of hyper's bare answers, when `written` is nothing but that.
pub(super) fn recognise(written: &[u8]) -> Option<StatusCode> {
    let rest = written.strip_prefix(b"HTTP/1.1 ")?;
    let (digits, _) = rest.split_at_checked(3)?;
    let status = StatusCode::from_bytes(digits).ok()?;
    let bare = matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::URI_TOO_LONG
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    let empty = memchr::memmem::find(written, b"\r\ncontent-length: 0\r\n").is_some();
    let whole = memchr::memmem::find(written, b"\r\n\r\n") == Some(written.len() - 4);
    (bare && empty && whole).then_some(status)
}

/// The wire form of an answer after which the connection closes.
pub(super) fn render(response: &Response<Segments>) -> Bytes {
    let status = response.status();
    let mut wire = BytesMut::with_capacity(1024);
    wire.put_slice(b"HTTP/1.1 ");
    wire.put_slice(status.as_str().as_bytes());
    wire.put_u8(b' ');
    wire.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    wire.put_slice(b"\r\n");
    for (name, value) in response.headers() {
        if *name == CONNECTION || *name == CONTENT_LENGTH {
            continue;
        }
        wire.put_slice(name.as_str().as_bytes());
        wire.put_slice(b": ");
        wire.put_slice(value.as_bytes());
        wire.put_slice(b"\r\n");
    }
    let length = response.body().len().to_string();
    wire.put_slice(b"connection: close\r\ncontent-length: ");
    wire.put_slice(length.as_bytes());
    wire.put_slice(b"\r\n\r\n");
    for segment in response.body() {
        wire.put_slice(segment);
    }
    wire.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_answer_is_recognised() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                    content-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(
            recognise(bare.as_bytes()).map(|status| status.as_u16()),
            Some(431)
        );
        for other in [
            "",
            "HTTP/1.1 4",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nx",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.0 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n",
        ] {
            assert_eq!(recognise(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_replacement_says_its_length_and_that_it_is_the_last() {
        let response = Response::builder()
            .status(431)
            .header("content-type", "application/problem+json")
            .header("connection", "keep-alive")
            .body(Segments::from("{}"))
            .unwrap();
        let text = String::from_utf8(render(&response).to_vec()).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 431 Request Header Fields Too Large\r\n\
             content-type: application/problem+json\r\n\
             connection: close\r\ncontent-length: 2\r\n\r\n{}"
        );
    }
}
