//! The cache of customers' statuses, through the whole gateway.

mod purge;
