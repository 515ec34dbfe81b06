//! What Redis is told of end users behind their requests: what was given back, and what was used while it
//! did not answer.
//!
//! Invariant: however much there is to tell, nothing else waits for it. What comes for one end user
//! while Redis is asked goes there as one sum; while Redis is away it is lost, and memory counts.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use jiff::civil::Date;
use tokio::sync::{mpsc, oneshot};

use super::redis::{self, SubjectOp};
use crate::{
    ident::{Pseudonym, TenantId},
    limits::LARGEST,
    store::redis::Redis,
};

/// How many are taken up together, and of how many of those Redis is asked at a time.
const BATCH: usize = 1024;
const AT_ONCE: usize = 16;

/// What is to be told.
pub(super) enum Debt {
    /// So much more was used of a day, or less.
    Of {
        tenant: TenantId,
        subject: Pseudonym,
        day: Date,
        units: i64,
    },
    /// Somebody wants to know when all before it was told.
    End(oneshot::Sender<()>),
}

/// Tells what comes.
pub(super) async fn pay(redis: Option<Redis>, mut debts: mpsc::UnboundedReceiver<Debt>) {
    let mut some = Vec::with_capacity(64);
    while debts.recv_many(&mut some, BATCH).await > 0 {
        let mut sums: HashMap<_, i64> = HashMap::new();
        let mut ends = Vec::new();
        for debt in some.drain(..) {
            match debt {
                Debt::Of {
                    tenant,
                    subject,
                    day,
                    units,
                } => {
                    let sum = sums.entry((tenant, subject, day)).or_default();
                    *sum = sum.saturating_add(units);
                }
                Debt::End(told) => ends.push(told),
            }
        }
        if let Some(redis) = &redis {
            let sums = sums.into_iter().filter(|(_, units)| *units != 0);
            let calls = sums.map(|((tenant, subject, day), units)| async move {
                let op = SubjectOp {
                    rate: None,
                    day: Some((day, LARGEST, units)),
                };
                let _ = redis::subject(redis, &tenant, subject, &op).await;
            });
            let mut calls = stream::iter(calls).buffer_unordered(AT_ONCE);
            while calls.next().await.is_some() {}
        }
        for told in ends {
            let _ = told.send(());
        }
    }
}
