//! Tenants that share one Veratad account, kept apart by the ledger.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    clock,
    operation::Operation::{self, *},
    simulator::{
        Login,
        behaviour::Behaviour,
        fault::{DocumentedError, Fault, FaultKind},
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    program::{NOT_RECORDED, Served, limit_files, limitable},
    support::{
        Answer, EMAIL, OTHER_USER, PASS, USER, World, answer, client, customer, load, lookup, mint,
        simulator, write_secrets,
    },
};

/// Two tenants on one account, behind the demo's own; `one` and `two` say what else they have.
pub fn toml(one: &str, two: &str) -> String {
    let mut toml = r#"
[[accounts]]
id = "shared"
credentials = [{ id = "shared-1", user = { file = "other-user" }, pass = { file = "pass" } }]
"#
    .to_owned();
    for (id, more) in [("one", one), ("two", two)] {
        writeln!(
            toml,
            r#"
[[issuers]]
id = "{id}-idp"
issuer = "https://{id}.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = {{ file = "issuer.key" }}
tenants = ["{id}"]
[[tenants]]
id = "{id}"
account = "shared"
services = ["createOrUpdateCustomer", "getStatus", "getDocumentImages", "updateStatus"]
response = "full"
isolation = "ledger"
{more}"#
        )
        .unwrap();
    }
    toml
}

/// A gateway for the two, and a token of each with every scope.
struct Shared {
    world: World,
    one: String,
    two: String,
}

impl Shared {
    async fn start() -> Self {
        Self::with("", "", &[]).await
    }

    async fn with(one: &str, two: &str, variables: &[(&str, &str)]) -> Self {
        let world = World::with(&toml(one, two), variables).await;
        world.simulator.set_credentials(logins());
        let (one, two) = tokens(world.folder(), &world.simulator.url());
        Self { world, one, two }
    }

    async fn ask(&self, token: &str, operation: Operation) -> Answer {
        self.world.post(token, &lookup(operation)).await
    }

    /// What reached DCAMS since the last time.
    fn sent(&self) -> Vec<String> {
        let services = self.world.simulator.requests();
        self.world.simulator.clear_requests();
        services.into_iter().filter_map(|r| r.service).collect()
    }

    /// A customer from before the gateway.
    async fn older_customer(&self) {
        let mut body = customer();
        body["user"] = json!(OTHER_USER);
        body["pass"] = json!(PASS);
        let request = client().post(self.world.simulator.url()).json(&body);
        assert_eq!(answer(request.send().await.unwrap()).await.status, 200);
        self.world.simulator.clear_requests();
    }

    fn fault(&self, kind: FaultKind, service: &'static str) {
        let fault = Fault::once(kind).for_service(service);
        self.world.simulator.add_fault(fault).unwrap();
    }
}

fn logins() -> Vec<Login> {
    [USER, OTHER_USER].map(|user| Login::new(user, PASS)).into()
}

pub fn tokens(folder: &Path, url: &str) -> (String, String) {
    let config = load(folder, url, &[]);
    let token = |index| mint(&config, index, &Operation::ALL, None);
    (token(1), token(2))
}

/// Everything of an answer that a client sees, but for the request's id and the date.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let id = answer.headers["x-request-id"].to_str().unwrap();
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    (answer.status, headers, answer.text.replace(id, "ID"))
}

const READS: [Operation; 3] = [GetStatus, GetDocumentImages, UpdateStatus];

#[tokio::test]
async fn another_tenants_customer_is_answered_like_an_unknown_one_and_nothing_is_sent() {
    let shared = Shared::start().await;
    assert_eq!(
        shared.ask(&shared.one, CreateOrUpdateCustomer).await.status,
        200
    );
    // Asked first, because the ledger did not know the customer.
    assert_eq!(shared.sent(), ["getStatus", "createOrUpdateCustomer"]);
    for operation in READS {
        assert_eq!(
            shared.ask(&shared.one, operation).await.status,
            200,
            "{operation}"
        );
        assert_eq!(shared.sent(), [operation.name()]);
    }
    for operation in READS {
        let others = shared.ask(&shared.two, operation).await;
        let mut unknown = lookup(operation);
        unknown["target"]["email"] = json!("nobody.specimen@example.co");
        let unknown = shared.world.post(&shared.two, &unknown).await;
        assert_eq!(seen(&others), seen(&unknown), "{operation}");
        assert_eq!(
            (others.status, others.code().as_str()),
            (404, "customer_not_found")
        );
        assert_eq!(others.json()["message"], "The email address was not found");
        assert_eq!(shared.sent(), [""; 0], "{operation}");
    }
    // However the address is typed.
    let mut typed = customer();
    for spelled in [EMAIL.to_owned(), EMAIL.to_uppercase()] {
        typed["target"]["email"] = json!(spelled);
        let created = shared.world.post(&shared.two, &typed).await;
        assert_eq!(
            (created.status, created.code().as_str()),
            (409, "customer_unavailable")
        );
    }
    assert_eq!(shared.sent(), [""; 0]);
    // The owner changes its customer without a further question.
    assert_eq!(
        shared.ask(&shared.one, CreateOrUpdateCustomer).await.status,
        200
    );
    assert_eq!(shared.sent(), ["createOrUpdateCustomer"]);
}

#[tokio::test]
async fn the_operator_learns_whose_customer_it_was_and_the_client_does_not() {
    let shared = Shared::start().await;
    shared.ask(&shared.one, CreateOrUpdateCustomer).await;
    for (token, operation, reason) in [
        (&shared.two, GetStatus, json!("owned_by_another")),
        (
            &shared.two,
            CreateOrUpdateCustomer,
            json!("owned_by_another"),
        ),
        (&shared.one, GetStatus, Value::Null),
    ] {
        let answer = shared.ask(token, operation).await;
        assert!(!answer.text.contains("owned"), "{}", answer.text);
        let events = shared.world.recorded().await.events();
        assert_eq!(events.last().unwrap()["reason"], reason, "{operation}");
    }
    let mut unknown = lookup(GetStatus);
    unknown["target"]["email"] = json!("nobody@example.com");
    shared.world.post(&shared.two, &unknown).await;
    let events = shared.world.recorded().await.events();
    assert_eq!(events[0]["attempts"], 2);
    assert_eq!(events.last().unwrap()["reason"], "not_in_ledger");
    assert_eq!(events.last().unwrap()["decision"], "refuse");
}

#[tokio::test]
async fn under_refuse_nobody_takes_an_older_customer_over_by_creating_it() {
    let shared = Shared::start().await;
    shared.older_customer().await;
    for _ in 0..2 {
        let created = shared.ask(&shared.one, CreateOrUpdateCustomer).await;
        assert_eq!(
            (created.status, created.code().as_str()),
            (409, "customer_unavailable")
        );
        assert_eq!(shared.sent(), ["getStatus"]);
        let events = shared.world.recorded().await.events();
        assert_eq!(events.last().unwrap()["reason"], "existed_before");
        for token in [&shared.one, &shared.two] {
            for operation in READS {
                let answer = shared.ask(token, operation).await;
                assert_eq!(answer.code(), "customer_not_found", "{operation}");
            }
        }
        assert_eq!(shared.sent(), [""; 0]);
    }
    // And not while DCAMS is being asked, nor where it does not answer the question.
    for kind in [
        FaultKind::Status {
            status: 500,
            message: "x".to_owned(),
            retry_after: None,
        },
        FaultKind::Close {},
    ] {
        shared.fault(kind, "getStatus");
        let created = shared.ask(&shared.one, CreateOrUpdateCustomer).await;
        assert_eq!(created.code(), "upstream_unavailable");
        assert_eq!(shared.sent(), ["getStatus"]);
        assert_eq!(shared.ask(&shared.one, GetDocumentImages).await.status, 404);
        assert_eq!(shared.sent(), [""; 0]);
    }
    shared
        .world
        .simulator
        .add_fault(Fault::once(FaultKind::Hang {}))
        .unwrap();
    let created = shared.ask(&shared.one, CreateOrUpdateCustomer);
    let meanwhile = async {
        while shared.world.simulator.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        let answer = shared.ask(&shared.one, GetDocumentImages).await;
        shared.world.simulator.clear_faults();
        answer
    };
    let (created, meanwhile) = tokio::join!(created, meanwhile);
    assert_eq!(meanwhile.code(), "customer_not_found");
    assert_ne!(created.status, 200);
    assert_eq!(shared.sent(), ["getStatus"]);
}

#[tokio::test]
async fn under_claim_the_first_who_asks_for_a_customer_that_exists_owns_it() {
    let claim = "unowned = \"claim\"";
    let shared = Shared::with(claim, claim, &[]).await;
    // One that DCAMS does not know is nobody's, in the words of every other 404.
    let mut unknown = Vec::new();
    for operation in READS {
        unknown.push(shared.ask(&shared.one, operation).await);
    }
    assert_eq!(unknown[0].status, 404);
    shared.older_customer().await;
    shared.world.simulator.clear_requests();
    let second = shared.ask(&shared.two, GetStatus).await;
    assert_eq!(second.status, 200);
    for (operation, unknown) in READS.into_iter().zip(&unknown) {
        let first = shared.ask(&shared.one, operation).await;
        assert_eq!(seen(&first), seen(unknown), "{operation}");
        assert_eq!(shared.ask(&shared.two, operation).await.status, 200);
    }
    assert_eq!(
        shared.ask(&shared.one, CreateOrUpdateCustomer).await.status,
        409
    );
    assert_eq!(shared.sent().len(), 4);
    // A creation needs no question here, and owns what it makes.
    let mut other = customer();
    other["target"]["email"] = json!("another@example.com");
    assert_eq!(shared.world.post(&shared.one, &other).await.status, 200);
    assert_eq!(shared.sent(), ["createOrUpdateCustomer"]);
    assert_eq!(shared.world.post(&shared.two, &other).await.status, 409);
}

#[tokio::test]
async fn of_two_tenants_that_claim_at_once_only_one_gets_the_customer() {
    let claim = "unowned = \"claim\"";
    let shared = Shared::with(claim, claim, &[]).await;
    shared.older_customer().await;
    let asking = (0..20).map(|n| {
        let token = if n % 2 == 0 { &shared.one } else { &shared.two };
        shared.ask(token, GetStatus)
    });
    let answers = futures_util::future::join_all(asking).await;
    let served = |first: usize| {
        answers
            .iter()
            .skip(first)
            .step_by(2)
            .filter(|a| a.status == 200)
    };
    let (one, two) = (served(0).count(), served(1).count());
    assert!(
        (one, two) == (10, 0) || (one, two) == (0, 10),
        "{one} {two}"
    );
}

#[tokio::test]
async fn under_allow_unknown_customers_are_forwarded_and_nothing_is_noted() {
    let allow = "unowned = \"allow\"";
    let shared = Shared::with(allow, allow, &[]).await;
    shared.older_customer().await;
    for token in [&shared.one, &shared.two, &shared.one] {
        assert_eq!(shared.ask(token, GetStatus).await.status, 200);
    }
    // Until one of them writes it: from then on it is its own.
    assert_eq!(
        shared.ask(&shared.two, CreateOrUpdateCustomer).await.status,
        200
    );
    assert_eq!(
        shared.ask(&shared.one, GetStatus).await.code(),
        "customer_not_found"
    );
    assert_eq!(
        shared.ask(&shared.one, CreateOrUpdateCustomer).await.status,
        409
    );
    assert_eq!(
        shared.sent(),
        [
            "getStatus",
            "getStatus",
            "getStatus",
            "createOrUpdateCustomer"
        ]
    );
}

#[tokio::test]
async fn a_creation_that_was_certainly_refused_leaves_the_customer_to_others() {
    let shared = Shared::start().await;
    let refused = FaultKind::Error {
        error: DocumentedError::InvalidEmail,
    };
    shared.fault(refused, "createOrUpdateCustomer");
    let answer = shared.ask(&shared.one, CreateOrUpdateCustomer).await;
    assert_eq!(answer.code(), "invalid_payload");
    // Refused for our credential: nothing was done either.
    shared
        .world
        .simulator
        .set_credentials(vec![Login::new(USER, PASS)]);
    let answer = shared.ask(&shared.one, CreateOrUpdateCustomer).await;
    assert_eq!(answer.code(), "upstream_credentials_rejected");
    shared.world.simulator.set_credentials(logins());
    let retried = shared.world.retry_credential_of("shared", "shared-1").await;
    assert_eq!(retried.status, 200, "{}", retried.text);
    assert_eq!(
        shared.ask(&shared.two, CreateOrUpdateCustomer).await.status,
        200
    );
    assert_eq!(shared.ask(&shared.one, GetStatus).await.status, 404);
}

#[tokio::test]
async fn a_creation_whose_outcome_is_unknown_is_owned() {
    let faults = [
        FaultKind::Hang {},
        FaultKind::Close {},
        FaultKind::Malformed {},
        FaultKind::Html { status: 503 },
        FaultKind::ResetInBody { bytes: 10 },
    ];
    let shared = Shared::with(
        "",
        "",
        &[
            ("UPSTREAM__TIMEOUT", "1s"),
            ("UPSTREAM__CONNECT_TIMEOUT", "1s"),
        ],
    )
    .await;
    for (index, kind) in faults.into_iter().enumerate() {
        let case = format!("{kind:?}");
        let mut body = customer();
        body["target"]["email"] = json!(format!("customer-{index}@example.com"));
        shared.fault(kind, "createOrUpdateCustomer");
        assert!(
            shared.world.post(&shared.one, &body).await.status >= 500,
            "{case}"
        );
        shared.world.simulator.clear_faults();
        assert_eq!(
            shared.world.post(&shared.two, &body).await.status,
            409,
            "{case}"
        );
        // Its own tenant may try again, or look.
        assert_eq!(
            shared.world.post(&shared.one, &body).await.status,
            200,
            "{case}"
        );
    }
}

#[tokio::test]
async fn two_creations_at_once_by_one_tenant_do_not_give_each_others_claim_back() {
    let shared = Shared::with("unowned = \"claim\"", "", &[]).await;
    // One is refused while the other is under way.
    shared.fault(FaultKind::Delay { ms: 300 }, "createOrUpdateCustomer");
    let slow = shared.ask(&shared.one, CreateOrUpdateCustomer);
    let refused = async {
        while shared.world.simulator.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        let refused = FaultKind::Error {
            error: DocumentedError::MissingInput,
        };
        shared.fault(refused, "createOrUpdateCustomer");
        let answer = shared.ask(&shared.one, CreateOrUpdateCustomer).await;
        assert_eq!(answer.code(), "invalid_payload");
        shared.ask(&shared.two, CreateOrUpdateCustomer).await
    };
    let (slow, other) = tokio::join!(slow, refused);
    assert_eq!((slow.status, other.status), (200, 409));
}

#[tokio::test]
async fn a_tenant_is_not_kept_from_a_customer_that_it_is_just_creating() {
    let shared = Shared::start().await;
    // DCAMS has done its work, and its answer takes a while.
    shared.fault(FaultKind::Delay { ms: 500 }, "createOrUpdateCustomer");
    let first = shared.ask(&shared.one, CreateOrUpdateCustomer);
    let meanwhile = async {
        while shared.world.simulator.customers() == 0 {
            tokio::task::yield_now().await;
        }
        let second = shared.ask(&shared.one, CreateOrUpdateCustomer).await;
        (second, shared.ask(&shared.one, GetStatus).await)
    };
    let (first, (second, read)) = tokio::join!(first, meanwhile);
    assert_eq!((first.status, second.status, read.status), (200, 200, 200));
}

#[tokio::test]
async fn letter_case_makes_two_customers_where_the_account_says_so() {
    let world = World::with(
        &toml("", "").replace(
            "id = \"shared\"\n",
            "id = \"shared\"\nemail_case = \"exact\"\n",
        ),
        &[],
    )
    .await;
    world.simulator.set_credentials(logins());
    let (one, two) = tokens(world.folder(), &world.simulator.url());
    assert_eq!(world.post(&one, &customer()).await.status, 200);
    let mut typed = customer();
    typed["target"]["email"] = json!(EMAIL.to_uppercase());
    assert_eq!(world.post(&two, &typed).await.status, 200);
    world.simulator.set_behaviour(Behaviour::default());
    assert_eq!(world.post(&two, &customer()).await.status, 409);
}

/// The real program, killed and started again.
#[tokio::test]
async fn owners_outlive_the_process_and_a_damaged_entry_is_503_and_sends_nothing() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    simulator.set_credentials(logins());
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    let url = simulator.url();
    let post = async |served: &Served, token: &str, body: &Value| {
        let request = client().post(served.url()).bearer_auth(token).json(body);
        answer(request.send().await.unwrap()).await
    };
    let of = |name: &str| {
        let mut body = customer();
        body["target"]["email"] = json!(format!("{name}@example.com"));
        body
    };
    let toml = toml("unowned = \"claim\"", "unowned = \"claim\"");
    let served = Served::start(folder.path(), &url, &toml, &[]).await;
    let (one, two) = tokens(folder.path(), &url);
    for (token, name) in [(&one, "a"), (&two, "b")] {
        assert_eq!(post(&served, token, &of(name)).await.status, 200);
    }
    served.program.signal("KILL");
    assert!(!served.program.end().await.status.success());

    let served = Served::start(folder.path(), &url, &toml, &[]).await;
    for (token, name) in [(&two, "a"), (&one, "b")] {
        assert_eq!(post(&served, token, &of(name)).await.status, 409, "{name}");
    }
    served.program.signal("TERM");
    assert!(served.program.end().await.status.success());

    swap_two_values(&folder.path().join("state/state.redb"));
    let served = Served::start(folder.path(), &url, &toml, &[]).await;
    simulator.clear_requests();
    for (token, name) in [(&one, "a"), (&two, "a"), (&one, "b"), (&two, "b")] {
        let mut read = lookup(GetStatus);
        read["target"]["email"] = of(name)["target"]["email"].clone();
        for body in [of(name), read] {
            let answer = post(&served, token, &body).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (503, "state_unavailable")
            );
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert!(simulator.requests().is_empty());
    assert!(served.program.err.text().contains("restore"));
    stop.cancel();
}

/// The real program, whose files the system lets it write no further for a while.
#[tokio::test]
async fn a_full_disk_is_503_and_sends_nothing_and_all_is_well_when_there_is_room_again() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    simulator.set_credentials(logins());
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    let toml = toml("unowned = \"claim\"", "unowned = \"claim\"");
    let program = Served::command(folder.path(), &simulator.url(), &toml, &NOT_RECORDED);
    let served = Served::run(&mut limitable(&program)).await;
    let (one, two) = tokens(folder.path(), &simulator.url());
    let post = async |token: &str, name: &str| {
        let mut body = customer();
        body["target"]["email"] = json!(format!("{name}@example.com"));
        let request = client().post(served.url()).bearer_auth(token).json(&body);
        answer(request.send().await.unwrap()).await
    };
    assert_eq!(post(&one, "before").await.status, 200);
    simulator.clear_requests();
    limit_files(served.program.id, "0");
    for name in ["while", "while", "before"] {
        let refused = post(&two, name).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (503, "state_unavailable")
        );
        assert_eq!(refused.headers["retry-after"], "5");
    }
    assert!(simulator.requests().is_empty());
    limit_files(served.program.id, "unlimited");
    // It looks for the file again by itself, once a second.
    let mut after = post(&two, "while").await;
    let patience = clock::instant() + Duration::from_secs(30);
    while after.status == 503 && clock::instant() < patience {
        tokio::task::yield_now().await;
        after = post(&two, "while").await;
    }
    assert_eq!(after.status, 200, "{}", served.program.err.text());
    assert_eq!(post(&two, "before").await.status, 409);
    assert_eq!(post(&one, "while").await.status, 409);
    stop.cancel();
}

/// As somebody could who may write to the disk, and would like to own another's customer.
fn swap_two_values(file: &Path) {
    use redb::{Database, ReadableTable, TableDefinition};
    const CUSTOMERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("customers");
    let db = Database::open(file).unwrap();
    let transaction = db.begin_write().unwrap();
    let mut table = transaction.open_table(CUSTOMERS).unwrap();
    let entries: Vec<(Vec<u8>, Vec<u8>)> = table
        .iter()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
        .collect();
    let [(a, of_a), (b, of_b)] = &entries[..] else {
        panic!("two customers")
    };
    table.insert(a.as_slice(), of_b.as_slice()).unwrap();
    table.insert(b.as_slice(), of_a.as_slice()).unwrap();
    drop(table);
    transaction.commit().unwrap();
}

#[tokio::test]
async fn the_state_holds_nothing_of_a_person_or_a_tenant() {
    let folder = {
        let shared = Shared::with("unowned = \"claim\"", "", &[]).await;
        let mut body = customer();
        let mut markers = vec!["one-idp".to_owned(), OTHER_USER.to_owned(), PASS.to_owned()];
        for n in 0..20 {
            let email = format!("Canary-Kanarie-{n}@Specimen.Example");
            for (field, value) in [
                ("fn", "Kanarienvogel"),
                ("ln", "Canarywoman"),
                ("addr", "1 Canary Wharf"),
            ] {
                body["target"][field] = json!(value);
                markers.push(value.to_owned());
            }
            body["reference"] = json!("canary-reference");
            body["target"]["email"] = json!(email);
            for token in [&shared.one, &shared.two] {
                shared.world.post(token, &body).await;
                let read = json!({"service": "getStatus", "target": {"email": email}});
                shared.world.post(token, &read).await;
            }
            markers.push(email);
        }
        markers.push("canary-reference".to_owned());
        let url = format!("http://{}/api/revocations", shared.world.admin);
        for (name, value) in [("subject", "canary-subject"), ("jti", "canary-jti")] {
            let body = json!({"issuer": "one-idp", name: value});
            let request = shared.world.client.post(&url).json(&body);
            assert_eq!(request.send().await.unwrap().status(), 201);
            markers.push(value.to_owned());
        }
        let state = shared.world.folder().join("state");
        let mut bytes = Vec::new();
        for entry in fs::read_dir(state).unwrap() {
            let path = entry.unwrap().path();
            bytes.extend_from_slice(path.to_str().unwrap().as_bytes());
            bytes.extend(fs::read(path).unwrap());
        }
        (bytes, markers)
    };
    let (bytes, markers) = folder;
    assert!(bytes.len() > 4096);
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for marker in markers {
        for text in [marker.clone(), marker.to_lowercase(), marker.to_uppercase()] {
            // Without the ends of base64, which depend on what stands beside.
            let encoded = BASE64_STANDARD.encode(&text);
            let mut hex = vec![0; 2 * text.len()];
            dcams_gateway::ident::hex(text.as_bytes(), &mut hex);
            let hex = String::from_utf8(hex).unwrap();
            for needle in [
                &text,
                &encoded[..encoded.len() - 4],
                &hex,
                &hex.to_uppercase(),
            ] {
                assert!(!holds(needle.as_bytes()), "{needle}");
            }
        }
    }
}

#[tokio::test]
async fn another_spelling_of_an_address_is_no_way_to_another_customer() {
    // DCAMS tells letter case apart here, and the ledger does not.
    let shared = Shared::start().await;
    shared.older_customer().await;
    let (mailbox, domain) = EMAIL.split_once('@').unwrap();
    let spellings = [
        EMAIL.to_owned(),
        EMAIL.to_uppercase(),
        format!("{}@{domain}", mailbox.to_uppercase()),
        format!("\"{mailbox}\"@{domain}"),
        format!("\"\\{mailbox}\"@{domain}"),
    ];
    for email in &spellings {
        let mut body = customer();
        body["target"]["email"] = json!(email);
        let answer = shared.world.post(&shared.one, &body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (409, "customer_unavailable"),
            "{email}"
        );
        // It asked about the one spelling that goes upstream.
        assert_eq!(shared.sent(), ["getStatus"]);
        for read in READS {
            assert_eq!(shared.ask(&shared.one, read).await.status, 404);
        }
        assert!(shared.sent().is_empty());
    }
    // Created in one spelling, it is had in every one.
    let mut body = customer();
    body["target"]["email"] = json!("\"New.Customer\"@Example.com");
    assert_eq!(shared.world.post(&shared.one, &body).await.status, 200);
    for email in ["new.customer@example.com", "NEW.CUSTOMER@example.com"] {
        let read = json!({"service": "getStatus", "target": {"email": email}});
        let answer = shared.world.post(&shared.one, &read).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["target"]["email"], "new.customer@example.com");
    }
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_does_not_start() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    let _first = Served::start(folder.path(), &simulator.url(), "", &[]).await;
    let config = folder.path().join("demo.toml").display().to_string();
    let variables = [
        ("DCAMS_GATEWAY__SERVER__LISTEN", "127.0.0.1:0"),
        ("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let second = crate::program::run(&["serve", "--config", &config], &variables).await;
    assert_eq!(second.status.code(), Some(1));
    let line = second.err.lines().last().unwrap();
    assert!(line.contains("in use by another process"), "{}", second.err);
    assert!(!second.err.contains("ready"), "{}", second.err);
    stop.cancel();
}
