//! What the configuration grants one tenant.

use std::sync::Arc;

use crate::{
    address::AddressRules,
    caching::TenantCaching,
    ident::{AccountId, TenantId},
    limits::Limits,
    operation::Operations,
};

/// A tenant as configured under `[[tenants]]`.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id: the value of the token's tenant claim.
    pub id: TenantId,
    /// The Veratad account that its requests are sent with.
    pub account: AccountId,
    /// Whether its requests are served at all; `false` answers 403 `tenant_disabled`.
    pub enabled: bool,
    /// The services it may call, whatever its tokens' scopes say.
    pub services: Operations,
    /// How much of the upstream's answer it gets.
    pub response: Disclosure,
    /// From where it may be called.
    pub addresses: AddressRules,
    /// Which country's formats its customers' fields must have.
    pub country: Country,
    /// What keeps its customers apart from those of other tenants on its account.
    pub isolation: Isolation,
    /// What is kept of its customers' statuses, and told of it.
    pub caching: TenantCaching,
    /// How much it may use. Tenants with equal limits share them.
    pub limits: Arc<Limits>,
}

/// What keeps the customers of tenants on one account apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The ledger of who created whom.
    Ledger(Unowned),
    /// Nothing: the tenant is alone on its account.
    None,
}

/// What a tenant with a ledger may do with customers that the ledger does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unowned {
    /// Whatever it may do with its own.
    Allow,
    /// The same, and the first to ask for one owns it.
    Claim,
    /// Nothing; they are answered as unknown.
    Refuse,
}

/// How much of the upstream's answer is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disclosure {
    /// Every field that the vendor documents.
    Full,
    /// Result, reference, status, type and message (and the images that were asked for): no name,
    /// address, birth date, phone or link.
    Minimal,
}

/// Which country's formats `state`, `zip` and `phone` must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Country {
    /// Any: length and characters are checked, nothing else.
    Any,
    /// United States: USPS state code, 5- or 9-digit ZIP code, 10-digit phone number.
    Us,
}
