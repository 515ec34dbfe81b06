//! `demo --once`: one request to each service, and a look at what the simulator received.

use std::{fs, time::Duration};

use reqwest::{Client, header::CACHE_CONTROL};
use serde_json::{Value, json};

use super::{
    Demo,
    stage::{Stage, Token},
};
use crate::{
    cli::{CommandError, say},
    operation::Operation,
    simulator::record::{Credentials, Record},
};

pub(super) async fn run(demo: &Demo, stage: &Stage, tokens: &[Token]) -> Result<(), CommandError> {
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .map_err(|error| CommandError::Tour(format!("cannot make an HTTP client: {error}")))?;
    for token in tokens {
        let mut body = read(stage, token.operation)?;
        if token.operation == Operation::CreateOrUpdateCustomer {
            with_old_credentials(&mut body);
        }
        visit(demo, &client, token, &body).await?;
    }
    received(demo, tokens.len())
}

/// Adds what public web pages send, and this gateway is there to end.
fn with_old_credentials(body: &mut Value) {
    if let Some(members) = body.as_object_mut() {
        members.insert("user".to_owned(), json!("a-user-from-a-web-page"));
        members.insert("pass".to_owned(), json!("a-password-from-a-web-page"));
    }
}

/// Sends one request and prints both sides; a wrong answer ends the tour.
async fn visit(
    demo: &Demo,
    client: &Client,
    token: &Token,
    body: &Value,
) -> Result<(), CommandError> {
    let operation = token.operation;
    let failed = |why: String| CommandError::Tour(format!("{operation}: {why}"));
    say(&format!("--> {operation}\n{}", shortened(body)))?;
    let response = client
        .post(format!("http://{}/v3/stable/api/storage", demo.gateway))
        .bearer_auth(&token.text)
        // A status is kept since the creation, and DCAMS is to be seen.
        .header(CACHE_CONTROL, "no-cache")
        .json(body)
        .send()
        .await
        .map_err(|error| failed(format!("no answer: {error}")))?;
    let status = response.status();
    let answer: Value = response
        .json()
        .await
        .map_err(|error| failed(format!("the answer is not JSON: {error}")))?;
    say(&format!("<-- {status}\n{}\n", shortened(&answer)))?;
    match unexpected(operation, status.as_u16(), &answer) {
        None => Ok(()),
        Some(what) => Err(failed(format!("expected {what}"))),
    }
}

/// What an answer should have been, where it is something else.
fn unexpected(operation: Operation, status: u16, answer: &Value) -> Option<&'static str> {
    let at = |pointer| answer.pointer(pointer).and_then(Value::as_str);
    if status != 200 || at("/result") != Some("Success") {
        return Some("200 with result Success");
    }
    if answer.to_string().contains("Sample Street") {
        return Some("no personal data");
    }
    let (as_it_should_be, what) = match operation {
        Operation::CreateOrUpdateCustomer => {
            (at("/type") == Some("createCustomer"), "type createCustomer")
        }
        Operation::GetDocumentImages => {
            (at("/target/documents/front").is_some(), "the front image")
        }
        Operation::GetStatus => (at("/status") == Some("PASS"), "status PASS"),
        Operation::UpdateStatus => (at("/status") == Some("PENDING"), "status PENDING"),
    };
    (!as_it_should_be).then_some(what)
}

/// Prints what reached DCAMS, and checks that it was one credential a request, ours.
fn received(demo: &Demo, expected: usize) -> Result<(), CommandError> {
    let records = demo.simulator.requests();
    say("What DCAMS received (the client's user and pass were dropped):")?;
    for record in &records {
        say(&format!(
            "  {:22} {:>9} bytes, {} user, {} pass, {}",
            record.service.as_deref().unwrap_or("?"),
            record.body_bytes,
            record.user_members,
            record.pass_members,
            if is_ours(record) {
                "ours alone"
            } else {
                "NOT ours"
            },
        ))?;
    }
    let ours = records
        .iter()
        .filter(|r| r.user_members == 1 && r.pass_members == 1 && is_ours(r))
        .count();
    if ours == expected && records.len() == expected {
        return Ok(());
    }
    Err(CommandError::Tour(format!(
        "expected {expected} requests with our credential alone, {ours} of {} were",
        records.len()
    )))
}

fn is_ours(record: &Record) -> bool {
    record.credentials == Credentials::Accepted
}

fn read(stage: &Stage, operation: Operation) -> Result<Value, CommandError> {
    let path = stage.body_file(operation);
    let text =
        fs::read(&path).map_err(CommandError::io(format!("cannot read {}", path.display())))?;
    serde_json::from_slice(&text)
        .map_err(|_| CommandError::Tour(format!("{} is not JSON", path.display())))
}

/// A document for a person to read: long strings by their length.
fn shortened(value: &Value) -> String {
    let mut value = value.clone();
    shorten(&mut value);
    format!("{value:#}")
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > 100 => {
            *text = format!("({} characters)", text.len());
        }
        Value::Object(members) => members.values_mut().for_each(shorten),
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
    }
}
