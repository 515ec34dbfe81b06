//! Warns of a Redis that will forget: without a log of its writes, or one that evicts.

use std::time::Duration;

use redis::Value;

use super::Redis;
use crate::clock;

/// Longer than any sound server takes; the start does not depend on it.
const LONGEST: Duration = Duration::from_secs(1);

/// Asks every master how it keeps what it is given. One that does not say is left alone.
pub(super) async fn warn(redis: &Redis) {
    let (mut unlogged, mut evicting) = (false, false);
    for line in redis.lines() {
        for section in ["persistence", "memory"] {
            let mut info = redis::cmd("INFO");
            info.arg(section);
            let answer = line.ask(&info, clock::instant() + LONGEST).await;
            let Ok(Value::BulkString(text)) = answer else {
                continue;
            };
            let text = String::from_utf8_lossy(&text);
            unlogged |= says_unlogged(&text);
            evicting |= says_evicting(&text);
        }
    }
    if unlogged {
        tracing::warn!(
            "Redis keeps no log of its writes (appendonly no): after a crash, customers' owners, \
             revocations and quotas are those of its last snapshot; see docs/REDIS.md"
        );
    }
    if evicting {
        tracing::warn!(
            "Redis may evict what it is given (maxmemory-policy): customers' owners would be forgotten; \
             set it to noeviction"
        );
    }
}

fn says_unlogged(info: &str) -> bool {
    info.lines().any(|line| line.trim() == "aof_enabled:0")
}

fn says_evicting(info: &str) -> bool {
    let value = |name| info.lines().find_map(|line| line.trim().strip_prefix(name));
    value("maxmemory:").is_some_and(|most| most != "0")
        && value("maxmemory_policy:").is_some_and(|policy| policy != "noeviction")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forgets_is_noticed() {
        assert!(says_unlogged("# Persistence\r\naof_enabled:0\r\n"));
        assert!(!says_unlogged("aof_enabled:1\r\n"));
        assert!(says_evicting(
            "maxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n"
        ));
        assert!(!says_evicting(
            "maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"
        ));
        assert!(!says_evicting(
            "maxmemory:1\r\nmaxmemory_policy:noeviction\r\n"
        ));
    }
}
