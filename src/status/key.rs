//! Which customer of which tenant a status is of.

use crate::ident::{AccountId, Pseudonym, PseudonymKey, Purpose, TenantId};

/// A customer of a tenant on an account, however the address is spelled: all three are under the key of
/// the pseudonym, so that no two tenants have one in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StatusKey(Pseudonym);

impl StatusKey {
    /// The key of the customer with this address.
    pub(super) fn new(
        pseudonyms: &PseudonymKey,
        tenant: &TenantId,
        account: &AccountId,
        email: &str,
    ) -> Self {
        // No name holds a NUL.
        let customer = [account.as_str().as_bytes(), b"\0", email.as_bytes()].concat();
        Self(pseudonyms.pseudonym(Purpose::Status, tenant, &customer))
    }

    /// As one spelling of the address among others: the one that it is made of.
    pub(super) const fn name(self) -> Pseudonym {
        self.0
    }

    /// All of it, for other gateways.
    pub(super) fn to_bytes(self) -> [u8; Pseudonym::LEN] {
        self.0.to_bytes()
    }

    /// What [`StatusKey::to_bytes`] gave.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Pseudonym::from_bytes(bytes).map(Self)
    }
}
