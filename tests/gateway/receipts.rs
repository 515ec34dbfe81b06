//! Receipts: what an answer says of its record, and that it can be checked later.

use std::path::Path;

use dcams_gateway::operation::Operation::{self, GetStatus};
use tokio_util::sync::CancellationToken;

use crate::{
    program::{Ended, Served, run},
    support::{
        Answer, PASS, USER, World, answer, client, load, lookup, mint, simulator, write_secrets,
    },
};

const WITH_RECEIPTS: &str = "[audit]\nnode = \"gw-1\"\nreceipt = true\ncheckpoint_every = \"1s\"\n";
const CHECKPOINT: &str = "\"event\":\"checkpoint\"";

fn receipt(answer: &Answer) -> Option<&str> {
    let header = answer.headers.get("audit-receipt");
    header.map(|receipt| receipt.to_str().unwrap())
}

fn id(answer: &Answer) -> &str {
    answer.headers["x-request-id"].to_str().unwrap()
}

/// Runs `audit` with the configuration in this folder.
async fn audit(folder: &Path, arguments: &[&str]) -> Ended {
    let paths = ["demo.toml", "more.toml"].map(|name| folder.join(name).display().to_string());
    let config = ["--config", &paths[0], &paths[1]];
    run(&[&["audit"], arguments, &config[..]].concat(), &[]).await
}

/// Waits for a checkpoint behind what is recorded of this request.
async fn covered(served: &mut Served, id: &str) {
    let text = served.program.out.says(id, 1).await;
    let before = text.split(id).next().unwrap();
    let checkpoints = before.matches(CHECKPOINT).count();
    served.program.out.says(CHECKPOINT, checkpoints + 1).await;
}

#[tokio::test]
async fn a_receipt_is_that_of_its_own_request_and_of_no_other() {
    let stop = CancellationToken::new();
    let login = dcams_gateway::simulator::Login::new(USER, PASS);
    let simulator = simulator(login, stop.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_secrets(folder);
    let mut served = Served::start(folder, &simulator.url(), WITH_RECEIPTS, &[]).await;
    let config = load(folder, &simulator.url(), &[]);
    let token = mint(&config, 0, &Operation::ALL, None);
    let post = |body: String| {
        let request = client().post(served.url()).bearer_auth(&token);
        let request = request.header("content-type", "application/json");
        async move { answer(request.body(body).send().await.unwrap()).await }
    };
    let found = post(lookup(GetStatus).to_string()).await;
    let refused = post("{".to_owned()).await;
    assert_eq!((found.status, refused.status), (404, 400));
    covered(&mut served, id(&refused)).await;

    let public = audit(folder, &["public-key"]).await;
    assert!(public.status.success(), "{}", public.err);
    let proof = folder.join("proof.json").display().to_string();
    for (asked, other) in [(&found, &refused), (&refused, &found)] {
        let own = receipt(asked).unwrap();
        assert!(own.starts_with("node=\"gw-1\", seq="), "{own}");
        let proved = audit(
            folder,
            &["prove", "--request-id", id(asked), "--out", &proof],
        )
        .await;
        assert!(proved.status.success(), "{}", proved.err);
        let check = async |receipt: &str| {
            let key = ["--public-key", public.out.trim(), "--receipt", receipt];
            run(&[&["audit", "check-proof", &proof], &key[..]].concat(), &[]).await
        };
        let ended = check(own).await;
        assert!(ended.status.success(), "{}", ended.err);
        assert!(ended.out.contains(id(asked)), "{}", ended.out);
        let ended = check(receipt(other).unwrap()).await;
        assert_eq!(ended.status.code(), Some(1), "{}", ended.out);
        assert!(ended.err.contains("another event"), "{}", ended.err);
        let ended = check("a receipt").await;
        assert_eq!(ended.status.code(), Some(2), "{}", ended.out);
        assert!(ended.err.contains("Audit-Receipt"), "{}", ended.err);
    }
    stop.cancel();
}

#[tokio::test]
async fn there_is_a_receipt_where_an_outcome_is_on_disk_and_nowhere_else() {
    for (toml, receipts) in [(WITH_RECEIPTS, true), ("", false)] {
        let world = World::with(toml, &[]).await;
        let token = world.full_token();
        let usage = format!("http://{}/v1/usage", world.gateway);
        let usage = world.client.get(usage).bearer_auth(&token);
        let usage = answer(usage.send().await.unwrap()).await;
        for (answer, status) in [
            (usage, 200),
            (world.post(&token, &lookup(GetStatus)).await, 404),
            (world.post_text(&token, "{").await, 400),
            (world.post(&world.token(&[]), &lookup(GetStatus)).await, 403),
        ] {
            assert_eq!(answer.status, status, "{}", answer.text);
            assert_eq!(receipt(&answer).is_some(), receipts, "{answer:?}");
        }
        let elsewhere = world.client.get(world.url()).send().await.unwrap();
        for (answer, status) in [
            (world.post("not-a-token", &lookup(GetStatus)).await, 401),
            (answer(elsewhere).await, 405),
        ] {
            assert_eq!(answer.status, status, "{}", answer.text);
            assert_eq!(receipt(&answer), None);
        }
    }
}
