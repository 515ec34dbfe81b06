use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::{
    ident::{AccountId, PseudonymKey, TenantId},
    tenant::Disclosure,
};

const HORIZON: Duration = Duration::from_mins(1);

fn key(email: &str) -> StatusKey {
    let pseudonyms = PseudonymKey::derive(&[1; 32]);
    let (tenant, account) = (TenantId::try_from("t"), AccountId::try_from("a"));
    StatusKey::new(&pseudonyms, &tenant.unwrap(), &account.unwrap(), email)
}

fn fit() -> Fit {
    Fit {
        disclosure: Disclosure::Minimal,
        spelling: key("a@b.example").name(),
        era: 0,
    }
}

fn lead(slots: &Slots<u32>, now: Instant) -> Ticket {
    match slots.begin_read(key("a@b.example"), None, now) {
        Turn::Lead(ticket, _) => ticket,
        Turn::Join(_) => panic!("nothing fits none"),
    }
}

/// Ends a read; whether it kept what it found.
fn end(slots: &Slots<u32>, ticket: Ticket, now: Instant) -> bool {
    let kept = Cell::new(false);
    let said = slots.end_read(key("a@b.example"), ticket, false, now, || kept.set(true));
    assert_eq!(said, kept.get());
    said
}

#[test]
fn a_read_that_a_write_passed_keeps_nothing() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let before = lead(&slots, now);
    let write = slots.begin_write(key, now, || {});
    let during = lead(&slots, now);
    assert!(slots.end_write(key, write, Settled::Certain, now, || {}));
    let after = lead(&slots, now);
    assert!(!end(&slots, before, now));
    assert!(!end(&slots, during, now));
    assert!(end(&slots, after, now));
    assert_eq!(slots.len(), 0);
}

#[test]
fn of_writes_that_overlap_none_is_the_last_word() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let begin = || slots.begin_write(key, now, || {});
    let end = |write| slots.end_write(key, write, Settled::Certain, now, || {});
    // In the order in which they began, and in the other one.
    let (first, second) = (begin(), begin());
    assert!(!end(first) && !end(second));
    let (first, second) = (begin(), begin());
    assert!(!end(second) && !end(first));
    assert!(end(begin()));
}

#[test]
fn a_write_that_another_gateways_overlaps_is_not_the_last_word() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let token = Token([7; 16]);
    let begin_there = || slots.begin_elsewhere(key, token, HORIZON, now, || {});
    let end_there = || slots.disturb(key, Some(token), now, || {});
    let end = |write| slots.end_write(key, write, Settled::Certain, now, || {});
    // It began and ended while ours was under way.
    let write = slots.begin_write(key, now, || {});
    begin_there();
    end_there();
    assert!(!end(write));
    // It was under way when ours began.
    begin_there();
    let write = slots.begin_write(key, now, || {});
    end_there();
    assert!(!end(write));
    // It is still under way.
    let write = slots.begin_write(key, now, || {});
    begin_there();
    assert!(!end(write));
    end_there();
    assert!(end(slots.begin_write(key, now, || {})));
}

#[test]
fn a_doubt_ends_with_the_one_write_that_it_is_about_or_in_time() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let (one, other) = (Token([7; 16]), Token([8; 16]));
    let begin = |token, doubt| slots.begin_elsewhere(key, token, doubt, now, || {});
    let ended = |token| slots.disturb(key, token, now, || {});
    let is_in_doubt = |then| !end(&slots, lead(&slots, then), then);
    // Heard again, with less time.
    begin(one, HORIZON);
    begin(one, HORIZON / 4);
    assert!(is_in_doubt(now + HORIZON / 2));
    // To forget a customer settles nothing.
    ended(None);
    assert!(is_in_doubt(now));
    ended(Some(one));
    assert!(!is_in_doubt(now));
    // Of two, the end of one is not the other's.
    begin(one, HORIZON);
    begin(other, HORIZON);
    ended(Some(other));
    assert!(is_in_doubt(now));
    assert!(!is_in_doubt(now + HORIZON));
    let write = slots.begin_write(key, now, || {});
    slots.end_write(key, write, Settled::Unknown, now, || {});
    ended(None);
    assert!(is_in_doubt(now));
}

#[test]
fn a_read_that_was_passed_by_a_write_ends_nobody_elses_flight() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let ask = || slots.begin_read(key, Some(fit()), now);
    let Turn::Lead(before, _) = ask() else {
        panic!("the first asks");
    };
    let write = slots.begin_write(key, now, || {});
    slots.end_write(key, write, Settled::Certain, now, || {});
    let Turn::Lead(after, _) = ask() else {
        panic!("what is under way may be what was before");
    };
    slots.end_read(key, before, true, now, || {});
    assert!(matches!(ask(), Turn::Join(_)));
    assert!(slots.end_read(key, after, true, now, || {}));
}

#[test]
fn what_is_forgotten_while_it_is_written_is_not_kept() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let write = slots.begin_write(key, now, || {});
    slots.disturb(key, None, now, || {});
    assert!(!slots.end_write(key, write, Settled::Certain, now, || {}));
    assert_eq!(slots.len(), 0);
}

#[test]
fn a_write_of_unknown_outcome_leaves_its_customer_in_doubt_until_the_horizon() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let write = slots.begin_write(key, now, || {});
    assert!(!slots.end_write(key, write, Settled::Unknown, now, || {}));
    let ticket = lead(&slots, now);
    assert!(!end(&slots, ticket, now));
    // Another write does not know better.
    let write = slots.begin_write(key, now, || {});
    assert!(!slots.end_write(key, write, Settled::Certain, now, || {}));
    let write = slots.begin_write(key, now, || {});
    // What begins in doubt may find what was before, however late it ends.
    let ticket = lead(&slots, now + HORIZON - Duration::from_secs(1));
    let over = now + HORIZON;
    assert!(!slots.end_write(key, write, Settled::Certain, over, || {}));
    assert!(!end(&slots, ticket, over));
    let ticket = lead(&slots, now + HORIZON);
    assert!(end(&slots, ticket, now + HORIZON));
    slots.settle(now + HORIZON);
    assert_eq!(slots.len(), 0);
}

#[tokio::test]
async fn who_asks_the_same_joins_and_after_a_write_nobody_does() {
    let (slots, now, key) = (Slots::<u32>::new(HORIZON), clock(), key("a@b.example"));
    let ask = || slots.begin_read(key, Some(fit()), now);
    let Turn::Lead(ticket, Some(tell)) = ask() else {
        panic!("the first asks");
    };
    let Turn::Join(mut landed) = ask() else {
        panic!("the second waits");
    };
    let other = Fit {
        disclosure: Disclosure::Full,
        ..fit()
    };
    let Turn::Lead(full, Some(_)) = slots.begin_read(key, Some(other), now) else {
        panic!("who sees more asks for more");
    };
    let write = slots.begin_write(key, now, || {});
    let Turn::Lead(late, Some(_)) = ask() else {
        panic!("what is under way may be what was before");
    };
    slots.end_write(key, write, Settled::Certain, now, || {});
    assert!(matches!(ask(), Turn::Lead(..)));
    for ticket in [ticket, full, late] {
        assert!(!slots.end_read(key, ticket, true, now, || {}));
    }
    tell.send_replace(Some(7));
    assert_eq!(*landed.wait_for(Option::is_some).await.unwrap(), Some(7));
}

#[test]
fn with_too_many_in_doubt_all_are() {
    let (slots, now) = (Slots::<u32>::new(HORIZON), clock());
    for number in 0..=DOUBTS {
        let key = key(&number.to_string());
        let write = slots.begin_write(key, now, || {});
        slots.end_write(key, write, Settled::Unknown, now, || {});
    }
    // One is left of those that were counted one by one.
    assert_eq!(slots.len(), 1);
    let ticket = lead(&slots, now);
    assert!(!end(&slots, ticket, now));
    let ticket = lead(&slots, now + HORIZON);
    assert!(end(&slots, ticket, now + HORIZON));
}

fn clock() -> Instant {
    crate::clock::instant()
}

/// What happens to one customer, one thing after another.
#[derive(Debug, Clone, Copy)]
enum Happening {
    BeginRead,
    /// DCAMS reads the value for the read at this place.
    Look(usize),
    EndRead(usize),
    BeginWrite,
    /// DCAMS does the write at this place.
    Do(usize),
    /// It is answered, or not (then it may yet be done).
    EndWrite(usize, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let at = 0..4_usize;
    prop_oneof![
        2 => Just(Happening::BeginRead),
        3 => at.clone().prop_map(Happening::Look),
        3 => at.clone().prop_map(Happening::EndRead),
        1 => Just(Happening::BeginWrite),
        2 => at.clone().prop_map(Happening::Do),
        2 => (at, prop::bool::weighted(0.8)).prop_map(|(at, answered)| {
            Happening::EndWrite(at, answered)
        }),
    ]
}

struct Read {
    ticket: Ticket,
    found: Option<u32>,
}

struct Write {
    ticket: Ticket,
    version: u32,
    done: bool,
    /// Whether it was given up without an answer.
    lost: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever order things happen in, what is kept is never older than a write that was answered.
    #[test]
    fn what_is_kept_is_no_older_than_a_write_that_was_answered(
        happenings in prop::collection::vec(happening(), 1..60),
    ) {
        let now = clock();
        let (slots, key) = (Slots::<u32>::new(HORIZON), key("a@b.example"));
        let kept = Cell::new(None);
        let (mut dcams, mut last) = (0_u32, 0_u32);
        // The writes that had been answered when each version's began.
        let mut before = vec![0_u32];
        let (mut answered, mut reads, mut writes) = (vec![0_u32], Vec::new(), Vec::new());
        for happening in happenings {
            match happening {
                Happening::BeginRead => {
                    let Turn::Lead(ticket, _) = slots.begin_read(key, None, now) else { unreachable!() };
                    reads.push(Read { ticket, found: None });
                }
                Happening::Look(at) => {
                    if let Some(read) = reads.get_mut(at) {
                        let _: &mut u32 = read.found.get_or_insert(dcams);
                    }
                }
                Happening::EndRead(at) => {
                    if reads.get(at).is_some_and(|read| read.found.is_some()) {
                        let read: Read = reads.remove(at);
                        slots.end_read(key, read.ticket, false, now, || kept.set(read.found));
                    }
                }
                Happening::BeginWrite => {
                    last += 1;
                    before.push(answered.len().try_into().unwrap());
                    let ticket = slots.begin_write(key, now, || kept.set(None));
                    writes.push(Write { ticket, version: last, done: false, lost: false });
                }
                Happening::Do(at) => {
                    if let Some(write) = writes.get_mut(at)
                        && !write.done
                    {
                        write.done = true;
                        dcams = write.version;
                        if write.lost {
                            writes.remove(at);
                        }
                    }
                }
                Happening::EndWrite(at, true) => {
                    if writes.get(at).is_some_and(|write| write.done && !write.lost) {
                        let write: Write = writes.remove(at);
                        let version = write.version;
                        let keep = || kept.set(Some(version));
                        slots.end_write(key, write.ticket, Settled::Certain, now, keep);
                        answered.push(version);
                    }
                }
                Happening::EndWrite(at, false) => {
                    if let Some(write) = writes.get_mut(at)
                        && !write.lost
                    {
                        write.lost = true;
                        slots.end_write(key, write.ticket, Settled::Unknown, now, || unreachable!());
                        if write.done {
                            writes.remove(at);
                        }
                    }
                }
            }
            // A version is too old where a write was answered that began after its own was answered.
            if let Some(version) = kept.get() {
                let position = answered.iter().position(|one| *one == version);
                for newer in &answered {
                    let began = usize::try_from(before[usize::try_from(*newer).unwrap()]).unwrap();
                    prop_assert!(
                        position.is_none_or(|at| at >= began),
                        "{version} is kept, {newer} was answered and began after it"
                    );
                }
            }
        }
    }
}
