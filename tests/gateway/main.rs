//! Black-box tests: the whole gateway before the simulator, and the listener alone, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may panic, spawn and index, and a table is as long as it is"
)]

mod addresses;
mod audit;
mod audit_reading;
mod cache;
mod campaign;
mod canary;
mod check;
mod crash;
mod credentials;
mod disk;
mod drain;
mod durable;
mod framing;
mod identity;
mod idp;
mod import;
mod jwks;
mod limits;
mod listener;
mod operators;
mod ownership;
mod path;
mod program;
mod proxied;
mod quota;
mod receipts;
mod recorded;
mod redis;
mod rejections;
mod reload;
mod revocation;
mod rotation;
mod shipping;
mod slow;
mod standin;
mod support;
mod tampering;
mod tokens;
mod upstream;
mod usage;
mod vault;
mod wire;
