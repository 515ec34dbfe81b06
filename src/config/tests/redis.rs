//! What `[state.redis]` may say.

use super::*;
use crate::store::{
    Backend,
    redis::settings::{Mode, OnStoreFailure, Password, Server},
};

/// The base with its state in Redis, and what else is said of that.
fn in_redis(more: &str) -> String {
    let redis = format!("[state.redis]\n{more}\n");
    BASE.replace("[state]", "[state]\nbackend = \"redis\"") + &redis
}

#[test]
fn redis_is_reached_as_the_configuration_says() {
    let mut folder = Folder::new();
    folder.set("REDIS_PASSWORD", "canary-redis");
    let short = "urls = [\"redis://127.0.0.1:6380\"]\nnodes = 3";
    folder.write("gateway.toml", in_redis(short));
    let config = folder.load(&["gateway.toml"]).unwrap();
    let Backend::Redis(redis) = &config.state.backend else {
        panic!("not in Redis");
    };
    assert_eq!(
        redis.servers,
        [Server::parse("redis://127.0.0.1:6380").unwrap()]
    );
    assert_eq!((redis.mode.clone(), redis.database), (Mode::Single, 0));
    assert_eq!(redis.timeout, Duration::from_millis(20));
    assert_eq!(redis.prefix, "dcams-gateway:");
    assert_eq!((redis.nodes, redis.lease), (3, Duration::from_millis(200)));
    assert_eq!(redis.on_store_failure, OnStoreFailure::Lease);
    assert!(config.warnings.is_empty());

    let long = "urls = [\"redis://s1:26379\", \"redis://s2:26379\"]\nmode = \"sentinel\"\n\
                master = \"main\"\nuser = \"gw\"\npassword = { env = \"REDIS_PASSWORD\" }\n\
                sentinel_password = { env = \"REDIS_PASSWORD\" }\ndatabase = 4\ntimeout = \"1ms\"\n\
                prefix = \"p:\"\nnodes = 1\nlease = \"1s\"\non_store_failure = \"local_share\"";
    folder.write("gateway.toml", in_redis(long));
    let config = folder.load(&["gateway.toml"]).unwrap();
    let Backend::Redis(redis) = &config.state.backend else {
        panic!("not in Redis");
    };
    let master = "main".to_owned();
    assert_eq!(
        (redis.mode.clone(), redis.database),
        (Mode::Sentinel { master }, 4)
    );
    assert_eq!(redis.login.user.as_deref(), Some("gw"));
    let password = Password::new("canary-redis".into());
    assert_eq!(redis.login.password.as_ref(), Some(&password));
    assert_eq!(redis.sentinel_login.password, Some(password));
    assert!(!format!("{redis:?}").contains("canary"));
    // In clear, to another machine.
    let warned: Vec<_> = config.warnings.iter().map(Mistake::key).collect();
    assert_eq!(warned, ["state.redis.urls"]);
}

const WRONG: &[(&str, &str)] = &[
    ("nodes = 1", "urls"),
    ("urls = [\"rediss://r\"]", "nodes"),
    ("urls = []\nnodes = 1", "urls"),
    ("urls = [\"redis://u:canary@r\"]\nnodes = 1", "urls[0]"),
    ("urls = [\"http://r\"]\nnodes = 1", "urls[0]"),
    ("urls = [\"redis://r/1\"]\nnodes = 1", "urls[0]"),
    ("urls = [\"redis://r\", \"redis://s\"]\nnodes = 1", "urls"),
    (
        "urls = [\"redis://r\", \"rediss://s\"]\nnodes = 1\nmode = \"cluster\"",
        "urls",
    ),
    ("urls = [\"rediss://r\"]\nnodes = 0", "nodes"),
    ("urls = [\"rediss://r\"]\nnodes = 1001", "nodes"),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nmode = \"ring\"",
        "mode",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nmode = \"sentinel\"",
        "master",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nmaster = \"m\"",
        "master",
    ),
    ("urls = [\"rediss://r\"]\nnodes = 1\nuser = \"u\"", "user"),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\npassword = \"canary\"",
        "password",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nsentinel_user = \"u\"",
        "sentinel_user",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nmode = \"cluster\"\ndatabase = 1",
        "database",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\ntimeout = \"11s\"",
        "timeout",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nlease = \"9ms\"",
        "lease",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\nprefix = \"a{b}\"",
        "prefix",
    ),
    (
        "urls = [\"rediss://r\"]\nnodes = 1\non_store_failure = \"open\"",
        "on_store_failure",
    ),
    ("urls = [\"rediss://r\"]\nnodes = 1\nnode = 1", "node"),
];

#[test]
fn what_is_wrong_about_redis_is_named() {
    for (more, key) in WRONG {
        let folder = Folder::new();
        folder.write("gateway.toml", in_redis(more));
        let mistakes = folder.load(&["gateway.toml"]).unwrap_err();
        let found: Vec<_> = mistakes.iter().map(Mistake::key).collect();
        assert_eq!(found, [format!("state.redis.{key}")], "{more}");
        assert!(!mistakes.to_string().contains("canary"), "{mistakes}");
    }
}

#[test]
fn a_path_beside_redis_is_warned_of() {
    let folder = Folder::new();
    let text = in_redis("urls = [\"rediss://r\"]\nnodes = 1");
    let text = text.replace("[state]", "[state]\npath = \"p\"");
    folder.write("gateway.toml", text);
    let config = folder.load(&["gateway.toml"]).unwrap();
    let warned: Vec<_> = config.warnings.iter().map(Mistake::key).collect();
    assert_eq!(warned, ["state.path"]);
}
