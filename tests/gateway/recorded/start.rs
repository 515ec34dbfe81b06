//! What a start says of its chain: which it is, how far, and whether one that was there is gone.

use std::fs;

use dcams_gateway::{
    operation::Operation,
    simulator::fault::{Fault, FaultKind},
};

use crate::{
    program::{Site, run},
    support::{client, lookup},
};

#[tokio::test]
async fn a_start_says_which_chain_it_is_and_warns_where_one_is_gone() {
    let site = Site::prepare().await;
    let folder = site.folder.path();
    let gone = "used for one before";
    let served = site.serve("", &[]).await;
    let first = served.program.err.text();
    assert!(
        first.contains("an audit chain is begun") && !first.contains(gone),
        "{first}"
    );
    // It is killed with a request under way.
    let delay = Fault::once(FaultKind::Delay { ms: 60_000 });
    site.simulator.add_fault(delay).unwrap();
    let ask = client().post(served.url());
    let ask = ask.bearer_auth(site.token(&[Operation::GetStatus]));
    let asked = tokio::spawn(ask.json(&lookup(Operation::GetStatus)).send());
    site.simulator.arrived(1).await;
    served.program.signal("KILL");
    served.program.end().await;
    asked.await.unwrap().unwrap_err();
    let served = site.serve("", &[]).await;
    let second = served.program.err.text();
    let line = second
        .lines()
        .find(|line| line.contains("an audit chain is gone on with"));
    let line = line.unwrap_or_else(|| panic!("{second}"));
    let paths = ["demo.toml", "more.toml"].map(|name| folder.join(name).display().to_string());
    let key = run(
        &["audit", "public-key", "--config", &paths[0], &paths[1]],
        &[],
    )
    .await;
    assert!(line.contains(key.out.trim()), "{line} {key:?}");
    assert!(
        line.contains("audit.file=2") && line.contains("audit.interrupted=1"),
        "{line}"
    );
    served.program.signal("TERM");
    served.program.end().await;
    for file in fs::read_dir(folder.join("audit")).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("audit-") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    let served = site.serve("", &[]).await;
    let third = served.program.err.text();
    assert!(third.contains("an audit chain is begun"), "{third}");
    let warning = third.lines().find(|line| line.contains(gone));
    assert!(warning.is_some_and(|line| line.contains("WARN")), "{third}");
}
