//! What a client is told of a status, and what DCAMS is asked for it.

use std::time::Duration;

use dcams_gateway::{
    operation::Operation::{self, *},
    simulator::{
        Login,
        fault::{Fault, FaultKind},
    },
};
use serde_json::json;
use tokio::time::{interval, sleep};

use super::{SHARED_USER, body, direct, gateway, header, submission, tokens, update};
use crate::{
    audit::assert_ends_sound,
    redis::server::RedisServer,
    support::{Answer, OTHER_TENANT, OTHER_USER, PASS, USER, World},
};

const EMAIL: &str = "ann.specimen@example.com";
/// Times in which nothing runs out while a test runs.
const LONG: &str = "[cache]\npass_ttl = \"1h\"\nfail_ttl = \"1h\"\npending_ttl = \"1h\"\n\
                    not_found_ttl = \"1h\"\njitter = 0.0\n";

/// A gateway, and the four tenants' tokens.
struct Told {
    world: World,
    tokens: [String; 4],
}

impl Told {
    async fn start(toml: &str) -> Self {
        Self::with(toml, false).await
    }

    async fn with(toml: &str, full: bool) -> Self {
        let world = gateway(toml, full, &[]).await;
        let tokens = tokens(&world);
        Self { world, tokens }
    }

    /// The first tenant creates the customer.
    async fn create(&self) {
        let created = self.post(0, &submission(EMAIL, "ref-1")).await;
        assert_eq!(created.status, 200, "{}", created.text);
        self.world.simulator.clear_requests();
    }

    async fn post(&self, tenant: usize, body: &serde_json::Value) -> Answer {
        self.world.post(&self.tokens[tenant], body).await
    }

    async fn status(&self) -> Answer {
        self.post(0, &body(GetStatus, EMAIL)).await
    }

    async fn status_with(&self, name: &str, value: &str) -> Answer {
        self.ask(0, EMAIL, name, value).await
    }

    async fn ask(&self, tenant: usize, email: &str, name: &str, value: &str) -> Answer {
        let request = self.world.client.post(self.world.url());
        let request = request.bearer_auth(&self.tokens[tenant]);
        let request = request.header(name, value).json(&body(GetStatus, email));
        crate::support::answer(request.send().await.unwrap()).await
    }

    /// Somebody changes a status past the gateway.
    async fn change_past_it(&self, user: &str, status: &str) {
        let request = self.world.client.post(self.world.simulator.url());
        let request = request.json(&direct(update(EMAIL, status), user));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }

    /// The services that reached DCAMS since the last time.
    fn sent(&self) -> Vec<String> {
        let records = self.world.simulator.requests();
        self.world.simulator.clear_requests();
        records.into_iter().filter_map(|r| r.service).collect()
    }

    /// The first tenant's line of this month's statement.
    async fn usage(&self) -> serde_json::Value {
        let month = dcams_gateway::clock::now().strftime("%Y-%m").to_string();
        let path = format!("/api/usage/statement?month={month}&tenant=demo");
        let usage = self.world.operator(&path).await;
        assert_eq!(usage.status, 200, "{}", usage.text);
        usage.json()["tenants"][0].clone()
    }

    fn fault(&self, kind: FaultKind, service: &'static str) {
        let fault = Fault::once(kind).for_service(service);
        self.world.simulator.add_fault(fault).unwrap();
    }
}

fn cache_status(answer: &Answer) -> &str {
    header(answer, "cache-status")
}

#[tokio::test]
async fn a_status_that_is_fresh_is_told_without_asking() {
    let told = Told::start(LONG).await;
    let absent = told.status().await;
    assert_eq!(absent.status, 404);
    assert_eq!(
        cache_status(&absent),
        "dcams-gateway; fwd=miss; fwd-status=404; stored"
    );
    let absent_again = told.status().await;
    assert_eq!((absent_again.status, told.sent().len()), (404, 1));
    assert_eq!(absent.json()["message"], absent_again.json()["message"]);
    assert!(cache_status(&absent_again).starts_with("dcams-gateway; hit; ttl=35"));
    told.create().await;
    // A creation's answer says the status too.
    let hit = told.status().await;
    assert_eq!((hit.status, told.sent().len()), (200, 0));
    assert!(
        cache_status(&hit).starts_with("dcams-gateway; hit; ttl=35"),
        "{}",
        cache_status(&hit)
    );
    assert_eq!(header(&hit, "age"), "0");
    // And is the answer that DCAMS gives.
    let asked = told.status_with("cache-control", "no-cache").await;
    assert_eq!(
        cache_status(&asked),
        "dcams-gateway; fwd=request; fwd-status=200; stored"
    );
    assert_eq!((asked.text, told.sent().len()), (hit.text, 1));
    assert_eq!(asked.headers["etag"], hit.headers["etag"]);
}

#[tokio::test]
async fn every_service_that_says_a_status_has_it_kept() {
    let told = Told::start(LONG).await;
    told.create().await;
    for (asked, status) in [
        (update(EMAIL, "FAIL"), "FAIL"),
        (submission(EMAIL, "ref-2"), "FAIL"),
        (update(EMAIL, "PENDING"), "PENDING"),
        (body(GetDocumentImages, EMAIL), "PENDING"),
    ] {
        // Nothing is left from before.
        told.world.simulator.clear_requests();
        let answer = told.post(0, &asked).await;
        assert_eq!(
            (answer.status, told.sent().len()),
            (200, 1),
            "{}",
            answer.text
        );
        let hit = told.status().await;
        assert_eq!(hit.json()["status"], status);
        assert_eq!(told.sent(), [""; 0], "{asked}");
        let text = told.status_with("cache-control", "no-cache").await.text;
        assert_eq!(text, hit.text);
    }
}

#[tokio::test]
async fn no_tenant_is_told_of_anothers_customer_with_the_same_address() {
    let told = Told::start(LONG).await;
    told.create().await;
    // Each has it on an account of its own; the third is told of its own alone by the ledger.
    let created = told.post(1, &submission(EMAIL, "ref-other")).await;
    assert_eq!(created.status, 200);
    let created = told.post(2, &submission(EMAIL, "ref-one")).await;
    assert_eq!(created.status, 200);
    for _ in 0..2 {
        for (tenant, reference) in [(0, "ref-1"), (1, "ref-other"), (2, "ref-one")] {
            let answer = told.post(tenant, &body(GetStatus, EMAIL)).await;
            assert_eq!(answer.json()["reference"], reference);
        }
        let answer = told.post(3, &body(GetStatus, EMAIL)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "customer_not_found")
        );
        assert_eq!(
            cache_status(&answer),
            "dcams-gateway; fwd=bypass; detail=not-owned"
        );
    }
}

#[tokio::test]
async fn another_spelling_is_asked_for_and_a_change_under_any_is_a_change_of_all() {
    let told = Told::start(LONG).await;
    told.create().await;
    let shouted = EMAIL.to_uppercase();
    assert_eq!(told.status().await.json()["status"], "PASS");
    assert_eq!(told.sent(), [""; 0]);
    let answer = told.post(0, &body(GetStatus, &shouted)).await;
    assert_eq!((answer.status, told.sent().len()), (200, 1));
    let answer = told.post(0, &update(&shouted, "FAIL")).await;
    assert_eq!(answer.status, 200);
    told.sent();
    assert_eq!(told.status().await.json()["status"], "FAIL");
    assert_eq!(told.sent(), ["getStatus"]);
}

#[tokio::test]
async fn what_a_client_wants_of_the_cache_is_heeded() {
    let told = Told::start(LONG).await;
    let absent = told.status_with("cache-control", "only-if-cached").await;
    assert_eq!((absent.status, absent.code().as_str()), (504, "not_cached"));
    assert_eq!(
        cache_status(&absent),
        "dcams-gateway; detail=only-if-cached"
    );
    assert_eq!(told.sent(), [""; 0]);
    told.create().await;
    for (wish, sent) in [
        ("only-if-cached", 0),
        ("max-age=60", 0),
        ("max-age=0", 1),
        ("no-cache", 1),
        ("no-store", 1),
    ] {
        let answer = told.status_with("cache-control", wish).await;
        assert_eq!((answer.status, told.sent().len()), (200, sent), "{wish}");
    }
    let stored = told.status_with("cache-control", "no-store").await;
    assert_eq!(
        cache_status(&stored),
        "dcams-gateway; fwd=request; fwd-status=200"
    );
    let both = told
        .status_with("cache-control", "no-cache, only-if-cached")
        .await;
    assert_eq!(both.status, 504);
}

#[tokio::test]
async fn a_tenant_that_may_not_ask_for_newer_is_told_what_is_kept() {
    let toml = format!(
        "{LONG}{OTHER_TENANT}cache = {{ no_cache = \"ignore\" }}\nresponse = \"minimal\"\n"
    )
    .replace("response = \"full\"\n", "");
    let world = World::with(&toml, &super::on(&[])).await;
    world
        .simulator
        .set_credentials(vec![Login::new(OTHER_USER, PASS)]);
    let token = world.token_of("other", &Operation::ALL, None);
    assert_eq!(
        world.post(&token, &submission(EMAIL, "ref-1")).await.status,
        200
    );
    for (wish, email, said) in [
        ("no-cache", EMAIL, "; hit; "),
        // Nobody has asked for this one.
        (
            "no-store",
            "ben@example.com",
            "; fwd=miss; fwd-status=404; stored",
        ),
    ] {
        let request = world.client.post(world.url()).bearer_auth(&token);
        let request = request
            .header("cache-control", wish)
            .json(&body(GetStatus, email));
        let answer = crate::support::answer(request.send().await.unwrap()).await;
        assert!(
            cache_status(&answer).contains(said),
            "{}",
            cache_status(&answer)
        );
    }
}

#[tokio::test]
async fn of_two_who_ask_what_the_later_one_was_told_is_kept() {
    let told = Told::start(LONG).await;
    told.create().await;
    // Its answer is late: what it says is not.
    told.fault(FaultKind::Delay { ms: 1_000 }, "getStatus");
    let (early, ()) = tokio::join!(told.status_with("cache-control", "no-cache"), async {
        // The creation, and this: DCAMS has decided what it says.
        told.world.simulator.arrived(2).await;
        told.change_past_it(USER, "FAIL").await;
        let later = told.status_with("cache-control", "no-cache").await;
        assert_eq!(later.json()["status"], "FAIL");
    });
    assert_eq!(early.json()["status"], "PASS");
    assert_eq!(
        cache_status(&early),
        "dcams-gateway; fwd=request; fwd-status=200"
    );
    let hit = told.status().await;
    assert_eq!(hit.json()["status"], "FAIL");
    assert!(cache_status(&hit).contains("; hit; "));
}

#[tokio::test]
async fn what_is_not_kept_ends_what_was() {
    let told = Told::start("[cache]\npass_ttl = \"1h\"\npending_ttl = \"0s\"\n").await;
    told.create().await;
    told.change_past_it(USER, "PENDING").await;
    assert_eq!(told.status().await.json()["status"], "PASS");
    let asked = told.status_with("cache-control", "no-cache").await;
    assert_eq!(asked.json()["status"], "PENDING");
    let again = told.status().await;
    assert_eq!(again.json()["status"], "PENDING");
}

#[tokio::test]
async fn no_wish_of_a_client_tells_anothers_customer_from_an_unknown_one() {
    for unowned in ["refuse", "claim", "allow"] {
        for enabled in ["true", "false"] {
            let more = format!("unowned = \"{unowned}\"");
            let shared = crate::ownership::toml("", &more).replace("other-user", "elsewhere-user");
            let toml = format!("{LONG}{OTHER_TENANT}{shared}").replace("\"full\"", "\"minimal\"");
            let world = World::with(&toml, &super::on(&[("CACHE__ENABLED", enabled)])).await;
            let login = Login::new(SHARED_USER, PASS);
            world.simulator.set_credentials(vec![login]);
            let tokens = tokens(&world);
            let told = Told { world, tokens };
            let created = told.post(2, &submission(EMAIL, "ref-one")).await;
            assert_eq!(created.status, 200, "{}", created.text);
            for wish in ["x", "only-if-cached", "no-cache", "no-store", "max-age=9"] {
                let of = async |email: &str| {
                    let answer = told.ask(3, email, "cache-control", wish).await;
                    let headers = ["cache-status", "age", "etag"];
                    let headers = headers.map(|name| header(&answer, name).to_owned());
                    (answer.status, answer.code(), headers)
                };
                let case = format!("{unowned}, enabled = {enabled}, {wish}");
                assert_eq!(of(EMAIL).await, of("ben@example.com").await, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_tenant_that_comes_back_to_an_account_is_told_what_is_there_now() {
    let toml = |account: &str, isolation: &str| {
        let more = format!(
            "isolation = \"{isolation}\"\n[[accounts]]\nid = \"new\"\ncredentials = \
             [{{ id = \"new-1\", user = {{ file = \"elsewhere-user\" }}, pass = {{ file = \"pass\" }} }}]\n"
        );
        let account = format!("account = \"{account}\"");
        let tenant = OTHER_TENANT.replace("account = \"other\"", &account);
        format!("{LONG}{tenant}{more}").replace("\"full\"", "\"minimal\"")
    };
    let at_home = toml("other", "none");
    for away in [
        toml("new", "none"),
        toml("other", "ledger"),
        LONG.to_owned(),
    ] {
        let world = World::with(&at_home, &super::on(&[])).await;
        let logins = [OTHER_USER, USER].map(|user| Login::new(user, PASS));
        world.simulator.set_credentials(logins.into());
        let token = world.token_of("other", &Operation::ALL, None);
        let tokens = [0; 4].map(|_| token.clone());
        let told = Told { world, tokens };
        told.create().await;
        assert_eq!(told.status().await.json()["status"], "PASS");
        told.world.change(&away).await;
        told.change_past_it(OTHER_USER, "FAIL").await;
        told.world.change(&at_home).await;
        assert_eq!(told.status().await.json()["status"], "FAIL");
    }
}

#[tokio::test]
async fn a_client_that_has_the_answer_is_told_so_without_a_body() {
    let told = Told::start(LONG).await;
    told.create().await;
    let first = told.status().await;
    let tag = header(&first, "etag").to_owned();
    let same = told.status_with("if-none-match", &tag).await;
    assert_eq!((same.status, same.text.as_str()), (304, ""));
    assert_eq!(header(&same, "etag"), tag);
    assert!(cache_status(&same).starts_with("dcams-gateway; hit"));
    assert_eq!(told.post(0, &update(EMAIL, "FAIL")).await.status, 200);
    let other = told.status_with("if-none-match", &tag).await;
    assert_eq!(
        (other.status, other.json()["status"].as_str()),
        (200, Some("FAIL"))
    );
    assert_ne!(header(&other, "etag"), tag);
}

#[tokio::test]
async fn a_person_is_kept_only_where_the_configuration_says_so() {
    for full in [false, true] {
        let toml = format!("{LONG}full = {full}\n");
        let told = Told::with(&toml, true).await;
        assert_eq!(told.post(1, &submission(EMAIL, "ref-1")).await.status, 200);
        let asked = told.post(1, &body(GetStatus, EMAIL)).await;
        assert_eq!(asked.json()["target"]["ln"], "Specimen");
        told.sent();
        let again = told.post(1, &body(GetStatus, EMAIL)).await;
        assert_eq!(again.text, asked.text);
        assert_eq!(told.sent().len(), usize::from(!full), "{full}");
        let detail = cache_status(&again);
        assert_eq!(detail.contains("hit"), full, "{detail}");
        assert_eq!(detail.contains("bypass"), !full, "{detail}");
    }
}

#[tokio::test]
async fn a_write_that_nobody_knows_the_end_of_leaves_nothing_kept() {
    let told = Told::start(LONG).await;
    told.create().await;
    assert_eq!(told.status().await.status, 200);
    told.fault(FaultKind::Reset {}, "updateStatus");
    let lost = told.post(0, &update(EMAIL, "FAIL")).await;
    assert_eq!(lost.status, 502);
    told.sent();
    for _ in 0..2 {
        let answer = told.status().await;
        assert_eq!(
            cache_status(&answer),
            "dcams-gateway; fwd=miss; fwd-status=200"
        );
        assert_eq!(told.sent(), ["getStatus"]);
    }
}

#[tokio::test]
async fn a_cached_answer_is_free_and_is_on_record() {
    let told = Told::start(LONG).await;
    told.create().await;
    for _ in 0..3 {
        assert_eq!(told.status().await.status, 200);
    }
    let events = told.world.audit.until(4).await;
    for hit in &events[1..] {
        assert_eq!(hit["cache"], "hit");
        assert_eq!(
            (&hit["decision"], &hit["customer_status"]),
            (&json!("answer"), &json!("PASS"))
        );
        assert_eq!(
            (&hit["attempts"], &hit["credential"]),
            (&json!(0), &json!(null))
        );
    }
    let usage = told.usage().await;
    // The creation alone.
    assert_eq!(usage["charged"], 1, "{usage}");
    assert_eq!(usage["services"]["getStatus"]["calls"], 0, "{usage}");
    let page = told.world.operator("/metrics").await.text;
    let line = r#"dcams_gateway_cache_requests_total{tenant="demo",result="hit"} 3"#;
    assert!(page.contains(line), "{page}");
}

#[tokio::test]
async fn while_dcams_fails_what_was_is_told_and_labelled_unless_a_tenant_will_not() {
    let stale = "[cache]\npass_ttl = \"1ms\"\njitter = 0.0\nstale_if_error = \"1h\"\n";
    let told = Told::start(stale).await;
    told.create().await;
    assert_eq!(told.post(1, &submission(EMAIL, "r")).await.status, 200);
    told.sent();
    for kind in [
        FaultKind::Reset {},
        FaultKind::Status {
            status: 503,
            message: "x".into(),
            retry_after: None,
        },
        FaultKind::Html { status: 200 },
    ] {
        told.fault(kind, "getStatus");
        let answer = told.status().await;
        assert_eq!(
            (answer.status, header(&answer, "dcams-stale")),
            (200, "true"),
            "{}",
            answer.text
        );
        assert!(cache_status(&answer).starts_with("dcams-gateway; fwd=stale"));
        assert!(cache_status(&answer).ends_with("detail=stale-if-error"));
        // Who asks for what is new is not told what is old.
        told.fault(FaultKind::Reset {}, "getStatus");
        let fresh = told.status_with("cache-control", "no-cache").await;
        assert_eq!((fresh.status, header(&fresh, "dcams-stale")), (502, ""));
    }
    // A write takes it away for good.
    told.fault(FaultKind::Reset {}, "updateStatus");
    assert_eq!(told.post(0, &update(EMAIL, "FAIL")).await.status, 502);
    told.fault(FaultKind::Reset {}, "getStatus");
    assert_eq!(told.status().await.status, 502);
}

#[tokio::test]
async fn what_is_late_is_not_told_to_a_tenant_that_will_not_or_is_left_out() {
    let stale = "[cache]\npass_ttl = \"1ms\"\njitter = 0.0\nstale_if_error = \"1h\"\n";
    let with = |more: &str| format!("{stale}{OTHER_TENANT}{more}").replace("full", "minimal");
    let world = World::with(&with(""), &super::on(&[])).await;
    let login = Login::new(OTHER_USER, PASS);
    world.simulator.set_credentials(vec![login]);
    let token = world.token_of("other", &Operation::ALL, None);
    let tokens = [0; 4].map(|_| token.clone());
    let told = Told { world, tokens };
    told.create().await;
    for (more, status) in [
        ("", 200),
        ("cache = { stale = false }\n", 502),
        ("cache = { enabled = false }\n", 502),
    ] {
        if !more.is_empty() {
            told.world.change(&with(more)).await;
        }
        told.fault(FaultKind::Reset {}, "getStatus");
        assert_eq!(told.status().await.status, status, "{more}");
    }
}

#[tokio::test]
async fn a_client_that_wants_nothing_kept_or_nothing_else_has_its_way() {
    let late = "[cache]\npass_ttl = \"1ms\"\njitter = 0.0\nstale_while_revalidate = \"1h\"\n";
    let told = Told::start(late).await;
    told.create().await;
    let answer = told.status_with("cache-control", "only-if-cached").await;
    assert_eq!((answer.status, told.sent().len()), (504, 0));

    let told = Told::start(LONG).await;
    told.create().await;
    let request = told.world.client.post(told.world.url());
    let request = request.bearer_auth(&told.tokens[0]);
    let request = request.header("cache-control", "no-store");
    let written = request.json(&update(EMAIL, "FAIL")).send().await;
    assert_eq!(written.unwrap().status(), 200);
    told.sent();
    assert_eq!(told.status().await.json()["status"], "FAIL");
    assert_eq!(told.sent(), ["getStatus"]);
}

#[tokio::test]
async fn what_a_write_is_answered_is_not_kept_past_a_purge() {
    let told = Told::start(LONG).await;
    told.create().await;
    for body in [
        json!({"tenant": "demo"}),
        json!({"tenant": "demo", "email": EMAIL}),
    ] {
        told.fault(FaultKind::Delay { ms: 500 }, "updateStatus");
        let update = update(EMAIL, "FAIL");
        let (written, ()) = tokio::join!(told.post(0, &update), async {
            while told.world.simulator.requests().is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
            let url = format!("http://{}/api/cache/purge", told.world.admin);
            let purged = told.world.client.post(url).json(&body).send().await;
            assert_eq!(purged.unwrap().status(), 200);
        });
        assert_eq!(written.status, 200);
        told.sent();
        assert_eq!(told.status().await.status, 200);
        assert_eq!(told.sent(), ["getStatus"], "{body}");
    }
}

#[tokio::test]
async fn a_write_that_others_cannot_be_told_of_is_refused_where_that_is_wanted() {
    for (more, status, sent) in [("", 200, 1), ("untold_writes = \"refuse\"\n", 503, 0)] {
        let server = RedisServer::start();
        let toml = format!("{LONG}{more}{}", super::in_redis(&server.url()));
        let told = Told::start(&toml).await;
        told.create().await;
        server.signal("STOP");
        let answer = told.post(0, &update(EMAIL, "FAIL")).await;
        assert_eq!((answer.status, told.sent().len()), (status, sent));
        let last = told.world.audit.until(2).await.pop().unwrap();
        if status == 503 {
            assert_eq!(last["reason"], "write_untold");
        }
        server.signal("CONT");
    }
}

#[tokio::test]
async fn a_refusal_of_the_data_is_no_failure_and_is_told_as_it_is() {
    let stale = "[cache]\npass_ttl = \"1ms\"\njitter = 0.0\nstale_if_error = \"1h\"\n";
    let told = Told::start(stale).await;
    told.create().await;
    told.world.simulator.clear_customers();
    let gone = told.status().await;
    assert_eq!((gone.status, header(&gone, "dcams-stale")), (404, ""));
}

#[tokio::test]
async fn what_is_late_is_told_at_once_and_asked_for_behind_the_clients_back() {
    let late = "[cache]\npass_ttl = \"1ms\"\njitter = 0.0\nstale_while_revalidate = \"1h\"\n";
    let told = Told::start(late).await;
    told.create().await;
    let answer = told.status().await;
    assert_eq!(
        (answer.status, header(&answer, "dcams-stale")),
        (200, "true")
    );
    assert!(cache_status(&answer).ends_with("detail=stale-while-revalidate"));
    let acts = told
        .world
        .audit
        .until_acts("status_refreshed", |acts| !acts.is_empty())
        .await;
    assert_eq!(
        (&acts[0]["tenant"], &acts[0]["result"]),
        (&json!("demo"), &json!("ok"))
    );
    assert_eq!(
        acts[0]["customer"],
        told.world.audit.events()[0]["customer"]
    );
    assert_eq!(told.sent(), ["getStatus"]);
    // What it costs is the creation; the call is on the statement all the same.
    let usage = told.usage().await;
    assert_eq!(usage["charged"], 1, "{usage}");
    assert_eq!(usage["services"]["getStatus"]["calls"], 1, "{usage}");
    assert_ends_sound(&told.world).await;
}

#[tokio::test]
async fn a_pending_that_is_polled_is_asked_for_before_it_runs_out_and_costs_nothing() {
    let told = Told::start("[cache]\npending_ttl = \"400ms\"\njitter = 0.0\n").await;
    told.create().await;
    assert_eq!(told.post(0, &update(EMAIL, "PENDING")).await.status, 200);
    told.sent();
    let mut polls = interval(Duration::from_millis(20));
    let mut words = Vec::new();
    for _ in 0..100 {
        polls.tick().await;
        let answer = told.status().await;
        words.push(cache_status(&answer).to_owned());
    }
    let missed = words.iter().filter(|word| !word.contains("hit")).count();
    let acts = told.world.audit.acts("status_refreshed").len();
    assert!(acts >= 3, "{acts} refreshes");
    // A poller may be held up for long enough on a busy machine, but not mostly.
    assert!(missed < acts, "{missed} of {} missed", words.len());
    assert_eq!(told.sent().len(), acts + missed);
    assert_ends_sound(&told.world).await;
}
