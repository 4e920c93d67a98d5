//! `$pincer_body_hash` equals what an independent program says of the same bytes, however they
//! come, are kept and are passed on; and two bodies never share `$pincer_cache_key`.
//!
//! Every combination of algorithm, place of the body, way on and way in is used once in the short
//! form, by 10,000 bodies in the long one (`cargo test --test body_hash -- --ignored`). Sizes are
//! log-uniform from 0 B to 20 MB, the bytes random.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use harness::client::upload::{Answer, Upload};
use harness::{Nginx, Replica, digests, load, ports};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

const ALGORITHMS: [&str; 3] = ["blake3", "sha256", "xxh3"];

/// Where nginx keeps the body, by directives.
const PLACES: [(&str, &str); 4] = [
    ("memory", "client_body_buffer_size 32m;"),
    ("split", "client_body_buffer_size 32m;"),
    ("file", "client_body_buffer_size 1k;"),
    ("only", "client_body_buffer_size 16k; client_body_in_file_only clean;"),
];

/// How a location passes requests on.
const WAYS_ON: [&str; 4] = ["buffered", "unbuffered", "grpc", "try"];

/// How a client sends.
const WAYS_IN: [&str; 7] =
    ["length", "chunked", "h2", "h2_unsized", "length_trickled", "chunked_trickled", "h2_trickled"];

/// Bytes of the largest body.
const BODY_MAX: usize = 20_000_000;
/// Combinations, and so bodies of the short form.
const COMBINATIONS: usize = ALGORITHMS.len() * PLACES.len() * WAYS_ON.len() * WAYS_IN.len();
/// Bodies whose digests are compared in one run of the programs.
const BATCH: usize = 250;
/// Requests at once.
const CLIENTS: usize = 4;

/// One request and what it is to show.
struct Case {
    algorithm: &'static str,
    place: &'static str,
    way_on: &'static str,
    way_in: &'static str,
    body: Bytes,
    seed: u64,
}

impl Case {
    fn path(&self) -> String {
        format!("/{}/{}/{}", self.algorithm, self.place, self.way_on)
    }

    fn named(&self) -> String {
        format!("{} {} ({} bytes, seed {})", self.way_in, self.path(), self.body.len(), self.seed)
    }

    async fn send(&self, h1: &str, h2: &str) -> Answer {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let len = self.body.len();
        let mut upload = Upload::post(&self.path(), self.body.clone());
        let framed = self.way_in.starts_with("chunked") || self.way_in == "h2_unsized";
        if framed || (self.way_in == "h2_trickled" && random.random()) {
            let chunks = random.random_range(0..9);
            upload = upload.chunked(cuts(&mut random, len, chunks));
        }
        if self.way_in.ends_with("trickled") {
            upload = upload.written(trickle(&mut random, len));
        } else if self.place == "split" {
            // The first part comes with the head, into the buffer that the head is in.
            let first = random.random_range(0..800.min(len) + 1);
            upload = upload.written([first]);
        }
        if self.way_in.starts_with("h2") { upload.send_h2(h2).await } else { upload.send(h1).await }
    }
}

/// Every byte by itself in small bodies, some random places in larger ones.
fn trickle(random: &mut SmallRng, len: usize) -> Vec<usize> {
    if len <= 600 {
        return (1..len + 64).collect();
    }
    let parts = random.random_range(2..60);
    cuts(random, len, parts)
}

fn cuts(random: &mut SmallRng, len: usize, count: usize) -> Vec<usize> {
    let mut cuts: Vec<_> = (0..count).map(|_| random.random_range(0..len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

/// The cases from `first` on; the same for the same numbers.
fn cases(noise: &Bytes, first: usize, count: usize) -> Vec<Arc<Case>> {
    let made = (first..first + count).map(|number| {
        let seed = 0x5eed + number as u64;
        let mut random = SmallRng::seed_from_u64(seed);
        let len = body_len(&mut random, number);
        let from = random.random_range(0..noise.len() - len);
        Arc::new(Case {
            algorithm: ALGORITHMS[number % 3],
            place: PLACES[number / 3 % 4].0,
            way_on: WAYS_ON[number / 12 % 4],
            way_in: WAYS_IN[number / 48 % 7],
            body: noise.slice(from..from + len),
            seed,
        })
    });
    made.collect()
}

/// Log-uniform, with some bodies at the sizes where something changes: blocks of the hash
/// functions, nginx's buffers, frames.
fn body_len(random: &mut SmallRng, number: usize) -> usize {
    const EDGES: [usize; 12] = [0, 1, 63, 64, 65, 240, 241, 1024, 1025, 16_384, 16_385, 65_536];
    if number.is_multiple_of(11) {
        return EDGES[random.random_range(0..EDGES.len())];
    }
    let magnitude = random.random_range(0.0..((BODY_MAX + 1) as f64).ln());
    (magnitude.exp() as usize).saturating_sub(1).min(BODY_MAX)
}

fn locations() -> String {
    let mut text = String::new();
    let shown = "add_header X-Hash $pincer_body_hash always; add_header X-Key $pincer_cache_key always;
        add_header X-Uncacheable $pincer_uncacheable always; add_header X-File $request_body_file always;
        add_header X-Tried $arg_tried always;";
    for algorithm in ALGORITHMS {
        for (place, directives) in PLACES {
            let path = format!("/{algorithm}/{place}");
            let common = format!("pincer_body_hash {algorithm}; {directives} {shown}");
            text += &format!(
                "location = {path}/buffered {{ {common} proxy_pass http://u/predict; }}
                 location = {path}/unbuffered {{ {common} proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://u/predict; }}
                 location = {path}/grpc {{ {common} rewrite ^ /predict break; grpc_pass grpc://u; }}
                 location = {path}/try {{ {common} try_files /none {path}/got?tried=$pincer_body_hash; }}
                 location = {path}/got {{ {common} proxy_pass http://u/predict; }}\n"
            );
        }
    }
    text
}

async fn server(replica: &Replica) -> (Nginx, String) {
    let port = ports::free_port();
    let h2 = harness::nginx::http2_listen(port);
    let locations = locations();
    let nginx = Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m; client_max_body_size 0; upstream u {{ server {}; }}", replica.server()))
        .server(&locations)
        .http(format!("server {{ {h2} {locations} }}"))
        .start()
        .await;
    (nginx, format!("127.0.0.1:{port}"))
}

fn check_place(case: &Case, answer: &Answer) {
    let in_file = !answer.header("x-file").is_empty();
    let len = case.body.len();
    match case.place {
        "memory" | "split" => assert!(!in_file, "not in memory: {}", case.named()),
        "only" => assert!(in_file || len == 0, "not in a file: {}", case.named()),
        // What came with the head and one buffer stay in memory.
        _ => assert!(in_file || len <= 4096, "not in a file: {}", case.named()),
    }
}

/// Digests equal the programs', and keys and bodies belong to each other one to one.
async fn all_digests_are_right(count: usize) {
    let replica = Replica::named("a").start().await;
    let (nginx, h2) = server(&replica).await;
    let mut noise = vec![0; BODY_MAX + (2 << 20)];
    SmallRng::seed_from_u64(7).fill_bytes(&mut noise);
    let noise = Bytes::from(noise);
    let (mut by_key, mut by_identity) = (HashMap::new(), HashMap::new());
    for first in (0..count).step_by(BATCH) {
        let cases = Arc::new(cases(&noise, first, BATCH.min(count - first)));
        let (h1, h2, sent) = (nginx.address(), h2.clone(), Arc::clone(&cases));
        let answers = load::closed(cases.len(), CLIENTS, move |number| {
            let (h1, h2, case) = (h1.clone(), h2.clone(), Arc::clone(&sent[number]));
            async move { (number, case.send(&h1, &h2).await) }
        })
        .await;
        let answers: HashMap<_, _> = answers.into_iter().collect();
        for algorithm in ALGORITHMS {
            let numbers: Vec<_> = (0..cases.len()).filter(|&number| cases[number].algorithm == algorithm).collect();
            let bodies: Vec<_> = numbers.iter().map(|&number| &cases[number].body).collect();
            for (number, digest) in numbers.iter().zip(digests::independent(algorithm, &bodies)) {
                let (case, answer) = (&cases[*number], &answers[number]);
                assert_eq!(answer.status, 200, "{}: {}", case.named(), answer.text());
                assert_eq!(answer.header("x-hash"), digest, "{}", case.named());
                assert_eq!(answer.header("x-uncacheable"), "0", "{}", case.named());
                let tried = if case.way_on == "try" { digest.as_str() } else { "" };
                assert_eq!(answer.header("x-tried"), tried, "{}", case.named());
                let received = format!("\"bytes\":{},", case.body.len());
                assert!(answer.text().contains(&received), "{}: {}", case.named(), answer.text());
                check_place(case, answer);
                // HTTP/2 comes to a server block of its own, and the key knows which.
                let server = case.way_in.starts_with("h2");
                let (identity, key) = ((server, case.path(), digest), answer.header("x-key").to_owned());
                let first = by_key.entry(key.clone()).or_insert_with(|| identity.clone());
                assert_eq!(*first, identity, "two bodies share a key");
                assert_eq!(*by_identity.entry(identity).or_insert_with(|| key.clone()), key, "one body has two keys");
            }
        }
    }
    assert!(by_key.len() * 10 > count * 8, "{} keys of {count} bodies", by_key.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_digest_equals_that_of_an_independent_program() {
    all_digests_are_right(COMBINATIONS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long form: ten thousand bodies, some ten gigabytes"]
async fn every_digest_of_ten_thousand_bodies_equals_that_of_an_independent_program() {
    all_digests_are_right(10_000).await;
}
