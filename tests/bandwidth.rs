//! The bandwidth of a class: shared evenly by all its answers over all workers, never a busy worker
//! for it, and nothing lost or left behind.

#[path = "bandwidth/downloads.rs"]
mod downloads;
#[path = "bandwidth/streams.rs"]
mod streams;
#[path = "bandwidth/threads.rs"]
mod threads;

use std::time::{Duration, Instant};

use downloads::*;
use harness::client::pinned::{self, Pinned};
use harness::client::raw;
use harness::nginx::http2_listen;
use harness::{Client, Nginx, Pincerd, Replica, eventually, limit};
use hyper::Method;
use streams::*;
use tokio::io::AsyncWriteExt;

/// More than twenty streams read while they share a bandwidth, bytes.
const LONG: usize = 3_000_000;
/// More than any test reads, bytes.
const ENDLESS: usize = 100_000_000;

/// User and system time of these processes, seconds.
fn cpu_s(pids: &[i32]) -> f64 {
    let ticks = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
    };
    pids.iter().map(ticks).sum::<f64>() / 100.0
}

/// Twenty downloads over four workers at 1 MiB/s.
async fn twenty_are_fair(nginx: &Nginx, clients: &[Client], path: &str) {
    let downloads = Downloads::start(clients, path);
    eventually("all have begun", 10.0, || async { downloads.received().iter().all(|bytes| *bytes > 40_000) }).await;
    let before = cpu_s(&nginx.workers());
    let rates = downloads.rates(Duration::from_secs(6)).await;
    let busy_s = cpu_s(&nginx.workers()) - before;
    assert_fair(&rates, MIB);
    assert!(busy_s < 0.9, "the workers were busy for {busy_s} s of 6 s");
    drop(downloads);
    let none = || async { nginx.status().await.class("c").number("/in_flight") == 0.0 };
    eventually("nothing is in flight", 5.0, none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_buffered_answers_share_a_megabyte_a_second_evenly_over_four_workers() {
    let replica = Replica::named("a").start().await;
    let nginx = proxied(paced("bandwidth=1m").workers(4).listen("reuseport"), &replica, "").start().await;
    twenty_are_fair(&nginx, &single(&nginx), &format!("/bytes/{LONG}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_unbuffered_answers_share_a_megabyte_a_second_evenly_over_four_workers() {
    let replica = Replica::named("a").start().await;
    let nginx =
        proxied(paced("bandwidth=1m").workers(4).listen("reuseport"), &replica, "proxy_buffering off;").start().await;
    twenty_are_fair(&nginx, &single(&nginx), &format!("/chunked/{ENDLESS}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_downloads_of_a_file_share_a_megabyte_a_second_evenly_over_four_workers() {
    for sendfile in ["sendfile on;", "sendfile off; output_buffers 2 64k;"] {
        let nginx = with_file(paced("bandwidth=1m").workers(4).listen("reuseport"), "f", 20_000_000)
            .server(sendfile)
            .start()
            .await;
        twenty_are_fair(&nginx, &single(&nginx), "/files/f").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_streams_of_http2_share_a_megabyte_a_second_evenly_over_four_workers() {
    let replica = Replica::named("a").start().await;
    let port = harness::ports::free_port();
    let nginx = with_file(paced("bandwidth=1m").workers(4), "f", 20_000_000)
        .http(format!(
            "server {{ {} pincer_limit class=c; location / {{ proxy_pass http://{}; }} }}",
            http2_listen(port).replacen(';', " reuseport;", usize::from(!http2_listen(port).contains("http2 on"))),
            replica.server()
        ))
        .start()
        .await;
    let connections: Vec<_> = (0..5).map(|_| Client::h2c(&format!("http://127.0.0.1:{port}"))).collect();
    let clients: Vec<_> = (0..STREAMS).map(|number| connections[number % 5].clone()).collect();
    twenty_are_fair(&nginx, &clients, &format!("/bytes/{LONG}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_stream_are_never_cut_however_narrow_the_bandwidth_and_greedy_the_others() {
    let pieces = |count: usize, bytes: usize, pause| (0..count).map(|n| (ms(pause), event(n, bytes))).collect();
    let small = sender(pieces(60, 300, 50)).await;
    // An event is more than one turn lets through.
    let large = sender(pieces(15, 1_500, 200)).await;
    let replica = Replica::named("a").start().await;
    let nginx = proxied(paced("bandwidth=100k"), &replica, "")
        .http("pincer_class narrow bandwidth=10k;")
        .server(format!(
            "location /small {{ proxy_buffering off; proxy_http_version 1.1; proxy_pass http://{small}; }}
            location /large {{ pincer_limit class=narrow; proxy_buffering off; proxy_http_version 1.1; proxy_pass http://{large}; }}"
        ))
        .start()
        .await;
    let greedy = Downloads::start(&single(&nginx)[..3], &format!("/bytes/{ENDLESS}"));
    eventually("they are on their way", 5.0, || async { greedy.received().iter().all(|bytes| *bytes > 20_000) }).await;
    for (path, count, latest) in [("/small", 60, ms(60 * 50 + 400)), ("/large", 15, ms(15 * 200 + 1_000))] {
        let chunks = wire_chunks(&nginx.address(), path).await;
        let whole: usize = chunks.iter().map(|(_, chunk)| chunk.windows(2).filter(|two| two == b"\n\n").count()).sum();
        assert_eq!(whole, count, "{path}");
        for (_, chunk) in chunks.iter().filter(|(_, chunk)| !chunk.is_empty()) {
            assert!(
                chunk.starts_with(b"data: ") && chunk.ends_with(b"\n\n"),
                "{path}: {:?}",
                String::from_utf8_lossy(chunk)
            );
        }
        assert!(chunks.len() > count * 8 / 10, "{path}: {} chunks", chunks.len());
        let last = chunks.last().expect("some").0;
        assert!(last < latest + limit(0.5), "{path}: {last:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_back_goes_out_in_its_time_though_the_upstream_pauses() {
    let pieces = vec![(ms(0), event(0, 12_288)), (ms(6_000), event(1, 100))];
    let upstream = sender(pieces).await;
    let nginx = paced("bandwidth=10k")
        .server(format!(
            "location /buffered {{ proxy_http_version 1.1; proxy_pass http://{upstream}; }}
            location /unbuffered {{ proxy_buffering off; proxy_http_version 1.1; proxy_pass http://{upstream}; }}"
        ))
        .start()
        .await;
    for path in ["/unbuffered", "/buffered"] {
        let chunks = wire_chunks(&nginx.address(), path).await;
        let mut sum = 0;
        let at = chunks.iter().find(|(_, chunk)| {
            sum += chunk.len();
            sum >= 12_000
        });
        let at = at.expect("it comes").0;
        assert!(at < ms(4_000), "{path}: 12 kB at 10 kB/s after {at:?}");
        assert_eq!(chunks.iter().map(|(_, chunk)| chunk.len()).sum::<usize>(), 12_388);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_bandwidth_reaches_answers_that_run() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let nginx = proxied(paced("").workers(2).listen("reuseport"), &replica, "proxy_max_temp_file_size 0;")
        .http(pincerd.directives("edge-1"))
        .start()
        .await;
    nginx.connected().await;
    let set = async |bandwidth: &str| {
        pincerd.must(&["--wait", "10s", "class", "set", "c", "--bandwidth", bandwidth]).await;
        tokio::time::sleep(ms(600)).await;
    };
    set("200k").await;
    let downloads = Downloads::start(&single(&nginx)[..4], &format!("/chunked/{}", 1_000 * ENDLESS));
    eventually("all have begun", 10.0, || async { downloads.received().iter().all(|bytes| *bytes > 10_000) }).await;
    for (bandwidth, total, settled) in [("2m", 2.0 * MIB, ms(0)), ("100k", 102_400.0, ms(2_000)), ("1m", MIB, ms(0))] {
        set(bandwidth).await;
        // What was promised at twenty times the rate comes in larger pieces first.
        tokio::time::sleep(settled).await;
        let rates = downloads.rates(Duration::from_secs(4)).await;
        assert_fair(&rates, total);
    }
    set("0").await;
    let fast = downloads.rates(ms(300)).await;
    assert!(fast.iter().sum::<f64>() > 20.0 * MIB, "unlimited: {fast:?}");
    // Answers that began without a bandwidth get one, too.
    set("300k").await;
    let rates = downloads.rates(Duration::from_secs(3)).await;
    assert_fair(&rates, 307_200.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_while_they_are_paced_leave_nothing_behind() {
    let replica = Replica::named("a").start().await;
    let nginx = with_file(proxied(paced("bandwidth=200k").workers(2), &replica, ""), "f", 20_000_000).start().await;
    for round in 0..5 {
        let mut sent = Vec::new();
        for number in 0..10 {
            let path = if number % 2 == 0 { "/files/f".to_owned() } else { format!("/bytes/{ENDLESS}") };
            sent.push(raw::send(&nginx.address(), &path, &[]).await);
        }
        let all = || async { nginx.status().await.class("c").number("/in_flight") == 10.0 };
        eventually("ten are under way", 5.0, all).await;
        for one in &mut sent {
            assert!(one.something(limit(5.0)).await);
        }
        for (number, one) in sent.into_iter().enumerate() {
            if (number + round) % 3 == 0 { one.reset() } else { one.give_up() }
        }
        let none = || async { nginx.status().await.class("c").number("/in_flight") == 0.0 };
        eventually("all have left", 5.0, none).await;
    }
    // The bandwidth is all there for one alone.
    let alone = Downloads::start(&single(&nginx)[..1], "/files/f");
    eventually("it has begun", 5.0, || async { alone.received()[0] > 20_000 }).await;
    assert_fair(&alone.rates(Duration::from_secs(3)).await, 204_800.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_reused_after_a_paced_answer() {
    let replica = Replica::named("a").start().await;
    let nginx =
        with_file(proxied(paced("bandwidth=400k"), &replica, ""), "f", 60_000).server(pinned::LOCATION).start().await;
    let mut connection = Pinned::open(&nginx.address()).await.expect("a connection");
    for path in ["/bytes/60000", "/files/f", "/chunked/60000", "/pid", "/files/f"] {
        let (status, _, body) = connection.get(path).await.expect("an answer");
        assert_eq!((status, body.len() >= 60_000 || path == "/pid"), (200, true), "{path}: {}", body.len());
    }
    // Two at once on one connection: each whole, in order.
    let request = "GET /files/f HTTP/1.1\r\nHost: test\r\n\r\n";
    let bytes = format!("{request}{request}GET /pid HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let answer = raw::send_bytes(&nginx.address(), &bytes).await.read_all().await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
    assert!(answer.len() > 120_000, "{}", answer.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_costs_what_is_sent_of_it() {
    let nginx = with_file(paced("bandwidth=100k"), "f", 20_000_000).start().await;
    let client = nginx.client();
    for (range, length) in [("bytes=-1000", 1_000), ("bytes=15000000-15000999", 1_000), ("bytes=0-9,19999990-", 200)] {
        let start = Instant::now();
        let reply = client.call(Method::GET, "/files/f").header("range", range).must().await;
        assert_eq!(reply.status, 206);
        assert!((length..length + 400).contains(&reply.body.len()), "{range}: {}", reply.body.len());
        assert!(start.elapsed() < limit(2.0), "{range}: {:?}", start.elapsed());
    }
    let sent = nginx.status().await.class("c").number("/bytes");
    assert!(sent < 10_000.0, "{sent} bytes are counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_timed_out_and_one_that_reads_slowly_is_not() {
    let replica = Replica::named("a").start().await;
    let nginx = with_file(proxied(paced("bandwidth=4m"), &replica, ""), "f", 200_000_000)
        .http("pincer_class slow bandwidth=6k;")
        .server("send_timeout 1s; ")
        .server(format!(
            "location = /bytes/15000 {{ pincer_limit class=slow; proxy_pass http://{}; }}",
            replica.server()
        ))
        .start()
        .await;
    let mut deaf = Vec::new();
    for path in ["/files/f", "/bytes/100000000"] {
        deaf.push(raw::send(&nginx.address(), path, &[]).await);
    }
    let one = || async { nginx.status().await.class("c").number("/in_flight") == 2.0 };
    eventually("both are under way", 5.0, one).await;
    let reply = nginx.client().get("/bytes/15000").await;
    assert_eq!((reply.status, reply.body.len()), (200, 15_000));
    assert!(reply.total_time > ms(1_500), "{:?}", reply.total_time);
    let none = || async { nginx.status().await.class("c").number("/in_flight") == 0.0 };
    eventually("the deaf are cut off", 10.0, none).await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_made_of_parts_and_compressed_ones_come_whole() {
    let replica = Replica::named("a").start().await;
    let builder = with_file(proxied(paced("bandwidth=100k"), &replica, ""), "part", 30_000);
    let page = format!(
        "begin{}<!--# include virtual=\"/files/part\" -->middle<!--# include virtual=\"/bytes/20000\" -->{}end",
        "p".repeat(30_000),
        "q".repeat(30_000)
    );
    std::fs::write(builder.prefix().join("files/page.html"), &page).expect("a page");
    let nginx = builder
        .server(format!("location = /files/page.html {{ ssi on; root {}; }}", "{{prefix}}"))
        .http("gzip_types text/plain; gzip_min_length 1;")
        .server("location /zipped/ { gzip on; gzip_proxied any; alias {{prefix}}/files/; default_type text/plain; }")
        .start()
        .await;
    let client = nginx.client();
    let reply = client.get("/files/page.html").await;
    let text = reply.text();
    assert!(text.starts_with("beginp") && text.ends_with("qend") && text.contains("middle"), "{}", text.len());
    assert_eq!(text.len(), 5 + 30_000 + 30_000 + 6 + 20_000 + 30_000 + 3);
    let sent = async || nginx.status().await.class("c").number("/bytes");
    let before = sent().await;
    let zipped = client.call(Method::GET, "/zipped/part").header("accept-encoding", "gzip").must().await;
    assert_eq!((zipped.status, zipped.header("content-encoding")), (200, "gzip"));
    assert!(zipped.body.len() < 10_000);
    assert!(sent().await - before < 10_000.0, "what counts is what goes out");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_that_fill_the_filter_s_buffers_come_whole() {
    let origin = harness::ports::free_port();
    let pieces: Vec<_> = (0..4_000).map(|number| (ms(0), event(number, 100))).collect();
    let events: Vec<u8> = pieces.iter().flat_map(|(_, event)| event.clone()).collect();
    let upstream = sender(pieces).await;
    // Letters that compress to three quarters: more than the filter's 32 buffers of 4k.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b'0' + (state >> 58) as u8
    })
    .take(400_000)
    .collect();
    let builder = with_file(paced("bandwidth=600k"), "f", 1);
    std::fs::write(builder.prefix().join("files/noise"), &noise).expect("a file");
    let nginx = builder
        .http("gzip_types text/plain text/event-stream; gzip_proxied any;")
        .http(format!("server {{ listen 127.0.0.1:{origin}; location / {{ alias {{{{prefix}}}}/files/; }} }}"))
        .server("gzip on; default_type text/plain;")
        .server("location /file/ { alias {{prefix}}/files/; }")
        .server(format!("location /proxied/ {{ proxy_pass http://127.0.0.1:{origin}/; }}"))
        .server(format!("location /unbuffered/ {{ proxy_buffering off; proxy_pass http://127.0.0.1:{origin}/; }}"))
        .server(format!(
            "location /events {{ pincer_limit class=narrow; proxy_buffering off; proxy_pass http://{upstream}; }}"
        ))
        .http("pincer_class narrow bandwidth=100k;")
        .start()
        .await;
    let client = nginx.client();
    for round in 0..3 {
        for (path, whole) in
            [("/file/noise", &noise), ("/proxied/noise", &noise), ("/unbuffered/noise", &noise), ("/events", &events)]
        {
            let zipped = client.call(Method::GET, path).header("accept-encoding", "gzip").must().await;
            assert_eq!((zipped.status, zipped.header("content-encoding")), (200, "gzip"), "{path}");
            assert!(unzipped(&zipped.body) == **whole, "{path}, round {round}: another answer");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_answers_on_many_connections_get_no_more_than_the_bandwidth() {
    let replica = Replica::named("a").start().await;
    let nginx = with_file(paced("bandwidth=200k").workers(2).listen("reuseport"), "f", 1_000_000)
        .http("pincer_class whole bandwidth=200k; pincer_class one bandwidth=200k; pincer_class slow bandwidth=2k;")
        .server(format!(
            "location /bytes/ {{ pincer_limit class=whole; proxy_buffering off; proxy_buffer_size 64k;
                proxy_buffers 8 64k; proxy_pass http://{0}; }}
            location /one/ {{ pincer_limit class=one; alias {{{{prefix}}}}/files/; }}
            location /slow/ {{ pincer_limit class=slow; alias {{{{prefix}}}}/files/; }}",
            replica.server()
        ))
        .start()
        .await;
    let clients = |count: usize| (0..count).map(|_| Client::single(&nginx.url())).collect::<Vec<_>>();
    let range = Some("bytes=0-8191");
    let all = [
        ("forty files", ask_again_and_again(clients(40), "/files/f", range), 204_800.0),
        ("twenty in one buffer", ask_again_and_again(clients(20), "/bytes/60000", None), 204_800.0),
        ("one", ask_again_and_again(clients(1), "/one/f", range), 204_800.0),
        ("two at 2k", ask_again_and_again(clients(2), "/slow/f", range), 2_048.0),
    ];
    for (name, downloads, _) in &all {
        eventually(name, 10.0, || async { downloads.received().iter().sum::<u64>() > 3_000 }).await;
    }
    let time = Duration::from_secs(6);
    let rates = futures_util::future::join_all(all.iter().map(|(_, downloads, _)| downloads.rates(time))).await;
    for ((name, _, bandwidth), rates) in all.iter().zip(rates) {
        let sum: f64 = rates.iter().sum();
        // A buffer that came together counts at its end.
        let grain = if *bandwidth > 10_000.0 { 0.05 } else { 0.1 } * bandwidth;
        assert!((sum - bandwidth).abs() <= grain, "{name}: {sum} of {bandwidth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::cast_precision_loss)]
async fn what_subrequests_bring_is_paced_and_comes_in_its_order() {
    const BYTES: usize = 300_000;
    let (h2_port, origin) = (harness::ports::free_port(), harness::ports::free_port());
    let page = "begin|<!--# include virtual=\"/part/f\" -->|<!--# include virtual=\"/unbuffered/f\" -->|end";
    let locations = format!(
        "root {{{{prefix}}}}/files;
        location /part/ {{ alias {{{{prefix}}}}/files/; }}
        location /proxied/ {{ proxy_pass http://127.0.0.1:{origin}/; }}
        location /unbuffered/ {{ proxy_buffering off; proxy_pass http://127.0.0.1:{origin}/; }}
        location /slices/ {{ slice 64k; proxy_cache slices; proxy_cache_key $server_protocol$uri$slice_range; proxy_cache_valid 1h;
            proxy_http_version 1.1; proxy_set_header Range $slice_range; proxy_pass http://127.0.0.1:{origin}/; }}
        location = /page.html {{ ssi on; default_type text/html; }}
        location = /copied.html {{ ssi on; sendfile off; output_buffers 2 8k; default_type text/html; alias {{{{prefix}}}}/files/page.html; }}
        location = /added {{ add_after_body /proxied/f; default_type text/html; alias {{{{prefix}}}}/files/before; }}
        location = /added_unbuffered {{ add_after_body /unbuffered/f; default_type text/html; alias {{{{prefix}}}}/files/before; }}"
    );
    // Each answer has a bandwidth of its own.
    let limit = "pincer_limit class=c key=$server_protocol$uri;";
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m; pincer_class c bandwidth=200k;")
        .http("proxy_cache_path {{prefix}}/slices keys_zone=slices:1m;");
    let nginx = with_file(nginx, "f", BYTES);
    std::fs::write(nginx.prefix().join("files/page.html"), page).expect("a page");
    std::fs::write(nginx.prefix().join("files/before"), "begin|").expect("a page");
    let nginx = nginx
        .http(format!("server {{ listen 127.0.0.1:{origin}; root {{{{prefix}}}}/files; }}"))
        .http(format!("server {{ {}; {limit} {locations} }}", http2_listen(h2_port).trim_end_matches(';')))
        .server(format!("{limit} {locations}"))
        .start()
        .await;
    let file = letters(BYTES);
    let twice = [b"begin|", &file[..], b"|", &file, b"|end"].concat();
    let added = [b"begin|", &file[..]].concat();
    let clients = [nginx.client(), Client::h2c(&format!("http://127.0.0.1:{h2_port}"))];
    let expected = [
        ("/slices/f", &file),
        ("/page.html", &twice),
        ("/copied.html", &twice),
        ("/added", &added),
        ("/added_unbuffered", &added),
    ];
    let all = clients.iter().flat_map(|client| expected.iter().map(move |(path, whole)| (client, *path, *whole)));
    let all = all.map(async |(client, path, whole)| {
        let start = Instant::now();
        let reply = client.get(path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.body[..] == whole[..], "{path}: {} bytes", reply.body.len());
        let (time_s, due_s) = (start.elapsed().as_secs_f64(), whole.len() as f64 / 204_800.0);
        assert!((due_s * 0.9 - 0.1..due_s * 1.1 + 0.3).contains(&time_s), "{path}: {time_s} s where {due_s} s are due");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_timed_out_at_a_narrow_bandwidth_and_few_bytes_are_sent_to_it() {
    let replica = Replica::named("a").start().await;
    let nginx = with_file(proxied(paced("bandwidth=200k").listen("sndbuf=16k"), &replica, ""), "f", 20_000_000)
        .server("send_timeout 1s; sendfile on; location /unbuffered/ { proxy_buffering off; rewrite /unbuffered(.*) $1 break;")
        .server(format!("proxy_pass http://{}; }}", replica.server()))
        .start()
        .await;
    let mut deaf = Vec::new();
    // With sendfile nothing but the socket holds an answer up.
    for path in ["/files/f", "/bytes/10000000", "/unbuffered/bytes/10000000"] {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        let mut stream = socket.connect(nginx.address().parse().expect("an address")).await.expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("send");
        deaf.push(stream);
    }
    let in_flight = async || nginx.status().await.class("c").number("/in_flight");
    eventually("all are under way", 5.0, || async { in_flight().await == 3.0 }).await;
    eventually("the deaf are cut off", 10.0, || async { in_flight().await == 0.0 }).await;
    let sent = nginx.status().await.class("c").number("/bytes");
    assert!(sent < 400_000.0, "{sent} bytes are counted");
    drop(deaf);
}
