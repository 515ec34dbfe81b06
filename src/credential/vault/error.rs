//! Every way in which Vault does not give us a credential, and what to do about each.
//!
//! Invariant: an error is one of a closed set and holds nothing that came from Vault or that is sent
//! to it, so it may stand in any log.

use thiserror::Error;

/// Which half of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What is sent as `pass`.
    Pass,
    /// What is sent as `user`.
    User,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pass => "`pass`",
            Self::User => "`user`",
        })
    }
}

/// Why a secret was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum VaultError {
    /// Its certificate is not one of an authority that is trusted.
    #[error("Vault's certificate was refused; name its authority in `vault.ca`")]
    Certificate,
    /// The current version was deleted.
    #[error("the secret's current version is deleted; undelete it, or write a new one")]
    Deleted,
    /// The current version was destroyed.
    #[error("the secret's current version is destroyed; write a new one")]
    Destroyed,
    /// It would be sent as such.
    #[error("the secret's field for {0} is empty; write the secret again")]
    EmptyField(Part),
    /// None was asked for.
    #[error("the answer is compressed; take out what changes Vault's answers on their way")]
    Encoded,
    /// The token may not read it, or is none.
    #[error(
        "Vault refused the token, or its policies do not let it read this path; \
         allow `read` on MOUNT/data/PATH, or replace the token"
    )]
    Forbidden,
    /// The connection ended too early.
    #[error("the answer broke off; it is asked again")]
    Interrupted,
    /// The service account's token could not be read.
    #[error(
        "the file of the service account's token cannot be read; \
         mount the token there, or mend `vault.jwt_file`"
    )]
    Jwt,
    /// Too many requests.
    #[error("Vault answers 429; raise its rate limit, or read less often")]
    Limited,
    /// There is no such auth method.
    #[error("no auth method is mounted there; enable it, or mend `vault.auth_mount`")]
    LoginNotFound,
    /// The role or its secret is not accepted.
    #[error(
        "Vault refused the login; check the role, its secret id or service account, from where it \
         may log in, and `vault.auth_mount` and `vault.namespace`"
    )]
    LoginRefused,
    /// Not what Vault answers.
    #[error("the answer is not one of Vault's KV version 2; check `vault.address` and `mount`")]
    Malformed,
    /// The secret has no such member.
    #[error("the secret has no field for {0}; write it, or name the field it is in")]
    MissingField(Part),
    /// There is nothing.
    #[error("there is no such secret; write it, or mend `mount` and `path` (without `data/`)")]
    NotFound,
    /// A number, for example.
    #[error("the secret's field for {0} is not a text; write it as a string")]
    NotText(Part),
    /// Redirects are not followed: the token would go along.
    #[error("the answer is a redirect; name the active node or its load balancer")]
    Redirected,
    /// It is sealed, or in maintenance.
    #[error("Vault is sealed or in maintenance (503); unseal it")]
    Sealed,
    /// It failed.
    #[error("Vault answers with a server error; see its log")]
    ServerError,
    /// A node that does not serve requests.
    #[error("this node of Vault is a standby or lags behind; name the active one")]
    Standby,
    /// A status that has no meaning here.
    #[error("the status has no meaning here; check that `vault.address` is Vault's")]
    Status,
    /// It took too long.
    #[error("Vault took too long; check the network, or lengthen `vault.timeout`")]
    TimedOut,
    /// No TLS with this server.
    #[error("no TLS connection came about; check that `vault.address` speaks TLS")]
    Tls,
    /// More than a secret can be.
    #[error("the answer is larger than 64 KiB; keep the credential in a secret of its own")]
    TooLarge,
    /// Longer than any real one.
    #[error("the secret's field for {0} is longer than 1024 bytes; compare it with the vendor's")]
    TooLong(Part),
    /// Nobody answers.
    #[error("Vault was not reached; check `vault.address` and that it runs")]
    Unreachable,
}

impl VaultError {
    /// The reason in one word, of a closed set: for logs and counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Deleted => "secret_deleted",
            Self::Destroyed => "secret_destroyed",
            Self::EmptyField(_) => "field_empty",
            Self::Encoded => "encoded",
            Self::Forbidden => "forbidden",
            Self::Interrupted => "interrupted",
            Self::Jwt => "jwt_unreadable",
            Self::Limited => "rate_limited",
            Self::LoginNotFound => "login_not_found",
            Self::LoginRefused => "login_refused",
            Self::Malformed => "malformed_answer",
            Self::MissingField(_) => "field_missing",
            Self::NotFound => "secret_not_found",
            Self::NotText(_) => "field_not_text",
            Self::Redirected => "redirected",
            Self::Sealed => "sealed",
            Self::ServerError => "server_error",
            Self::Standby => "standby",
            Self::Status => "status",
            Self::TimedOut => "timed_out",
            Self::Tls => "tls",
            Self::TooLarge => "too_large",
            Self::TooLong(_) => "field_too_long",
            Self::Unreachable => "unreachable",
        }
    }
}
