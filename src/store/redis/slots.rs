//! Which node of a cluster has a key.
//!
//! Invariant: a key's slot is what Redis computes (CRC-16/XMODEM of its hash tag, of 16,384).

use redis::Value;

use super::settings::Server;

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// A run of slots, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Server,
}

/// The slot of a key: of what stands in its first pair of braces, where something does.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

/// Reads the answer to CLUSTER SLOTS; `asked` is who gave it, for nodes that do not know their own
/// name.
pub(super) fn runs(answer: &Value, asked: &Server) -> Option<Vec<Run>> {
    let Value::Array(entries) = answer else {
        return None;
    };
    let runs = entries.iter().map(|entry| {
        let Value::Array(parts) = entry else {
            return None;
        };
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(master),
            ..,
        ] = parts.as_slice()
        else {
            return None;
        };
        let [host, Value::Int(port), ..] = master.as_slice() else {
            return None;
        };
        let host = if let Value::BulkString(name) = host {
            String::from_utf8(name.clone()).ok()?
        } else if *host == Value::Nil {
            String::new()
        } else {
            return None;
        };
        // A node that was not told how others call it.
        let known = !matches!(host.as_str(), "" | "?");
        let host = if known { host } else { asked.host.clone() };
        Some(Run {
            first: u16::try_from(*first).ok()?,
            last: u16::try_from(*last).ok().filter(|last| *last < SLOTS)?,
            master: Server {
                host,
                port: u16::try_from(*port).ok()?,
                tls: asked.tls,
            },
        })
    });
    let mut runs: Vec<Run> = runs.collect::<Option<_>>()?;
    runs.sort_by_key(|run| run.first);
    Some(runs)
}

/// Whether every slot is somebody's.
pub(super) fn covers_all(runs: &[Run]) -> bool {
    let mut next = 0;
    for run in runs {
        if run.first > next {
            return false;
        }
        next = next.max(run.last + 1);
    }
    next == SLOTS
}

/// Reads what follows MOVED or ASK: `3999 127.0.0.1:6381`. Without a host the one who says it is meant.
pub(super) fn redirected(detail: &str, asked: &Server) -> Option<Server> {
    let (_, address) = detail.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { &asked.host } else { host };
    Some(Server {
        host: host.to_owned(),
        port: port.parse().ok()?,
        tls: asked.tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str, port: u16) -> Server {
        let (host, tls) = (host.to_owned(), false);
        Server { host, port, tls }
    }

    #[test]
    fn a_slot_is_what_redis_says() {
        // From CLUSTER KEYSLOT of a Redis 7.0.15.
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("somekey", 11_058),
            ("foo{hash_tag}", 2_515),
            ("bar{hash_tag}baz", 2_515),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn the_map_of_a_cluster_is_read() {
        let node = |host: &str, port| {
            let host = Value::BulkString(host.as_bytes().to_vec());
            Value::Array(vec![
                host,
                Value::Int(port),
                Value::BulkString(b"id".to_vec()),
            ])
        };
        let run = |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let asked = server("seed", 1);
        let answer = Value::Array(vec![
            run(100, 16_383, node("", 7002)),
            run(0, 99, node("10.0.0.1", 7001)),
        ]);
        let read = runs(&answer, &asked).unwrap();
        assert_eq!(read[0].master, server("10.0.0.1", 7001));
        assert_eq!(read[1].master, server("seed", 7002));
        assert!(covers_all(&read));
        assert!(!covers_all(&read[..1]));
        assert!(!covers_all(&read[1..]));
        for bad in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![run(0, 16_384, node("h", 1))]),
            Value::Array(vec![run(0, 1, node("h", 70_000))]),
        ] {
            assert_eq!(runs(&bad, &asked), None);
        }
    }

    #[test]
    fn a_redirection_is_read() {
        let asked = server("asked", 1);
        let to = |detail| redirected(detail, &asked);
        assert_eq!(to("3999 127.0.0.1:6381"), Some(server("127.0.0.1", 6381)));
        assert_eq!(to("3999 :6381"), Some(server("asked", 6381)));
        assert_eq!(to("3999 ::1:6381"), Some(server("::1", 6381)));
        assert_eq!(to("3999"), None);
        assert_eq!(to("3999 host:port"), None);
    }
}
