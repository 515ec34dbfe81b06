//! A message body as a list of byte segments with a known total length.
//!
//! Invariant: segments are handed over as they are; no byte of an image is copied to send it.

use std::{
    collections::{VecDeque, vec_deque},
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Byte segments that are sent one after the other. A clone shares the bytes.
///
/// It has no `Debug`: what it holds may be a credential or a person's document.
#[derive(Clone, Default)]
pub struct Segments {
    queue: VecDeque<Bytes>,
    left: u64,
}

impl Segments {
    /// Adds a segment at the end.
    pub fn push(&mut self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        self.left += length(&segment);
        self.queue.push_back(segment);
    }

    /// Adds a segment at the front.
    pub fn push_front(&mut self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        self.left += length(&segment);
        self.queue.push_front(segment);
    }

    /// How many bytes are still to be sent.
    pub const fn len(&self) -> u64 {
        self.left
    }

    /// Whether nothing is left to send.
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Takes at most `most` bytes from the front, without a copy.
    pub fn pop(&mut self, most: usize) -> Option<Bytes> {
        let front = self.queue.front_mut()?;
        let piece = front.split_to(front.len().min(most.max(1)));
        if front.is_empty() {
            self.queue.pop_front();
        }
        self.left -= length(&piece);
        Some(piece)
    }

    /// The segments, in order.
    pub fn iter(&self) -> vec_deque::Iter<'_, Bytes> {
        self.queue.iter()
    }
}

impl<T: Into<Bytes>> From<T> for Segments {
    fn from(bytes: T) -> Self {
        let mut segments = Self::default();
        segments.push(bytes.into());
        segments
    }
}

impl<'a> IntoIterator for &'a Segments {
    type Item = &'a Bytes;
    type IntoIter = vec_deque::Iter<'a, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Body for Segments {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.queue.pop_front().map(|segment| {
            self.left -= length(&segment);
            Ok(Frame::data(segment))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn length(segment: &Bytes) -> u64 {
    u64::try_from(segment.len()).unwrap_or(u64::MAX)
}
