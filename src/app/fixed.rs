//! What only a restart changes: keys that state and audit trail are sealed with, and where lines go.

use zeroize::Zeroizing;

use crate::{
    audit::AuditSettings,
    config::{Config, mistake::Mistake},
    store::Backend,
    telemetry::TelemetrySettings,
};

/// The settings that the process was started with and keeps.
pub(super) struct Fixed {
    backend: Backend,
    state_key: Zeroizing<[u8; 32]>,
    audit: AuditSettings,
    telemetry: TelemetrySettings,
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            backend: config.state.backend.clone(),
            state_key: config.state.key.clone(),
            audit: config.audit.clone(),
            telemetry: config.telemetry,
        }
    }

    /// Each of these settings that a new configuration has otherwise.
    pub(super) fn changed_in(&self, config: &Config) -> Vec<Mistake> {
        let (old, new) = (&self.telemetry, &config.telemetry);
        let (here, there) = (&self.backend, &config.state.backend);
        let same_path = here.folder() == there.folder();
        let same_kind = here.folder().is_some() == there.folder().is_some();
        let compared = [
            ("state.backend", same_kind),
            ("state.path", !same_kind || same_path),
            ("state.redis", !same_kind || !same_path || here == there),
            ("state.key", self.state_key == config.state.key),
            ("telemetry.log_format", old.format == new.format),
            ("telemetry.log_level", old.level == new.level),
        ];
        let compared = compared
            .into_iter()
            .chain(self.audit.compared(&config.audit));
        let changed = compared.filter(|(_, same)| !same);
        let problem = "is another one now, and takes a restart to change";
        let mend = |key: &str| match key {
            "state.path" => {
                "stop the gateway, move the folder there, and start it: an empty one knows no owner and no \
                 revocation; or change it back"
            }
            "state.backend" => {
                "stop the gateway and start it with the other one, which knows no owner and no revocation; \
                 or change it back"
            }
            _ => "restart the gateway, or change it back",
        };
        changed
            .map(|(key, _)| Mistake::new("configuration", key, problem, mend(key)))
            .collect()
    }
}
