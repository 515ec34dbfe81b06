//! Lines for a stream whose reader may stand still: a pipe that nobody empties, a full disk.
//!
//! Invariant: whoever writes a line never waits for the stream. Lines are gathered in memory, up to
//! a bound, and one thread of their own writes them; what is over the bound is refused, so that the
//! writer can count it.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Lines on their way to a stream. A clone is the same way.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

struct Shared {
    // Held for a copy into memory, never while the stream is written.
    queue: Mutex<Queue>,
    arrived: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    writing: bool,
    asleep: bool,
}

/// Most bytes that wait for the stream; about 10,000 audit events.
const LIMIT: usize = 8 * 1024 * 1024;

/// How long lines are gathered before the next write, so that a busy process writes a few hundred
/// times a second rather than once a line.
const GATHER: Duration = Duration::from_millis(5);

impl Outbox {
    /// An outbox for this stream, with a thread of this name.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn new(name: &str, out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            written: Condvar::new(),
        });
        let outbox = Self(Arc::clone(&shared));
        let thread = thread::Builder::new().name(name.to_owned());
        // It ends with the process: between lines it waits without cost.
        drop(thread.spawn(move || shared.write_to(out))?);
        Ok(outbox)
    }

    /// Waits until everything was written, or for `limit`; whether it was.
    pub fn flush_within(&self, limit: Duration) -> bool {
        let Shared { written, .. } = &*self.0;
        let waited = written.wait_timeout_while(self.0.lock(), limit, |queue| {
            queue.writing || !queue.lines.is_empty()
        });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Write for Outbox {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.0.lock();
        if queue.lines.len().saturating_add(line.len()) > LIMIT {
            return Err(ErrorKind::StorageFull.into());
        }
        queue.lines.extend_from_slice(line);
        if queue.asleep {
            queue.asleep = false;
            self.0.arrived.notify_one();
        }
        Ok(line.len())
    }

    /// Does not wait: see [`Outbox::flush_within`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut queue = self.lock();
            while queue.lines.is_empty() {
                queue.asleep = true;
                let woken = self.arrived.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
            }
            mem::swap(&mut queue.lines, &mut batch);
            queue.writing = true;
            drop(queue);
            // A closed stream loses its lines; there is no other place to say so.
            drop(out.write_all(&batch).and_then(|()| out.flush()));
            batch.clear();
            self.lock().writing = false;
            self.written.notify_all();
            thread::sleep(GATHER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A stream that takes nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap();
            self.1.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_stands_still_holds_nobody_up_and_loses_what_is_over_the_bound() {
        let ((go, stuck), (sent, received)) = (mpsc::channel(), mpsc::channel());
        let mut outbox = Outbox::new("test", Stuck(stuck, sent)).unwrap();
        let line = vec![b'x'; 1024 * 1024];
        let accepted = (0..20).filter(|_| outbox.write_all(&line).is_ok()).count();
        // Up to 8 MiB that are being written, and 8 MiB that wait.
        assert!((8..=16).contains(&accepted), "{accepted}");
        assert!(!outbox.flush_within(Duration::from_millis(1)));
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        let mut written = received.recv().unwrap().len();
        while written < accepted * line.len() {
            written += received.recv().unwrap().len();
        }
        assert_eq!(written, accepted * line.len());
        assert!(outbox.flush_within(Duration::from_secs(10)));
    }
}
