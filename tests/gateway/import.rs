//! `customers import|remove|owner`: customers from before the gateway become a tenant's own, or cease
//! to be; and whose one is.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use dcams_gateway::simulator::{
    Login, SimulatorHandle,
    fault::{Fault, FaultKind},
};
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
    async fn import(
        &self,
        tenant: &str,
        csv: impl AsRef<[u8]>,
        more: &[&str],
        admin: Option<&str>,
    ) -> Ended {
        self.apply("import", tenant, csv, more, admin).await
    }

    /// Runs the import of this text for a tenant, or its removal.
    async fn apply(
        &self,
        action: &str,
        tenant: &str,
        csv: impl AsRef<[u8]>,
        more: &[&str],
        admin: Option<&str>,
    ) -> Ended {
        let file = self.path("customers.csv");
        fs::write(&file, csv).unwrap();
        let fixed = [action, "--tenant", tenant, &file];
        self.customers(&[&fixed, more].concat(), admin).await
    }

    /// Asks whose customer somebody is.
    async fn owner(&self, email: &str, admin: Option<&str>) -> String {
        let arguments = ["owner", "--account", "shared", "--email", email];
        let ended = self.customers(&arguments, admin).await;
        assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
        ended.out
    }

    async fn customers(&self, arguments: &[&str], admin: Option<&str>) -> Ended {
        let (demo, toml) = (self.path("demo.toml"), self.path("more.toml"));
        let fixed = ["customers", arguments[0], "--config", &demo, &toml];
        // Nothing listens there where no gateway is meant to be asked.
        let address = admin.unwrap_or("127.0.0.1:1");
        let variables = [("DCAMS_GATEWAY__ADMIN__LISTEN", address)];
        let mut ended = run(&[&fixed, &arguments[1..]].concat(), &variables).await;
        // Which state it worked on then; `revocation.rs` looks at that.
        if admin.is_none() && ended.err.starts_with("note: no gateway answers at ") {
            ended.err = ended.err.split_once('\n').unwrap().1.to_owned();
        }
        ended
    }

    /// Begins the import of a file that another thread writes while it is read.
    fn import_pipe(&self, write: impl FnOnce(File) + Send + 'static) -> (Program, JoinHandle<()>) {
        let pipe = self.path("pipe.csv");
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let (demo, toml) = (self.path("demo.toml"), self.path("more.toml"));
        let config = ["customers", "import", "--config", &demo, &toml];
        let arguments = [&config[..], &["--tenant", "one", &pipe]].concat();
        let nobody = [("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:1")];
        let program = Program::start(&mut command(&arguments, &nobody));
        let open = move || fs::OpenOptions::new().write(true).open(pipe).unwrap();
        (program, thread::spawn(move || write(open())))
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
    assert!(last.contains("set admin.listen"), "{last}");
    // It names no line as left out that nobody has looked at.
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    assert_eq!(ended.out, "");
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
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let (program, writer) = place.import_pipe(move |mut pipe| {
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
    let csv = "email\na@example.com\n";
    let ended = place.import("one", csv, &["--from-line", "0"], None).await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.err);
    for (account, email) in [("main", "a@example.com"), ("shared", "example.com")] {
        let arguments = ["owner", "--account", account, "--email", email];
        let ended = place.customers(&arguments, None).await;
        assert_eq!(ended.status.code(), Some(2), "{}", ended.err);
        assert!(!ended.err.contains("example.com"), "{}", ended.err);
    }
}

#[tokio::test]
async fn a_line_is_named_by_the_number_that_an_editor_shows() {
    let place = Place::new().await;
    for (csv, more, numbers) in [
        ("email\na@x.org\nbad\nb@x.org\nbad", &[][..], &[3, 5][..]),
        (
            "email\r\na@x.org\r\nbad\r\nb@x.org\r\nbad\r\nc@x.org\r\nbad\r\n",
            &[],
            &[3, 5, 7],
        ),
        (
            "email\r\na@x.org\r\nbad\r\nb@x.org\r\nbad\r\n",
            &["--from-line", "4"],
            &[5],
        ),
        ("\n\nemail\n\n\nbad6\n   \nbad8\n", &[], &[6, 8]),
        ("email\n\n\nbad4\n", &["--from-line", "4"], &[4]),
        ("email\rbad2\r\rbad4\r", &[], &[2, 4]),
        ("\u{feff}a@x.org\r\nbad\r\n", &[], &[2]),
        (
            "n,email\n\"a\n\nb\",bad2\n1,bad5\n\"\r\n\",\"bad\"\r\n1,bad8",
            &[],
            &[2, 5, 6, 8],
        ),
        (
            "n,email\n\"a\n\nb\",bad2\n1,bad5\n",
            &["--from-line", "3"],
            &[5],
        ),
    ] {
        let ended = place.import("one", csv, more, None).await;
        let mut named: Vec<&str> = ended.err.lines().collect();
        named.pop();
        let expected = numbers
            .iter()
            .map(|n| format!("line {n}: not an email address"));
        assert_eq!(
            named,
            expected.collect::<Vec<_>>(),
            "{csv:?}: {}",
            ended.err
        );
    }
}

#[tokio::test]
async fn a_file_that_is_not_such_a_csv_is_refused_at_once_and_nothing_is_imported() {
    let place = Place::new().await;
    let utf16: Vec<u8> = "\u{feff}email\r\na@x.org\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let long = format!("email\n{}\n", "a".repeat(70_000));
    let wide = format!("email{}\n", ",x".repeat(2000));
    for (csv, more, why) in [
        (&b""[..], &[][..], "the file is empty"),
        (b"\xEF\xBB\xBF\r\n \r\n", &[], "the file is empty"),
        (
            b"email\r\n\r\n",
            &[],
            "no customer stands in it from line 1 on",
        ),
        (
            b"email\na@x.org\n",
            &["--from-line", "3"],
            "from line 3 on; its last line is 2",
        ),
        (b"id;email\n1;a@x.org\n", &[], "semicolons"),
        (b"1;a@x.org\n2;b@x.org\n", &[], "semicolons"),
        (b"id;email;a,b\n1;a@x.org\n", &[], "semicolons"),
        (b"id\temail\n1\ta@x.org\n", &[], "tabs"),
        (&utf16, &[], "UTF-16"),
        (&utf16[2..], &[], "UTF-16"),
        (b"a@x.org,Ann\n", &[], "no column `email`"),
        (b"mail\na@x.org\n", &[], "neither a header"),
        (
            b"email,id,Email\na@x.org,1,b@x.org\n",
            &[],
            "more than once",
        ),
        (long.as_bytes(), &[], "line 2 is longer than 64 KiB"),
        (wide.as_bytes(), &[], "line 1 is longer than 64 KiB"),
        (
            b"\"email\na@x.org\n",
            &[],
            "the quote that opens in line 1 is not closed",
        ),
    ] {
        let ended = place.import("one", csv, more, None).await;
        let case = String::from_utf8_lossy(csv.get(..40).unwrap_or(csv));
        assert_eq!(ended.status.code(), Some(1), "{case:?}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{case:?}: {}", ended.err);
        assert!(ended.err.contains(why), "{case:?}: {}", ended.err);
        assert!(!ended.err.contains("x.org"), "{case:?}: {}", ended.err);
    }
    assert!(place.owner("a@x.org", None).await.contains("does not know"));
}

#[tokio::test]
async fn a_quote_that_is_left_open_stops_at_its_line_and_what_came_before_is_imported() {
    let place = Place::new().await;
    let csv = "n,email\n1,a@x.org\nx,bad\n\"two\nlines\",b@x.org\n\"x\ny\",\"c@x.org\n4,d@x.org\n";
    let ended = place.import("one", csv, &[], None).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    assert!(ended.out.starts_with("imported: 2, "), "{}", ended.out);
    assert_eq!(
        ended.err,
        "line 3: not an email address\nstopped at line 6 (the quote that opens in line 7 is not \
         closed; mend it); go on with --from-line 6\n"
    );
    // Also where the file has no end, and nothing but the reader's own bound stops it.
    let (program, writer) = place.import_pipe(|mut pipe| {
        pipe.write_all(b"email\na@x.org\n\"b@x.org\n").unwrap();
        while pipe.write_all(b"c@x.org\n").is_ok() {}
    });
    let ended = program.end().await;
    writer.join().unwrap();
    assert!(
        ended
            .out
            .starts_with("imported: 0, already this tenant's: 1, "),
        "{}",
        ended.out
    );
    assert!(
        ended.err.contains("opens in line 3 is not closed"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn what_was_left_out_is_named_in_the_order_of_the_file() {
    let place = Place::new().await;
    place.import("two", "b@x.org\nd@x.org\n", &[], None).await;
    let csv = "email\nbad\nb@x.org\nbad\nc@x.org\nd@x.org\nbad\n";
    let ended = place.import("one", csv, &[], None).await;
    let numbers: Vec<&str> = ended.err.lines().map(|line| &line[..6]).collect();
    assert_eq!(
        numbers,
        ["line 2", "line 3", "line 4", "line 6", "line 7", "lines "]
    );
}

#[tokio::test]
async fn one_signal_that_comes_twice_stops_once_and_says_where_to_go_on() {
    let place = Place::new().await;
    let (go_on, ended) = mpsc::channel::<()>();
    let (half, written) = mpsc::channel();
    let (program, writer) = place.import_pipe(move |mut pipe| {
        // More than fits into a pipe and a buffer: when it is written, batches are under way.
        for n in 0..10_500 {
            writeln!(pipe, "customer-{n}@example.com").unwrap();
        }
        half.send(()).unwrap();
        ended.recv().ok();
    });
    written.recv().unwrap();
    program.signal("INT");
    program.signal("INT");
    drop(go_on);
    let ended = program.end().await;
    writer.join().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    assert!(
        ended.out.starts_with("imported: "),
        "{} {}",
        ended.out,
        ended.err
    );
    assert!(
        ended.err.contains("go on with --from-line"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn what_went_to_the_wrong_tenant_is_taken_out_again() {
    let place = Place::new().await;
    older_customer(&place, "ann@example.com").await;
    let ended = place.import("two", CSV, &[], None).await;
    assert!(ended.out.starts_with("imported: 3,"), "{}", ended.out);
    place.import("one", "dan@example.com\n", &[], None).await;
    assert_eq!(
        place.owner("BOB@example.com", None).await,
        "tenant two owns this customer\n"
    );
    let csv = "email\nann@example.com\ndan@example.com\nbad\n";
    let ended = place.apply("remove", "two", csv, &[], None).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    assert_eq!(ended.out, "removed: 1, not removed: 2\n");
    assert!(
        ended
            .err
            .starts_with("line 3: not this tenant's customer\nline 4: not an email address\n"),
        "{}",
        ended.err
    );
    // The same while a gateway runs, which then knows at once.
    let served = place.serve().await;
    let admin = served.admin.to_string();
    let (one, two) = tokens(place.folder.path(), &place.simulator.url());
    let csv = "cid@example.com\nbob@example.com\nann@example.com\n";
    let ended = place
        .apply("remove", "two", csv, &["--from-line", "2"], Some(&admin))
        .await;
    assert_eq!(ended.out, "removed: 1, not removed: 1\n", "{}", ended.err);
    let ended = place
        .import("one", "ann@example.com\n", &[], Some(&admin))
        .await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    let ann = "ann@example.com";
    assert_eq!(
        (
            status(&served, &one, ann).await,
            status(&served, &two, ann).await
        ),
        (200, 404)
    );
    for (email, words) in [
        ("cid@example.com", "tenant two owns this customer\n"),
        ("dan@example.com", "tenant one owns this customer\n"),
        (
            "bob@example.com",
            "the ledger does not know this customer\n",
        ),
    ] {
        assert_eq!(place.owner(email, Some(&admin)).await, words);
    }
    let log = served.program.err.text();
    let line = log.lines().find(|line| line.contains("customers removed"));
    let line = line.unwrap_or_else(|| panic!("no such line in {log}"));
    for part in ["INFO", "tenant.id", "two", "removed=1", "asked=2"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!log.contains("example.com"), "{log}");
    let ended = place
        .apply("remove", "one", "dan@example.com\n", &[], Some(&admin))
        .await;
    assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_customer_that_is_taken_out_while_it_is_created_is_owned_if_it_comes_to_be() {
    let place = Place::new().await;
    let served = place.serve().await;
    let admin = served.admin.to_string();
    let (one, _) = tokens(place.folder.path(), &place.simulator.url());
    let remove = async |email: &str| {
        let ended = place.apply("remove", "one", email, &[], Some(&admin)).await;
        assert_eq!(ended.out, "removed: 1, not removed: 0\n", "{}", ended.err);
        assert!(
            place
                .owner(email, Some(&admin))
                .await
                .contains("does not know")
        );
        place.simulator.clear_faults();
    };
    let mut arrived = 0;
    for (held_in, email, asked, words, expected) in [
        // Sent already: it is there afterwards, so it is owned again.
        (
            "createOrUpdateCustomer",
            "a@example.com",
            2,
            "after it was sent",
            (200, "owns"),
        ),
        // Not sent yet: it may not go on.
        (
            "getStatus",
            "b@example.com",
            1,
            "before it was sent",
            (409, "does not know"),
        ),
    ] {
        let hold = Fault::once(FaultKind::Delay { ms: 60_000 }).for_service(held_in);
        place.simulator.add_fault(hold).unwrap();
        let mut body = customer();
        body["target"]["email"] = json!(email);
        let creation = post(&served, &one, &body);
        arrived += asked;
        let removal = async {
            place.simulator.arrived(arrived).await;
            assert!(place.owner(email, Some(&admin)).await.contains(words));
            remove(email).await;
        };
        let (created, ()) = tokio::join!(creation, removal);
        let (status, owner) = expected;
        assert_eq!(created.0, status, "{}", created.1);
        assert!(place.owner(email, Some(&admin)).await.contains(owner));
    }
    assert_eq!(place.simulator.customers(), 1);
}

#[tokio::test]
async fn what_a_crash_left_held_can_be_taken_out() {
    let place = Place::new().await;
    let (one, two) = tokens(place.folder.path(), &place.simulator.url());
    let email = "a@example.com";
    let mut body = customer();
    body["target"]["email"] = json!(email);
    for (held_in, asked, words) in [
        ("getStatus", 1, "before it was sent"),
        ("createOrUpdateCustomer", 3, "after it was sent"),
    ] {
        let hang = Fault::once(FaultKind::Hang {}).for_service(held_in);
        place.simulator.add_fault(hang.with_work(false)).unwrap();
        let served = place.serve().await;
        let request = client().post(served.url()).bearer_auth(&one).json(&body);
        let crash = async {
            place.simulator.arrived(asked).await;
            served.program.signal("KILL");
        };
        assert!(tokio::join!(request.send(), crash).0.is_err());
        served.program.end().await;
        assert!(place.owner(email, None).await.contains(words));
        let ended = place.apply("remove", "two", email, &[], None).await;
        assert_eq!(ended.out, "removed: 0, not removed: 1\n");
        let ended = place.apply("remove", "one", email, &[], None).await;
        assert_eq!(ended.out, "removed: 1, not removed: 0\n");
    }
    let served = place.serve().await;
    assert_eq!(post(&served, &two, &body).await.0, 200);
}

#[tokio::test]
async fn the_admin_listener_removes_and_names_owners_and_repeats_no_address() {
    let place = Place::new().await;
    let served = place.serve().await;
    let call = async |what: &str, body: Value| {
        let url = format!("http://{}/api/customers/{what}", served.admin);
        answer(client().post(&url).json(&body).send().await.unwrap()).await
    };
    let emails = ["a@x.org", "bad", "b@x.org"];
    call("import", json!({"tenant": "one", "emails": emails[..1]})).await;
    let owner = async |account: &str, email: &str| {
        call("owner", json!({"account": account, "email": email})).await
    };
    let known = owner("shared", " A@x.org ").await;
    assert_eq!(known.json(), json!({"tenant": "one", "phase": "owned"}));
    let removed = call("remove", json!({"tenant": "one", "emails": emails})).await;
    assert_eq!(
        removed.json()["results"],
        json!(["removed", "invalid", "not_owned"])
    );
    let unknown = owner("shared", "a@x.org").await;
    assert_eq!(unknown.json(), json!({"tenant": null, "phase": null}));
    for (account, email) in [
        ("main", "a@x.org"),
        ("nobody", "a@x.org"),
        ("shared", "x.org"),
    ] {
        let refused = owner(account, email).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(!refused.text.contains("x.org"), "{}", refused.text);
    }
    let other = call("rename", json!({})).await;
    assert_eq!(other.status, 404);
    assert!(!served.program.err.text().contains("x.org"));
}
