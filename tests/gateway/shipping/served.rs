//! A gateway that serves, and its second place: everything gets there, its last word too, and operators see
//! when it does not.

use std::time::Duration;

use dcams_gateway::operation::Operation;
use tokio::time::{sleep, timeout};

use super::{
    receiver::{Reaction, Receiver, TAKEN},
    taken,
};
use crate::{
    program::Site,
    support::{answer, client, lookup},
};

#[tokio::test]
async fn all_of_a_gateways_events_arrive_the_last_too_and_an_outage_is_shown_and_stops_nothing() {
    let site = Site::prepare().await;
    let receiver = Receiver::start(|_| Reaction::Answer(503, "", "")).await;
    let toml = format!(
        "[audit.ship]\nkind = \"http\"\nwhat = \"events\"\nurl = \"{}\"\nbatch_wait = \"10ms\"\nretry_min = \"100ms\"\n",
        receiver.url()
    );
    let served = site.serve(&toml, &[]).await;
    receiver.until(|heard| !heard.is_empty()).await;
    let token = site.token(&[Operation::GetStatus]);
    let ask = client().post(served.url()).bearer_auth(token);
    let asked = ask
        .json(&lookup(Operation::GetStatus))
        .send()
        .await
        .unwrap();
    let id = asked.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(asked.status(), 404);
    let operators = |path: &str| {
        client()
            .get(format!("http://{}{path}", served.admin))
            .send()
    };
    let shown = async {
        loop {
            let ready = answer(operators("/readyz").await.unwrap()).await;
            assert_eq!(ready.status, 200);
            if ready.text.contains("its second place takes nothing since") {
                break ready.text;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let text = timeout(Duration::from_secs(30), shown).await.unwrap();
    assert!(text.contains("(server_error)"), "{text}");
    let metrics = answer(operators("/metrics").await.unwrap()).await.text;
    assert!(
        metrics.contains("dcams_gateway_audit_shipping 0"),
        "{metrics}"
    );
    receiver.react(|_| TAKEN);
    receiver
        .until(|heard| taken(heard).iter().any(|line| line.contains(&id)))
        .await;
    served.program.signal("TERM");
    let ended = served.program.end().await;
    assert!(ended.status.success(), "{}", ended.err);
    let lines = taken(&receiver.heard());
    let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert!(of(r#""phase":"intent""#) == 1 && of(r#""phase":"outcome""#) == 1);
    let [.., stopped, checkpoint] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(stopped.contains(r#""event":"stop""#), "{stopped}");
    assert!(
        checkpoint.contains(r#""event":"checkpoint""#),
        "{checkpoint}"
    );
}
