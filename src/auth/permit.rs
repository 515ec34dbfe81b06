//! Decides whether a caller may use one service, for one tenant, on one customer.
//!
//! Invariant: a [`Permit`] exists only where scope, service and customer were checked on this very
//! request; nothing of it comes out of a cache. Pure: it reads nothing but its arguments.

use thiserror::Error;

use super::Caller;
use crate::{
    operation::{Operation, Operations},
    tenant::Tenant,
};

/// Where the customer's email stands in a body.
const EMAIL: &str = "/target/email";

/// A claim that a member of the body must equal, as configured under `[[issuers.bind]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindRule {
    /// The claim; its value is a string.
    pub claim: String,
    /// The member, as a JSON pointer (RFC 6901).
    pub pointer: &'static str,
    /// The services whose bodies are compared.
    pub services: Operations,
    /// Whether a token without the claim is refused those services, rather than unbound.
    pub required: bool,
}

impl BindRule {
    pub(super) fn bind(&self, value: Option<Box<str>>) -> Binding {
        Binding {
            pointer: self.pointer,
            services: self.services,
            value,
            is_customer: false,
        }
    }
}

/// What a rule makes of one token.
pub(super) struct Binding {
    pointer: &'static str,
    services: Operations,
    /// The claim's value; none where it is required and missing, which no member equals.
    value: Option<Box<str>>,
    is_customer: bool,
}

impl Binding {
    /// The built-in rule: a token for one customer touches that customer alone.
    pub(super) fn customer(email: Box<str>) -> Self {
        Self {
            pointer: EMAIL,
            services: Operation::ALL.into_iter().collect(),
            value: Some(email),
            is_customer: true,
        }
    }

    /// The customer's email, where this is the built-in rule.
    pub(super) fn email(&self) -> Option<&str> {
        self.value.as_deref().filter(|_| self.is_customer)
    }

    /// Byte for byte: to call two spellings one customer would be to guess at the upstream's rules.
    fn admits(&self, operation: Operation, member: Option<&str>) -> bool {
        !self.services.contains(operation) || (member.is_some() && self.value.as_deref() == member)
    }
}

/// Proof that the caller may use this one service in this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    operation: Operation,
}

/// Why a caller may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PermitError {
    /// The token is bound to another customer, or to another value of a member.
    #[error("the token is bound to another value of {pointer}")]
    CustomerMismatch {
        /// The member, as a JSON pointer.
        pointer: &'static str,
    },
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

impl PermitError {
    /// The reason in one word, of a closed set: for logs and audit events.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CustomerMismatch { pointer } if pointer != EMAIL => "bound_claim_mismatch",
            Self::CustomerMismatch { .. } => "customer_mismatch",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::ServiceNotAllowed => "service_not_allowed",
        }
    }
}

/// Checks scope, then service, then what the token is bound to: what the token lacks is said before
/// what the tenant lacks, and whether a customer fits is said last, to those who may ask at all.
/// `member` reads the body's text at a JSON pointer.
pub fn authorize<'b>(
    caller: &Caller,
    tenant: &Tenant,
    operation: Operation,
    member: impl Fn(&str) -> Option<&'b str>,
) -> Result<Permit, PermitError> {
    if !caller.operations().contains(operation) {
        let needed = operation.scope();
        return Err(PermitError::InsufficientScope { needed });
    }
    // A tenant that is not the token's own is a mistake of ours, and grants nothing.
    if tenant.id != *caller.tenant() || !tenant.services.contains(operation) {
        return Err(PermitError::ServiceNotAllowed);
    }
    if caller.customer().is_some() && !caller.customer_services().contains(operation) {
        return Err(PermitError::ServiceNotAllowed);
    }
    let foreign = |binding: &&Binding| !binding.admits(operation, member(binding.pointer));
    match caller.bindings().iter().find(foreign) {
        Some(Binding { pointer, .. }) => Err(PermitError::CustomerMismatch { pointer }),
        None => Ok(Permit { operation }),
    }
}

impl Permit {
    /// One for a test.
    #[cfg(test)]
    pub(crate) const fn of(operation: Operation) -> Self {
        Self { operation }
    }

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
    use std::sync::Arc;

    use super::*;
    use crate::{
        address::AddressRules,
        auth::{
            AuthError, IssuerSettings,
            claims::Claims,
            json::Object,
            tests::{HS, Members, caller, caller_of, hs_issuer},
        },
        caching::TenantCaching,
        ident::{AccountId, TenantId},
        limits::Limits,
        operation::Operations,
        tenant::{Country, Disclosure, Isolation},
    };

    const ANN: &str = "ann@example.com";
    const FOREIGN: PermitError = PermitError::CustomerMismatch { pointer: EMAIL };

    /// Reads a body that has an email and nothing else.
    fn has(email: &'static str) -> impl Fn(&str) -> Option<&'static str> {
        move |pointer| (pointer == EMAIL).then_some(email)
    }

    fn tenant(services: &[Operation]) -> Tenant {
        Tenant {
            id: TenantId::try_from("acme").unwrap(),
            account: AccountId::try_from("main").unwrap(),
            enabled: true,
            services: services.iter().copied().collect(),
            response: Disclosure::Minimal,
            addresses: AddressRules::default(),
            country: Country::Any,
            isolation: Isolation::None,
            caching: TenantCaching::default(),
            limits: Arc::new(Limits::unlimited()),
        }
    }

    #[test]
    fn a_scope_permits_its_own_service_and_no_other() {
        let open = tenant(&Operation::ALL);
        for held in Operation::ALL {
            let caller = caller(&[held], None);
            for asked in Operation::ALL {
                let expected = if held == asked {
                    Ok(Permit { operation: asked })
                } else {
                    let needed = asked.scope();
                    Err(PermitError::InsufficientScope { needed })
                };
                assert_eq!(authorize(&caller, &open, asked, has(ANN)), expected);
            }
        }
    }

    #[test]
    fn a_caller_without_scopes_is_permitted_nothing() {
        for asked in Operation::ALL {
            let result = authorize(
                &caller(&[], None),
                &tenant(&Operation::ALL),
                asked,
                has(ANN),
            );
            assert!(matches!(result, Err(PermitError::InsufficientScope { .. })));
        }
    }

    #[test]
    fn a_service_that_the_tenant_lacks_is_refused_whatever_the_scopes_say() {
        let all = caller(&Operation::ALL, None);
        for held in Operation::ALL {
            for asked in Operation::ALL {
                let result = authorize(&all, &tenant(&[held]), asked, has(ANN));
                if held == asked {
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
            has(ANN),
        );
        assert_eq!(result, Err(PermitError::ServiceNotAllowed));
    }

    #[test]
    fn a_customer_bound_token_never_reaches_the_operators_services() {
        let bound = caller(&Operation::ALL, Some(ANN));
        for asked in Operation::ALL {
            let result = authorize(&bound, &tenant(&Operation::ALL), asked, has(ANN));
            if asked.allowed_to_customers() {
                assert!(result.is_ok(), "{asked}");
            } else {
                assert_eq!(result, Err(PermitError::ServiceNotAllowed), "{asked}");
            }
        }
    }

    #[test]
    fn the_issuers_configuration_may_allow_customers_a_service_by_name() {
        let issuer = IssuerSettings {
            customer_services: Operations::from_iter([Operation::GetDocumentImages]),
            ..hs_issuer()
        };
        let claims = Members::good(HS).set("customer_email", &format!("\"{ANN}\""));
        let bound = caller_of(&claims, &Operation::ALL, issuer);
        let open = tenant(&Operation::ALL);
        for asked in Operation::ALL {
            let allowed = asked == Operation::GetDocumentImages;
            let result = authorize(&bound, &open, asked, has(ANN));
            assert_eq!(result.is_ok(), allowed, "{asked}");
            // Allowed by name or not, it is still about this one customer.
            assert!(authorize(&bound, &open, asked, has("bob@example.com")).is_err());
        }
    }

    #[test]
    fn a_bound_token_touches_its_own_email_only_byte_for_byte() {
        let bound = caller(&Operation::ALL, Some(ANN));
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
                    has(other)
                ),
                Err(FOREIGN),
                "{other:?}"
            );
        }
    }

    #[test]
    fn what_the_token_lacks_is_said_first_and_the_customer_last() {
        let bound = caller(&[Operation::GetDocumentImages], Some(ANN));
        let none = tenant(&[]);
        assert!(matches!(
            authorize(
                &bound,
                &none,
                Operation::GetStatus,
                has("other@example.com")
            ),
            Err(PermitError::InsufficientScope { .. })
        ));
        assert_eq!(
            authorize(
                &bound,
                &none,
                Operation::GetDocumentImages,
                has("other@example.com")
            ),
            Err(PermitError::ServiceNotAllowed)
        );
    }

    /// A caller of an issuer with these rules, whose token has these claims.
    fn bound_by(rules: Vec<BindRule>, claims: &[(&str, &str)]) -> Caller {
        let issuer = IssuerSettings {
            bind: rules,
            ..hs_issuer()
        };
        let members = claims
            .iter()
            .fold(Members::good(HS), |members, (claim, value)| {
                members.set(claim, &format!("\"{value}\""))
            });
        caller_of(&members, &Operation::ALL, issuer)
    }

    fn rule(
        claim: &str,
        pointer: &'static str,
        services: &[Operation],
        required: bool,
    ) -> BindRule {
        BindRule {
            claim: claim.to_owned(),
            pointer,
            services: services.iter().copied().collect(),
            required,
        }
    }

    /// The claim of a token; the rule's services, and whether it is required; the service and the
    /// reference that are sent; whether the call is allowed.
    #[derive(Debug)]
    struct Case(
        Option<&'static str>,
        &'static [Operation],
        bool,
        Operation,
        Option<&'static str>,
        bool,
    );

    #[test]
    fn a_member_equals_the_claim_that_a_rule_binds_it_to_or_the_call_is_refused() {
        use Operation::{CreateOrUpdateCustomer as Create, GetStatus as Read};
        const REF: Option<&str> = Some("r-1");
        const REFERENCE: &str = "/reference";
        let create: &'static [Operation] = &[Create];
        let all: &'static [Operation] = &Operation::ALL;
        for case in [
            Case(REF, create, true, Create, REF, true),
            Case(REF, create, true, Create, Some("R-1"), false),
            Case(REF, create, true, Create, Some("r-1 "), false),
            Case(REF, create, true, Create, Some(""), false),
            Case(REF, create, true, Create, None, false),
            Case(None, create, true, Create, REF, false),
            Case(None, create, true, Create, None, false),
            Case(None, create, false, Create, REF, true),
            Case(REF, create, false, Create, Some("r-2"), false),
            // Another service than the rule's; and a rule for all, where a lookup has no reference.
            Case(REF, create, true, Read, None, true),
            Case(REF, all, true, Read, None, false),
            Case(None, all, false, Read, None, true),
        ] {
            let Case(claim, services, required, asked, given, allowed) = case;
            let claims: Vec<_> = claim.map(|claim| ("ref", claim)).into_iter().collect();
            let caller = bound_by(vec![rule("ref", REFERENCE, services, required)], &claims);
            let member = |pointer: &str| match pointer {
                EMAIL => Some(ANN),
                _ => given.filter(|_| pointer == REFERENCE),
            };
            let result = authorize(&caller, &tenant(&Operation::ALL), asked, member).map(drop);
            let foreign = PermitError::CustomerMismatch { pointer: REFERENCE };
            let expected = if allowed { Ok(()) } else { Err(foreign) };
            assert_eq!(result, expected, "{case:?}");
        }
    }

    #[test]
    fn every_rule_counts_and_the_customer_is_looked_at_first() {
        let rules = || {
            vec![
                rule("ref", "/reference", &Operation::ALL, true),
                rule("mobile", "/target/phone", &Operation::ALL, true),
            ]
        };
        let claims = [("ref", "r"), ("mobile", "1"), ("customer_email", ANN)];
        let caller = bound_by(rules(), &claims);
        for (email, reference, phone, expected) in [
            (ANN, "r", "1", None),
            (ANN, "r", "2", Some("/target/phone")),
            (ANN, "q", "1", Some("/reference")),
            ("bob@example.com", "q", "2", Some(EMAIL)),
        ] {
            let member = |pointer: &str| match pointer {
                EMAIL => Some(email),
                "/reference" => Some(reference),
                "/target/phone" => Some(phone),
                _ => None,
            };
            let asked = Operation::CreateOrUpdateCustomer;
            let result = authorize(&caller, &tenant(&Operation::ALL), asked, member);
            let pointer = expected.map(|pointer| PermitError::CustomerMismatch { pointer });
            assert_eq!(result.err(), pointer);
        }
    }

    #[test]
    fn a_bound_claim_of_another_type_is_refused_and_not_taken_for_absent() {
        let issuer = IssuerSettings {
            bind: vec![rule("ref", "/reference", &Operation::ALL, false)],
            ..hs_issuer()
        };
        for raw in ["1", "null", "[]", "{}", "\"\"", "true"] {
            let claims = Members::good(HS).set("ref", raw).json();
            let object = Object::parse(claims.as_bytes()).unwrap();
            let read = Claims::read(&object, &issuer);
            assert_eq!(read.err(), Some(AuthError::InvalidClaim), "{raw}");
        }
    }
}
