//! An authenticating reverse proxy in front of Veratad's DCAMS API.
//!
//! A tenant's request carries a JWT. It is read strictly, written anew with the gateway's own
//! credential, sent to DCAMS, and answered with the fields that the vendor documents. Start with
//! [`pipeline`]; `docs/ARCHITECTURE.md` is the map.
//!
//! Modules import in one direction only; `tests/layout.rs` has the order and checks it.

pub mod address;
pub mod caching;
pub mod clock;
pub mod endpoint;
pub mod files;
pub mod ident;
pub mod limits;
pub mod operation;
pub mod outbox;
pub mod redact;
pub mod segments;
pub mod store;
pub mod tenant;
pub mod tls;
pub mod units;
pub mod watch;

pub mod auth;
pub mod body;
pub mod credential;
pub mod customer;
pub mod payload;
pub mod quota;
pub mod route;
pub mod upstream;

pub mod audit;
pub mod error;
pub mod metrics;
pub mod reply;
pub mod rotator;
pub mod status;
pub mod trail;

pub mod pipeline;

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod reload;
pub mod server;
pub mod simulator;
pub mod specimen;
pub mod telemetry;
