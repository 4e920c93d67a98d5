//! What of a body comes with the head, in the buffer that the head is in, is read once more
//! together with the rest: it goes to the upstream once and in its place, and nginx counts, keeps
//! and ends it as ever, whatever its buffers' sizes are.

use std::time::Duration;

use harness::client::upload::{Answer, Upload, noise};
use harness::nginx::{Signal, process};
use harness::{Nginx, Replica, digests};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How a location reads and passes on.
const WAYS: [(&str, &str); 8] = [
    ("one", "client_body_buffer_size 1;"),
    ("hundred", "client_body_buffer_size 100;"),
    ("kilobyte", "client_body_buffer_size 1k;"),
    ("usual", "client_body_buffer_size 16k;"),
    ("large", "client_body_buffer_size 1m;"),
    ("single", "client_body_buffer_size 16k; client_body_in_single_buffer on;"),
    ("file", "client_body_buffer_size 16k; client_body_in_file_only clean;"),
    ("unbuffered", "client_body_buffer_size 2k; proxy_request_buffering off;"),
];

/// Around the sizes at which nginx keeps a body in the head's buffer, in one of its own, or in a
/// file.
const SIZES: [usize; 15] =
    [1, 500, 900, 1_000, 1_024, 1_300, 2_000, 2_600, 5_000, 16_384, 20_300, 20_480, 21_000, 70_000, 300_000];

async fn server(main: &Replica) -> Nginx {
    let locations: String = WAYS
        .iter()
        .map(|(name, directives)| {
            format!(
                "location = /{name} {{ {directives} rewrite ^ /echo break; proxy_pass http://{}; }}\n",
                main.server()
            )
        })
        .collect();
    Nginx::builder()
        .http(
            "pincer_zone pincer:1m; pincer_body_hash blake3; client_max_body_size 0; proxy_http_version 1.1;
             client_body_timeout 1h; add_header X-Hash $pincer_body_hash always; add_header X-Length $request_length always; add_header X-File $request_body_file always;",
        )
        .server(&locations)
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_begins_with_the_head_is_passed_on_once_and_whole() {
    let main = Replica::named("main").start().await;
    let nginx = server(&main).await;
    for (way, _) in WAYS {
        // nginx finds the next request behind each body; the last one's connection ends.
        let (mut wire, mut requests) = (Vec::new(), Vec::new());
        for (seed, len) in SIZES.into_iter().enumerate() {
            let mut upload = Upload::post(&format!("/{way}"), noise(len, seed));
            if len == SIZES[SIZES.len() - 1] {
                upload = upload.header("Connection", "close");
            }
            requests.push((upload.head().len() + len, noise(len, seed)));
            wire.extend_from_slice(upload.head().as_bytes());
            wire.extend_from_slice(&upload.wire());
        }
        let mut stream = TcpStream::connect(nginx.address()).await.expect("a connection");
        let (mut reading, mut writing) = stream.split();
        let mut received = Vec::new();
        let (sent, read) = tokio::join!(writing.write_all(&wire), reading.read_to_end(&mut received));
        sent.and(read.map(drop)).unwrap_or_else(|error| panic!("{way}: {error}: {}", nginx.tail()));
        let mut at = 0;
        for (length, body) in &requests {
            let told = format!("{way}, {} bytes: {}", body.len(), nginx.tail());
            let (answer, taken) = Answer::parse(&received[at..]).unwrap_or_else(|| panic!("no answer: {told}"));
            at += taken;
            assert_eq!(answer.status, 200, "{told}");
            assert_eq!(answer.header("x-hash"), digests::independent("blake3", &[body])[0], "{told}");
            assert_eq!(answer.header("x-length"), length.to_string(), "{told}");
            assert!(answer.body == *body, "another body: {told}");
        }
        assert_eq!(at, received.len(), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_too_early_ends_its_request_at_once() {
    let main = Replica::named("main").start().await;
    let nginx = server(&main).await;
    // All of it is there before nginx looks, the end too: no event will tell of that again.
    let worker = nginx.workers()[0];
    assert!(process::signal(worker, Signal::STOP));
    let mut streams = Vec::new();
    for (way, _) in WAYS {
        for sent in [1, 500, 900, 3_000, 18_000] {
            let upload = Upload::post(&format!("/{way}"), noise(40_000, 0));
            let mut stream = upload.begin_only(&nginx.address(), sent).await;
            stream.shutdown().await.expect("an end");
            streams.push((format!("{way}, {sent} bytes"), stream));
        }
    }
    assert!(process::signal(worker, Signal::CONT));
    for (told, mut stream) in streams {
        let mut received = Vec::new();
        // Ends only when nginx ends it: the body's timeout is an hour.
        let read = timeout(Duration::from_secs(30), stream.read_to_end(&mut received)).await;
        assert!(read.is_ok(), "nginx still waits: {told}: {}", nginx.tail());
        let text = String::from_utf8_lossy(&received);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{told}: {text}");
    }
    let body = noise(40_000, 1);
    let answer = Upload::post("/usual", body.clone()).send(&nginx.address()).await;
    assert!(answer.status == 200 && answer.body == body, "{}", nginx.tail());
}

/// nginx keeps in memory what is a quarter larger than `client_body_buffer_size`, and does not
/// count what came with the head. Where `$request_body` is used such a body must not become a file.
#[tokio::test(flavor = "multi_thread")]
async fn what_nginx_keeps_in_memory_stays_there() {
    let main = Replica::named("main").start().await;
    let nginx = server(&main).await;
    let worker = nginx.workers()[0];
    for len in [20_000, 20_479, 20_480, 20_700, 21_000, 22_000] {
        let upload = Upload::post("/usual", noise(len, 0)).header("Connection", "close");
        let with_head = 1_024 - upload.head().len();
        // All of it is there before nginx looks, so that the head's buffer is full.
        assert!(process::signal(worker, Signal::STOP));
        let mut stream = upload.begin_only(&nginx.address(), len).await;
        assert!(process::signal(worker, Signal::CONT));
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        let (answer, _) = Answer::parse(&received).expect("an answer");
        assert!(answer.status == 200 && answer.body == noise(len, 0), "{len}: {}", nginx.tail());
        assert_eq!(
            answer.header("x-file").is_empty(),
            len - with_head < 20_480,
            "{len} bytes, {with_head} with the head"
        );
    }
}
