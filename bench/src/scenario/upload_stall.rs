//! Small requests beside a large upload whose body is hashed: whether hashing keeps the event loop
//! from serving others.
//!
//! One worker on a core of its own. One client uploads without a pause, as fast as nginx takes it;
//! small requests come every two milliseconds, planned beforehand, and their times show how long
//! the loop was busy. Lanes take turns: no upload, one that is not hashed, and one for each way to
//! hash. nginx reads an upload for as long as there is data to read, so the loop is busy for a
//! while without Pincer, too. So lanes are compared with the lane that is not hashed. The response
//! does not come from the replica: bodies are read, hashed and stored, not passed on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bodies::{PASSED, body, prepare};
use super::cost::start_pinned;
use super::plain::Backend;
use crate::client::{Client, Fate};
use crate::report::Verdicts;
use crate::run::Stage;
use crate::stats::{Spread, Summary};
use crate::trace::Arrival;

/// An upload of the lanes that take any body.
const UPLOAD_BYTES: usize = 64 << 20;
/// Members of the JSON object of its lane, in an order that is not that of their keys: about 1 MB,
/// the most that is parsed by default.
const MEMBERS: usize = 16_384;
/// Between two small requests.
const PAUSE: Duration = Duration::from_millis(2);
/// What the uploading thread asks of the scheduler: that the small requests' client comes first.
const NICE: i32 = 19;

/// p99 of small requests beside a hashed upload over that beside one that is not hashed.
const P99_MAX: f64 = 2.0;
/// How much longer than beside an upload that is not hashed the longest small request may take, ms.
const STALL_MS_MAX: f64 = 5.0;

/// What is uploaded, and where to.
struct Lane {
    name: &'static str,
    path: &'static str,
    hash: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nothing,
    Bytes,
    Form,
    Json,
}

const LANES: [Lane; 7] = [
    Lane { name: "no upload", path: "/", hash: "", kind: Kind::Nothing },
    Lane { name: "64 MB, not hashed", path: "/off", hash: "", kind: Kind::Bytes },
    Lane { name: "64 MB, blake3", path: "/blake3", hash: "blake3", kind: Kind::Bytes },
    Lane { name: "64 MB, sha256", path: "/sha256", hash: "sha256", kind: Kind::Bytes },
    Lane { name: "64 MB, xxh3", path: "/xxh3", hash: "xxh3", kind: Kind::Bytes },
    Lane { name: "64 MB, blake3 form=multipart", path: "/form", hash: "blake3 form=multipart", kind: Kind::Form },
    Lane { name: "1 MB, blake3 form=json", path: "/json", hash: "blake3 form=json max=2m", kind: Kind::Json },
];
/// Place of the lane that the hashed ones, which come after it, are compared with.
const NOT_HASHED: usize = 1;

/// The result of a lane in one turn.
struct Turn {
    small: Summary,
    longest: Duration,
    uploaded_mb_per_s: f64,
}

/// `upload_stall`.
pub async fn run(stage: &Stage, verdicts: &mut Verdicts) -> Result<()> {
    let (turn, turns) = if stage.quick { (Duration::from_secs(2), 3) } else { (Duration::from_secs(4), 9) };
    let backend = Backend::start(&stage.programs)?;
    let mut locations = String::from("location / { return 200 ok; }");
    for Lane { path, hash, .. } in &LANES[NOT_HASHED..] {
        let hash = if hash.is_empty() { String::new() } else { format!("pincer_body_hash {hash};") };
        locations.push_str(&format!(
            "location = {path} {{ {PASSED} {hash} client_body_buffer_size 16k; proxy_pass_request_body off;
                proxy_set_header Content-Length \"\"; }}"
        ));
    }
    let prepared = prepare(&stage.programs, &backend, true, true, &locations)?;
    let running = start_pinned(prepared)?;
    let mut shown: Vec<Vec<Turn>> = LANES.iter().map(|_| Vec::new()).collect();
    for number in 0..=turns {
        for place in 0..LANES.len() {
            let place = (place + number) % LANES.len();
            let shows = one(stage, &LANES[place], running.address, turn).await?;
            if number > 0 {
                shown[place].push(shows);
            }
        }
        eprintln!("  turn {number} of {turns}");
    }
    report(&shown, verdicts);
    Ok(())
}

/// One lane's turn.
async fn one(stage: &Stage, lane: &Lane, address: SocketAddr, time: Duration) -> Result<Turn> {
    let stop = Arc::new(AtomicBool::new(false));
    let uploaded = Arc::new(AtomicUsize::new(0));
    let uploading = (lane.kind != Kind::Nothing).then(|| {
        let (request, stop, uploaded) = (request(lane), Arc::clone(&stop), Arc::clone(&uploaded));
        std::thread::spawn(move || upload(address, &request, &stop, &uploaded))
    });
    let trace: Arc<[Arrival]> = (1..)
        .map(|number| Arrival { at: PAUSE * number, work: 1.0, class: None })
        .take_while(|arrival| arrival.at < time)
        .collect();
    let start = Instant::now();
    let samples =
        Client::new(address).replay(trace, start, start + time + Duration::from_secs(10), stage.timers.clone()).await;
    let uploaded = uploaded.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    if let Some(uploading) = uploading {
        let ended = tokio::task::spawn_blocking(|| uploading.join()).await.context("joining the upload")?;
        ended.map_err(|_| anyhow::anyhow!("the upload panicked"))??;
    }
    ensure!(samples.iter().all(|sample| sample.fate() == Fate::Succeeded), "{}: a small request failed", lane.name);
    // Measured from the real start, since a late start is the client's fault and not the proxy's.
    let times = || samples.iter().filter_map(|sample| sample.latency(sample.sent?));
    let longest = times().max().unwrap_or_default();
    Ok(Turn { small: Summary::of(times()), longest, uploaded_mb_per_s: uploaded / f64::from(1 << 20) })
}

/// The whole request of a lane's upload.
fn request(lane: &Lane) -> Vec<u8> {
    let (kind, body) = match lane.kind {
        Kind::Nothing | Kind::Bytes => ("application/octet-stream", bytes()),
        Kind::Form => {
            let head = "--edge\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n";
            ("multipart/form-data; boundary=edge", [head.as_bytes(), &bytes(), b"\r\n--edge--\r\n"].concat())
        }
        Kind::Json => ("application/json", object()),
    };
    let (path, length) = (lane.path, body.len());
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), &body].concat()
}

/// A megabyte of letters, again and again.
fn bytes() -> Vec<u8> {
    let piece = body(1, 1 << 20);
    piece.repeat(UPLOAD_BYTES / piece.len())
}

/// An object with many members whose keys begin alike and come in no order.
fn object() -> Vec<u8> {
    // 7919 is prime and no divisor of the count, which is the most that one object may have: every
    // number comes once.
    let members = (0..MEMBERS).map(|number| {
        format!("\"a-name-that-is-as-long-as-needed-for-a-megabyte-{:06}\":{number}", number * 7919 % MEMBERS)
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(",")).into_bytes()
}

/// Sends the request repeatedly on one connection, as fast as nginx reads it.
fn upload(address: SocketAddr, request: &[u8], stop: &AtomicBool, uploaded: &AtomicUsize) -> Result<()> {
    // On Linux the nice value belongs to the thread.
    let _ = rustix::process::nice(NICE);
    let mut stream = TcpStream::connect(address)?;
    while !stop.load(Ordering::Relaxed) {
        for piece in request.chunks(1 << 16) {
            stream.write_all(piece)?;
            uploaded.fetch_add(piece.len(), Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        let mut response = [0; 4096];
        let read = stream.read(&mut response)?;
        ensure!(
            response[..read].starts_with(b"HTTP/1.1 200"),
            "the response to an upload is {:?}",
            response[..read].escape_ascii().to_string()
        );
    }
    Ok(())
}

fn report(shown: &[Vec<Turn>], verdicts: &mut Verdicts) {
    let over = |place: usize, figure: fn(&Turn) -> f64| {
        Spread::of(shown[place].iter().zip(&shown[NOT_HASHED]).map(|(mine, plain)| figure(mine) / figure(plain)))
    };
    println!(
        "\n  {:<32} {:>9} {:>9} {:>12} {:>11} {:>10}",
        "ms, small requests", "p50", "p99", "÷ not hashed", "longest", "MB/s"
    );
    for (place, lane) in LANES.iter().enumerate() {
        let median = |figure: fn(&Turn) -> f64| Spread::of(shown[place].iter().map(figure)).median;
        println!(
            "  {:<32} {:9.3} {:9.3} {:12.2} {:11.2} {:10.0}",
            lane.name,
            median(|turn| turn.small.p50) * 1e3,
            median(|turn| turn.small.p99) * 1e3,
            over(place, |turn| turn.small.p99).median,
            median(|turn| turn.longest.as_secs_f64()) * 1e3,
            median(|turn| turn.uploaded_mb_per_s),
        );
    }
    println!();
    for (place, lane) in LANES.iter().enumerate().skip(NOT_HASHED + 1) {
        let what = format!("{}: p99 of small requests over that beside an upload that is not hashed", lane.name);
        verdicts.ratio(&what, over(place, |turn| turn.small.p99), P99_MAX);
        let pairs = shown[place].iter().zip(&shown[NOT_HASHED]);
        let more = Spread::of(pairs.map(|(mine, plain)| mine.longest.as_secs_f64() - plain.longest.as_secs_f64()));
        let what = format!("{}: the longest small request, ms more than beside one that is not hashed", lane.name);
        verdicts.at_most(&what, more.median * 1e3, STALL_MS_MAX);
    }
}
