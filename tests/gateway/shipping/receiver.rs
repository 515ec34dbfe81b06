//! A second place, played: it does with each request what it is told to, and keeps what it was sent.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use crate::support::listen;

/// What happens to a request that has arrived.
pub enum Reaction {
    /// It is answered so.
    Answer(u16, &'static str, &'static str),
    /// The connection is closed without an answer.
    Cut,
    /// Nothing happens.
    Hang,
}

pub const TAKEN: Reaction = Reaction::Answer(204, "", "");

/// A request as it came.
#[derive(Clone)]
pub struct Heard {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether it was answered with a good status.
    pub taken: bool,
}

type Rule = Box<dyn FnMut(&str) -> Reaction + Send>;

pub struct Receiver {
    addr: SocketAddr,
    rule: Arc<Mutex<Rule>>,
    heard: watch::Sender<Vec<Heard>>,
}

impl Receiver {
    pub async fn start(rule: impl FnMut(&str) -> Reaction + Send + 'static) -> Self {
        let listener = listen().await;
        let addr = listener.local_addr().unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        let heard = watch::Sender::default();
        let (rules, all) = (Arc::clone(&rule), heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (rules, all) = (Arc::clone(&rules), all.clone());
                let service =
                    service_fn(move |request| serve(request, Arc::clone(&rules), all.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { addr, rule, heard }
    }

    pub fn url(&self) -> String {
        format!("http://{}/in?source=test", self.addr)
    }

    pub fn react(&self, rule: impl FnMut(&str) -> Reaction + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    /// The requests, once they are enough by this measure.
    pub async fn until(&self, enough: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        let mut heard = self.heard.subscribe();
        let waiting = heard.wait_for(|heard| enough(heard));
        let came = tokio::time::timeout(std::time::Duration::from_secs(30), waiting)
            .await
            .is_ok();
        assert!(came, "only {} requests", self.heard().len());
        self.heard()
    }

    /// Every line that arrived, however it was answered, in the order of arrival.
    pub fn lines(&self) -> Vec<String> {
        lines(&self.heard())
    }
}

pub fn lines(heard: &[Heard]) -> Vec<String> {
    let text = |heard: &Heard| String::from_utf8(heard.body.to_vec()).unwrap();
    heard
        .iter()
        .flat_map(|heard| text(heard).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

async fn serve(
    request: Request<Incoming>,
    rules: Arc<Mutex<Rule>>,
    all: watch::Sender<Vec<Heard>>,
) -> Result<Response<Full<Bytes>>, Cut> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    assert_eq!(parts.uri, "/in?source=test");
    let reaction = {
        let mut rule = rules.lock().unwrap();
        let rule: &mut Rule = &mut rule;
        rule(std::str::from_utf8(&body).unwrap())
    };
    let taken = matches!(reaction, Reaction::Answer(200..300, ..));
    let headers = parts.headers;
    all.send_modify(|all| {
        all.push(Heard {
            headers,
            body,
            taken,
        });
    });
    match reaction {
        Reaction::Answer(status, header, text) => {
            let mut response = Response::builder().status(status);
            if let Some((name, value)) = header.split_once(": ") {
                response = response.header(name, value);
            }
            Ok(response.body(Full::from(text)).unwrap())
        }
        Reaction::Cut => Err(Cut),
        Reaction::Hang => {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is cut, as this test wants it to")]
struct Cut;
