//! The section `[vault]`, and the tables that name a secret in it.
//!
//! Invariant: the gateway proves who it is in one way, and nothing of another way stands beside it; the
//! server is reached over https, or is on this machine. Nothing is sent here.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::{
    config::{
        cursor::Section,
        destination::{endpoint, roots},
        field::Field,
        secret,
    },
    credential::vault::{ApiPath, AuthToken, VaultAuth, VaultPath, VaultPathError, VaultSettings},
    endpoint::{Endpoint, EndpointError},
};

const REFRESH: Duration = Duration::from_mins(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const REFRESHES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);

/// Where credentials are that name no mount and no fields.
const MOUNT: &str = "secret";
const FIELDS: [&str; 2] = ["user", "pass"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    AppRole,
    Kubernetes,
    Token,
}

const METHODS: [(&str, Method); 3] = [
    ("token", Method::Token),
    ("approle", Method::AppRole),
    ("kubernetes", Method::Kubernetes),
];

/// Reads `[vault]`, where there is one.
pub(super) fn settings(root: &mut Section<'_>) -> Option<VaultSettings> {
    root.known(&["vault"]);
    if !root.has("vault") {
        return None;
    }
    let mut section = root.section("vault");
    let address = section.required("address").and_then(|f| address(&f));
    let namespace = section.or("namespace", None, |f| api_path(f).map(Some));
    let roots = section.or("ca", Vec::new(), roots);
    let method = section.choice("auth", &METHODS);
    let auth = auth(&mut section, method);
    let refresh = section.or("refresh", REFRESH, |f| f.duration(&REFRESHES));
    let timeout = section.or("timeout", TIMEOUT, |f| f.duration(&TIMEOUTS));
    section.finish();
    Some(VaultSettings {
        address: address?,
        namespace: namespace?,
        roots: roots?,
        auth: auth?,
        refresh: refresh?,
        timeout: timeout?,
    })
}

/// Reads where a credential is: a table such as `{ mount = "secret", path = "veratad/main" }`.
pub(super) fn path(field: Field<'_>) -> Option<VaultPath> {
    let mut section = field.section();
    let [user_field, pass_field] = FIELDS;
    let mount = text_or(&mut section, "mount", MOUNT);
    let path = section
        .required("path")
        .and_then(|f| f.text().map(str::to_owned));
    let user = text_or(&mut section, "user", user_field);
    let pass = text_or(&mut section, "pass", pass_field);
    let parsed = match (mount, path, user, pass) {
        (Some(mount), Some(path), Some(user), Some(pass)) => {
            Some(VaultPath::parse(&mount, &path, &user, &pass))
        }
        _ => None,
    };
    if let Some(Err(error)) = &parsed {
        let (key, mend) = match error {
            VaultPathError::Mount(_) => ("mount", "write it as \"secret\""),
            VaultPathError::PassField | VaultPathError::SameField => {
                ("pass", "name the secret's field that holds the password")
            }
            VaultPathError::Path(_) => ("path", "write it as \"veratad/main\""),
            VaultPathError::UserField => ("user", "name the secret's field that holds the user"),
        };
        section.mistake(key, error.to_string(), mend);
    }
    section.finish();
    parsed?.ok()
}

fn text_or(section: &mut Section<'_>, key: &'static str, default: &str) -> Option<String> {
    section.or(key, default.to_owned(), |f| f.text().map(str::to_owned))
}

fn address(field: &Field<'_>) -> Option<Endpoint> {
    const EXAMPLE: &str = "write it as \"https://vault.internal:8200\"";
    let secure = "use https: the token and the credentials travel on it";
    let endpoint = endpoint(field, EXAMPLE, secure)?;
    if endpoint.has_query() {
        field.mistake(EndpointError::Query.to_string(), EXAMPLE);
        return None;
    }
    Some(endpoint)
}

fn api_path(field: &Field<'_>) -> Option<ApiPath> {
    ApiPath::parse(field.text()?)
        .inspect_err(|error| field.mistake(error.to_string(), "write it as \"name\" or \"a/b\""))
        .ok()
}

/// What the chosen method needs; what another one needs is refused, because it would have no effect.
fn auth(section: &mut Section<'_>, method: Option<Method>) -> Option<VaultAuth> {
    let mut keys = Keys { section, method };
    let mount = keys.mount();
    let token = keys.own("token", Method::Token);
    let token = token.and_then(|field| token_of(keys.section, field));
    let role_id = keys.own("role_id", Method::AppRole);
    let role_id = role_id.and_then(|field| field.printable());
    let secret_id = keys.own("secret_id", Method::AppRole);
    let secret_id = secret_id.and_then(|field| text_of(keys.section, "secret_id", field));
    let role = keys.own("role", Method::Kubernetes);
    let role = role.and_then(|field| field.printable());
    let jwt_file: Option<PathBuf> = keys
        .own("jwt_file", Method::Kubernetes)
        .and_then(|field| field.path());
    match method? {
        Method::AppRole => Some(VaultAuth::AppRole {
            mount: mount?,
            role_id: role_id?,
            secret_id: secret_id?,
        }),
        Method::Kubernetes => Some(VaultAuth::Kubernetes {
            mount: mount?,
            role: role?,
            jwt_file: jwt_file?,
        }),
        Method::Token => token.map(VaultAuth::Token),
    }
}

fn token_of(section: &Section<'_>, field: Field<'_>) -> Option<AuthToken> {
    AuthToken::new(text_of(section, "token", field)?)
        .inspect_err(|error| {
            section.mistake("token", error.to_string(), "put the token alone there");
        })
        .ok()
}

fn text_of(section: &Section<'_>, key: &str, field: Field<'_>) -> Option<SecretString> {
    secret::text(section, key, &secret::bytes(field)?)
}

/// The keys that belong to one method each.
struct Keys<'s, 'a> {
    section: &'s mut Section<'a>,
    method: Option<Method>,
}

impl<'a> Keys<'_, 'a> {
    /// A key that its method needs and no other has.
    fn own(&mut self, key: &'static str, of: Method) -> Option<Field<'a>> {
        if self.method == Some(of) {
            return self.section.required(key);
        }
        let field = self.section.optional(key)?;
        self.refuse(&field, of);
        None
    }

    /// Where the method is mounted; a token is of no method.
    fn mount(&mut self) -> Option<ApiPath> {
        let field = self.section.optional("auth_mount");
        let implied = METHODS
            .iter()
            .find(|(_, method)| Some(*method) == self.method);
        match (field, implied) {
            (Some(field), Some((_, Method::Token))) => {
                self.refuse(&field, Method::AppRole);
                None
            }
            (Some(field), _) => api_path(&field),
            (None, implied) => ApiPath::parse(implied?.0).ok(),
        }
    }

    /// Without a method it is not known whose keys are too many.
    fn refuse(&self, field: &Field<'_>, of: Method) {
        let name = METHODS.iter().find(|(_, method)| *method == of);
        if let (Some(_), Some((name, _))) = (self.method, name) {
            let mend = format!("remove it, or write auth = \"{name}\"");
            field.mistake("has no effect beside this `auth`", &mend);
        }
    }
}
