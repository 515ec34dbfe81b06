//! What lifting, parsing, checking and sealing a request costs, and digesting its images, beside a plain check of the same
//! base64, which is the floor for anybody who looks at every byte of an image.
//!
//! The base64 of the plain check lies in one buffer; the request comes in frames of 400 KiB, as
//! hyper hands over a large body. `cargo bench --bench payload`, on one core with `taskset -c 1`.

#![expect(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench stops where its input is wrong, and its figures are its output"
)]

#[path = "support/permit.rs"]
mod permit;

use std::{hint::black_box, time::Duration};

use base64_simd::STANDARD;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use dcams_gateway::{
    audit::key::AuditKey,
    auth::permit::Permit,
    clock,
    payload::{
        DataUri, Field, ImageTypes, Rules, Submission,
        lift::{self, lift},
    },
    tenant::Country,
    upstream::seal::{SealedRequest, seal},
};
use jiff::civil::{Date, date};

use self::permit::permit;

const TODAY: Date = date(2026, 11, 23);
const FRAME: usize = 400 * 1024;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
        .configure_from_args();
    for (name, bytes) in [
        ("300 B", 300),
        ("64 KiB", 64 << 10),
        ("1 MiB", 1 << 20),
        ("8 MiB", 8 << 20),
    ] {
        compare(&mut criterion, name, &Request::of_size(bytes));
    }
    let escaped = Request::of_size(8 << 20).with_escaped_slashes();
    compare(&mut criterion, "8 MiB as PHP writes it", &escaped);
    criterion.final_summary();
}

fn compare(criterion: &mut Criterion, name: &str, request: &Request) {
    let proofs = Proofs::new();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(request.len()));
    group.bench_function(BenchmarkId::from_parameter("lift+parse+check+seal"), |b| {
        b.iter(|| request.seal(black_box(&proofs)));
    });
    if request.base64.is_empty() {
        ratio(name, request, &proofs);
        return;
    }
    group.bench_function(BenchmarkId::from_parameter("lift alone"), |b| {
        b.iter(|| lift(black_box(&request.frames), lift::SKELETON_LIMIT));
    });
    // The same number of bytes in both lines, so that the throughputs compare.
    group.bench_function(BenchmarkId::from_parameter("plain base64 check"), |b| {
        b.iter(|| STANDARD.check(black_box(&request.base64)));
    });
    group.finish();
    ratio(name, request, &proofs);
}

/// A request as it arrives, and the base64 in it as one piece.
struct Request {
    frames: Vec<Bytes>,
    base64: Vec<u8>,
}

impl Request {
    /// A request of about this many bytes: without images where they would not fit.
    fn of_size(bytes: usize) -> Self {
        let mut json = String::from(concat!(
            r#"{"service":"createOrUpdateCustomer","reference":"888888812-20261123-000017","target":{"#,
            r#""email":"barbara.miller@customer.example","fn":"Barbara","ln":"Miller","#,
            r#""addr":"123 North Main Street, Apartment 4B","city":"Stratford","state":"CT","zip":"06614","#,
            r#""dob":"19700101","phone":"2015106000""#
        ));
        let mut base64 = Vec::new();
        if bytes > 1024 {
            let front = STANDARD.encode_to_string(jpeg(bytes / 4 * 3 * 6 / 10));
            let back = STANDARD.encode_to_string(jpeg(bytes / 4 * 3 * 4 / 10));
            json += r#","documents":{"front":""#;
            json += &front;
            json += r#"","back":""#;
            json += &back;
            json += r#""}"#;
            base64 = [front, back].concat().into_bytes();
        }
        json += "}}";
        Self {
            frames: frames(&json),
            base64,
        }
    }

    /// The same request with each slash escaped, which `json_encode` of PHP does.
    fn with_escaped_slashes(self) -> Self {
        let json = String::from_utf8(self.frames.concat()).expect("it is JSON");
        let json = json.replace('/', r"\/");
        Self {
            frames: frames(&json),
            ..self
        }
    }

    fn len(&self) -> u64 {
        self.frames.iter().map(|frame| frame.len() as u64).sum()
    }

    fn seal(&self, proofs: &Proofs) -> SealedRequest {
        let lifted = lift(&self.frames, lift::SKELETON_LIMIT).expect("it is small");
        let submission = Submission::parse(&lifted, &proofs.rules, TODAY).expect("it is valid");
        seal(&submission, &proofs.permit)
    }

    /// The same with a digest of each image, as the audit trail has it.
    fn seal_digested(&self, proofs: &Proofs) -> SealedRequest {
        let lifted = lift(&self.frames, lift::SKELETON_LIMIT).expect("it is small");
        let submission = Submission::parse(&lifted, &proofs.rules, TODAY).expect("it is valid");
        for image in submission.images() {
            black_box(proofs.key.images().digest(image.text()));
        }
        seal(&submission, &proofs.permit)
    }
}

fn frames(json: &str) -> Vec<Bytes> {
    let frames = json.as_bytes().chunks(FRAME);
    frames.map(Bytes::copy_from_slice).collect()
}

/// A JPEG of this many bytes, a multiple of 3: real headers with an EXIF segment, any image data.
fn jpeg(bytes: usize) -> Vec<u8> {
    let mut file = vec![0xff, 0xd8, 0xff, 0xe1, 0x20, 0x00];
    file.resize(6 + 0x1ffe, 0x45);
    file.extend([0xff, 0xdb, 0, 67]);
    file.resize(file.len() + 65, 1);
    file.extend([
        0xff, 0xc0, 0, 17, 8, 0x0b, 0xd0, 0x0f, 0xa0, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1,
    ]);
    file.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]);
    let mut state = 1_u32;
    while file.len() < bytes / 3 * 3 - 2 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        file.push((state >> 25) as u8);
    }
    file.extend([0xff, 0xd9]);
    file
}

/// What a request is judged by and sealed with.
struct Proofs {
    rules: Rules,
    permit: Permit,
    key: AuditKey,
}

impl Proofs {
    fn new() -> Self {
        Self {
            rules: rules(),
            permit: permit(),
            key: AuditKey::derive(&[7; 32]),
        }
    }
}

fn rules() -> Rules {
    Rules {
        required: vec![
            Field::Reference,
            Field::Email,
            Field::Fn,
            Field::Ln,
            Field::Addr,
            Field::City,
            Field::State,
            Field::Zip,
            Field::Dob,
            Field::Phone,
        ],
        country: Country::Us,
        data_uri: DataUri::Strip,
        image_types: ImageTypes::ALL,
        max_image: 10 << 20,
        max_image_pixels: 100_000_000,
    }
}

/// All lines measured in turns, so that whatever else the machine does hits both alike.
fn ratio(name: &str, request: &Request, proofs: &Proofs) {
    const TURNS: usize = 400;
    let (mut ours, mut digested, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        ours.push(timed(|| request.seal(black_box(proofs))));
        digested.push(timed(|| request.seal_digested(black_box(proofs))));
        floor.push(timed(|| STANDARD.check(black_box(&request.base64))));
    }
    let (ours, digested, floor) = (median(ours), median(digested), median(floor));
    if request.base64.is_empty() {
        println!("{name}: {ours:?}\n");
        return;
    }
    println!(
        "{name}: {ours:?}, {digested:?} with the images' digests, against {floor:?} for the plain check: {:.2} \
         of its throughput without\n",
        floor.as_secs_f64() / ours.as_secs_f64()
    );
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = clock::instant();
    black_box(work());
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
