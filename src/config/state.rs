//! The sections `[state]` and `[state.redis]`.
//!
//! Invariant: nothing that belongs to another mode than the chosen one stands there, and no URL holds a
//! login.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::{
    config::{cursor::Section, destination::roots, field::Field, secret},
    store::{
        Backend, StateSettings,
        redis::settings::{
            Login, Mode, OnStoreFailure, Password, RedisSettings, Server, ServerError,
        },
    },
};

const TIMEOUT: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_millis(200);
const PREFIX: &str = "dcams-gateway:";
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
const CONNECT_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(30);
const LEASES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    Redis,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Cluster,
    Sentinel,
    Single,
}

/// Reads `[state]`: where the state is kept, and the key that it is sealed and people are turned
/// into pseudonyms with.
pub(super) fn state(mut section: Section<'_>) -> Option<StateSettings> {
    let kinds = [("embedded", Kind::Embedded), ("redis", Kind::Redis)];
    let kind = section.choice("backend", &kinds);
    let path = section.optional("path");
    let redis = section.optional("redis");
    let backend = match kind {
        None => {
            // Whose keys are too many is not known.
            section.known(&["path", "redis"]);
            None
        }
        Some(Kind::Embedded) => {
            if let Some(redis) = redis {
                let mend = "remove it, or write backend = \"redis\"";
                redis.mistake("has no effect beside this `backend`", mend);
            }
            // Not a layer's default: that would be relative to a file which does not name it.
            let path = path.map_or_else(|| Some(PathBuf::from("state")), |f| f.path());
            path.map(|path| Backend::Embedded { path })
        }
        Some(Kind::Redis) => {
            if let Some(path) = path {
                // One file of several may be for either.
                let mend = "remove it, or write backend = \"embedded\"";
                path.warning("has no effect beside this `backend`", mend);
            }
            redis_of(&section, redis).map(|redis| Backend::Redis(Box::new(redis)))
        }
    };
    let key = secret::key(&mut section, "key");
    section.finish();
    Some(StateSettings {
        key: key?,
        backend: backend?,
    })
}

fn redis_of(state: &Section<'_>, field: Option<Field<'_>>) -> Option<RedisSettings> {
    let Some(field) = field else {
        state.missing("redis", "write urls and nodes under [state.redis]");
        return None;
    };
    let mut section = field.section();
    let way = way(&mut section);
    let servers = servers(&mut section, way);
    let mode = mode(&mut section, way);
    let login = login(&mut section, ["user", "password"]);
    let sentinel_login = sentinel_login(&mut section, way);
    let roots = section.or("ca", Vec::new(), roots);
    let database = database(&mut section, way);
    let timeout = section.or("timeout", TIMEOUT, |f| f.duration(&TIMEOUTS));
    let connect_timeout = section.or("connect_timeout", CONNECT_TIMEOUT, |f| {
        f.duration(&CONNECT_TIMEOUTS)
    });
    let prefix = section.or("prefix", PREFIX.to_owned(), prefix);
    let nodes = section
        .required("nodes")
        .and_then(|f| f.count(&(1..=1_000)));
    let lease = section.or("lease", LEASE, |f| f.duration(&LEASES));
    let choices = [
        ("lease", OnStoreFailure::Lease),
        ("refuse", OnStoreFailure::Refuse),
        ("local_share", OnStoreFailure::LocalShare),
    ];
    let on_store_failure = section.or("on_store_failure", OnStoreFailure::Lease, |f| {
        f.choice(&choices)
    });
    section.finish();
    Some(RedisSettings {
        servers: servers?,
        mode: mode?,
        login: login?,
        sentinel_login: sentinel_login?,
        roots: roots?,
        database: database?,
        timeout: timeout?,
        connect_timeout: connect_timeout?,
        prefix: prefix?,
        nodes: nodes?,
        lease: lease?,
        on_store_failure: on_store_failure?,
    })
}

fn way(section: &mut Section<'_>) -> Option<Way> {
    let ways = [
        ("single", Way::Single),
        ("sentinel", Way::Sentinel),
        ("cluster", Way::Cluster),
    ];
    section.or("mode", Way::Single, |f| f.choice(&ways))
}

fn servers(section: &mut Section<'_>, way: Option<Way>) -> Option<Vec<Server>> {
    let Some(field) = section.optional("urls") else {
        section.missing("urls", "write it as [\"rediss://redis.internal:6379\"]");
        return None;
    };
    let servers = field.list(false, server)?;
    if servers
        .iter()
        .any(|server| !server.tls && !server.is_loopback())
    {
        section.warning(
            "urls",
            "names a server without TLS on another machine: values are sealed, but counters and the \
             password travel in clear",
            "use rediss://",
        );
    }
    if way == Some(Way::Single) && servers.len() > 1 {
        let mend = "leave one, or write mode = \"sentinel\" or \"cluster\"";
        section.mistake(
            "urls",
            "names several servers, of which one would be asked",
            mend,
        );
        return None;
    }
    let encrypted = servers.iter().filter(|server| server.tls).count();
    if encrypted != 0 && encrypted != servers.len() {
        let mend = "use rediss:// in all of them";
        section.mistake("urls", "names servers with and without TLS", mend);
        return None;
    }
    Some(servers)
}

fn server(field: &Field<'_>) -> Option<Server> {
    let parsed = Server::parse(field.text()?);
    let mend = match parsed {
        Err(ServerError::Userinfo) => {
            "remove it and write `user` and `password` beside `urls`; a URL is no place for a secret"
        }
        Err(ServerError::Path) => "remove that; the database's number is `database`",
        Ok(_) | Err(ServerError::Malformed | ServerError::Scheme) => {
            "write it as \"redis://127.0.0.1:6379\" or \"rediss://redis.internal:6379\""
        }
    };
    parsed
        .inspect_err(|error| field.mistake(error.to_string(), mend))
        .ok()
}

/// What the servers are; only one of them is asked where there is no one to say who else there is.
fn mode(section: &mut Section<'_>, way: Option<Way>) -> Option<Mode> {
    if way == Some(Way::Sentinel) {
        let master = section.required("master").and_then(|f| f.printable());
        return master.map(|master| Mode::Sentinel { master });
    }
    let master = section.optional("master");
    if let (Some(field), Some(_)) = (master, way) {
        let mend = "remove it, or write mode = \"sentinel\"";
        field.mistake("has no effect beside this `mode`", mend);
        return None;
    }
    match way? {
        Way::Cluster => Some(Mode::Cluster),
        Way::Sentinel | Way::Single => Some(Mode::Single),
    }
}

fn login(section: &mut Section<'_>, [user_key, password_key]: [&'static str; 2]) -> Option<Login> {
    let user = section.or(user_key, None, |f| f.printable().map(Some));
    let password = match section.optional(password_key) {
        None => Some(None),
        Some(field) => password(section, password_key, field).map(Some),
    };
    if matches!((&user, &password), (Some(Some(_)), Some(None))) {
        section.mistake(
            user_key,
            "stands there without its password",
            "add the password",
        );
        return None;
    }
    Some(Login {
        user: user?,
        password: password?,
    })
}

fn password(section: &Section<'_>, key: &str, field: Field<'_>) -> Option<Password> {
    let text: SecretString = secret::text(section, key, &secret::bytes(field)?)?;
    Some(Password::new(text))
}

fn sentinel_login(section: &mut Section<'_>, way: Option<Way>) -> Option<Login> {
    const KEYS: [&str; 2] = ["sentinel_user", "sentinel_password"];
    if way == Some(Way::Sentinel) {
        return login(section, KEYS);
    }
    let mut none = Some(Login::default());
    for key in KEYS {
        if let (Some(field), Some(_)) = (section.optional(key), way) {
            let mend = "remove it, or write mode = \"sentinel\"";
            field.mistake("has no effect beside this `mode`", mend);
            none = None;
        }
    }
    none
}

fn database(section: &mut Section<'_>, way: Option<Way>) -> Option<u16> {
    let database = section.optional("database");
    match database {
        Some(field) if way == Some(Way::Cluster) => {
            field.mistake(
                "has no effect beside this `mode`",
                "remove it: a cluster has one",
            );
            None
        }
        Some(field) => field.count(&(0..=9_999)),
        None => Some(0),
    }
}

fn prefix(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let sound = !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"{}".contains(&byte));
    if !sound {
        // Between braces stands what a cluster goes by.
        let mend = "write 1 to 64 visible ASCII characters without { and }";
        field.mistake("cannot begin a key", mend);
    }
    sound.then(|| text.to_owned())
}
