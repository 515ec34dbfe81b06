//! The ledger's rules, over every order in which requests of several tenants can meet.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use proptest::{collection::vec, prelude::*};

use super::{entry::Entry, *};
use crate::tenant::Unowned;

fn tenant(index: usize) -> TenantId {
    TenantId::try_from(["acme", "beta", "gamma"][index]).unwrap()
}

/// How far a creation has come, each step one that something else may come before.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Hold,
    Ask,
    /// The answer is on its way: whether the customer was there.
    Asked(bool),
    Send,
    /// What happened upstream, and what is known of it.
    Sent(Outcome),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Created,
    /// Created, and the answer was lost.
    Lost,
    Refused,
}

#[derive(Debug, Clone)]
struct Creation {
    tenant: usize,
    outcome: Outcome,
    step: Step,
    pending: bool,
}

/// One customer: what the ledger has, what DCAMS has, and what tenants got.
struct World {
    policies: [Unowned; 3],
    stored: Option<Vec<u8>>,
    exists: bool,
    /// It was there before the gateway.
    older: bool,
    /// Tenants that reached it while it existed.
    reached: BTreeSet<usize>,
    /// Tenants whose creation succeeded.
    created: BTreeSet<usize>,
}

impl World {
    fn entry(&self) -> Option<Entry> {
        Entry::read(self.stored.as_deref()).unwrap()
    }

    fn write<T>(&mut self, (change, outcome): (Change, T)) -> T {
        match change {
            Change::Keep => {}
            Change::Put(value) => self.stored = Some(value),
            Change::Remove => self.stored = None,
        }
        outcome
    }

    /// What `pipeline::ownership` does, one atomic step at a time.
    fn advance(&mut self, creation: &mut Creation) {
        let owner = tenant(creation.tenant);
        creation.step = match creation.step {
            Step::Hold => {
                let refuse = self.policies[creation.tenant] == Unowned::Refuse;
                let phase = if refuse {
                    Phase::Asking
                } else {
                    Phase::Sending
                };
                match self.write(entry::hold(self.entry(), &owner, phase)) {
                    Hold::Held(phase) => {
                        creation.pending = true;
                        if phase == Phase::Asking {
                            Step::Ask
                        } else {
                            Step::Send
                        }
                    }
                    Hold::Owned => Step::Send,
                    Hold::Taken => Step::Done,
                }
            }
            Step::Ask => Step::Asked(self.exists),
            Step::Asked(true) => {
                let ours = self.write(entry::withdraw(self.entry(), &owner));
                if ours { Step::Send } else { Step::Done }
            }
            Step::Asked(false) => {
                let stands = self.write(entry::clear(self.entry(), &owner));
                if stands { Step::Send } else { Step::Done }
            }
            Step::Send => {
                if creation.outcome != Outcome::Refused {
                    self.exists = true;
                    self.reached.insert(creation.tenant);
                }
                Step::Sent(creation.outcome)
            }
            Step::Sent(outcome) => {
                if creation.pending {
                    match outcome {
                        Outcome::Refused => self.write(entry::release(self.entry(), &owner)),
                        Outcome::Created | Outcome::Lost => {
                            self.write(entry::confirm(self.entry(), &owner));
                        }
                    }
                }
                if outcome != Outcome::Refused {
                    self.created.insert(creation.tenant);
                }
                Step::Done
            }
            Step::Done => Step::Done,
        };
    }

    /// A read that is let through without a claim.
    fn read(&mut self, index: usize) {
        let view = entry::view(self.entry().as_ref(), &tenant(index));
        let through = match view {
            View::AnotherTenants => false,
            View::Held | View::Owned => true,
            View::Unknown => self.policies[index] == Unowned::Allow,
        };
        // What `allow` shows of unknown customers is what it was told to show.
        if through && self.exists && view != View::Unknown {
            self.reached.insert(index);
        }
    }
}

fn creations() -> impl Strategy<Value = Vec<Creation>> {
    let outcome = prop_oneof![
        Just(Outcome::Created),
        Just(Outcome::Lost),
        Just(Outcome::Refused)
    ];
    let creation = (0..3_usize, outcome).prop_map(|(tenant, outcome)| Creation {
        tenant,
        outcome,
        step: Step::Hold,
        pending: false,
    });
    vec(creation, 1..6)
}

fn policies() -> impl Strategy<Value = [Unowned; 3]> {
    let policy = prop_oneof![
        Just(Unowned::Refuse),
        Just(Unowned::Refuse),
        Just(Unowned::Claim)
    ];
    [policy.clone(), policy.clone(), policy]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// `orders` says whose turn it is; a turn past the creations is a read, and now and then a
    /// creation is never continued, as after a crash.
    #[test]
    fn two_tenants_never_own_one_customer_and_what_was_created_is_owned(
        policies in policies(),
        older in any::<bool>(),
        mut creations in creations(),
        orders in vec((0..10_usize, 0..40_u8), 0..60),
    ) {
        let mut world = World {
            // A claim may take over what is older: that is its meaning.
            policies: if older { [Unowned::Refuse; 3] } else { policies },
            stored: None,
            exists: older,
            older,
            reached: BTreeSet::new(),
            created: BTreeSet::new(),
        };
        for (turn, chance) in orders {
            if let Some(creation) = creations.get_mut(turn) {
                if chance == 0 {
                    creation.step = Step::Done;
                }
                world.advance(creation);
            } else {
                world.read(turn % 3);
            }
            prop_assert!(world.reached.len() <= 1, "reached by {:?}", world.reached);
            if world.older {
                prop_assert!(world.reached.is_empty(), "taken over by {:?}", world.reached);
            }
            for index in &world.created {
                let view = entry::view(world.entry().as_ref(), &tenant(*index));
                prop_assert_eq!(view, View::Owned);
            }
        }
    }
}

#[test]
fn an_import_takes_a_customer_from_nobody_who_has_it() {
    let (mine, others) = (tenant(0), tenant(1));
    let stored = |change: Change| match change {
        Change::Put(value) => Entry::read(Some(&value)).unwrap(),
        Change::Keep | Change::Remove => panic!("nothing was written"),
    };
    let asking = stored(entry::hold(None, &others, Phase::Asking).0);
    let sending = stored(entry::hold(None, &others, Phase::Sending).0);
    let (change, outcome) = entry::import(asking, &mine);
    assert_eq!(outcome, entry::Outcome::Imported);
    let owned = stored(change);
    assert_eq!(entry::view(owned.as_ref(), &mine), View::Owned);
    assert_eq!(
        entry::import(sending, &mine),
        (Change::Keep, entry::Outcome::Taken)
    );
    assert_eq!(
        entry::import(owned.clone(), &others),
        (Change::Keep, entry::Outcome::Taken)
    );
    assert_eq!(
        entry::import(owned.clone(), &mine),
        (Change::Keep, entry::Outcome::AlreadyOwned)
    );
    // The holder that was still asking is told no, whatever DCAMS answers it.
    assert_eq!(entry::clear(owned.clone(), &others), (Change::Keep, false));
    assert_eq!(
        entry::withdraw(owned.clone(), &others),
        (Change::Keep, false)
    );
    assert_eq!(entry::release(owned, &others).0, Change::Keep);
}

#[test]
fn every_entry_has_the_size_whose_absence_does_not_show() {
    for name in ["a", &"x".repeat(64)] {
        let tenant = TenantId::try_from(name).unwrap();
        let Change::Put(value) = entry::hold(None, &tenant, Phase::Asking).0 else {
            panic!("nothing was written")
        };
        assert_eq!(value.len(), EVEN);
        let entry = Entry::read(Some(&value)).unwrap();
        assert_eq!(entry::view(entry.as_ref(), &tenant), View::Unknown);
        for broken in [&value[..EVEN - 1], &[0; EVEN], &[1; EVEN], b""] {
            assert_eq!(Entry::read(Some(broken)), Err(StoreError::Damaged));
        }
    }
}

#[test]
fn a_creation_whose_customer_was_taken_out_gives_nobody_elses_away() {
    let (mine, others) = (tenant(0), tenant(1));
    let stored = |change: Change| match change {
        Change::Put(value) => Entry::read(Some(&value)).unwrap(),
        Change::Remove => None,
        Change::Keep => panic!("nothing was written"),
    };
    for phase in [Phase::Asking, Phase::Sending] {
        let held = stored(entry::hold(None, &mine, phase).0);
        let kept = entry::remove(held.clone(), &others);
        assert_eq!(kept, (Change::Keep, entry::Outcome::NotOwned));
        let (change, outcome) = entry::remove(held, &mine);
        assert_eq!((stored(change), outcome), (None, entry::Outcome::Removed));
        // Nobody has it since, or another tenant.
        for since in [None, stored(entry::hold(None, &others, phase).0)] {
            assert_eq!(entry::clear(since.clone(), &mine), (Change::Keep, false));
            assert_eq!(entry::withdraw(since.clone(), &mine), (Change::Keep, false));
            assert_eq!(entry::release(since, &mine).0, Change::Keep);
        }
        let confirmed = stored(entry::confirm(None, &mine).0);
        assert_eq!(entry::view(confirmed.as_ref(), &mine), View::Owned);
        let taken = stored(entry::hold(None, &others, phase).0);
        assert_eq!(entry::confirm(taken, &mine).0, Change::Keep);
    }
    assert_eq!(
        entry::remove(None, &mine),
        (Change::Keep, entry::Outcome::NotOwned)
    );
}

#[test]
fn an_address_is_folded_by_letter_case_and_by_nothing_else() {
    let key = |case, account: &str, email: &str| {
        let account = AccountId::try_from(account).unwrap();
        CustomerKey::new(&PseudonymKey::derive(&[1; 32]), &account, case, email)
    };
    let ann = key(EmailCase::Ignore, "main", "ann@example.com");
    assert_eq!(ann, key(EmailCase::Ignore, "main", " Ann@EXAMPLE.com\r\n"));
    assert_ne!(ann, key(EmailCase::Ignore, "main", "ann+1@example.com"));
    assert_ne!(ann, key(EmailCase::Ignore, "main", "a.nn@example.com"));
    assert_ne!(ann, key(EmailCase::Ignore, "other", "ann@example.com"));
    assert_eq!(ann, key(EmailCase::Exact, "main", "ann@example.com"));
    assert_ne!(ann, key(EmailCase::Exact, "main", "Ann@example.com"));
}

#[tokio::test]
async fn of_many_tenants_that_race_for_a_customer_one_gets_it_and_keeps_it_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let account = AccountId::try_from("main").unwrap();
    let pseudonyms = PseudonymKey::derive(&[1; 32]);
    let customer = CustomerKey::new(&pseudonyms, &account, EmailCase::Ignore, "a@example.com");
    let ledger = Ledger::new(Store::embedded(folder.path(), &[1; 32]).unwrap());
    let racing = (0..60).map(async |n| {
        let hold = ledger.hold(customer, &tenant(n % 3), Phase::Sending).await;
        (n % 3, hold.unwrap())
    });
    let won: BTreeSet<usize> = join_all(racing)
        .await
        .into_iter()
        .filter_map(|(index, hold)| (hold != Hold::Taken).then_some(index))
        .collect();
    let [winner] = won.into_iter().collect::<Vec<_>>()[..] else {
        panic!("more than one, or none")
    };
    // Twenty holds were taken; nineteen are given back.
    for _ in 0..19 {
        ledger.release(customer, &tenant(winner)).await.unwrap();
    }
    drop(ledger);
    let ledger = Ledger::new(Store::embedded(folder.path(), &[1; 32]).unwrap());
    let other = tenant((winner + 1) % 3);
    let view = ledger.view(customer, &other).await;
    assert_eq!(view, Ok(View::AnotherTenants));
    ledger.release(customer, &tenant(winner)).await.unwrap();
    assert_eq!(ledger.view(customer, &other).await, Ok(View::Unknown));
}
