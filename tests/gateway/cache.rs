//! The status cache, looked at from outside: what clients are told beside what DCAMS was told before.

mod checker;
mod judge;
mod polling;
mod purge;
mod redis;
mod told;

use std::{env, fmt::Write as _};

use dcams_gateway::{
    operation::Operation,
    simulator::{
        Login,
        behaviour::{Behaviour, EmailFolding},
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, OTHER_TENANT, OTHER_USER, PASS, USER, World};

/// The user of the account that two tenants share.
const SHARED_USER: &str = "elsewhere-api-user@veratad.example";

/// The tenants of [`tenants`], each with the user of its account. The first two have theirs alone.
const TENANTS: [(&str, &str); 4] = [
    ("demo", USER),
    ("other", OTHER_USER),
    ("one", SHARED_USER),
    ("two", SHARED_USER),
];

/// Three tenants behind the demo's own: one with an account of its own, two with one in common.
fn tenants(full: bool) -> String {
    let shared = crate::ownership::toml("", "").replace("other-user", "elsewhere-user");
    let all = format!("{OTHER_TENANT}{shared}");
    if full {
        all
    } else {
        all.replace(r#"response = "full""#, r#"response = "minimal""#)
    }
}

/// A gateway with its cache and the four tenants. DCAMS keeps the customers of each account apart, and
/// does not tell spellings of an address from each other.
async fn gateway(toml: &str, full: bool, variables: &[(&str, &str)]) -> World {
    let world = World::with(&(toml.to_owned() + &tenants(full)), &on(variables)).await;
    let users = [USER, OTHER_USER, SHARED_USER];
    let logins = users.map(|user| Login::new(user, PASS));
    world.simulator.set_credentials(logins.into());
    world.simulator.set_behaviour(Behaviour {
        per_user: true,
        email_folding: EmailFolding::Lowercase,
        ..Behaviour::default()
    });
    world
}

/// Another gateway in front of the same DCAMS.
async fn beside(
    world: &World,
    toml: &str,
    full: bool,
    variables: &[(&'static str, &'static str)],
) -> World {
    let simulator = world.simulator.clone();
    let (url, toml) = (simulator.url(), toml.to_owned() + &tenants(full));
    World::before(
        simulator,
        CancellationToken::new(),
        &url,
        &toml,
        &on(variables),
    )
    .await
}

fn on<'a>(variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("CACHE__ENABLED", "true")], variables].concat()
}

/// What two gateways have in common.
fn in_redis(url: &str) -> String {
    format!(
        "[state]\nbackend = \"redis\"\n[state.redis]\nurls = [\"{url}\"]\nnodes = 2\n\
         timeout = \"500ms\"\n"
    )
}

/// A token of each of [`TENANTS`] for all services.
fn tokens(world: &World) -> [String; 4] {
    TENANTS.map(|(tenant, _)| world.token_of(tenant, &Operation::ALL, None))
}

/// A body of this service for this customer.
fn body(operation: Operation, email: &str) -> Value {
    json!({"service": operation.name(), "target": {"email": email}})
}

/// A creation or an update without images.
fn submission(email: &str, reference: &str) -> Value {
    json!({
        "service": Operation::CreateOrUpdateCustomer.name(),
        "reference": reference,
        "target": {
            "email": email, "fn": "Jane", "ln": "Specimen", "addr": "1 Sample Street",
            "city": "Anytown", "state": "CT", "zip": "06614", "dob": "19700101",
            "phone": "2015550100",
        },
    })
}

fn update(email: &str, status: &str) -> Value {
    let service = Operation::UpdateStatus.name();
    json!({"service": service, "target": {"email": email, "status": status}})
}

/// The same body as DCAMS takes it, with the credential of this user.
fn direct(mut body: Value, user: &str) -> Value {
    body["user"] = json!(user);
    body["pass"] = json!(PASS);
    body
}

/// A header's text, or nothing.
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

/// Whether an answer says that it is not fresh any more.
fn is_stale(answer: &Answer) -> bool {
    header(answer, "dcams-stale") == "true"
}

/// How an answer came about, in the words of `Cache-Status`.
fn course(answer: &Answer) -> &'static str {
    let said = header(answer, "cache-status");
    let has = |word: &str| said.split("; ").any(|part| part == word);
    match () {
        () if is_stale(answer) => "stale",
        () if has("hit") => "hit",
        () if has("collapsed") => "joined",
        () if has("fwd=bypass") => "bypassed",
        () if said.contains("fwd=") => "asked",
        () if said.is_empty() => "none",
        () => "other",
    }
}

/// How often or long, unless a variable says otherwise.
fn number(variable: &str, short: u64) -> u64 {
    env::var(variable).map_or(short, |text| text.parse().unwrap())
}

/// Numbers without a pattern that a seed gives again (splitmix64).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of the numbers below this one.
    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// One of these numbers, the last included.
    fn from(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True in so many of a hundred.
    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[usize::try_from(self.below(choice.len().try_into().unwrap())).unwrap()]
    }
}

/// The lines of a table, each of words of this width.
fn table(rows: &[Vec<String>], width: usize) -> String {
    let mut text = String::new();
    for row in rows {
        for word in row {
            write!(text, "{word:>width$}").unwrap();
        }
        text.push('\n');
    }
    text
}
