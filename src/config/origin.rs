//! Where a configuration comes from, so that it can be read again. The only file that reads the
//! process's environment.

use std::{collections::BTreeMap, env, path::PathBuf};

use crate::config::{Config, mistake::Mistakes, sources::Sources};

/// Where a configuration comes from.
#[derive(Clone)]
pub struct Origin {
    pub(super) paths: Vec<PathBuf>,
    environment: Environment,
}

#[derive(Clone)]
enum Environment {
    Given(BTreeMap<String, String>),
    Process,
}

/// One reading: a configuration or its mistakes, and what was looked at for it.
pub struct Reading {
    /// What it says.
    pub outcome: Result<Config, Mistakes>,
    /// Where that stands.
    pub sources: Sources,
}

impl Origin {
    /// Files and folders, with these variables.
    pub fn new(paths: &[PathBuf], environment: impl Iterator<Item = (String, String)>) -> Self {
        Self {
            paths: paths.to_owned(),
            environment: Environment::Given(environment.collect()),
        }
    }

    /// Files and folders, with the process's own environment. A variable whose name or value is not
    /// Unicode counts as not set.
    pub fn with_env(paths: &[PathBuf]) -> Self {
        Self {
            paths: paths.to_owned(),
            environment: Environment::Process,
        }
    }

    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        match &self.environment {
            Environment::Given(variables) => variables.clone(),
            Environment::Process => env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        }
    }
}
