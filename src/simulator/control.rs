//! The control API under `/_sim`: what arrived, what goes wrong next, who may log in.
//!
//! Invariant: a control call is never recorded as a request, and a wrong one changes nothing and
//! says what to do next. It never shows a password or a user name that is accepted.

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Login,
    behaviour::Behaviour,
    deliver::{Delivery, plan},
    fault::Fault,
    reply::Reply,
    state::State,
};

/// A control call is small.
pub(super) const MAX_BODY: usize = 256 * 1024;
/// Pairs that may be accepted at once.
const MAX_LOGINS: usize = 1_000;

/// Whether a path belongs to the control API.
pub(super) fn owns(path: &str) -> bool {
    path == "/_sim" || path.starts_with("/_sim/")
}

/// Answers a control call; without a body, where it could not be read.
pub(super) fn call(state: &State, head: &Parts, body: Option<Bytes>) -> Response<Full<Bytes>> {
    let reply = match body {
        _ if head.uri.query().is_some() => {
            refuse("a control call takes no query", "send the path alone")
        }
        Some(body) => answer(state, &head.method, head.uri.path(), &body),
        None => refuse(
            "the body did not arrive or is larger than 256 KiB",
            "send a smaller JSON body",
        ),
    };
    match plan(reply, None) {
        Delivery::Whole(response) => response,
        Delivery::Hang | Delivery::Raw(_) => Response::default(),
    }
}

fn answer(state: &State, method: &Method, path: &str, body: &[u8]) -> Reply {
    match (path, method.as_str()) {
        ("/_sim" | "/_sim/", "GET") => ok(&overview()),
        ("/_sim/requests", "GET") => ok(&state.records()),
        ("/_sim/requests", "DELETE") => done(state, State::clear_records),
        ("/_sim/faults", "GET") => ok(&state.faults()),
        ("/_sim/faults", "POST") => arm(state, body),
        ("/_sim/faults", "DELETE") => done(state, State::clear_faults),
        ("/_sim/behaviour", "GET") => ok(&*state.behaviour()),
        ("/_sim/behaviour", "PUT") => behave(state, body),
        ("/_sim/credentials", "GET") => ok(&json!({"count": state.logins()})),
        ("/_sim/credentials", "PUT") => accept(state, body),
        ("/_sim/customers", "GET") => ok(&json!({"count": state.customers()})),
        ("/_sim/customers", "DELETE") => done(state, State::clear_customers),
        ("/_sim" | "/_sim/", _) => wrong_method("GET"),
        ("/_sim/requests" | "/_sim/customers", _) => wrong_method("GET, DELETE"),
        ("/_sim/faults", _) => wrong_method("GET, POST, DELETE"),
        ("/_sim/behaviour" | "/_sim/credentials", _) => wrong_method("GET, PUT"),
        _ => refusal(
            StatusCode::NOT_FOUND,
            "there is no such control call",
            "GET /_sim lists them",
        ),
    }
}

fn overview() -> Value {
    json!({
        "GET /_sim/requests": "what arrived, newest last; DELETE forgets it",
        "POST /_sim/faults": "a fault, such as {\"kind\":\"status\",\"status\":503,\"times\":2}; GET lists those that wait, DELETE forgets them",
        "PUT /_sim/behaviour": "the switches for undocumented cases; GET shows them",
        "PUT /_sim/credentials": "the accepted pairs: [{\"user\":\"…\",\"pass\":\"…\"}]; GET counts them",
        "GET /_sim/customers": "counts the customers; DELETE forgets them",
    })
}

fn arm(state: &State, body: &[u8]) -> Reply {
    match Fault::from_json(body).and_then(|fault| state.arm(fault)) {
        Ok(()) => ok(&state.faults()),
        Err(error) => refuse(&error.to_string(), "correct the fault and POST it again"),
    }
}

fn behave(state: &State, body: &[u8]) -> Reply {
    match serde_json::from_slice::<Behaviour>(body) {
        Ok(behaviour) => {
            state.set_behaviour(behaviour);
            ok(&*state.behaviour())
        }
        // The text names the members and values that there are; what it repeats is this control
        // call's own, and no switch holds anything secret.
        Err(error) => refuse(
            &error.to_string(),
            "GET /_sim/behaviour shows all switches; PUT those that differ from the defaults",
        ),
    }
}

fn accept(state: &State, body: &[u8]) -> Reply {
    let next = "PUT a JSON array such as [{\"user\":\"demo-user\",\"pass\":\"demo-pass\"}]";
    // Without serde's text: it could repeat a password.
    let Ok(logins) = serde_json::from_slice::<Vec<Login>>(body) else {
        return refuse("not a list of pairs of user and pass", next);
    };
    if logins.len() > MAX_LOGINS {
        return refuse("more than 1000 pairs", next);
    }
    state.set_logins(logins);
    ok(&json!({"count": state.logins()}))
}

fn ok(body: &impl Serialize) -> Reply {
    Reply::json(StatusCode::OK, body)
}

fn done(state: &State, act: fn(&State)) -> Reply {
    act(state);
    Reply::empty(StatusCode::NO_CONTENT)
}

fn wrong_method(allow: &str) -> Reply {
    let mut reply = refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "the method does not fit this control call",
        &format!("use {allow}"),
    );
    reply.headers.push(("allow", allow.to_owned()));
    reply
}

fn refuse(error: &str, next: &str) -> Reply {
    refusal(StatusCode::BAD_REQUEST, error, next)
}

fn refusal(status: StatusCode, error: &str, next: &str) -> Reply {
    Reply::json(status, &json!({"error": error, "next": next}))
}
