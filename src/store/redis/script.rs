//! A Lua script, and the name by which a server knows it once it has run there.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::Cmd;

/// A Lua script. It runs as a whole or not at all, and alone.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    name: OnceLock<String>,
}

impl Script {
    /// One with this text.
    pub const fn new(text: &'static str) -> Self {
        Self {
            text,
            name: OnceLock::new(),
        }
    }

    /// The call by name, which is short, and fails where the server does not have the script yet.
    pub(super) fn by_name(&self, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Cmd {
        call("EVALSHA", self.name(), keys, args)
    }

    /// The call that brings the script along.
    pub(super) fn by_text(&self, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Cmd {
        call("EVAL", self.text, keys, args)
    }

    /// The SHA-1 of the text: Redis's choice, which nothing depends on but that it is the same there.
    fn name(&self) -> &str {
        self.name.get_or_init(|| {
            let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, self.text.as_bytes());
            let mut name = String::with_capacity(40);
            for byte in digest.as_ref() {
                for nibble in [byte >> 4, byte & 15] {
                    name.extend(char::from_digit(u32::from(nibble), 16));
                }
            }
            name
        })
    }
}

fn call(command: &str, script: &str, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Cmd {
    let mut call = redis::cmd(command);
    call.arg(script).arg(keys.len());
    for bytes in keys.iter().chain(args) {
        call.arg(bytes.as_slice());
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_called_by_its_sha1() {
        // FIPS 180's "abc".
        let script = Script::new("abc");
        assert_eq!(script.name(), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
