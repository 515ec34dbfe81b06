//! The list `[[accounts]]`: where DCAMS's users and passwords come from, and how they are rotated.
//!
//! Invariant: every credential that stands in files or the environment is there and can be sent; no
//! two accounts have one user, by which their tenants would reach the same customers.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{
    clock,
    config::{
        cursor::{Context, Section},
        field::Field,
        mistake::Mistake,
        secret::{self, Located},
        vault,
    },
    credential::{
        Account, Credential, CredentialSettings,
        rotation::{Pace, Validity},
        source::Source,
    },
    customer::EmailCase,
    ident::{AccountId, CredentialId},
    payload::email::is_mailbox,
    redact::Redacted,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);

/// What holds where `[accounts.rotation]` says nothing; `config/default.toml` documents it.
const PACE: Pace = Pace {
    canary_percent: 5,
    canary_time: Duration::from_mins(5),
    retry_after: Duration::from_mins(1),
    retry_max: Duration::from_mins(15),
    probes: false,
};
const CANARY_TIMES: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const RETRIES: RangeInclusive<Duration> = SECOND..=DAY;

/// What was seen so far.
struct Seen {
    /// The values, each with the account and the path that it stands at.
    values: Vec<(Arc<Credential>, usize, String)>,
    /// Whether there is a section for Vault.
    has_vault: bool,
}

/// Reads `[[accounts]]`.
pub(super) fn accounts(
    sections: Vec<(Option<AccountId>, Section<'_>)>,
    has_vault: bool,
) -> Option<Vec<Account>> {
    let mut seen = Seen {
        values: Vec::new(),
        has_vault,
    };
    let sections = sections.into_iter().enumerate();
    let accounts: Vec<Option<Account>> = sections
        .map(|(number, (id, section))| account(number, id, section, &mut seen))
        .collect();
    accounts.into_iter().collect()
}

fn account(
    number: usize,
    id: Option<AccountId>,
    mut section: Section<'_>,
    seen: &mut Seen,
) -> Option<Account> {
    let items = section.required("credentials").and_then(Field::items);
    if items.as_ref().is_some_and(Vec::is_empty) {
        section.mistake("credentials", "is empty", "write one credential");
    }
    let cases = [("ignore", EmailCase::Ignore), ("exact", EmailCase::Exact)];
    let email_case = section
        .optional("email_case")
        .map_or(Some(EmailCase::Ignore), |f| f.choice(&cases));
    section.known(&["probe"]);
    let probe = section
        .has("probe")
        .then(|| probe(section.section("probe")));
    let pace = pace(section.section("rotation"));
    let mut credentials: Vec<Option<CredentialSettings>> = Vec::new();
    for item in items.into_iter().flatten() {
        let mut section = item.section();
        let known = credentials.iter().flatten();
        let known: Vec<&CredentialId> = known.map(|credential| &credential.id).collect();
        let id: Option<CredentialId> = section.required("id").and_then(|f| f.name());
        if id.as_ref().is_some_and(|id| known.contains(&id)) {
            let mend =
                "rename one of the two: a value that is new keeps its id, a new id is another";
            section.mistake("id", "is the id of another one of this account", mend);
        }
        credentials.push(credential(id, number, section, seen));
    }
    let credentials: Option<Vec<_>> = credentials.into_iter().collect();
    let now = clock::now();
    if let Some(credentials) = &credentials
        && !credentials.is_empty()
        && !credentials.iter().any(|c| c.validity.covers(now))
    {
        section.warning(
            "credentials",
            "has none that may be used now, by `not_before` and `not_after`: every request is answered 502",
            "change the dates, or add one that is good today",
        );
    }
    section.finish();
    let probe = match probe {
        Some(probe) => Some(probe?),
        None => None,
    };
    Some(Account {
        id: id?,
        credentials: credentials.filter(|list| !list.is_empty())?,
        email_case: email_case?,
        pace: Pace {
            probes: probe.is_some(),
            ..pace?
        },
        probe,
    })
}

fn credential(
    id: Option<CredentialId>,
    account: usize,
    mut section: Section<'_>,
    seen: &mut Seen,
) -> Option<CredentialSettings> {
    let validity = validity(&mut section);
    let (source, value) = if section.has("vault") {
        (in_vault(&mut section, seen), None)
    } else {
        section.known(&["vault"]);
        let (source, value) = in_files(&mut section, account, seen).unzip();
        (source, value)
    };
    section.finish();
    Some(CredentialSettings {
        id: id?,
        validity: validity?,
        source: source?,
        value,
    })
}

/// Where in Vault a pair is. It is read when the gateway starts.
fn in_vault(section: &mut Section<'_>, seen: &Seen) -> Option<Source> {
    let path = section.optional("vault").and_then(vault::path);
    for key in ["user", "pass"] {
        if section.optional(key).is_some() {
            let mend = "keep one of the two ways; inside of `vault` it names a field";
            section.mistake(key, "stands beside `vault`", mend);
        }
    }
    if !seen.has_vault {
        let mend = "add [vault] with the server's address";
        section.mistake("vault", "is used, but there is no section [vault]", mend);
    }
    path.map(Source::Vault)
}

/// A pair in files or the environment, and its value.
fn in_files(
    section: &mut Section<'_>,
    account: usize,
    seen: &mut Seen,
) -> Option<(Source, Arc<Credential>)> {
    let user = section.required("user").and_then(secret::located);
    let pass = section.required("pass").and_then(secret::located);
    let texts = user.as_ref().zip(pass.as_ref());
    let pair = texts.and_then(|(user, pass)| {
        let user = secret::text(section, "user", &user.secret);
        let pass = secret::text(section, "pass", &pass.secret);
        user.zip(pass)
    });
    let value = pair.and_then(|(user, pass)| {
        let mend = "compare it with what the vendor gave you";
        let refused = |error| format!("or `pass` is refused: {error}");
        Credential::new(user, pass)
            .inspect_err(|error| section.mistake("user", refused(*error), mend))
            .ok()
    });
    if let Some(value) = &value {
        seen.compare(value, account, section);
    }
    let source = user.zip(pass).and_then(|(user, pass)| {
        Some(Source::Local {
            user: Located::part(user)?,
            pass: Located::part(pass)?,
        })
    });
    Some((source?, value?))
}

/// Says that Vault is configured for nobody.
pub(super) fn warn_of_unused_vault(context: Context<'_>, accounts: Option<&[Account]>) {
    let Some(accounts) = accounts else { return };
    let mut credentials = accounts.iter().flat_map(|account| &account.credentials);
    if !credentials.any(|c| matches!(c.source, Source::Vault(_))) {
        let mend = "remove it, or have a credential name a secret: vault = { path = \"…\" }";
        let warning = Mistake::new(context.name, "vault", "is used by no credential", mend);
        context.report.warning(warning);
    }
}

impl Seen {
    fn compare(&mut self, value: &Arc<Credential>, account: usize, section: &Section<'_>) {
        for (other, theirs, path) in &self.values {
            if *theirs != account && value.has_user_of(other) {
                section.mistake(
                    "user",
                    format!("is the same user as that of {path}, so it reaches the same customers"),
                    "give each account a user of its own",
                );
                break;
            }
            if value.is_same_as(other) {
                let problem = format!("and `pass` are those of {path}");
                section.mistake("user", problem, "remove one of the two");
                break;
            }
        }
        let path = section.path().to_owned();
        self.values.push((Arc::clone(value), account, path));
    }
}

fn validity(section: &mut Section<'_>) -> Option<Validity> {
    let mut instant = |key| match section.optional(key) {
        None => Some(None),
        Some(field) => field.instant().map(Some),
    };
    let validity = Validity {
        not_before: instant("not_before")?,
        not_after: instant("not_after")?,
    };
    let ends = validity.not_after;
    if ends.is_some() && ends <= validity.not_before {
        let problem = "is not after `not_before`, so it would never be used";
        section.mistake("not_after", problem, "set it later, or the other earlier");
        return None;
    }
    Some(validity)
}

/// Reads `[accounts.probe]`.
fn probe(mut section: Section<'_>) -> Option<Redacted<String>> {
    let field = section.required("email");
    let email = field.as_ref().and_then(|field| field.text());
    if let (Some(field), Some(email)) = (&field, email)
        && !is_mailbox(email)
    {
        let mend = "write an address as DCAMS knows customers by; nobody needs to have it";
        field.mistake("is not an email address", mend);
    }
    let email = email.filter(|email| is_mailbox(email)).map(str::to_owned);
    section.finish();
    Some(Redacted::new(email?))
}

/// Reads `[accounts.rotation]`.
fn pace(mut section: Section<'_>) -> Option<Pace> {
    let canary_percent = section
        .optional("canary_percent")
        .map_or(Some(PACE.canary_percent), |f| f.count(&(0..=50)));
    let mut duration = |key, default, bounds: &RangeInclusive<Duration>| {
        let field = section.optional(key);
        field.map_or(Some(default), |field| field.duration(bounds))
    };
    let canary_time = duration("canary_time", PACE.canary_time, &CANARY_TIMES);
    let retry_after = duration("retry_after", PACE.retry_after, &RETRIES);
    let retry_max = duration("retry_max", PACE.retry_max, &RETRIES);
    if retry_after > retry_max && retry_max.is_some() {
        let problem = "is longer than `retry_max`";
        section.mistake("retry_after", problem, "shorten it, or lengthen the other");
    }
    section.finish();
    Some(Pace {
        canary_percent: canary_percent?,
        canary_time: canary_time?,
        retry_after: retry_after?,
        retry_max: retry_max?,
        probes: false,
    })
}
