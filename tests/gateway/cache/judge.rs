//! Whether what clients were told could be told, by when it was asked for and what had been written.
//!
//! A customer's reference and status are two registers. Nothing may be read that is strictly older than
//! what a reader could know of: another value, whose writing was answered before a newer one was sent, when
//! the newer one's answer was there before the reading began.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

/// A customer's value at a time: what one write makes of one register.
#[derive(Debug, Clone)]
pub(super) struct Write<T> {
    pub(super) value: T,
    pub(super) sent: Duration,
    /// When it was answered; none where nobody knows whether, or when, it happens.
    pub(super) answered: Option<Duration>,
    pub(super) by: Writer,
}

/// Who wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// Who uses DCAMS directly, so that gateways learn of it when what they keep is not fresh any more.
    Dcams,
    /// A client of the gateway with this number.
    Gateway(usize),
}

/// An answer with a value.
#[derive(Debug, Clone)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) sent: Duration,
    pub(super) answered: Duration,
    /// Which gateway was asked.
    pub(super) gateway: usize,
    /// Whether the answer says that it is stale.
    pub(super) stale: bool,
}

/// For how long after a write it may remain unknown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lags {
    /// To another gateway than that which wrote.
    pub(super) node: Duration,
    /// To all where DCAMS was told behind their back.
    pub(super) fresh: Duration,
    /// So much longer where the answer says that it is stale.
    pub(super) stale: Duration,
    /// For how long a request may be under way to DCAMS and back.
    pub(super) flight: Duration,
}

impl Lags {
    fn of<T>(&self, write: &Write<T>, read: &Read<T>) -> Duration {
        match write.by {
            Writer::Gateway(number) if number == read.gateway => Duration::ZERO,
            Writer::Gateway(_) => self.node,
            Writer::Dcams if read.stale => self.fresh + self.flight + self.stale,
            Writer::Dcams => self.fresh + self.flight,
        }
    }
}

/// The first thing that is wrong with what was read, in words.
pub(super) fn judge<T: Clone + Ord + Debug>(
    writes: &[Write<T>],
    reads: &[Read<T>],
    lags: &Lags,
    unique: bool,
) -> Option<String> {
    let seen = first_seen(reads);
    // By when each write had happened for certain.
    let known = writes.iter().map(|write| {
        // One with a value of its own, whose outcome nobody told, is known to have happened once it was
        // read; who shares an older read that is under way may miss that.
        let read = seen.get(&write.value).map(|at| *at + lags.flight);
        write.answered.or_else(|| read.filter(|_| unique))
    });
    let known: Vec<(&Write<T>, Option<Duration>)> = writes.iter().zip(known).collect();
    for read in reads {
        let mut older = Vec::new();
        let mut possible = false;
        for write in writes.iter().filter(|write| write.value == read.value) {
            let newer = known.iter().find(|(newer, known)| {
                let after = write.answered.is_some_and(|answered| answered < newer.sent);
                let knowable = known.is_some_and(|at| at + lags.of(newer, read) < read.sent);
                after && knowable
            });
            match newer {
                Some((newer, _)) => older.push((write, *newer)),
                None => possible |= write.sent <= read.answered,
            }
        }
        if !possible {
            return Some(format!("{read:?} but {older:?}"));
        }
    }
    None
}

fn first_seen<T: Clone + Ord>(reads: &[Read<T>]) -> BTreeMap<T, Duration> {
    let mut seen = BTreeMap::new();
    for read in reads {
        let first = seen.entry(read.value.clone()).or_insert(read.answered);
        *first = read.answered.min(*first);
    }
    seen
}

/// What was in force before anybody wrote.
pub(super) fn initial<T>(value: T) -> Write<T> {
    Write {
        value,
        sent: Duration::ZERO,
        answered: Some(Duration::ZERO),
        by: Writer::Dcams,
    }
}

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

const LAGS: Lags = Lags {
    node: ms(100),
    fresh: ms(200),
    stale: ms(300),
    flight: ms(50),
};

fn write(value: u32, sent: u64, answered: Option<u64>, by: Writer) -> Write<u32> {
    Write {
        value,
        sent: ms(sent),
        answered: answered.map(ms),
        by,
    }
}

fn read(value: u32, sent: u64, gateway: usize, stale: bool) -> Read<u32> {
    Read {
        value,
        sent: ms(sent),
        answered: ms(sent + 5),
        gateway,
        stale,
    }
}

#[test]
fn what_is_older_than_what_was_known_is_found() {
    let own = Writer::Gateway(0);
    let first = write(1, 10, Some(20), own);
    let second = write(2, 30, Some(40), own);
    let overlapping = write(2, 15, Some(40), own);
    let behind = write(2, 30, Some(40), Writer::Dcams);
    let unknown = write(2, 30, None, own);
    let both = |second: &Write<u32>| vec![initial(0), first.clone(), second.clone()];
    for (writes, reads, fine) in [
        (both(&second), vec![read(2, 41, 0, false)], true),
        (both(&second), vec![read(1, 41, 0, false)], false),
        (both(&second), vec![read(1, 41, 0, true)], false),
        (both(&second), vec![read(1, 39, 0, false)], true),
        (both(&second), vec![read(0, 21, 0, false)], false),
        (both(&second), vec![read(2, 20, 0, false)], false),
        (both(&second), vec![read(7, 41, 0, false)], false),
        (both(&overlapping), vec![read(1, 90, 0, false)], true),
        (both(&second), vec![read(1, 139, 1, false)], true),
        (both(&second), vec![read(1, 141, 1, false)], false),
        (both(&behind), vec![read(1, 289, 0, false)], true),
        (both(&behind), vec![read(1, 291, 0, false)], false),
        (both(&behind), vec![read(1, 589, 0, true)], true),
        (both(&behind), vec![read(1, 591, 0, true)], false),
        (both(&unknown), vec![read(1, 900, 0, false)], true),
        (both(&unknown), vec![read(2, 900, 0, false)], true),
        // It was read at 105; 50 later everybody could know.
        (
            both(&unknown),
            vec![read(2, 100, 0, false), read(1, 154, 0, false)],
            true,
        ),
        (
            both(&unknown),
            vec![read(2, 100, 0, false), read(1, 156, 0, false)],
            false,
        ),
    ] {
        let found = judge(&writes, &reads, &LAGS, true);
        assert_eq!(found.is_none(), fine, "{writes:?} {reads:?} {found:?}");
    }
    // A value that another write makes too says nothing of this one.
    let reads = [read(2, 100, 0, false), read(1, 156, 0, false)];
    assert_eq!(judge(&both(&unknown), &reads, &LAGS, false), None);
}
