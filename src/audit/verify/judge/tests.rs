use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::report::{Finding, Verdict},
    *,
};
use crate::audit::chain::{Chain, State};

/// Files of one chain, in memory, and the chain itself.
struct Files {
    files: Vec<Vec<u8>>,
    chain: Chain,
}

fn key(secret: u8) -> Arc<AuditKey> {
    Arc::new(AuditKey::derive(&[secret; 32]))
}

fn keys(all: &[u8]) -> Trust {
    let (current, old) = all.split_last().unwrap();
    Trust::Keys(AuditKeys {
        current: key(*current),
        old: old.iter().map(|secret| key(*secret)).collect(),
    })
}

fn public(all: &[u8]) -> Trust {
    let node = NodeId::try_from("gw-1").unwrap();
    Trust::Public(
        all.iter()
            .map(|secret| key(*secret).public(&node))
            .collect(),
    )
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

impl Files {
    fn begin(node: &str, secret: u8) -> Self {
        let (node, key) = (NodeId::try_from(node).unwrap(), key(secret));
        let state = State::first(&node, &key);
        Self {
            files: Vec::new(),
            chain: Chain::new(node, key, state, [].into()),
        }
    }

    fn open(&mut self) {
        self.files.push(Vec::new());
        let number = u64::try_from(self.files.len()).unwrap();
        let file = self.files.last_mut().unwrap();
        self.chain.open_file(number, NOW, file);
    }

    fn keep(&mut self, upkeep: Upkeep) {
        self.chain.keep(NOW, upkeep, self.files.last_mut().unwrap());
    }

    fn checkpoint(&mut self) {
        self.chain.checkpoint(NOW, self.files.last_mut().unwrap());
    }

    /// So many requests, a checkpoint after every fourth, and at the end.
    fn requests(&mut self, count: u64) {
        for number in 0..count {
            let id = RequestId::mint();
            for phase in ["intent", "outcome"] {
                let event = format!(
                    r#"{{"time":"{NOW}","phase":"{phase}","request_id":"{id}","tenant":"acme","code":"ok"}}"#
                );
                self.chain
                    .append(event.as_bytes(), self.files.last_mut().unwrap());
            }
            if number % 4 == 3 {
                self.checkpoint();
            }
        }
        self.checkpoint();
    }

    /// From the next file on with another key.
    fn change_key(&mut self, secret: u8) {
        let (node, state) = (self.chain.node().clone(), self.chain.state().clone());
        self.chain = Chain::new(node, key(secret), state, [].into());
    }

    fn head(&self) -> Checkpoint {
        let state = self.chain.state();
        Checkpoint {
            node: self.chain.node().clone(),
            size: state.seq(),
            root: state.tree.root(),
        }
    }

    fn numbered(&self) -> BTreeMap<u64, Vec<u8>> {
        (1..).zip(self.files.iter().cloned()).collect()
    }
}

/// Five files of two keys.
fn chain() -> Files {
    let mut files = Files::begin("gw-1", 1);
    for file in 1..=5 {
        if file == 4 {
            files.change_key(2);
        }
        files.open();
        files.requests(6 + file);
    }
    files
}

fn judge(files: &BTreeMap<u64, Vec<u8>>, trust: &Trust, head: Option<&Checkpoint>) -> Report {
    let heads: Vec<_> = head.into_iter().cloned().collect();
    judge_with(files, trust, &heads)
}

fn judge_with(files: &BTreeMap<u64, Vec<u8>>, trust: &Trust, heads: &[Checkpoint]) -> Report {
    let published = |(line, checkpoint): (usize, &Checkpoint)| PublishedHead {
        line,
        checkpoint: checkpoint.clone(),
    };
    let heads: Vec<_> = (1..).zip(heads).map(published).collect();
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mut cuts = Cuts::new();
    for (number, bytes) in files {
        for line in lines(bytes).iter().take(4) {
            cuts.extend(cut_of(*number, line.trim_ascii_end()));
        }
    }
    let mut judge = Judge::new(trust, &heads, &cuts);
    for (number, bytes) in files {
        judge.begin(*number, &format!("{number}"), false);
        for line in lines(bytes) {
            match line.strip_suffix(b"\n") {
                Some(line) => judge.line(line),
                None => judge.torn(&line),
            }
        }
    }
    judge.finish()
}

/// Judged with MAC keys, then with public keys.
fn both(files: &BTreeMap<u64, Vec<u8>>, head: &Checkpoint) -> [Report; 2] {
    [keys(&[1, 2]), public(&[1, 2])].map(|trust| judge(files, &trust, Some(head)))
}

fn first(report: &Report) -> &Finding {
    let first = report.findings.first();
    first.unwrap_or_else(|| panic!("nothing was found: {report:?}"))
}

fn kinds(report: &Report) -> Vec<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

fn note(report: &Report, about: About) -> Option<u64> {
    let note = report.notes.iter().find(|note| note.about == about);
    note.map(|note| note.count)
}

/// Not random, so that a failure can be looked at; and as good as.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// All lines with their files' numbers.
type All = Vec<(u64, Vec<u8>)>;

fn all_lines(files: &BTreeMap<u64, Vec<u8>>) -> Vec<(u64, Vec<u8>)> {
    let lines = |(number, bytes): (&u64, &Vec<u8>)| -> Vec<(u64, Vec<u8>)> {
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| (*number, line.to_vec())).collect()
    };
    files.iter().flat_map(lines).collect()
}

fn of_lines(lines: &[(u64, Vec<u8>)]) -> BTreeMap<u64, Vec<u8>> {
    let mut files = BTreeMap::<u64, Vec<u8>>::new();
    for (number, line) in lines {
        files.entry(*number).or_default().extend_from_slice(line);
    }
    files
}

/// Where, as file and line, each of these lines stands.
fn places(lines: &[(u64, Vec<u8>)]) -> Vec<(u64, u64)> {
    let mut last = (0, 0);
    let next = |(number, _): &(u64, Vec<u8>)| {
        last = (*number, if last.0 == *number { last.1 + 1 } else { 1 });
        last
    };
    lines.iter().map(next).collect()
}

#[test]
fn an_untouched_chain_is_whole_both_ways_and_says_what_was_looked_at() {
    let files = chain();
    for report in both(&files.numbered(), &files.head()) {
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.findings.len(), report.further.len()), (0, 0));
        let end = files.chain.state().seq();
        let counts = &report.counts;
        assert_eq!((counts.files, counts.events), (5, end));
        assert_eq!((counts.first_seq, counts.last_seq), (Some(1), Some(end)));
        assert_eq!(counts.signed_through, Some(end - 1));
        assert_eq!(note(&report, About::Unsigned), Some(1));
        assert_eq!(note(&report, About::UnderWay), None);
        assert_eq!(note(&report, About::Head), None);
        // What it says is the head is one for the next time.
        let head = report.head.unwrap();
        let Trust::Public(keys) = public(&[1, 2]) else {
            panic!("public")
        };
        let head = keys.iter().find_map(|key| key.open(&head).ok()).unwrap();
        assert!(both(&files.numbered(), &head).iter().all(Report::is_whole));
    }
    let report = judge(&files.numbered(), &keys(&[1, 2]), None);
    assert!(report.is_whole() && note(&report, About::Head).is_some());
}

/// One way to damage a chain: which line, counted over all files, is the first that is wrong then, and
/// the number that ought to be there where it is known.
fn mutate(lines: &mut Vec<(u64, Vec<u8>)>, dice: &mut Dice) -> (&'static str, usize) {
    let (at, other) = (dice.below(lines.len()), dice.below(lines.len()));
    match dice.below(6) {
        0 | 1 => {
            let line = &mut lines[at].1;
            let byte = dice.below(line.len());
            line[byte] ^= 1 << dice.below(8);
            ("flip", at)
        }
        2 => {
            lines.remove(at);
            ("drop", at)
        }
        3 => {
            let other = if at == other {
                (at + 1) % lines.len()
            } else {
                other
            };
            let line = lines[at].1.clone();
            lines[at].1 = std::mem::replace(&mut lines[other].1, line);
            ("swap", at.min(other))
        }
        4 => {
            let copy = lines[at].clone();
            lines.insert(at + 1, copy);
            ("double", at + 1)
        }
        _ => {
            lines.truncate(at.max(1));
            ("cut", at.max(1))
        }
    }
}

#[test]
fn of_a_thousand_mutants_each_is_found_and_located() {
    let files = chain();
    let (head, original) = (files.head(), all_lines(&files.numbered()));
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    #[expect(clippy::disallowed_methods, reason = "a campaign asks for more")]
    let rounds = std::env::var("AUDIT_MUTANTS").map_or(1_000, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let mut lines = original.clone();
        let (how, at) = mutate(&mut lines, &mut dice);
        let places = places(&lines);
        let place = places.get(at).copied();
        let [by_mac, by_key] = both(&of_lines(&lines), &head);
        let told = format!("round {round}: {how} of line {at} at {place:?}");
        let found = first(&by_mac);
        let seq = u64::try_from(at).unwrap() + 1;
        match (how, place) {
            // What ought to be there is named.
            ("drop" | "cut", _) => assert_eq!(found.place.seq, Some(seq), "{told}: {by_mac:?}"),
            (_, Some(place)) if at + 1 < places.len() || how != "flip" => {
                let found = (found.place.number, found.place.line);
                assert_eq!(found, place, "{told}: {by_mac:?}");
            }
            // Half of the last line: cut off by the head.
            _ => {}
        }
        let found = first(&by_key);
        let no_sooner = place.is_none_or(|place| {
            (found.place.number, found.place.line) >= place || found.place.seq >= Some(seq)
        });
        assert!(no_sooner, "{told}: {by_key:?}");
        // No later than the checkpoint that covers it, or the end.
        let covering = original.iter().skip(at + 1).position(|(_, line)| {
            Line::parse(line.trim_ascii_end()).is_some_and(|l| l.has(r#""event":"checkpoint""#))
        });
        let latest = covering.map_or(usize::MAX, |lines| at + lines + 3);
        let found = places
            .iter()
            .position(|place| *place == (found.place.number, found.place.line));
        assert!(
            found.is_none_or(|found| found <= latest),
            "{told}, {latest}: {by_key:?}"
        );
    }
}

#[test]
fn one_wound_is_one_finding() {
    let files = chain();
    let (head, original) = (files.head(), all_lines(&files.numbered()));
    let at = 20;
    let report = |change: &dyn Fn(&mut All)| {
        let mut lines = original.clone();
        change(&mut lines);
        let [report, _] = both(&of_lines(&lines), &head);
        kinds(&report)
    };
    let edit = |lines: &mut Vec<(u64, Vec<u8>)>| lines[at].1[60] ^= 1;
    assert_eq!(report(&edit), [Kind::Changed]);
    assert_eq!(report(&|lines| drop(lines.remove(at))), [Kind::Missing]);
    assert_eq!(report(&|lines| lines.swap(at, at + 1)), [Kind::Disordered]);
    let double = |lines: &mut Vec<(u64, Vec<u8>)>| lines.insert(at, lines[at].clone());
    assert_eq!(report(&double), [Kind::Doubled]);
    let break_in_two = |lines: &mut Vec<(u64, Vec<u8>)>| lines[at].1[60] = b'\n';
    assert_eq!(report(&break_in_two), [Kind::Malformed, Kind::Malformed]);
    // Nobody is to publish what such a chain ends with.
    let mut lines = original.clone();
    edit(&mut lines);
    assert_eq!(
        both(&of_lines(&lines), &head).map(|report| report.head),
        [None, None]
    );
    // Two that are far apart are two.
    let twice = |lines: &mut Vec<(u64, Vec<u8>)>| {
        lines[at].1[60] ^= 1;
        lines[at + 30].1[60] ^= 1;
        lines.remove(at + 10);
    };
    assert_eq!(
        report(&twice),
        [Kind::Changed, Kind::Missing, Kind::Changed]
    );
}

#[test]
fn whole_files_that_are_missing_older_swapped_or_of_another_chain_are_named() {
    let files = chain();
    let (head, original) = (files.head(), files.numbered());
    for (number, kind) in [
        (1, Kind::MissingFiles),
        (3, Kind::MissingFiles),
        (5, Kind::Truncated),
    ] {
        let mut left = original.clone();
        left.remove(&number);
        for report in both(&left, &head) {
            assert_eq!(report.completeness, Verdict::Broken);
            assert!(kinds(&report).contains(&kind), "{number}: {report:?}");
        }
    }
    let mut other = Files::begin("gw-2", 1);
    other.open();
    other.requests(20);
    let mut again = Files::begin("gw-1", 1);
    for file in 1..=3 {
        again.open();
        again.requests(6 + file);
    }
    let opening = original[&3].split_inclusive(|byte| *byte == b'\n').next();
    let older = opening.unwrap();
    for (bytes, kind) in [
        (other.files[0].clone(), Kind::Foreign),
        // With the same numbers, and other lines.
        (again.files[2].clone(), Kind::Unlinked),
        (original[&2].clone(), Kind::Misnamed),
        (older.to_vec(), Kind::Missing),
        (Vec::new(), Kind::Missing),
    ] {
        let mut replaced = original.clone();
        replaced.insert(3, bytes);
        for report in both(&replaced, &head) {
            assert!(kinds(&report).contains(&kind), "{kind:?}: {report:?}");
            let number = if kind == Kind::Missing { 4 } else { 3 };
            let of_kind = report.findings.iter().find(|f| f.kind == kind).unwrap();
            assert_eq!(of_kind.place.number, number, "{report:?}");
        }
    }
    let mut swapped = original.clone();
    swapped.insert(2, original[&3].clone());
    swapped.insert(3, original[&2].clone());
    for report in both(&swapped, &head) {
        assert!(kinds(&report).contains(&Kind::Misnamed), "{report:?}");
        assert_eq!(first(&report).place.number, 2);
    }
}

#[test]
fn a_chain_that_was_rewritten_or_rolled_back_is_not_the_published_one() {
    let files = chain();
    let head = files.head();
    // By somebody else, in everything.
    let mut forged = Files::begin("gw-1", 9);
    for _ in 0..5 {
        forged.open();
        forged.requests(9);
    }
    for report in both(&forged.numbered(), &head) {
        let found = first(&report);
        assert_eq!((found.kind, found.place.line), (Kind::UnknownKey, 1));
        assert!(kinds(&report).contains(&Kind::Rewritten), "{report:?}");
        assert_eq!(report.integrity, Verdict::Broken);
    }
    // In the name of the key, and with another.
    let mut named = Files::begin("gw-1", 1);
    named.open();
    named.change_key(9);
    named.checkpoint();
    let report = judge(&named.numbered(), &public(&[1, 2]), None);
    assert_eq!(first(&report).kind, Kind::Signature, "{report:?}");
    // By who has the key.
    let mut rewritten = Files::begin("gw-1", 1);
    for _ in 0..5 {
        rewritten.open();
        rewritten.requests(12);
    }
    for report in both(&rewritten.numbered(), &head) {
        assert_eq!(kinds(&report), [Kind::Rewritten], "{report:?}");
    }
    // Its state of some time ago.
    let old: BTreeMap<_, _> = files.numbered().into_iter().take(3).collect();
    for report in both(&old, &head) {
        assert_eq!(kinds(&report), [Kind::Truncated], "{report:?}");
        assert_eq!(report.head, None);
    }
    let report = judge(&old, &keys(&[1, 2]), None);
    assert!(report.is_whole() && note(&report, About::Head).is_some());
}

/// The heads after each of the files.
fn heads(files: &Files) -> Vec<Checkpoint> {
    let node = files.chain.node();
    let mut tree = Tree::default();
    let mut head = |file: &Vec<u8>| {
        let lines = file.split_inclusive(|byte| *byte == b'\n');
        lines.for_each(|line| tree.push(Hash::of_leaf(line.trim_ascii_end())));
        Checkpoint {
            node: node.clone(),
            size: tree.size(),
            root: tree.root(),
        }
    };
    files.files.iter().map(&mut head).collect()
}

#[test]
fn every_published_head_is_compared_and_the_first_that_differs_is_located() {
    let files = chain();
    let (mut all, heads) = (files.numbered(), heads(&files));
    for trust in [keys(&[1, 2]), public(&[1, 2])] {
        let judge = |heads: &[Checkpoint]| judge_with(&all, &trust, heads);
        let report = judge(&heads);
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.counts.heads, report.counts.heads_compared), (5, 5));
        for wrong in 0..5 {
            let (mut heads, place) = (heads.clone(), u64::try_from(wrong).unwrap() + 1);
            heads[wrong].root = Hash::of_leaf(b"another");
            heads.rotate_left(2);
            let report = judge(&heads);
            assert_eq!(kinds(&report), [Kind::Rewritten], "{report:?}");
            let found = &first(&report).place;
            assert_eq!(
                (found.number, found.seq),
                (place, Some(heads[(wrong + 3) % 5].size))
            );
            let lines = all[&place].split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(found.line, u64::try_from(lines).unwrap());
            let line = format!("line {} of its file", (wrong + 3) % 5 + 1);
            assert!(first(&report).what.contains(&line), "{report:?}");
        }
    }
    all.remove(&5);
    all.remove(&4);
    let report = judge_with(&all, &keys(&[1, 2]), &heads);
    assert_eq!(kinds(&report), [Kind::Truncated], "{report:?}");
    assert_eq!(first(&report).place.seq, Some(heads[2].size + 1));
    let told = format!("(line 5 of its file) has {} lines", heads[4].size);
    assert!(first(&report).what.contains(&told), "{report:?}");
}

#[test]
fn a_head_that_is_of_another_node_or_cannot_be_compared_is_no_good_end() {
    let mut files = chain();
    let old = heads(&files);
    let mut other = files.head();
    other.node = "gw-2".try_into().unwrap();
    let report = judge(&files.numbered(), &keys(&[1, 2]), Some(&other));
    assert_eq!(kinds(&report), [Kind::Foreign], "{report:?}");
    let told = "the published head is of node gw-2, the chain is of node gw-1";
    assert!(first(&report).what.contains(told), "{report:?}");
    assert_eq!(report.counts.heads_compared, 0);
    let through_seq = old[1].size;
    files.keep(Upkeep::FilesRemoved(Removed {
        through_file: 2,
        through_seq,
        cause: "age".into(),
    }));
    files.checkpoint();
    let mut left = files.numbered();
    left.remove(&1);
    left.remove(&2);
    let newest = files.head();
    for trust in [keys(&[1, 2]), public(&[1, 2])] {
        let judge = |heads: &[Checkpoint]| judge_with(&left, &trust, heads);
        // The first file that is left says which tree it follows.
        assert!(judge(&old[1..]).is_whole());
        let report = judge(&old[..1]);
        assert_eq!(kinds(&report), [Kind::Uncompared], "{report:?}");
        assert_eq!(report.completeness, Verdict::Broken);
        assert_eq!((report.counts.heads, report.counts.heads_compared), (1, 0));
        let report = judge(&[newest.clone(), old[0].clone()]);
        assert!(report.is_whole(), "{report:?}");
        assert_eq!(note(&report, About::OldHeads), Some(1));
        assert_eq!((report.counts.heads, report.counts.heads_compared), (2, 1));
    }
    // A newer one says nothing of lines that nobody removed.
    left.remove(&3);
    let mut lost = old[2].clone();
    lost.size -= 1;
    let report = judge_with(&left, &keys(&[1, 2]), &[lost, newest]);
    assert!(kinds(&report).contains(&Kind::Uncompared), "{report:?}");
}

#[test]
fn a_key_that_was_not_given_is_said_once_and_first_where_none_of_the_given_ones_is_right() {
    let files = chain();
    let text = |trust: &Trust, secret: u8| match trust {
        Trust::Keys(_) => key(secret).id().to_string(),
        Trust::Public(_) => key(secret).public(files.chain.node()).to_string(),
    };
    for trust in [keys(&[2]), public(&[2])] {
        let report = judge(&files.numbered(), &trust, None);
        assert_eq!(kinds(&report), [Kind::UnknownKey], "{report:?}");
        let found = first(&report);
        assert_eq!((found.place.number, found.place.line), (1, 1));
        assert!(found.what.starts_with("the file says"), "{found:?}");
        assert!(found.what.contains(&text(&trust, 1)), "{found:?}");
        assert_eq!(note(&report, About::Unsigned), Some(1));
    }
    for trust in [keys(&[3, 4]), public(&[3, 4])] {
        let report = judge(&files.numbered(), &trust, None);
        assert_eq!(kinds(&report), [Kind::UnknownKey; 2], "{report:?}");
        for (found, secret) in report.findings.iter().zip([1, 2]) {
            assert!(found.what.starts_with("none of the given"), "{found:?}");
            assert!(found.what.contains(&text(&trust, secret)), "{found:?}");
        }
        assert_eq!(note(&report, About::Unsigned), None);
    }
}

#[test]
fn a_key_that_was_replaced_does_not_come_back() {
    for (secrets, retired) in [
        (&[1, 1, 2, 2, 3][..], vec![]),
        (&[1, 2, 1], vec![3]),
        (&[1, 2, 3, 1, 1, 2], vec![4, 6]),
    ] {
        let mut files = Files::begin("gw-1", 1);
        for secret in secrets {
            files.change_key(*secret);
            files.open();
            files.requests(3);
        }
        // In whatever order they are given.
        for all in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
            for trust in [keys(&all), public(&all)] {
                let report = judge(&files.numbered(), &trust, Some(&files.head()));
                let places = report.findings.iter().map(|found| found.place.number);
                assert_eq!(places.collect::<Vec<_>>(), retired, "{report:?}");
                assert!(kinds(&report).iter().all(|kind| *kind == Kind::RetiredKey));
                assert_eq!(report.integrity == Verdict::Ok, retired.is_empty());
            }
        }
    }
    // Nor in the name of the one that is in use.
    let mut files = chain();
    files.open();
    files.change_key(1);
    files.requests(1);
    for report in both(&files.numbered(), &files.head()) {
        assert_eq!(report.integrity, Verdict::Broken, "{report:?}");
        assert_eq!(first(&report).place.number, 6);
    }
}

#[test]
fn removed_files_are_missed_only_beyond_what_the_chain_says() {
    let mut files = chain();
    let last_of = |files: &Files, count: usize| -> u64 {
        let lines = files.files[..count].iter().flatten();
        u64::try_from(lines.filter(|byte| **byte == b'\n').count()).unwrap()
    };
    let removed = Removed {
        through_file: 2,
        through_seq: last_of(&files, 2),
        cause: "age".into(),
    };
    let through = removed.through_seq;
    files.keep(Upkeep::FilesRemoved(removed));
    files.checkpoint();
    let (head, mut left) = (files.head(), files.numbered());
    // Before they are gone, in between, and after.
    for number in [0, 1, 2] {
        left.remove(&number);
        for report in both(&left, &head) {
            assert!(report.is_whole(), "{number}: {report:?}");
        }
    }
    let [report, _] = both(&left, &head);
    assert_eq!(note(&report, About::Removed), Some(through));
    let mut further = left.clone();
    further.remove(&3);
    for report in both(&further, &head) {
        let found = first(&report);
        assert_eq!(kinds(&report)[0], Kind::MissingFiles);
        // What the chain says is a note, and only what it does not say is missing.
        assert_eq!(found.place.seq, Some(through + 1), "{report:?}");
        assert!(found.what.starts_with("file 3 is missing"), "{report:?}");
        assert_eq!(note(&report, About::Removed), Some(through));
        assert_eq!(report.completeness, Verdict::Broken);
    }
    let line_break = left[&3].iter().position(|byte| *byte == b'\n').unwrap();
    left.insert(3, left[&3][line_break + 1..].to_vec());
    for report in both(&left, &head) {
        let found = first(&report);
        assert_eq!(
            (found.kind, found.place.seq),
            (Kind::Missing, Some(through + 1))
        );
    }
}

#[test]
fn a_removal_that_nobody_signed_is_not_believed_by_the_public_key_alone() {
    let mut files = chain();
    let lines = files.files[..2].iter().flatten();
    let through_seq = lines.filter(|byte| **byte == b'\n').count();
    let removed = Removed {
        through_file: 2,
        through_seq: u64::try_from(through_seq).unwrap(),
        cause: "age".into(),
    };
    // By somebody who has the folder and no key, behind the last checkpoint.
    files.change_key(3);
    files.keep(Upkeep::FilesRemoved(removed));
    let mut left = files.numbered();
    left.remove(&1);
    left.remove(&2);
    let report = judge(&left, &public(&[1, 2]), None);
    assert_eq!(kinds(&report), [Kind::MissingFiles], "{report:?}");
    assert_eq!(report.completeness, Verdict::Broken);
}

/// A chain of two files; the first as a disk left it that had failed, the byte from which it does not count, and
/// the state that the chain was gone on with.
fn after_a_failed_write() -> (Files, Vec<u8>, usize, State) {
    let mut files = Files::begin("gw-1", 1);
    files.open();
    files.requests(5);
    let certain = files.files[0].len();
    let state = files.chain.state().clone();
    // What a disk may have taken or not, and what a crash leaves.
    files.requests(3);
    let torn = files.files[0].len() - 100;
    files.files[0].truncate(torn);
    let failed = files.files[0].clone();
    files.chain.restore(state.clone());
    files.open();
    files.keep(Upkeep::AuditGap(Gap {
        cause: "write_failed".into(),
        file: Some(1),
        from_byte: Some(u64::try_from(certain).unwrap()),
        ..Gap::default()
    }));
    files.keep(Upkeep::AuditGap(Gap::lost(17)));
    files.requests(4);
    (files, failed, certain, state)
}

#[test]
fn a_tail_that_the_chain_says_does_not_count_is_a_note_and_any_other_is_not() {
    let (files, failed, certain, state) = after_a_failed_write();
    let head = files.head();
    for bytes in [failed.clone(), failed[..certain].to_vec()] {
        let mut all = files.numbered();
        all.insert(1, bytes.clone());
        for report in both(&all, &head) {
            assert!(report.is_whole(), "{report:?}");
            assert_eq!(note(&report, About::Lost), Some(17));
            assert_eq!(report.counts.lost, 17);
            // Nothing is said of what is not there.
            let beyond = u64::try_from(bytes.len() - certain).unwrap();
            assert_eq!(note(&report, About::SetAside).unwrap_or(0), beyond);
            assert_eq!(note(&report, About::SetAside).is_some(), beyond > 0);
        }
    }
    // A gap is believed when a good line says it.
    let mut forged = files.numbered();
    let text = String::from_utf8(forged[&2].clone()).unwrap();
    forged.insert(
        2,
        text.replacen("write_failed", "write-failed", 1)
            .into_bytes(),
    );
    let [report, by_key] = both(&forged, &head);
    assert!(kinds(&report).contains(&Kind::Unexplained), "{report:?}");
    assert_eq!(by_key.integrity, Verdict::Broken);
    // And one that nothing explains is no note.
    let mut silent = Files::begin("gw-1", 1);
    silent.files.push(failed);
    silent.chain.restore(state);
    silent.open();
    silent.requests(4);
    let report = judge(&silent.numbered(), &keys(&[1]), None);
    assert!(kinds(&report).contains(&Kind::Unexplained), "{report:?}");
    assert_eq!(first(&report).place.number, 1);
}

#[test]
fn numbers_that_anybody_may_have_written_add_up_to_no_overflow() {
    let mut files = chain();
    files.open();
    for _ in 0..2 {
        files.keep(Upkeep::AuditGap(Gap {
            cause: "torn".into(),
            lost: Some(u64::MAX),
            file: Some(u64::MAX),
            from_byte: Some(u64::MAX),
            bytes: Some(u64::MAX),
        }));
    }
    files.requests(3);
    let mut all = files.numbered();
    let last = all.remove(&6).unwrap();
    all.insert(u64::MAX, last);
    for report in both(&all, &files.head()) {
        assert_eq!(report.counts.lost, u64::MAX);
        assert_eq!(note(&report, About::SetAside), Some(u64::MAX));
        assert_eq!(kinds(&report), [Kind::Misnamed], "{report:?}");
    }
}

#[test]
fn lines_beside_a_missing_one_are_vouched_for_by_nothing_without_the_key() {
    let files = chain();
    let mut lines = all_lines(&files.numbered());
    lines.remove(20);
    let [by_mac, by_key] = both(&of_lines(&lines), &files.head());
    assert_eq!(kinds(&by_mac), [Kind::Missing], "{by_mac:?}");
    assert_eq!(
        kinds(&by_key),
        [Kind::Missing, Kind::Unvouched],
        "{by_key:?}"
    );
    assert_eq!(by_key.integrity, Verdict::Broken);
}

#[test]
fn a_removal_of_what_comes_after_it_is_not_believed() {
    for further in 0..2 {
        let mut files = Files::begin("gw-1", 1);
        files.open();
        files.open();
        let own = files.chain.state().seq() + 1;
        files.keep(Upkeep::FilesRemoved(Removed {
            through_file: 1,
            through_seq: own - 1 + further,
            cause: "age".into(),
        }));
        files.checkpoint();
        let expected = if further == 0 {
            vec![]
        } else {
            vec![Kind::Upkeep]
        };
        for report in both(&files.numbered(), &files.head()) {
            assert_eq!(kinds(&report), expected, "{report:?}");
        }
    }
}

#[test]
fn half_a_line_in_a_closed_file_is_no_line_that_is_being_written() {
    let files = chain();
    for (compressed, expected) in [(false, vec![]), (true, vec![Kind::Unexplained])] {
        let (trust, cuts) = (keys(&[1, 2]), Cuts::new());
        let mut judge = Judge::new(&trust, &[], &cuts);
        judge.begin(1, "1", compressed);
        for line in files.files[0].split(|byte| *byte == b'\n') {
            if !line.is_empty() {
                judge.line(line);
            }
        }
        judge.torn(b"{\"v\":1,");
        let report = judge.finish();
        assert_eq!(kinds(&report), expected, "{report:?}");
        assert_eq!(note(&report, About::HalfLine).is_none(), compressed);
    }
}

#[test]
fn a_checkpoint_of_another_state_says_nothing_of_the_tree() {
    let mut files = Files::begin("gw-1", 1);
    files.open();
    // Of as many complete subtrees as the tree where it stands.
    while files.chain.state().seq() < 10 {
        files.keep(Upkeep::ClockStep { ms: 1 });
    }
    let early = files.chain.state().tree.clone();
    files.keep(Upkeep::ClockStep { ms: 1 });
    files.keep(Upkeep::ClockStep { ms: 1 });
    let honest = files.files[0].clone();
    let (node, size, root) = (files.chain.node().clone(), early.size(), early.root());
    let signature = key(1).sign(&Checkpoint { node, size, root });
    files.keep(Upkeep::Checkpoint(Signed {
        size,
        root,
        subtrees: early.subtrees().to_vec(),
        signature,
    }));
    files.requests(4);
    let lies = files.files[0][honest.len()..]
        .iter()
        .position(|byte| *byte == b'\n');
    for report in both(&files.numbered(), &files.head()) {
        assert_eq!(kinds(&report), [Kind::Root], "{report:?}");
        assert_eq!(first(&report).place.line, 13);
    }
    // It covers nothing, and vouches for nothing.
    let alone = honest.len() + lies.unwrap() + 1;
    let alone = BTreeMap::from([(1, files.files[0][..alone].to_vec())]);
    let report = judge(&alone, &keys(&[1]), None);
    assert_eq!(report.counts.signed_through, None);
    assert_eq!(report.counts.checkpoints, 0);
}

#[test]
fn whole_lines_that_a_start_set_aside_are_missing_and_half_a_line_is_not() {
    for (cause, kind) in [("torn", None), ("damaged", Some(Kind::SetAside))] {
        let mut files = chain();
        files.open();
        files.keep(Upkeep::AuditGap(Gap {
            cause: cause.into(),
            file: Some(5),
            from_byte: Some(u64::try_from(files.files[4].len()).unwrap()),
            bytes: Some(4711),
            lost: None,
        }));
        files.requests(3);
        for report in both(&files.numbered(), &files.head()) {
            assert_eq!(kinds(&report), Vec::from_iter(kind), "{report:?}");
            assert_eq!(report.integrity, Verdict::Ok);
            assert_eq!(report.is_whole(), kind.is_none());
            assert_eq!(note(&report, About::SetAside).is_some(), kind.is_none());
            let Some(found) = report.findings.first() else {
                continue;
            };
            let copy = format!("(audit-00000005.torn-{})", files.files[4].len());
            assert!(found.what.contains(&copy), "{found:?}");
            assert!(found.what.starts_with("4711 bytes of file 5,"), "{found:?}");
            assert_eq!((found.place.number, found.place.line), (6, 2));
        }
    }
}

#[test]
fn a_gap_that_nobody_signed_is_not_believed_by_the_public_key_alone() {
    let (files, failed, ..) = after_a_failed_write();
    let mut unsigned = files.numbered();
    unsigned.insert(1, failed);
    let lines: Vec<_> = all_lines(&unsigned)
        .into_iter()
        .filter(|(file, _)| *file == 2)
        .collect();
    unsigned.insert(
        2,
        lines[..5]
            .iter()
            .flat_map(|(_, line)| line.clone())
            .collect(),
    );
    for (trust, expected) in [
        (keys(&[1]), vec![]),
        (public(&[1]), vec![Kind::Unexplained]),
    ] {
        let report = judge(&unsigned, &trust, None);
        assert_eq!(kinds(&report), expected, "{report:?}");
    }
}

#[test]
fn a_chain_that_is_being_written_ends_where_it_ends() {
    let mut files = chain();
    let id = RequestId::mint();
    let intent = format!(r#"{{"time":"{NOW}","phase":"intent","request_id":"{id}"}}"#);
    files
        .chain
        .append(intent.as_bytes(), files.files.last_mut().unwrap());
    files.keep(Upkeep::ClockStep { ms: -5_000 });
    files
        .files
        .last_mut()
        .unwrap()
        .extend_from_slice(b"{\"v\":1,\"seq\":");
    let head = files.head();
    for report in both(&files.numbered(), &head) {
        assert!(report.is_whole(), "{report:?}");
        assert_eq!(note(&report, About::HalfLine), Some(13));
        assert_eq!(note(&report, About::UnderWay), Some(1));
        assert_eq!(note(&report, About::ClockSteps), Some(1));
        assert_eq!(note(&report, About::Unsigned), Some(3));
    }
}

#[test]
fn a_line_about_the_chain_that_cannot_be_understood_and_a_wrong_checkpoint_are_named() {
    let mut files = Files::begin("gw-1", 1);
    files.open();
    files.requests(3);
    let strange: [&[u8]; 2] = [
        br#"{"time":"1970-01-01T00:00:00Z","phase":"event","event":"audit_gap","lost":"many"}"#,
        b"{\"time\":\"1970-01-01T00:00:00Z\",\"phase\":\"event\",\"event\":\"checkpoint\",\"x\":\"\xFF\"}",
    ];
    for event in strange {
        files.chain.append(event, files.files.last_mut().unwrap());
    }
    files.checkpoint();
    for report in both(&files.numbered(), &files.head()) {
        assert_eq!(kinds(&report), [Kind::Upkeep, Kind::Upkeep], "{report:?}");
    }
    // As a writer that was out of its mind, or bought, would.
    let mut lying = Files::begin("gw-1", 1);
    lying.open();
    lying.requests(3);
    let (honest, other) = (lying.head(), chain().head());
    for (size, root) in [(honest.size, other.root), (honest.size + 1, honest.root)] {
        let mut files = Files::begin("gw-1", 1);
        files.files.clone_from(&lying.files);
        files.chain.restore(lying.chain.state().clone());
        let node = honest.node.clone();
        let signature = key(1).sign(&Checkpoint { node, size, root });
        files.keep(Upkeep::Checkpoint(Signed {
            size,
            root,
            subtrees: lying.chain.state().tree.subtrees().to_vec(),
            signature,
        }));
        for report in both(&files.numbered(), &honest) {
            assert_eq!(kinds(&report), [Kind::Root], "{report:?}");
        }
    }
}
