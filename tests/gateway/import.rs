//! `customers import`: customers from before the gateway become a tenant's own.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use dcams_gateway::simulator::{Login, SimulatorHandle};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    ownership::{tokens, toml},
    program::{Ended, Program, Served, command, run},
    support::{OTHER_USER, PASS, USER, answer, client, customer, simulator, write_secrets},
};

/// A folder with the configuration of two tenants on one account.
struct Place {
    folder: TempDir,
    simulator: SimulatorHandle,
    _stop: tokio_util::sync::DropGuard,
}

impl Place {
    async fn new() -> Self {
        let stop = CancellationToken::new();
        let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
        simulator.set_credentials([USER, OTHER_USER].map(|user| Login::new(user, PASS)).into());
        let folder = tempfile::tempdir().unwrap();
        write_secrets(folder.path());
        fs::write(folder.path().join("more.toml"), toml("", "")).unwrap();
        Self {
            folder,
            simulator,
            _stop: stop.drop_guard(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs the import of this text for a tenant.
    async fn import(&self, tenant: &str, csv: &str, more: &[&str], admin: Option<&str>) -> Ended {
        let file = self.path("customers.csv");
        fs::write(&file, csv).unwrap();
        let (demo, toml) = (self.path("demo.toml"), self.path("more.toml"));
        let fixed = [
            "customers",
            "import",
            "--config",
            &demo,
            &toml,
            "--tenant",
            tenant,
            &file,
        ];
        let variables: Vec<_> = admin
            .map(|address| ("DCAMS_GATEWAY__ADMIN__LISTEN", address))
            .into_iter()
            .collect();
        run(&[&fixed, more].concat(), &variables).await
    }

    async fn serve(&self) -> Served {
        let text = fs::read_to_string(self.path("more.toml")).unwrap();
        Served::start(self.folder.path(), &self.simulator.url(), &text, &[]).await
    }
}

async fn status(served: &Served, token: &str, email: &str) -> u16 {
    let body = json!({"service": "getStatus", "target": {"email": email}});
    post(served, token, &body).await.0
}

async fn post(served: &Served, token: &str, body: &Value) -> (u16, Value) {
    let request = client().post(served.url()).bearer_auth(token).json(body);
    let answer = answer(request.send().await.unwrap()).await;
    (answer.status, answer.json())
}

/// A customer that DCAMS knows and no gateway ever saw.
async fn older_customer(place: &Place, email: &str) {
    let mut body = customer();
    body["user"] = json!(OTHER_USER);
    body["pass"] = json!(PASS);
    body["target"]["email"] = json!(email);
    let request = client().post(place.simulator.url()).json(&body);
    assert_eq!(answer(request.send().await.unwrap()).await.status, 200);
}

const CSV: &str = "\u{feff}id,Email,name\n\
    1,ann@example.com,Ann\n\
    2,\"Bob@Example.com\",\"B, ob\"\n\
    3,not-an-address,X\n\
    4,ann@example.com,Ann again\n\
    5\n\
    6, cid@example.com ,Cid\n";

#[tokio::test]
async fn imported_customers_are_the_tenants_own() {
    let place = Place::new().await;
    older_customer(&place, "ann@example.com").await;
    let ended = place.import("one", CSV, &[], None).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    assert_eq!(
        ended.out,
        "imported: 3, already this tenant's: 1, not imported: 2\n"
    );
    let lines: Vec<&str> = ended.err.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "line 4: not an email address",
            "line 6: not an email address"
        ]
    );
    assert!(
        lines[2].starts_with("lines that were not imported: 2;"),
        "{}",
        ended.err
    );
    assert!(!ended.err.contains("not-an-address") && !ended.err.contains("example.com"));
    // Another tenant does not get them, and the same one may repeat it.
    let ended = place
        .import(
            "two",
            "email\nBOB@example.com\ndan@example.com\n",
            &[],
            None,
        )
        .await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.err.starts_with("line 2: another tenant's customer\n"),
        "{}",
        ended.err
    );
    assert!(ended.out.starts_with("imported: 1,"), "{}", ended.out);
    let ended = place
        .import("one", "ann@example.com\nbob@example.com\n", &[], None)
        .await;
    assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
    assert_eq!(
        ended.out,
        "imported: 0, already this tenant's: 2, not imported: 0\n"
    );

    let served = place.serve().await;
    let (one, two) = tokens(place.folder.path(), &place.simulator.url());
    assert_eq!(status(&served, &one, "ann@example.com").await, 200);
    assert_eq!(status(&served, &two, "ann@example.com").await, 404);
}

#[tokio::test]
async fn while_a_gateway_runs_it_is_asked_instead_and_knows_at_once() {
    let place = Place::new().await;
    older_customer(&place, "ann@example.com").await;
    let served = place.serve().await;
    let (one, _) = tokens(place.folder.path(), &place.simulator.url());
    assert_eq!(status(&served, &one, "ann@example.com").await, 404);
    let admin = served.admin.to_string();
    let ended = place.import("one", CSV, &[], Some(&admin)).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    assert_eq!(
        ended.out,
        "imported: 3, already this tenant's: 1, not imported: 2\n"
    );
    assert_eq!(status(&served, &one, "ann@example.com").await, 200);
    assert!(!served.program.err.text().contains("example.com"));
    // With nobody at the admin address it stops, and says where.
    let ended = place.import("two", CSV, &[], Some("127.0.0.1:1")).await;
    assert_eq!(ended.status.code(), Some(1));
    let last = ended.err.lines().last().unwrap();
    assert!(
        last.contains("--from-line 2") && last.contains("admin.listen"),
        "{last}"
    );
}

#[tokio::test]
async fn the_admin_listener_takes_a_thousand_at_a_time_and_answers_each_in_order() {
    let place = Place::new().await;
    let served = place.serve().await;
    let url = format!("http://{}/api/customers/import", served.admin);
    let import = async |tenant: &str, emails: &[String]| {
        let body = json!({"tenant": tenant, "emails": emails});
        answer(client().post(&url).json(&body).send().await.unwrap()).await
    };
    let mut emails: Vec<String> = (0..1000).map(|n| format!("c{n}@example.com")).collect();
    emails[7] = "not an address".to_owned();
    let first = import("one", &emails).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let results = first.json()["results"].clone();
    assert_eq!(results.as_array().unwrap().len(), 1000);
    assert_eq!(
        (&results[6], &results[7], &results[999]),
        (&json!("imported"), &json!("invalid"), &json!("imported"))
    );
    assert_eq!(
        import("one", &emails[..1]).await.json()["results"],
        json!(["already_owned"])
    );
    assert_eq!(
        import("two", &emails[..1]).await.json()["results"],
        json!(["taken"])
    );
    emails.push("one.more@example.com".to_owned());
    for (tenant, emails) in [
        ("one", &emails[..]),
        ("demo", &emails[..1]),
        ("nobody", &emails[..1]),
    ] {
        let refused = import(tenant, emails).await;
        assert_eq!(refused.status, 400, "{tenant}: {}", refused.text);
        assert!(!refused.text.contains("example.com"), "{}", refused.text);
    }
    let read = client().get(&url).send().await.unwrap();
    assert_eq!(
        (read.status().as_u16(), &read.headers()["allow"]),
        (405, &"POST".parse().unwrap())
    );
}

#[tokio::test]
async fn a_large_import_goes_on_from_the_line_that_it_is_told() {
    let place = Place::new().await;
    let mut csv = "email\n".to_owned();
    for n in 0..2500 {
        writeln!(csv, "customer-{n}@example.com").unwrap();
    }
    let ended = place
        .import("one", &csv, &["--from-line", "1502"], None)
        .await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    assert!(ended.out.starts_with("imported: 1000,"), "{}", ended.out);
    let ended = place.import("one", &csv, &[], None).await;
    assert_eq!(
        ended.out,
        "imported: 1500, already this tenant's: 1000, not imported: 0\n"
    );
}

#[tokio::test]
async fn an_import_that_is_stopped_says_where_to_go_on_and_has_done_what_came_before() {
    let place = Place::new().await;
    // A file that has no end until the reader is gone.
    let pipe = place.path("pipe.csv");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let (demo, toml) = (place.path("demo.toml"), place.path("more.toml"));
    let arguments = [
        "customers",
        "import",
        "--config",
        &demo,
        &toml,
        "--tenant",
        "one",
        &pipe,
    ];
    let program = Program::start(&mut command(&arguments, &[]));
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let writer = thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(pipe).unwrap();
        let email = |n: u64| format!("customer-{n}@example.com\n");
        while pipe
            .write_all(email(count.load(Relaxed)).as_bytes())
            .is_ok()
        {
            count.fetch_add(1, Relaxed);
        }
    });
    while written.load(Relaxed) < 5_000 {
        tokio::task::yield_now().await;
    }
    program.signal("INT");
    let ended = program.end().await;
    writer.join().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    let last = ended.err.lines().last().unwrap();
    let line: u64 = last.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(
        last,
        format!("stopped at line {line} (by a signal); go on with --from-line {line}")
    );
    let done = format!("imported: {}, already this tenant's: 0,", line - 1);
    assert!(line > 1000 && ended.out.starts_with(&done), "{}", ended.out);
    // The same again finds them there, and the rest follows from that line on.
    let mut csv = String::new();
    for n in 0..line + 9 {
        writeln!(csv, "customer-{n}@example.com").unwrap();
    }
    let from = line.to_string();
    let ended = place
        .import("one", &csv, &["--from-line", &from], None)
        .await;
    assert!(ended.out.starts_with("imported: 10,"), "{}", ended.out);
}

#[tokio::test]
async fn an_import_that_cannot_be_meant_is_wrong_usage() {
    let place = Place::new().await;
    for (tenant, csv, why) in [
        ("nobody", "a@example.com\n", "known: demo, one, two"),
        ("demo", "a@example.com\n", "isolation = \"ledger\""),
        ("one", "a@example.com,Ann\n", "no column `email`"),
    ] {
        let ended = place.import(tenant, csv, &[], None).await;
        assert_eq!(
            (ended.status.code(), ended.out.as_str()),
            (Some(2), ""),
            "{}",
            ended.err
        );
        assert!(ended.err.contains(why), "{}", ended.err);
        assert!(!ended.err.contains("example.com"), "{}", ended.err);
    }
    let empty = place.import("one", "", &[], None).await;
    assert_eq!(empty.status.code(), Some(0), "{}", empty.err);
    assert!(Path::new(&place.path("state/state.redb")).exists());
}
