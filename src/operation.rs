//! The four services of DCAMS's storage API, and what each one asks of a caller.
//!
//! Invariant: a closed set. A service that is not here is refused, never forwarded, because what
//! the vendor would answer is undocumented.

use std::fmt;

/// A service of DCAMS's storage API, as named in the body's `service` member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Creates a customer or changes one, images included.
    CreateOrUpdateCustomer,
    /// Reads a customer's status, fields and ID-document images.
    GetDocumentImages,
    /// Reads a customer's status and fields.
    GetStatus,
    /// Sets a customer's status.
    UpdateStatus,
}

impl Operation {
    /// Every service there is.
    pub const ALL: [Self; 4] = [
        Self::CreateOrUpdateCustomer,
        Self::GetDocumentImages,
        Self::GetStatus,
        Self::UpdateStatus,
    ];

    /// The service of this exact name (letter case counts).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateOrUpdateCustomer => "createOrUpdateCustomer",
            Self::GetDocumentImages => "getDocumentImages",
            Self::GetStatus => "getStatus",
            Self::UpdateStatus => "updateStatus",
        }
    }

    /// The scope that a token needs for this service.
    pub const fn scope(self) -> &'static str {
        match self {
            Self::CreateOrUpdateCustomer => "dcams:customers:write",
            Self::GetDocumentImages => "dcams:images:read",
            Self::GetStatus => "dcams:status:read",
            Self::UpdateStatus => "dcams:status:write",
        }
    }

    /// Whether a token that is bound to one customer may use this service without its issuer's
    /// configuration allowing it by name.
    pub const fn allowed_to_customers(self) -> bool {
        matches!(self, Self::CreateOrUpdateCustomer | Self::GetStatus)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::CreateOrUpdateCustomer => 1,
            Self::GetDocumentImages => 2,
            Self::GetStatus => 4,
            Self::UpdateStatus => 8,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of services: what a tenant may call, what a token's scopes cover.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations(u8);

impl Operations {
    /// Whether the service is in the set.
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 & operation.bit() != 0
    }

    /// The services whose scope is among `scopes`; a scope that no service has is ignored.
    pub fn of_scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        scopes
            .into_iter()
            .filter_map(|scope| Operation::ALL.into_iter().find(|o| o.scope() == scope))
            .collect()
    }

    /// The services in the set, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Operation> {
        Operation::ALL
            .into_iter()
            .filter(move |operation| self.contains(*operation))
    }
}

impl FromIterator<Operation> for Operations {
    fn from_iter<T: IntoIterator<Item = Operation>>(operations: T) -> Self {
        Self(
            operations
                .into_iter()
                .fold(0, |set, operation| set | operation.bit()),
        )
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_exact_name() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.name()), Some(operation));
            assert_eq!(Operation::from_name(&operation.name().to_uppercase()), None);
        }
        assert_eq!(Operation::from_name("deleteCustomer"), None);
    }

    #[test]
    fn a_scope_covers_its_own_service_only() {
        for operation in Operation::ALL {
            let covered = Operations::of_scopes([operation.scope(), "dcams", "DCAMS:STATUS:READ"]);
            assert_eq!(covered.iter().collect::<Vec<_>>(), [operation]);
        }
        assert_eq!(
            Operations::of_scopes(["dcams:*", ""]),
            Operations::default()
        );
    }
}
