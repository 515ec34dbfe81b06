//! How an answer travels: as it should, or past hyper, byte by byte as a fault wants it.
//!
//! Invariant: whatever is wrong with an answer was asked for by a fault. A faulty answer always
//! ends its connection.

use std::{fmt::Write as _, io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{fault::FaultKind, reply::Reply};

/// What to do with an answer.
pub(super) enum Delivery {
    /// Never send it.
    Hang,
    /// Send it past hyper.
    Raw(Raw),
    /// Send it as it should be.
    Whole(Response<Full<Bytes>>),
}

/// Bytes for the socket itself, and how the connection ends after them.
pub(super) struct Raw {
    head: String,
    body: RawBody,
    reset: bool,
}

enum RawBody {
    /// A JSON text of this size, made while it is sent.
    Filler { bytes: u64, chunked: bool },
    /// Pieces of a text with pauses between.
    Pieces {
        text: Bytes,
        piece: usize,
        pause: Duration,
    },
}

/// Bounds each write to a client that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);

/// Plans the delivery of an answer under this fault.
pub(super) fn plan(reply: Reply, fault: Option<&FaultKind>) -> Delivery {
    let Some(fault) = fault else {
        return Delivery::Whole(whole(reply));
    };
    let all = reply.body.len();
    match fault {
        FaultKind::Hang {} => Delivery::Hang,
        FaultKind::Close {} => Delivery::Raw(nothing(false)),
        FaultKind::Reset {} => Delivery::Raw(nothing(true)),
        FaultKind::NotHttp {} => Delivery::Raw(Raw {
            head: "220 this is no HTTP server\r\n".to_owned(),
            ..nothing(false)
        }),
        FaultKind::Drip { bytes, ms } => Delivery::Raw(Raw {
            head: head(&reply, Some(length(all)), ""),
            body: RawBody::Pieces {
                text: reply.body,
                piece: size(*bytes),
                pause: Duration::from_millis(*ms),
            },
            reset: false,
        }),
        FaultKind::Headers { bytes } => Delivery::Raw(Raw {
            head: head(&reply, Some(length(all)), &"x".repeat(size(*bytes))),
            body: at_once(reply.body),
            reset: false,
        }),
        FaultKind::Truncate { bytes } => Delivery::Raw(cut(&reply, *bytes, false)),
        FaultKind::ResetInBody { bytes } => Delivery::Raw(cut(&reply, *bytes, true)),
        FaultKind::Oversize { bytes, chunked } => {
            let declared = (!chunked).then_some(*bytes);
            Delivery::Raw(Raw {
                head: head(&Reply::empty(http::StatusCode::OK), declared, ""),
                body: RawBody::Filler {
                    bytes: *bytes,
                    chunked: *chunked,
                },
                reset: false,
            })
        }
        FaultKind::Delay { .. }
        | FaultKind::Empty {}
        | FaultKind::Error { .. }
        | FaultKind::ErrorWith200 { .. }
        | FaultKind::Html { .. }
        | FaultKind::Late { .. }
        | FaultKind::Malformed {}
        | FaultKind::Redirect { .. }
        | FaultKind::Stall {}
        | FaultKind::Status { .. } => Delivery::Whole(whole(reply)),
    }
}

/// A closed connection, in place of an answer.
pub(super) fn nothing(reset: bool) -> Raw {
    Raw {
        head: String::new(),
        body: at_once(Bytes::new()),
        reset,
    }
}

fn at_once(text: Bytes) -> RawBody {
    RawBody::Pieces {
        piece: text.len(),
        text,
        pause: Duration::ZERO,
    }
}

/// Announces the whole body and sends its beginning.
fn cut(reply: &Reply, bytes: u64, reset: bool) -> Raw {
    let all = reply.body.len();
    Raw {
        // At least one byte is missing, also of an empty body.
        head: head(reply, Some(length(all.max(1))), ""),
        body: at_once(reply.body.slice(..size(bytes).min(all.saturating_sub(1)))),
        reset,
    }
}

fn whole(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(reply.content_type),
    );
    for (name, value) in reply.headers {
        // A value that no header can hold (a fault's own `location`) is left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

fn head(reply: &Reply, length: Option<u64>, filler: &str) -> String {
    let mut head = format!(
        "HTTP/1.1 {}\r\ncontent-type: {}\r\nconnection: close\r\n",
        reply.status, reply.content_type
    );
    let framing = match length {
        Some(length) => write!(head, "content-length: {length}\r\n"),
        None => write!(head, "transfer-encoding: chunked\r\n"),
    };
    // Writing to a string does not fail.
    framing.unwrap_or_default();
    if !filler.is_empty() {
        head.push_str("x-filler: ");
        head.push_str(filler);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

impl Raw {
    /// Sends the bytes and ends the connection. Errors mean that the client left first.
    pub(super) async fn send(self, mut stream: TcpStream) -> io::Result<()> {
        write(&mut stream, self.head.as_bytes()).await?;
        match self.body {
            RawBody::Filler { bytes, chunked } => fill(&mut stream, bytes, chunked).await?,
            RawBody::Pieces { text, piece, pause } => {
                for (index, part) in text.chunks(piece.max(1)).enumerate() {
                    if index > 0 {
                        tokio::time::sleep(pause).await;
                    }
                    write(&mut stream, part).await?;
                }
            }
        }
        if self.reset {
            // Closing with a linger time of zero sends RST in place of FIN.
            stream.set_zero_linger()?;
            return Ok(());
        }
        stream.shutdown().await
    }
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    timeout(WRITE_TIMEOUT, stream.write_all(bytes)).await?
}

const FILLER_START: &str = r#"{"result":"Success","message":""#;
const FILLER_END: &str = r#""}"#;
static FILLER_BLOCK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// A valid JSON answer of exactly this size; of one too small for that, only letters.
async fn fill(stream: &mut TcpStream, bytes: u64, chunked: bool) -> io::Result<()> {
    let frame = length(FILLER_START.len() + FILLER_END.len());
    let (start, end) = if bytes < frame {
        ("", "")
    } else {
        (FILLER_START, FILLER_END)
    };
    let mut left = bytes - length(start.len() + end.len());
    part(stream, start.as_bytes(), chunked).await?;
    while left > 0 {
        let block = FILLER_BLOCK.get(..size(left)).unwrap_or(&FILLER_BLOCK);
        part(stream, block, chunked).await?;
        left -= length(block.len());
    }
    part(stream, end.as_bytes(), chunked).await?;
    if chunked {
        write(stream, b"0\r\n\r\n").await?;
    }
    Ok(())
}

async fn part(stream: &mut TcpStream, bytes: &[u8], chunked: bool) -> io::Result<()> {
    // An empty chunk would end the body.
    if bytes.is_empty() {
        return Ok(());
    }
    if !chunked {
        return write(stream, bytes).await;
    }
    write(stream, format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
    write(stream, bytes).await?;
    write(stream, b"\r\n").await
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
