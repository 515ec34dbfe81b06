//! The stream under hyper, watched: what came, what went, what was blocked.
//!
//! Invariant: bytes pass unchanged, but for two things that hyper offers no other place for: a `#` in a
//! request line becomes a byte that no parser takes (the fragment would be cut off silently, and the
//! target pass for another), and hyper's own bare answers are replaced by the handler's.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{activity::Activity, refusal};

/// Makes the wire form of the answer to a head that could not be parsed.
pub(super) type Refuse = Box<dyn Fn(StatusCode) -> Bytes + Send>;

/// Where the stream is found after hyper has let go of it.
///
/// The lock is taken twice in a connection's life, by the same task.
pub(super) struct Returned<S>(Arc<Mutex<Option<S>>>);

impl<S> Returned<S> {
    pub(super) fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream that notes what happens on it and is handed back on drop.
pub(super) struct Watched<S> {
    stream: Option<S>,
    ahead: Bytes,
    returned: Arc<Mutex<Option<S>>>,
    activity: Arc<Activity>,
    line: RequestLine,
    refuse: Option<Refuse>,
    instead: Bytes,
}

impl<S> Watched<S> {
    /// `ahead` was read from the stream already and comes first. `refuse` is for HTTP/1 only: HTTP/2
    /// has no bare answers.
    pub(super) fn new(
        stream: S,
        ahead: Bytes,
        activity: Arc<Activity>,
        refuse: Option<Refuse>,
    ) -> (Self, Returned<S>) {
        let returned = Arc::new(Mutex::new(None));
        let watched = Self {
            stream: Some(stream),
            ahead,
            returned: Arc::clone(&returned),
            activity,
            line: RequestLine::Over,
            refuse,
            instead: Bytes::new(),
        };
        (watched, Returned(returned))
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        *returned = self.stream.take();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let before = buf.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(stream).poll_read(cx, buf))?;
        } else {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(count));
        }
        let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
        if new.is_empty() {
            this.activity.ended();
            return Poll::Ready(Ok(()));
        }
        if this.activity.received(new.len()) {
            this.line = RequestLine::Before;
        }
        this.line.guard(new);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Sends the handler's answer in place of `bare`, if that is one of hyper's own.
    fn poll_instead(&mut self, cx: &mut Context<'_>, bare: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refuse) = &self.refuse
            && self.instead.is_empty()
            && self.activity.is_idle()
            && let Some(status) = refusal::recognise(bare)
        {
            self.instead = refuse(status);
        }
        while !self.instead.is_empty() {
            let rest = self.instead.clone();
            let written = ready!(self.poll_inner(cx, |stream, cx| stream.poll_write(cx, &rest)))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            self.instead.advance(written);
            if self.instead.is_empty() {
                // To hyper, all of its own was sent.
                return Poll::Ready(Ok(bare.len()));
            }
        }
        self.poll_inner(cx, |stream, cx| stream.poll_write(cx, bare))
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let polled = write(Pin::new(stream), cx);
        match &polled {
            Poll::Ready(Ok(_)) => self.activity.wrote(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.blocked(),
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_instead(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // An answer of hyper's own is a single slice.
        if let [only] = bufs {
            return self.poll_instead(cx, only);
        }
        self.poll_inner(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// Where in a request line the next byte stands.
///
/// A head that came together with the end of the request before it is not looked at; what a `#` does
/// there is that the target is read without its fragment, which nobody is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestLine {
    /// Before it, where empty lines may stand.
    Before,
    Inside,
    Over,
}

impl RequestLine {
    fn guard(&mut self, bytes: &mut [u8]) {
        if *self == Self::Over {
            return;
        }
        for byte in bytes {
            match (*byte, *self) {
                (b'\r' | b'\n', Self::Before) => {}
                (b'\n', _) => {
                    *self = Self::Over;
                    return;
                }
                (b'#', _) => {
                    *byte = 0;
                    *self = Self::Inside;
                }
                _ => *self = Self::Inside,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_in_a_request_line_becomes_unparsable_wherever_the_line_is_cut() {
        let text = b"\r\n\nPOST /a#b HTTP/1.1\r\nX: #\r\n";
        for at in 0..text.len() {
            let mut bytes = *text;
            let mut line = RequestLine::Before;
            let (one, two) = bytes.split_at_mut(at);
            line.guard(one);
            line.guard(two);
            assert_eq!(&bytes, b"\r\n\nPOST /a\0b HTTP/1.1\r\nX: #\r\n");
        }
    }
}
