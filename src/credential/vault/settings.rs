//! Where Vault is, how the gateway logs in there, and which secrets it reads.
//!
//! Invariants: a path leads nowhere but to where it says (no empty or dotted segment); a token can be
//! sent in a header. Nothing here prints a secret, and secrets are compared in constant time.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::endpoint::Endpoint;

/// The longest path in Vault's API, and the longest name of a field.
const MAX_NAME: usize = 512;

/// The `[vault]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSettings {
    /// The server; a path in front of `/v1` may be part of it.
    pub address: Endpoint,
    /// The namespace that everything is in.
    pub namespace: Option<ApiPath>,
    /// Roots that are trusted besides the system's.
    pub roots: Vec<CertificateDer<'static>>,
    /// How the gateway proves who it is.
    pub auth: VaultAuth,
    /// How often secrets are read again.
    pub refresh: Duration,
    /// How long one request may take, from connecting to the last byte.
    pub timeout: Duration,
}

/// How the gateway proves to Vault who it is.
#[derive(Clone)]
pub enum VaultAuth {
    /// With a role id and a secret id.
    AppRole {
        /// Where the method is mounted.
        mount: ApiPath,
        /// The role; not secret.
        role_id: String,
        /// What proves it.
        secret_id: SecretString,
    },
    /// With the token of a Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted.
        mount: ApiPath,
        /// The role at that method.
        role: String,
        /// Where the service account's token is; it is read at each login, because it rotates.
        jwt_file: PathBuf,
    },
    /// With a token that somebody made.
    Token(AuthToken),
}

impl fmt::Debug for VaultAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppRole { .. } => "AppRole",
            Self::Kubernetes { .. } => "Kubernetes",
            Self::Token(_) => "Token",
        })
    }
}

impl PartialEq for VaultAuth {
    #[expect(
        clippy::disallowed_methods,
        reason = "two secrets are compared, in constant time"
    )]
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::AppRole {
                    mount,
                    role_id,
                    secret_id,
                },
                Self::AppRole {
                    mount: mount2,
                    role_id: role_id2,
                    secret_id: secret_id2,
                },
            ) => {
                let (ours, theirs) = (secret_id.expose_secret(), secret_id2.expose_secret());
                let same: bool = ours.as_bytes().ct_eq(theirs.as_bytes()).into();
                same && (mount, role_id) == (mount2, role_id2)
            }
            (
                Self::Kubernetes {
                    mount,
                    role,
                    jwt_file,
                },
                Self::Kubernetes {
                    mount: mount2,
                    role: role2,
                    jwt_file: jwt_file2,
                },
            ) => (mount, role, jwt_file) == (mount2, role2, jwt_file2),
            (Self::Token(ours), Self::Token(theirs)) => ours == theirs,
            (Self::AppRole { .. } | Self::Kubernetes { .. } | Self::Token(_), _) => false,
        }
    }
}

impl Eq for VaultAuth {}

/// A token of Vault's, as it is sent. A clone shares the bytes; they are wiped when the last one is
/// dropped.
#[derive(Clone)]
pub struct AuthToken(HeaderValue);

/// A text is no token: it is empty, or has characters that no token of Vault's has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is empty, or holds something else than visible ASCII characters")]
pub struct UnusableToken;

impl AuthToken {
    /// Takes a token.
    #[expect(
        clippy::disallowed_methods,
        reason = "the token's sealed form is made here"
    )]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the caller gives the token up, so that it is wiped when this returns"
    )]
    pub fn new(text: SecretString) -> Result<Self, UnusableToken> {
        let text = text.expose_secret();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UnusableToken);
        }
        let bytes = Bytes::from_owner(Zeroizing::new(text.as_bytes().to_vec()));
        let mut header = HeaderValue::from_maybe_shared(bytes).map_err(|_error| UnusableToken)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl PartialEq for AuthToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for AuthToken {}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthToken([redacted])")
    }
}

/// A path in Vault's API: segments of visible ASCII characters with one slash between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApiPath(String);

/// A text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not a path of 1 to {MAX_NAME} visible characters, without a slash at its ends")]
pub struct NotAPath;

impl ApiPath {
    /// Reads a path.
    pub fn parse(text: &str) -> Result<Self, NotAPath> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        // A server or proxy that resolves dots would read another path than the one that was meant.
        let sound = |segment: &str| !matches!(segment, "" | "." | "..");
        if text.len() > MAX_NAME || !visible || !text.split('/').all(sound) {
            return Err(NotAPath);
        }
        Ok(Self(text.to_owned()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a pair is: a secret, and the names of its two fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VaultPath {
    mount: ApiPath,
    path: ApiPath,
    user_field: String,
    pass_field: String,
}

/// Why a pair is nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VaultPathError {
    /// The mount is no path.
    #[error(transparent)]
    Mount(NotAPath),
    /// The name of the password's field.
    #[error("is empty or longer than {MAX_NAME} bytes")]
    PassField,
    /// The secret's path is none.
    #[error(transparent)]
    Path(NotAPath),
    /// User and password would be one text.
    #[error("is the field of the user too")]
    SameField,
    /// The name of the user's field.
    #[error("is empty or longer than {MAX_NAME} bytes")]
    UserField,
}

impl VaultPath {
    /// A secret at `path` of the KV engine at `mount`, in whose fields the two are.
    pub fn parse(
        mount: &str,
        path: &str,
        user_field: &str,
        pass_field: &str,
    ) -> Result<Self, VaultPathError> {
        let named = |field: &str| !field.is_empty() && field.len() <= MAX_NAME;
        let mount = ApiPath::parse(mount).map_err(VaultPathError::Mount)?;
        let path = ApiPath::parse(path).map_err(VaultPathError::Path)?;
        if !named(user_field) {
            return Err(VaultPathError::UserField);
        }
        if !named(pass_field) {
            return Err(VaultPathError::PassField);
        }
        if user_field == pass_field {
            return Err(VaultPathError::SameField);
        }
        Ok(Self {
            mount,
            path,
            user_field: user_field.to_owned(),
            pass_field: pass_field.to_owned(),
        })
    }

    /// The KV engine's mount.
    pub const fn mount(&self) -> &ApiPath {
        &self.mount
    }

    /// The secret's path there.
    pub const fn path(&self) -> &ApiPath {
        &self.path
    }

    /// The field of the user.
    pub fn user_field(&self) -> &str {
        &self.user_field
    }

    /// The field of the password.
    pub fn pass_field(&self) -> &str {
        &self.pass_field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(auth: VaultAuth) -> VaultSettings {
        VaultSettings {
            address: Endpoint::parse("https://vault.example:8200").unwrap(),
            namespace: None,
            roots: Vec::new(),
            auth,
            refresh: Duration::from_mins(1),
            timeout: Duration::from_secs(5),
        }
    }

    fn token(text: &str) -> VaultAuth {
        VaultAuth::Token(AuthToken::new(text.into()).unwrap())
    }

    fn app_role(secret_id: &str) -> VaultAuth {
        VaultAuth::AppRole {
            mount: ApiPath::parse("approle").unwrap(),
            role_id: "canary-role".to_owned(),
            secret_id: secret_id.into(),
        }
    }

    #[test]
    fn settings_differ_where_a_secret_does_and_print_none() {
        for (one, same, other) in [
            (token("canary-1"), token("canary-1"), token("canary-2")),
            (
                app_role("canary-1"),
                app_role("canary-1"),
                app_role("canary-2"),
            ),
            (
                app_role("canary-1"),
                app_role("canary-1"),
                token("canary-1"),
            ),
        ] {
            let (one, same, other) = (settings(one), settings(same), settings(other));
            assert_eq!(one, same);
            assert_ne!(one, other);
            assert!(!format!("{one:?}").contains("canary"), "{one:?}");
        }
        let kubernetes = |role: &str, file: &str| VaultAuth::Kubernetes {
            mount: ApiPath::parse("kubernetes").unwrap(),
            role: role.to_owned(),
            jwt_file: file.into(),
        };
        assert_eq!(kubernetes("a", "b"), kubernetes("a", "b"));
        assert_ne!(kubernetes("a", "b"), kubernetes("a", "c"));
        assert_ne!(kubernetes("a", "b"), kubernetes("b", "b"));
    }

    #[test]
    fn a_token_is_what_a_header_can_carry() {
        let good = AuthToken::new("hvs.canary~!".into()).unwrap();
        assert_eq!(good.header(), "hvs.canary~!");
        assert!(!format!("{good:?} {:?}", good.header()).contains("canary"));
        for bad in ["", "a b", "a\n", "\u{e9}", "a\u{7f}", "a\tb"] {
            assert_eq!(AuthToken::new(bad.into()), Err(UnusableToken), "{bad:?}");
        }
    }

    #[test]
    fn a_path_leads_where_it_says() {
        let longest = "x".repeat(MAX_NAME);
        for good in ["secret", "a/b/c", "a%2e", "a?b#c", "...", "a..b", &longest] {
            assert_eq!(ApiPath::parse(good).unwrap().as_str(), good);
        }
        let longer = "x".repeat(MAX_NAME + 1);
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a b", "a\n", "\u{e9}",
            &longer,
        ] {
            assert_eq!(ApiPath::parse(bad), Err(NotAPath), "{bad:?}");
        }
    }

    #[test]
    fn a_pair_has_two_fields() {
        let of = |user: &str, pass: &str| VaultPath::parse("secret", "a", user, pass);
        assert!(of("user", "pass").is_ok());
        assert_eq!(of("", "pass"), Err(VaultPathError::UserField));
        assert_eq!(of("user", ""), Err(VaultPathError::PassField));
        assert_eq!(of("same", "same"), Err(VaultPathError::SameField));
        let longer = "x".repeat(MAX_NAME + 1);
        assert_eq!(of(&longer, "pass"), Err(VaultPathError::UserField));
    }
}
