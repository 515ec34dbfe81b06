//! Decides whether a caller may use one service, for one tenant, on one customer.
//!
//! Invariant: a [`Permit`] exists only where scope, service and customer were checked on this very
//! request; nothing of it comes out of a cache. Pure: it reads nothing but its arguments.

use thiserror::Error;

use super::Caller;
use crate::{operation::Operation, tenant::Tenant};

/// Proof that the caller may use this one service in this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    operation: Operation,
}

/// Why a caller may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PermitError {
    /// The token is bound to another customer.
    #[error("the token is bound to another customer")]
    CustomerMismatch,
    /// The token's scopes do not cover the service.
    #[error("the token lacks the scope {needed}")]
    InsufficientScope {
        /// The scope that would.
        needed: &'static str,
    },
    /// The service is not among the tenant's, or not for tokens that are bound to a customer.
    #[error("the service is not allowed")]
    ServiceNotAllowed,
}

/// Checks scope, then service, then customer: what the token lacks is said before what the tenant
/// lacks, and whether a customer fits is said last, to those who may ask at all.
pub fn authorize(
    caller: &Caller,
    tenant: &Tenant,
    operation: Operation,
    email: &str,
) -> Result<Permit, PermitError> {
    if !caller.operations().contains(operation) {
        let needed = operation.scope();
        return Err(PermitError::InsufficientScope { needed });
    }
    // A tenant that is not the token's own is a mistake of ours, and grants nothing.
    if tenant.id != *caller.tenant() || !tenant.services.contains(operation) {
        return Err(PermitError::ServiceNotAllowed);
    }
    let Some(customer) = caller.customer() else {
        return Ok(Permit { operation });
    };
    if !caller.customer_services().contains(operation) {
        return Err(PermitError::ServiceNotAllowed);
    }
    // Byte for byte: to call two spellings one customer would be to guess at the upstream's rules.
    if customer != email {
        return Err(PermitError::CustomerMismatch);
    }
    Ok(Permit { operation })
}

impl Permit {
    /// The service that is permitted.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// A permit out of nothing, for the unit tests of what needs one.
    #[cfg(test)]
    pub const fn sample(operation: Operation) -> Self {
        Self { operation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::AddressRules,
        auth::tests::caller,
        ident::{AccountId, TenantId},
        operation::Operations,
        tenant::{Country, Disclosure},
    };

    const EMAIL: &str = "ann@example.com";

    fn tenant(services: &[Operation]) -> Tenant {
        Tenant {
            id: TenantId::try_from("acme").unwrap(),
            account: AccountId::try_from("main").unwrap(),
            enabled: true,
            services: services.iter().copied().collect(),
            response: Disclosure::Minimal,
            addresses: AddressRules::default(),
            country: Country::Any,
        }
    }

    #[test]
    fn a_scope_permits_its_own_service_and_no_other() {
        let open = tenant(&Operation::ALL);
        for has in Operation::ALL {
            let caller = caller(&[has], None);
            for asked in Operation::ALL {
                let expected = if has == asked {
                    Ok(Permit { operation: asked })
                } else {
                    let needed = asked.scope();
                    Err(PermitError::InsufficientScope { needed })
                };
                assert_eq!(authorize(&caller, &open, asked, EMAIL), expected);
            }
        }
    }

    #[test]
    fn a_caller_without_scopes_is_permitted_nothing() {
        for asked in Operation::ALL {
            let result = authorize(&caller(&[], None), &tenant(&Operation::ALL), asked, EMAIL);
            assert!(matches!(result, Err(PermitError::InsufficientScope { .. })));
        }
    }

    #[test]
    fn a_service_that_the_tenant_lacks_is_refused_whatever_the_scopes_say() {
        let all = caller(&Operation::ALL, None);
        for has in Operation::ALL {
            for asked in Operation::ALL {
                let result = authorize(&all, &tenant(&[has]), asked, EMAIL);
                if has == asked {
                    assert!(result.is_ok());
                } else {
                    assert_eq!(result, Err(PermitError::ServiceNotAllowed));
                }
            }
        }
    }

    #[test]
    fn another_tenants_rights_are_not_the_callers() {
        let mut other = tenant(&Operation::ALL);
        other.id = TenantId::try_from("globex").unwrap();
        let result = authorize(
            &caller(&Operation::ALL, None),
            &other,
            Operation::GetStatus,
            EMAIL,
        );
        assert_eq!(result, Err(PermitError::ServiceNotAllowed));
    }

    #[test]
    fn a_customer_bound_token_never_reaches_the_operators_services() {
        let bound = caller(&Operation::ALL, Some(EMAIL));
        for asked in Operation::ALL {
            let result = authorize(&bound, &tenant(&Operation::ALL), asked, EMAIL);
            if asked.allowed_to_customers() {
                assert!(result.is_ok(), "{asked}");
            } else {
                assert_eq!(result, Err(PermitError::ServiceNotAllowed), "{asked}");
            }
        }
    }

    #[test]
    fn the_issuers_configuration_may_allow_customers_a_service_by_name() {
        let mut bound = caller(&Operation::ALL, Some(EMAIL));
        bound.customer_services = Operations::from_iter([Operation::GetDocumentImages]);
        let open = tenant(&Operation::ALL);
        for asked in Operation::ALL {
            let allowed = asked == Operation::GetDocumentImages;
            let result = authorize(&bound, &open, asked, EMAIL);
            assert_eq!(result.is_ok(), allowed, "{asked}");
            // Allowed by name or not, it is still about this one customer.
            assert!(authorize(&bound, &open, asked, "bob@example.com").is_err());
        }
    }

    #[test]
    fn a_bound_token_touches_its_own_email_only_byte_for_byte() {
        let bound = caller(&Operation::ALL, Some(EMAIL));
        for other in [
            "Ann@example.com",
            "ann@EXAMPLE.com",
            "ann+1@example.com",
            "a.nn@example.com",
            "ann@example.com ",
            " ann@example.com",
            "ann@example.com.",
            "ann@example.com\0",
            "\u{0430}nn@example.com",
            "ann@example.co",
            "",
        ] {
            assert_eq!(
                authorize(
                    &bound,
                    &tenant(&Operation::ALL),
                    Operation::GetStatus,
                    other
                ),
                Err(PermitError::CustomerMismatch),
                "{other:?}"
            );
        }
    }

    #[test]
    fn what_the_token_lacks_is_said_first_and_the_customer_last() {
        let bound = caller(&[Operation::GetDocumentImages], Some(EMAIL));
        let none = tenant(&[]);
        assert!(matches!(
            authorize(&bound, &none, Operation::GetStatus, "other@example.com"),
            Err(PermitError::InsufficientScope { .. })
        ));
        assert_eq!(
            authorize(
                &bound,
                &none,
                Operation::GetDocumentImages,
                "other@example.com"
            ),
            Err(PermitError::ServiceNotAllowed)
        );
    }
}
