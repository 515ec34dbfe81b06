//! `reload`: has the gateway that runs read its configuration again.
//!
//! It reads its own files, wherever this command is run; those named here only say where it listens
//! and by which token it is asked.

use reqwest::Method;
use serde_json::{Value, json};

use super::{CommandError, ConfigArgs, Session, reach::Operator, say};
use crate::config::origin::Origin;

pub(super) async fn run(args: &ConfigArgs, session: &Session) -> Result<(), CommandError> {
    // What is wrong elsewhere in the files the gateway says, and writes down.
    let admin = Origin::with_env(&args.config).read_admin()?;
    let operator = Operator::new(&admin, session)?;
    if !operator.answers().await {
        return Err(CommandError::Operator(format!(
            "no gateway answers at {}: start it; where it runs and admin.listen is what has changed, \
             send it SIGHUP",
            operator.base()
        )));
    }
    let answer = operator
        .ask(Method::POST, "api/reload", Some(&json!({})))
        .await?;
    let changed = answer.get("changed").and_then(Value::as_bool);
    say(if changed == Some(true) {
        "the configuration is in force"
    } else {
        "the configuration in force is the same"
    })
}
