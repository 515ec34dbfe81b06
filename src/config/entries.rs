//! The list `[[tenants]]`, and what all lists have in common.
//!
//! Invariant: ids are unique, references resolve, and no two tenants reach the same customers by one
//! account that they share without a ledger.

use std::{borrow::Borrow, collections::BTreeMap, sync::Arc};

use crate::{
    address::{AddressRules, Networks},
    config::{
        cache,
        cursor::{Context, Section},
        field::Field,
        layers::Entry,
        mistake::{Mistake, suggest},
        quota::Shared,
        sections::COUNTRIES,
    },
    ident::{AccountId, TenantId},
    limits::Limits,
    operation::Operation,
    tenant::{Country, Disclosure, Isolation, Tenant, Unowned},
};

/// The tables of one list, each with its id if that is a proper one.
pub(super) struct Entries<'a, Id> {
    pub(super) sections: Vec<(Option<Id>, Section<'a>)>,
    pub(super) ids: Ids<'a, Id>,
}

/// Every id of a list, also those of entries with mistakes.
pub(super) struct Ids<'a, Id> {
    context: Context<'a>,
    list: &'static str,
    /// Whether every entry was read and has a proper id; if not, a reference cannot be judged.
    certain: bool,
    /// The id, and the file that it stands in. Whoever names the id gets this one, so that a long list
    /// of tenants has each name in memory once.
    origins: BTreeMap<Id, String>,
}

/// Opens a list: it has entries, and their ids differ.
pub(super) fn open<'a, Id>(
    context: Context<'a>,
    list: &'static str,
    entries: Vec<Entry>,
) -> Entries<'a, Id>
where
    Id: for<'t> TryFrom<&'t str> + Clone + Ord,
{
    if entries.is_empty() && context.complete {
        let mend = format!("add one under [[{list}]]");
        let mistake = Mistake::new(context.name, list, "has no entry", &mend);
        context.report.mistake(mistake);
    }
    let mut sections = Vec::with_capacity(entries.len());
    let mut origins: BTreeMap<Id, String> = BTreeMap::new();
    for entry in entries {
        let mut section = Field::entry(context, list, entry).section();
        let id: Option<Id> = section.required("id").and_then(|f| f.name());
        if let Some(id) = &id
            && let Some(first) = origins.insert(id.clone(), section.origin().to_owned())
        {
            let problem = format!("is the id of another one, in {first}");
            section.mistake("id", problem, "rename or remove one of the two");
        }
        sections.push((id, section));
    }
    let ids = Ids {
        context,
        list,
        certain: context.complete && sections.iter().all(|(id, _)| id.is_some()),
        origins,
    };
    Entries { sections, ids }
}

impl<Id> Ids<'_, Id>
where
    Id: for<'t> TryFrom<&'t str> + Borrow<str> + Clone + Ord,
{
    /// Reads a field as the id of an entry of this list.
    pub(super) fn resolve(&self, field: &Field<'_>) -> Option<Id> {
        let id: Id = field.name()?;
        if let Some((known, _)) = self.origins.get_key_value::<Id>(&id) {
            return Some(known.clone());
        }
        if !self.certain {
            return Some(id);
        }
        let known = self.origins.keys().map(Borrow::borrow);
        let mend = match suggest(id.borrow(), known) {
            hint if self.origins.is_empty() => hint,
            hint => format!("add it under [[{}]]; {hint}", self.list),
        };
        let problem = format!("names no entry of [[{}]]", self.list);
        field.mistake(problem, &mend);
        None
    }

    /// Warns of each entry that nothing refers to.
    pub(super) fn warn_of_unused(&self, is_used: impl Fn(&Id) -> bool, problem: &str, mend: &str) {
        for (id, origin) in &self.origins {
            if !is_used(id) {
                let key = format!("{}[{}]", self.list, id.borrow());
                let warning = Mistake::new(origin, &key, problem, mend);
                self.context.report.warning(warning);
            }
        }
    }
}

/// What the other sections say of every tenant.
#[derive(Clone, Copy)]
pub(super) struct Common {
    /// The country of those that name none.
    pub(super) country: Country,
    /// All of their callers have one address: that of this machine.
    pub(super) one_address: bool,
    /// The largest body that is read at all.
    pub(super) max_body: Option<u64>,
}

/// Reads `[[tenants]]`.
pub(super) fn tenants(
    sections: Vec<(Option<TenantId>, Section<'_>)>,
    accounts: &Ids<'_, AccountId>,
    common: Common,
) -> Option<Vec<Tenant>> {
    let mut taken: BTreeMap<AccountId, Occupant> = BTreeMap::new();
    let mut shared = Shared::default();
    let tenants: Vec<Option<Tenant>> = sections
        .into_iter()
        .map(|(id, mut section)| {
            let isolation = isolation(&mut section);
            let account = account_of(&mut section, accounts, isolation, &mut taken);
            let limits = shared.limits(&mut section, common.max_body);
            tenant(id, account.zip(isolation), limits, section, common)
        })
        .collect();
    accounts.warn_of_unused(
        |id| taken.contains_key(id),
        "is used by no tenant",
        "remove it, or name it as a tenant's account",
    );
    tenants.into_iter().collect()
}

/// The first tenant of an account.
struct Occupant {
    path: String,
    /// What keeps its customers apart; unknown where that is written wrong.
    isolation: Option<Isolation>,
}

fn account_of(
    section: &mut Section<'_>,
    accounts: &Ids<'_, AccountId>,
    isolation: Option<Isolation>,
    taken: &mut BTreeMap<AccountId, Occupant>,
) -> Option<AccountId> {
    let field = section.required("account")?;
    let id: AccountId = accounts.resolve(&field)?;
    let Some(first) = taken.get(&id) else {
        let path = section.path().to_owned();
        taken.insert(id.clone(), Occupant { path, isolation });
        return Some(id);
    };
    // Of all tenants on an account each is compared with the first, so none goes unnoticed.
    if [isolation, first.isolation].contains(&Some(Isolation::None)) {
        let first = &first.path;
        let problem = format!("is that of {first} too, and they would see each other's customers");
        let mend = format!(
            "write isolation = \"ledger\" under {} and {first}, or give each an account of its own",
            section.path()
        );
        field.mistake(problem, &mend);
        return None;
    }
    Some(id)
}

/// Reads `isolation` and what belongs to it.
fn isolation(section: &mut Section<'_>) -> Option<Isolation> {
    let ledger = section.optional("isolation").map_or(Some(false), |f| {
        f.choice(&[("ledger", true), ("none", false)])
    });
    let choices = [
        ("allow", Unowned::Allow),
        ("claim", Unowned::Claim),
        ("refuse", Unowned::Refuse),
    ];
    let written = section.optional("unowned");
    if let Some(field) = &written
        && ledger == Some(false)
    {
        field.mistake(
            "has no meaning without a ledger",
            "remove it, or write isolation = \"ledger\" beside it",
        );
        return None;
    }
    let unowned = written.map_or(Some(Unowned::Refuse), |f| f.choice(&choices));
    if ledger? {
        return Some(Isolation::Ledger(unowned?));
    }
    Some(Isolation::None)
}

fn tenant(
    id: Option<TenantId>,
    account: Option<(AccountId, Isolation)>,
    limits: Option<Arc<Limits>>,
    mut section: Section<'_>,
    common: Common,
) -> Option<Tenant> {
    section.unavailable(&["cors"]);
    let enabled = section.optional("enabled").map_or(Some(true), |f| f.flag());
    let services = section
        .required("services")
        .and_then(|f| f.list(false, service));
    let disclosures = [("minimal", Disclosure::Minimal), ("full", Disclosure::Full)];
    let response = section
        .optional("response")
        .map_or(Some(Disclosure::Minimal), |f| f.choice(&disclosures));
    let country = section
        .optional("country")
        .map_or(Some(common.country), |f| f.choice(&COUNTRIES));
    let addresses = addresses(&mut section, common.one_address);
    let caching = cache::of_tenant(section.section("cache"));
    section.finish();
    let (account, isolation) = account?;
    Some(Tenant {
        id: id?,
        account,
        enabled: enabled?,
        services: services?.into_iter().collect(),
        response: response?,
        addresses: addresses?,
        country: country?,
        isolation,
        caching: caching?,
        limits: limits?,
    })
}

/// Reads from where a tenant may be called.
fn addresses(section: &mut Section<'_>, one_address: bool) -> Option<AddressRules> {
    let mut list = |key, may_be_empty| {
        section
            .optional(key)
            .map_or(Some(Networks::default()), |f| {
                let list = f.list(may_be_empty, Field::network);
                list.map(Networks::from_iter)
            })
    };
    // An empty list could be meant as "nobody", and would let everybody in.
    let (allow, deny) = (list("allow", false), list("deny", true));
    let rules = AddressRules {
        allow: allow?,
        deny: deny?,
    };
    if one_address && !rules.is_empty() {
        let key = if rules.allow.is_empty() {
            "deny"
        } else {
            "allow"
        };
        section.warning(
            key,
            "judges callers by address, but with a loopback `server.listen` and no \
             `server.trusted_proxies` every caller has this machine's",
            "name the proxy in front of the gateway there",
        );
    }
    Some(rules)
}

/// Reads the name of a service.
pub(super) fn service(field: &Field<'_>) -> Option<Operation> {
    field.choice(&Operation::ALL.map(|operation| (operation.name(), operation)))
}
