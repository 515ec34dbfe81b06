//! The demo's folder: configuration, secrets, request bodies with two ID-document images.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    auth::mint::Grant,
    cli::CommandError,
    clock,
    config::Config,
    operation::Operation,
    specimen::{self, Side},
};

/// A folder that is removed when this is dropped.
pub(super) struct Stage {
    folder: TempDir,
    pass: String,
}

/// A token for one service.
pub(super) struct Token {
    pub(super) operation: Operation,
    pub(super) text: String,
}

impl Stage {
    /// Writes everything that the demo needs.
    pub(super) fn set() -> Result<Self, CommandError> {
        let folder = tempfile::Builder::new()
            .prefix("dcams-gateway-demo-")
            .tempdir()
            .map_err(CommandError::io("cannot make a temporary folder"))?;
        let stage = Self {
            folder,
            pass: key()?,
        };
        stage.write("demo.toml", include_str!("../../../config/demo.toml"))?;
        stage.write("user", stage.user())?;
        stage.write("pass", stage.pass())?;
        stage.write("state.key", &key()?)?;
        stage.write("audit.key", &key()?)?;
        stage.write("issuer.key", &key()?)?;
        for operation in Operation::ALL {
            let body = body(operation).to_string();
            stage.write(&format!("{operation}.json"), &body)?;
        }
        Ok(stage)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder().join("demo.toml")
    }

    pub(super) fn body_file(&self, operation: Operation) -> PathBuf {
        self.folder().join(format!("{operation}.json"))
    }

    #[expect(
        clippy::unused_self,
        reason = "the stage owns the pair, its password is made up"
    )]
    pub(super) fn user(&self) -> &'static str {
        "api@dcams-gateway.example"
    }

    pub(super) fn pass(&self) -> &str {
        &self.pass
    }

    /// One token a service, in the order in which the demo calls them.
    pub(super) fn tokens(config: &Config) -> Result<Vec<Token>, CommandError> {
        let (Some(issuer), Some(tenant)) = (config.issuers.first(), config.tenants.first()) else {
            return Err(CommandError::Usage("demo.toml has no issuer".to_owned()));
        };
        let key = config.signing_keys.get(&issuer.id);
        let key = key.ok_or(CommandError::Usage(
            "demo.toml has no signing key".to_owned(),
        ))?;
        [
            Operation::CreateOrUpdateCustomer,
            Operation::GetStatus,
            Operation::UpdateStatus,
            Operation::GetDocumentImages,
        ]
        .into_iter()
        .map(|operation| {
            let grant = Grant {
                tenant: &tenant.id,
                operations: [operation].into_iter().collect(),
                subject: Some("demo"),
                customer: None,
                ttl: Duration::from_hours(8),
            };
            let text = grant.mint(issuer, key, clock::now())?;
            Ok(Token { operation, text })
        })
        .collect()
    }

    fn write(&self, name: &str, content: &str) -> Result<(), CommandError> {
        let path = self.folder().join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .map_err(CommandError::io(format!("cannot write {}", path.display())))
    }
}

/// What a frontend sends: the person does not exist, and the images are drawn by us.
fn body(operation: Operation) -> Value {
    let email = "jane.specimen@example.com";
    match operation {
        Operation::CreateOrUpdateCustomer => json!({
            "service": operation.name(),
            "reference": "demo-0001",
            "target": {
                "email": email, "fn": "Jane", "ln": "Specimen", "addr": "1 Sample Street",
                "city": "Anytown", "state": "CT", "zip": "06614", "dob": "19700101",
                "phone": "2015550100",
                "documents": { "front": image(Side::Front), "back": image(Side::Back) },
            },
        }),
        Operation::UpdateStatus => json!({
            "service": operation.name(), "target": { "email": email, "status": "PENDING" },
        }),
        Operation::GetDocumentImages | Operation::GetStatus => json!({
            "service": operation.name(), "target": { "email": email },
        }),
    }
}

fn image(side: Side) -> String {
    BASE64_STANDARD.encode(specimen::jpeg(side))
}

fn key() -> Result<String, CommandError> {
    Ok(BASE64_STANDARD.encode(random()?))
}

fn random() -> Result<[u8; 32], CommandError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| CommandError::Usage("the system gives no random bytes".to_owned()))?;
    Ok(bytes)
}
