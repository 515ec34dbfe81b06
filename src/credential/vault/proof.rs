//! What a login sends to prove who the gateway is.
//!
//! Invariant: no more than 64 KiB of a file are read, and whatever is made here is wiped when it is
//! dropped.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    str,
};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{VaultError, wire};

/// More than any service account's token.
const MAX_JWT: usize = 64 * 1024;

/// The body of an `AppRole` login.
#[expect(
    clippy::disallowed_methods,
    reason = "the secret id is written into the login that it is for"
)]
pub(super) fn of_app_role(role_id: &str, secret_id: &SecretString) -> Zeroizing<Vec<u8>> {
    let secret_id = ("secret_id", secret_id.expose_secret());
    wire::two_texts(("role_id", role_id), secret_id)
}

/// The body of a Kubernetes login, with the token that is in the file now.
pub(super) fn of_service_account(
    role: &str,
    file: &Path,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let bytes = read(file).map_err(|_error| VaultError::Jwt)?;
    let jwt = str::from_utf8(&bytes).map_err(|_error| VaultError::Jwt)?;
    let jwt = jwt.trim_ascii_end();
    if jwt.is_empty() || !jwt.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(VaultError::Jwt);
    }
    Ok(wire::two_texts(("role", role), ("jwt", jwt)))
}

/// Reads without a task of its own: it is a small file in memory, which Kubernetes puts there.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Before it is opened: that would wait for the other end of a pipe.
    if !path.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let limit = u64::try_from(MAX_JWT).unwrap_or(u64::MAX);
    // Room for everything from the start: growing would leave copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_JWT + 64));
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_JWT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_service_accounts_token_is_one_word_of_a_bounded_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let of = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            of_service_account("a\"b", &file)
        };
        let body = of(b"aaa.bbb.ccc\n").unwrap();
        assert_eq!(&body[..], br#"{"role":"a\"b","jwt":"aaa.bbb.ccc"}"#);
        let endless = vec![b'x'; MAX_JWT + 1];
        assert!(of(&endless[1..]).is_ok());
        for bad in [&b""[..], b"\n", b"a b", b"a\nb", b"a\xff", b"a\0", &endless] {
            assert_eq!(of(bad).err(), Some(VaultError::Jwt));
        }
        let missing = of_service_account("a", &folder.path().join("none"));
        assert_eq!(missing.err(), Some(VaultError::Jwt));
        assert_eq!(
            of_service_account("a", folder.path()).err(),
            Some(VaultError::Jwt)
        );
    }

    #[test]
    fn an_app_role_login_holds_both_ids() {
        let body = of_app_role("role", &"se\"cret".into());
        assert_eq!(&body[..], br#"{"role_id":"role","secret_id":"se\"cret"}"#);
    }
}
