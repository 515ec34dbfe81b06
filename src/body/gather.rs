//! Which frames are kept as they come, and which are copied together.
//!
//! A frame of hyper's is a slice of a read buffer of at most [`READ_BUFFER`] bytes, all of which stays
//! allocated while the slice lives. So a frame is kept only if it fills nearly all of that; anything
//! smaller is copied into a chunk of our own, which frees the read buffer for the next read.
//!
//! Invariant: the frames that are kept pin at most `READ_BUFFER / KEEP` (1.07) times their bytes, and
//! the copies are exact, except for the one chunk being filled.

use bytes::{Bytes, BytesMut};

/// The largest read buffer that the server gives a connection. The arithmetic above rests on it.
pub const READ_BUFFER: usize = 64 * 1024;

/// The smallest frame that is kept as it is.
const KEEP: usize = 60 * 1024;

/// How many bytes are copied into one allocation.
const CHUNK: usize = 64 * 1024;

/// Collects the frames of one body.
pub(super) struct Gather {
    frames: Vec<Bytes>,
    chunk: BytesMut,
    len: u64,
    declared: Option<u64>,
}

impl Gather {
    pub(super) fn new(declared: Option<u64>) -> Self {
        Self {
            frames: Vec::new(),
            chunk: BytesMut::new(),
            len: 0,
            declared,
        }
    }

    /// How many bytes were pushed.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The frames that are complete.
    pub(super) fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    pub(super) fn push(&mut self, frame: Bytes) {
        self.len += super::length_of(&frame);
        if frame.len() >= KEEP {
            self.trim();
            self.frames.push(frame);
            return;
        }
        let mut rest = frame.as_ref();
        while !rest.is_empty() {
            let room = self.chunk.capacity() - self.chunk.len();
            if room == 0 {
                self.next_chunk(rest.len());
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room));
            self.chunk.extend_from_slice(now);
            rest = later;
        }
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        // A chunk that is nearly full is handed over, any other is cut to its size.
        if self.chunk.capacity() - self.chunk.len() <= CHUNK / 16 {
            self.flush();
        } else {
            self.trim();
        }
        self.frames
    }

    /// The chunk is full and becomes a frame. The next one is no larger than what is still to come
    /// of the body, `at_hand` of which is here.
    fn next_chunk(&mut self, at_hand: usize) {
        self.flush();
        let placed = self.len - u64::try_from(at_hand).unwrap_or(self.len);
        let left = self.declared.map(|length| length.saturating_sub(placed));
        let room = left.map_or(CHUNK, |left| usize::try_from(left).unwrap_or(CHUNK));
        self.chunk = BytesMut::with_capacity(room.max(at_hand).min(CHUNK));
    }

    fn flush(&mut self) {
        if !self.chunk.is_empty() {
            let chunk = std::mem::take(&mut self.chunk);
            self.frames.push(chunk.freeze());
        }
    }

    /// Puts an exact copy of a half-filled chunk among the frames and goes on with the same chunk,
    /// so that a small frame before each large one doesn't cost a whole chunk.
    fn trim(&mut self) {
        if !self.chunk.is_empty() {
            self.frames.push(Bytes::copy_from_slice(&self.chunk));
            self.chunk.clear();
        }
    }
}
