//! The status cache.

#![cfg_attr(
    not(test),
    expect(dead_code, reason = "the cache itself comes with a later change")
)]

mod fleet;
mod key;
