//! A body that does not come whole, or that nginx cannot keep, leaves no answer in the cache that
//! another request would be given; and the next request, whether it brings the body that was meant,
//! the part of it that came, or none, is answered right.
//!
//! So too when the error is answered from elsewhere, with the same cache and a key that is nothing
//! but the body's hash.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use harness::client::raw;
use harness::client::upload::Upload;
use harness::nginx::CACHE;
use harness::{Nginx, Replica, eventually, ports};

const KEYS: [(&str, &str); 2] = [("hash", "$pincer_body_hash"), ("key", "$pincer_cache_key")];
const STORING: [(&str, &str); 5] = [
    ("memory", "client_max_body_size 60k; client_body_buffer_size 64k;"),
    ("file", "client_max_body_size 60k; client_body_buffer_size 1k;"),
    // Written when it is complete.
    ("only", "client_max_body_size 60k; client_body_buffer_size 64k; client_body_in_file_only clean;"),
    ("unbuffered", "client_max_body_size 60k; proxy_request_buffering off; proxy_http_version 1.1;"),
    ("tiny", "client_max_body_size 100;"),
];
const ERRORS: [(&str, &str); 3] =
    [("plain", ""), ("page", "error_page 400 413 500 = /fallback;"), ("named", "error_page 400 413 500 = @fallback;")];

/// An nginx whose cached locations are `/KEY/STORING/ERRORS`, each with the body as its answer;
/// errors are answered by the other replica.
struct Setup {
    main: Replica,
    fallback: Replica,
    nginx: Nginx,
    h2: String,
}

fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    for (key, _) in KEYS {
        for (storing, _) in STORING {
            paths.extend(ERRORS.map(|(errors, _)| format!("/{key}/{storing}/{errors}")));
        }
    }
    paths
}

fn locations() -> String {
    let mut text = String::new();
    for (key_name, key) in KEYS {
        for (storing_name, storing) in STORING {
            for (errors_name, errors) in ERRORS {
                text += &format!(
                    "location = /{key_name}/{storing_name}/{errors_name} {{ proxy_cache_key $request_uri{key}; {storing} {errors} proxy_pass http://main/echo; }}\n"
                );
            }
        }
    }
    text + "location = /fallback { client_max_body_size 0; proxy_cache_key $request_uri$pincer_body_hash; proxy_pass_request_body off;
                proxy_set_header Content-Length \"\"; proxy_pass http://fallback; }
            location @fallback { client_max_body_size 0; proxy_cache_key $request_uri$pincer_body_hash; proxy_pass_request_body off;
                proxy_set_header Content-Length \"\"; proxy_pass http://fallback; }"
}

async fn setup(extra: &str, prepare: impl FnOnce(&Path)) -> Setup {
    let main = Replica::named("main").start().await;
    let fallback = Replica::named("fallback").start().await;
    let port = ports::free_port();
    let (h2, locations) = (harness::nginx::http2_listen(port), locations());
    let common = "pincer_body_hash blake3; proxy_cache c; proxy_cache_methods GET HEAD POST; proxy_cache_valid any 10m;
        proxy_ignore_headers Cache-Control Expires; add_header X-Cache $upstream_cache_status always;
        add_header X-Hash $pincer_body_hash always;";
    let builder = Nginx::builder()
        .workers(2)
        .http(format!("pincer_zone pincer:1m; {CACHE} {common} {extra}"))
        .http(format!(
            "upstream main {{ server {}; }} upstream fallback {{ server {}; }}",
            main.server(),
            fallback.server()
        ))
        .server(&locations)
        .http(format!("server {{ {h2} {locations} }}"));
    prepare(builder.prefix());
    Setup { main, fallback, nginx: builder.start().await, h2: format!("127.0.0.1:{port}") }
}

impl Setup {
    /// Each of these bodies is unknown to the cache of `path`, answered by itself, and then known.
    async fn serves_right(&self, path: &str, bodies: &[Bytes], what: &str) {
        for body in bodies {
            for expected in ["MISS", "HIT"] {
                let answer = Upload::post(path, body.clone()).send(&self.nginx.address()).await;
                let told = format!("{what}, then {} bytes to {path}: {}", body.len(), answer.text());
                assert_eq!((answer.status, answer.header("x-cache")), (200, expected), "{told}");
                assert!(answer.body == *body, "another body's answer: {told}");
            }
        }
    }
}

fn noise(len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap_or(0)).collect()
}

/// What a client may do wrong with a body of which `good` bytes are fine.
struct Wrong {
    what: &'static str,
    upload: fn(&str) -> Upload,
    h2: bool,
    /// Status when it is known; 0 = nobody is left to be answered.
    status: u16,
    /// Bodies to send after it.
    good: &'static [usize],
}

const WRONGS: [Wrong; 9] = [
    Wrong {
        what: "cut off, with a length",
        upload: |path| Upload::post(path, noise(50_000)).cut_off(30_000),
        h2: false,
        status: 0,
        good: &[30_000, 50_000, 0],
    },
    Wrong {
        what: "cut off before the body",
        upload: |path| Upload::post(path, noise(90)).cut_off(0),
        h2: false,
        status: 0,
        good: &[90, 0],
    },
    Wrong {
        what: "cut off inside a chunk",
        upload: |path| Upload::post(path, noise(50_000)).chunked([20_000]).cut_off(30_000),
        h2: false,
        status: 0,
        good: &[20_000, 29_986, 50_000, 0],
    },
    Wrong {
        what: "cut off before the last chunk",
        upload: |path| Upload::post(path, noise(90)).chunked([]).cut_off(94),
        h2: false,
        status: 0,
        good: &[90, 0],
    },
    Wrong {
        what: "a chunk size that is none",
        // The wire is written as a plain body, so that the chunks can be wrong.
        upload: |path| {
            Upload::post(path, [b"50\r\n".as_slice(), &noise(80), b"\r\nzz\r\n"].concat())
                .header("Content-Length", "")
                .header("Transfer-Encoding", "chunked")
        },
        h2: false,
        status: 400,
        good: &[80, 0],
    },
    Wrong {
        what: "too long, in chunks",
        upload: |path| Upload::post(path, noise(90_000)).chunked([30_000, 50_000]),
        h2: false,
        status: 413,
        good: &[30_000, 50_000, 0],
    },
    Wrong {
        what: "too long, as its length says",
        upload: |path| Upload::post(path, noise(90_000)),
        h2: false,
        status: 413,
        good: &[0, 90],
    },
    Wrong {
        what: "shorter than its length, HTTP/2",
        upload: |path| Upload::post(path, noise(50_000)).cut_off(30_000),
        h2: true,
        status: 400,
        good: &[30_000, 50_000, 0],
    },
    Wrong {
        what: "too long, without a length, HTTP/2",
        upload: |path| Upload::post(path, noise(90_000)).chunked([]).written([30_000, 60_000]),
        h2: true,
        status: 413,
        good: &[30_000, 60_000, 0],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_do_wrong_poisons_no_cache() {
    for wrong in WRONGS {
        let setup = setup("", |_| {}).await;
        for path in paths() {
            let tiny = path.contains("tiny");
            setup.main.forget();
            setup.fallback.forget();
            let upload = (wrong.upload)(&path);
            let answer =
                if wrong.h2 { upload.send_h2(&setup.h2).await } else { upload.send(&setup.nginx.address()).await };
            let told = format!("{}: {path}: {} {}", wrong.what, answer.status, answer.text());
            if wrong.status != 0 && !tiny {
                let expected = if path.ends_with("plain") { wrong.status } else { 200 };
                // A client whose stream was reset has no answer.
                assert!(answer.status == expected || (wrong.h2 && answer.status == 0), "{told}");
                let by = if path.ends_with("plain") { 0 } else { 1 };
                eventually("the fallback is asked", 5.0, || async { setup.fallback.seen().requests == by }).await;
            }
            assert_eq!(setup.main.seen().requests, 0, "{told}");
            let good = wrong.good.iter().filter(|&&len| len <= if tiny { 100 } else { 61_440 });
            setup.serves_right(&path, &good.map(|&len| noise(len)).collect::<Vec<_>>(), wrong.what).await;
        }
    }
}

/// The whole body is in nginx's hands with the head, thrown away before the error is answered, and
/// nobody will ever hash it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_thrown_away_has_no_digest_not_that_of_none() {
    let setup = setup("", |_| {}).await;
    for path in paths().iter().filter(|path| path.contains("tiny") && !path.ends_with("plain")) {
        let answer = Upload::post(path, noise(300)).send(&setup.nginx.address()).await;
        assert_eq!((answer.status, answer.header("x-replica")), (200, "fallback"), "{path}");
        let [empty] = harness::digests::independent("blake3", &[""]).try_into().expect("one digest");
        assert_ne!(answer.header("x-hash"), empty, "{path}");
        setup.serves_right(path, &[Bytes::new()], "thrown away").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_no_number_leaves_no_telling_what_the_body_was() {
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m; pincer_body_hash blake3; add_header X-Uncacheable $pincer_uncacheable always;")
        .server("error_page 400 = /page; location /page { return 200 page; }")
        .start()
        .await;
    for (length, uncacheable) in [("", "1"), ("x", "1"), ("-1", "1"), ("99999999999999999999", "1"), ("0", "0")] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let answer = raw::send_bytes(&nginx.address(), &request).await.read_all().await;
        assert!(answer.contains(&format!("X-Uncacheable: {uncacheable}\r\n")), "{length:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_cached_only_if_nobody_asks_whether_it_may_be() {
    let setup = setup("proxy_no_cache $pincer_uncacheable; proxy_cache_bypass $pincer_uncacheable;", |_| {}).await;
    for path in paths() {
        let upload = Upload::post(&path, noise(90_000)).chunked([30_000]);
        assert_eq!(upload.send(&setup.nginx.address()).await.status, if path.ends_with("plain") { 413 } else { 200 });
    }
    assert_eq!(setup.nginx.cached_keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_for_bodies_that_cannot_be_written_poisons_no_cache() {
    let setup = setup("", |_| {}).await;
    let folder = setup.nginx.path("temp/body");
    for path in paths().iter().filter(|path| path.contains("file") || path.contains("only")) {
        permit(&folder, 0o000);
        let upload = Upload::post(path, noise(50_000));
        for answer in
            [upload.send(&setup.nginx.address()).await, upload.chunked([10]).send(&setup.nginx.address()).await]
        {
            assert_eq!(answer.status, if path.ends_with("plain") { 500 } else { 200 }, "{path}");
        }
        permit(&folder, 0o777);
        setup.serves_right(path, &[noise(50_000), noise(1024), Bytes::new()], "unwritable").await;
    }
    assert!(setup.nginx.log().contains("Permission denied"), "the folder was writable");
}

fn permit(folder: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).expect("permissions");
}

/// A small file system, gone when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None` where mounting is not allowed.
    fn new(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("a folder");
        let mounted = run("mount", &["-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", &folder.display().to_string()]);
        mounted.then(|| Self(folder.to_owned()))
    }

    fn resize(&self, size: &str) {
        assert!(run("mount", &["-o", &format!("remount,size={size}"), &self.0.display().to_string()]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0.display().to_string()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_folder_for_bodies_poisons_no_cache() {
    let mut mount = None;
    let setup = setup("", |prefix| mount = Mount::new(&prefix.join("temp/body"))).await;
    let Some(mount) = mount else {
        eprintln!("skipped: this system does not let the test mount a tmpfs");
        return;
    };
    for path in paths().iter().filter(|path| path.contains("file") || path.contains("only")) {
        // Files of other bodies fill it but for one page.
        mount.resize("64k");
        std::fs::write(mount.0.join("filler"), noise(60_000)).expect("fill it");
        for (at, upload) in
            [Upload::post(path, noise(50_000)), Upload::post(path, noise(50_000)).chunked([4096])].iter().enumerate()
        {
            let answer = upload.send(&setup.nginx.address()).await;
            assert_eq!(answer.status, if path.ends_with("plain") { 500 } else { 200 }, "{path} {at}");
        }
        mount.resize("8m");
        setup.serves_right(path, &[noise(50_000), noise(1024), noise(4096), Bytes::new()], "full").await;
    }
    let log = setup.nginx.log();
    assert!(log.contains("No space left") || log.contains("has written only"), "the folder never was full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_its_body_has_no_effect_on_the_next() {
    let setup = setup("", |_| {}).await;
    for path in paths().iter().filter(|path| !path.contains("tiny")) {
        let stream = Upload::post(path, noise(40_000)).begin_only(&setup.nginx.address(), 20_000).await;
        stream.set_zero_linger().expect("a socket");
        drop(stream);
        eventually("it is gone", 5.0, || async { setup.main.seen().running == 0 }).await;
        setup.serves_right(path, &[noise(40_000), noise(20_000), Bytes::new()], "left").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_when_its_body_is_complete_leaves_the_right_answer_behind() {
    let setup = setup("proxy_ignore_client_abort on;", |_| {}).await;
    setup.main.change(|settings| settings.service_ms = 100.0);
    for (count, path) in paths().iter().filter(|path| !path.contains("tiny")).enumerate() {
        setup.main.forget();
        let stream = Upload::post(path, noise(40_000)).begin(&setup.nginx.address()).await;
        eventually("the replica has it", 5.0, || async { setup.main.seen().received == 1 }).await;
        drop(stream);
        eventually("its answer is cached", 5.0, || async { setup.nginx.cached_keys().len() == count + 1 }).await;
        let answer = Upload::post(path, noise(40_000)).send(&setup.nginx.address()).await;
        assert!(answer.header("x-cache") == "HIT" && answer.body == noise(40_000), "{path}");
    }
}
