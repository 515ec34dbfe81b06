//! The list `[[issuers]]`: whose tokens are believed, by which keys, and for which tenants.
//!
//! Invariant: an issuer has keys of exactly one kind that fit all of its algorithms, and no two
//! issuers share an `iss`. Of a key nothing is repeated but what its error says.

mod remote;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use crate::{
    auth::{
        IssuerSettings,
        jwks::{KeySource, RemoteKeys},
        keys::{KeyError, KeySet, SigningKey, parse_algorithm},
    },
    config::{
        bind,
        cursor::Section,
        dpop,
        entries::{Ids, service},
        field::Field,
        secret::{self, Secret},
    },
    ident::{IssuerId, TenantId},
    operation::{Operation, Operations},
};

const SECOND: Duration = Duration::from_secs(1);
const LEEWAY: Duration = Duration::from_secs(30);
const MAX_LEEWAY: Duration = Duration::from_mins(2);
const MAX_TTL: Duration = Duration::from_hours(24);
const LONGEST_TTL: Duration = Duration::from_hours(30 * 24);
const TYPES: [&str; 2] = ["JWT", "at+jwt"];
const TENANT_CLAIM: &str = "tenant";
const CUSTOMER_CLAIM: &str = "customer_email";

/// Claims that say something else than who is meant.
const RESERVED: [&str; 8] = ["iss", "aud", "exp", "nbf", "iat", "scope", "scp", "cnf"];

/// The key kinds of which an issuer has one.
const KINDS: [&str; 5] = [
    "jwks_url",
    "issuer_discovery",
    "jwks_file",
    "public_key",
    "secret",
];

/// An issuer, and the key that mints its tokens where the configuration holds one.
pub(super) struct Issuer {
    pub(super) settings: IssuerSettings,
    pub(super) signing: Option<SigningKey>,
}

/// Reads `[[issuers]]`.
pub(super) fn issuers(
    sections: Vec<(Option<IssuerId>, Section<'_>)>,
    tenants: &Ids<'_, TenantId>,
) -> Option<Vec<Issuer>> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let issuers: Vec<Option<Issuer>> = sections
        .into_iter()
        .map(|(id, mut section)| {
            let issuer = name(&mut section, &mut seen);
            self::issuer(id, issuer, section, tenants)
        })
        .collect();
    let issuers: Vec<Issuer> = issuers.into_iter().collect::<Option<_>>()?;
    let spoken_for = issuers.iter().flat_map(|issuer| &issuer.settings.tenants);
    let spoken_for: HashSet<&TenantId> = spoken_for.collect();
    tenants.warn_of_unused(
        |id| spoken_for.contains(id),
        "is among the tenants of no issuer, so it has no tokens",
        "add it to an issuer's `tenants`, or remove it",
    );
    Some(issuers)
}

/// The `iss` of its tokens, which no other issuer has.
fn name(section: &mut Section<'_>, seen: &mut BTreeMap<String, String>) -> Option<String> {
    let field = section.required("issuer")?;
    let issuer = field.printable()?;
    if let Some(first) = seen.insert(issuer.clone(), section.path().to_owned()) {
        let problem = format!("is that of {first} too");
        field.mistake(problem, "join the two, or mend one of them");
        return None;
    }
    Some(issuer)
}

fn issuer(
    id: Option<IssuerId>,
    issuer: Option<String>,
    mut section: Section<'_>,
    known_tenants: &Ids<'_, TenantId>,
) -> Option<Issuer> {
    let audiences = section
        .required("audiences")
        .and_then(|f| f.list(false, Field::printable));
    let algorithms = algorithms(&mut section);
    let keys = keys(
        &mut section,
        (id.as_ref(), issuer.as_deref()),
        algorithms.as_deref(),
    );
    let tenants = section
        .required("tenants")
        .and_then(|f| f.list(false, |item| known_tenants.resolve(item)));
    let claims = claims(&mut section);
    let leeway = section
        .optional("leeway")
        .map_or(Some(LEEWAY), |f| f.duration(&(Duration::ZERO..=MAX_LEEWAY)));
    let max_ttl = section
        .optional("max_ttl")
        .map_or(Some(MAX_TTL), |f| f.duration(&(SECOND..=LONGEST_TTL)));
    let types = section.optional("types").map_or_else(
        || Some(TYPES.map(str::to_owned).to_vec()),
        |f| f.list(false, Field::printable),
    );
    let more_services = section
        .optional("customer_services")
        .map_or(Some(Vec::new()), |f| f.list(true, service));
    let bind = bind::rules(&mut section);
    let dpop = dpop::rules(&mut section);
    section.finish();
    let (keys, signing) = keys?;
    let (tenant_claim, customer_claim) = claims?;
    Some(Issuer {
        settings: IssuerSettings {
            id: id?,
            issuer: issuer?,
            audiences: audiences?,
            keys,
            tenants: tenants?.into_iter().collect(),
            tenant_claim,
            customer_claim,
            leeway: leeway?,
            max_ttl: max_ttl?,
            types: types?,
            customer_services: customer_services(more_services?),
            bind: bind?,
            dpop: dpop?,
        },
        signing,
    })
}

/// What a customer-bound token may use: what all of them may, and what is listed.
fn customer_services(more: Vec<Operation>) -> Operations {
    Operation::ALL
        .into_iter()
        .filter(|operation| operation.allowed_to_customers())
        .chain(more)
        .collect()
}

/// The algorithms, all of them for shared secrets or none.
fn algorithms(section: &mut Section<'_>) -> Option<Vec<Algorithm>> {
    let field = section.required("algorithms")?;
    let algorithms = field.list(false, |item| {
        let algorithm = parse_algorithm(item.text()?);
        if algorithm.is_none() {
            item.mistake(
                "is not a signature algorithm that is accepted here",
                "write HS256, HS384, HS512, RS256, PS256, ES256, ES384, EdDSA or the like",
            );
        }
        algorithm
    })?;
    let shared = algorithms.iter().filter(|a| is_hmac(**a)).count();
    if shared != 0 && shared != algorithms.len() {
        section.mistake(
            "algorithms",
            "mixes HMAC with public-key algorithms",
            "keep one of the two kinds, or write two issuers",
        );
        return None;
    }
    Some(algorithms)
}

fn is_hmac(algorithm: Algorithm) -> bool {
    algorithm.family() == AlgorithmFamily::Hmac
}

/// The keys that verify, and the one that signs where there is one.
fn keys(
    section: &mut Section<'_>,
    (id, issuer): (Option<&IssuerId>, Option<&str>),
    algorithms: Option<&[Algorithm]>,
) -> Option<(KeySource, Option<SigningKey>)> {
    let kind = kind(section);
    let signer = section.optional("private_key");
    let remote = remote::details(section, kind.as_ref().map(|(kind, _)| *kind));
    let (kind, field) = kind?;
    let algorithms = algorithms?;
    let first = *algorithms.first()?;
    if (kind == "secret") != is_hmac(first) {
        section.mistake(
            kind,
            "does not fit the algorithms",
            "use `secret` with HS256, HS384, HS512 and the other kinds with all others",
        );
        return None;
    }
    if remote::is_remote(kind) {
        let settings = remote::settings(kind, &field, issuer, algorithms, remote);
        if let Some(signer) = signer {
            let problem =
                format!("stands beside `{kind}`, by which the issuer signs its own tokens");
            signer.mistake(
                problem,
                "remove it, or name its public half as `public_key`",
            );
            return None;
        }
        let keys = RemoteKeys::new(id?.clone(), settings?).inspect_err(|error| {
            section.mistake(kind, error.to_string(), "mend [issuers.jwks] `ca`");
        });
        return Some((KeySource::Remote(Arc::new(keys.ok()?)), None));
    }
    if kind == "secret" {
        let (keys, signing) = shared(section, algorithms, first, field, signer)?;
        return Some((KeySource::Fixed(keys), signing));
    }
    let content = field.content()?;
    let (keys, mend) = if kind == "jwks_file" {
        let mend = "save the issuer's JWK set there, with keys for verifying by these algorithms";
        (KeySet::from_jwks(algorithms, &content), mend)
    } else {
        let mend = "save a public key of that kind there, in PEM (RSA: 2048 bits or more)";
        (KeySet::from_public_pem(algorithms, &content), mend)
    };
    let keys = accepted(section, kind, keys, mend);
    let signing = match signer {
        Some(field) => Some(signing(section, first, field)?),
        None => None,
    };
    Some((KeySource::Fixed(keys?), signing))
}

/// The one kind of keys that the issuer has.
fn kind<'a>(section: &mut Section<'a>) -> Option<(&'static str, Field<'a>)> {
    let mut given: Vec<_> = KINDS
        .into_iter()
        .filter_map(|kind| Some((kind, section.optional(kind)?)))
        // Switched off is not there; what is no flag at all is told of where it is read.
        .filter(|(kind, field)| *kind != "issuer_discovery" || !field.is_false())
        .collect();
    if let [(first, _), (second, _), ..] = given.as_slice() {
        let problem = format!("stands beside `{first}`");
        section.mistake(second, problem, "keep one of the two");
        return None;
    }
    let kind = given.pop();
    if kind.is_none() {
        let others = "`issuer_discovery`, `jwks_file`, `public_key` and `secret`";
        let problem = format!("is missing, and so are {others}");
        section.mistake(KINDS[0], problem, "add one of the five");
    }
    kind
}

fn shared(
    section: &Section<'_>,
    algorithms: &[Algorithm],
    first: Algorithm,
    field: Field<'_>,
    signer: Option<Field<'_>>,
) -> Option<(KeySet, Option<SigningKey>)> {
    const MEND: &str = "use at least 32 random bytes for HS256, 48 for HS384, 64 for HS512 \
                        (openssl rand -base64 64)";
    if let Some(signer) = signer {
        signer.mistake("stands beside `secret`, which signs as well", "remove it");
    }
    let secret: Secret = secret::bytes(field)?;
    let keys = KeySet::from_secret(algorithms, secret.bytes());
    let keys = accepted(section, "secret", keys, MEND)?;
    let signing = SigningKey::from_secret(first, secret.bytes());
    Some((keys, Some(accepted(section, "secret", signing, MEND)?)))
}

fn signing(section: &Section<'_>, first: Algorithm, field: Field<'_>) -> Option<SigningKey> {
    field.warning(
        "can mint tokens, so it is for development only",
        "remove it where real customers are served",
    );
    let secret = secret::bytes(field)?;
    let key = SigningKey::from_private_pem(first, secret.bytes());
    let mend = "save a private key for the first of the algorithms there, in PEM (PKCS #8)";
    accepted(section, "private_key", key, mend)
}

fn accepted<T>(
    section: &Section<'_>,
    key: &str,
    result: Result<T, KeyError>,
    mend: &str,
) -> Option<T> {
    result
        .inspect_err(|error| section.mistake(key, format!("is refused: {error}"), mend))
        .ok()
}

/// The names of the tenant's and the customer's claim.
fn claims(section: &mut Section<'_>) -> Option<(String, String)> {
    let mut claim = |key, default: &str| match section.optional(key) {
        Some(field) => claim(&field),
        None => Some(default.to_owned()),
    };
    let tenant = claim("tenant_claim", TENANT_CLAIM);
    let customer = claim("customer_claim", CUSTOMER_CLAIM);
    let (tenant, customer) = (tenant?, customer?);
    if tenant == customer {
        let problem = "is the same as the tenant's claim";
        section.mistake("customer_claim", problem, "name another claim");
        return None;
    }
    Some((tenant, customer))
}

/// The name of a claim that says who or what is meant.
pub(super) fn claim(field: &Field<'_>) -> Option<String> {
    let name = field.printable()?;
    if RESERVED.contains(&name.as_str()) {
        let problem = "is a claim that means something else";
        field.mistake(problem, "name the claim that your issuer uses for this");
        return None;
    }
    Some(name)
}
