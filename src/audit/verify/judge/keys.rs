//! Which keys the files are written with: that each was given, and that none comes back after another took
//! its place.

use super::{Judge, Kind, Place, Trust};

/// The keys that the files name.
#[derive(Default)]
pub(super) struct Keys {
    /// Those that were given, as public keys, in the order of their last use: the last is in use.
    used: Vec<String>,
    /// Those that were not, with the first file of each.
    unknown: Vec<(String, Place)>,
}

impl Judge<'_> {
    /// A file is written with this key, which was not given.
    pub(super) fn meet_unknown(&mut self, key: &str) {
        self.file.unchecked = true;
        let unknown = &mut self.keys.unknown;
        if unknown.iter().all(|(known, _)| known != key) {
            unknown.push((key.to_owned(), self.at.clone()));
        }
    }

    /// A file is written with this key, one of those that were given.
    pub(super) fn meet_known(&mut self, key: &str) {
        let used = &mut self.keys.used;
        let before = used.iter().position(|known| known == key);
        let again = before.is_some_and(|at| at + 1 < used.len());
        if let Some(at) = before {
            used.remove(at);
        }
        used.push(key.to_owned());
        if again {
            self.find(
                Kind::RetiredKey,
                "the file is written with a key again that another one had replaced: whoever has got that key could \
                 go on with the chain so",
            );
        }
    }

    /// Whether something was found good by one of the keys.
    pub(super) fn has_known_key(&self) -> bool {
        match self.trust {
            Trust::Keys(_) => !self.keys.used.is_empty() || self.file.key.is_some(),
            // Anybody can name a public key.
            Trust::Public(_) => self.draft.counts.checkpoints > 0,
        }
    }

    /// What is written with keys that were not given.
    pub(super) fn settle_keys(&mut self) {
        let known = self.has_known_key();
        for (key, place) in std::mem::take(&mut self.keys.unknown) {
            let key = key.escape_debug();
            let what = match self.trust {
                Trust::Keys(keys) => {
                    let given: Vec<String> = keys.all().map(|key| key.id().to_string()).collect();
                    let given = given.join(", ");
                    if known {
                        format!(
                            "the file says that it is written with the key {key}, which was not given (given: \
                             {given}): either that key is missing in audit.old_keys, or somebody else wrote the file"
                        )
                    } else {
                        format!(
                            "none of the given keys ({given}) made this chain: it says that it is written with the \
                             key {key}. Either the wrong key was given, or somebody else wrote all of it"
                        )
                    }
                }
                Trust::Public(_) if known => format!(
                    "the file says that it is signed with another public key, {key}: either audit.key was changed \
                     here and both keys must be given, or somebody else wrote the file"
                ),
                Trust::Public(_) => format!(
                    "none of the given public keys signed this chain: it says that it is signed with {key}. Either \
                     the wrong key was given, or somebody else wrote all of it"
                ),
            };
            self.draft.find(Kind::UnknownKey, place, what);
        }
    }
}
