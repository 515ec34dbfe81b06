//! The state in Redis: a real server that is killed, stopped, cut off and restarted.

pub mod link;
pub mod proxy;
pub mod server;

mod many;
mod secure;
mod shared;
mod store;
