//! Purges of nginx's own cache: what is removed, what stays, and that nothing from before a purge
//! is served after it, whatever was on its way.
//!
//! nginx reads a cache in from disk a minute after its start, and until then opens files that it
//! has not heard of; both states are tested.

#[path = "purge/caches.rs"]
mod caches;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use caches::{ask, cached, caching, files, keeps, publish, purge, replicas, slow_replicas, start, warm};
use harness::{Client, Nginx, Pincerd, Replica, eventually, load};

/// One key, then all, in the state that the cache is in.
async fn one_key_then_all(pincerd: &Pincerd, nginx: &Nginx) {
    let client = nginx.client();
    let all_are = async |status: &str| {
        for path in ["/canary", "/b", "/c"] {
            assert_eq!(ask(&client, path).await, status, "{path}");
        }
    };
    all_are("MISS").await;
    keeps(nginx, "answers", 3).await;
    all_are("HIT").await;
    let told = purge(pincerd, &["--cache", "answers", "--cache-key", "/canary"]).await;
    assert_eq!(told["removed"], 1, "{told}");
    assert!(told["bytes"].as_u64() > Some(0) && told["nodes"][0]["outcome"] == "done", "{told}");
    assert_eq!(files(nginx, "answers").len(), 2, "its file is gone");
    assert_eq!((ask(&client, "/b").await, ask(&client, "/c").await), ("HIT".into(), "HIT".into()));
    assert_eq!(purge(pincerd, &["--location", "/", "--cache-key", "/canary"]).await["removed"], 0);
    assert_eq!(ask(&client, "/canary").await, "MISS");
    keeps(nginx, "answers", 3).await;
    assert_eq!(ask(&client, "/canary").await, "HIT");
    let told = purge(pincerd, &["--cache", "answers", "--all"]).await;
    assert_eq!((&told["removed"], files(nginx, "answers").len()), (&3.into(), 0), "{told}");
    all_are("MISS").await;
    keeps(nginx, "answers", 3).await;
    all_are("HIT").await;
}

/// All variants of a key go, those of another stay.
async fn variants(pincerd: &Pincerd, nginx: &Nginx) {
    let client = nginx.client();
    let get = async |path: &str, language: &str| {
        let reply = client.call(hyper::Method::GET, path).header("accept-language", language).must().await;
        (cached(&reply), reply.text())
    };
    let languages = ["de", "en", "fr", "it"];
    let mut before = Vec::new();
    for path in ["/varied/x", "/varied/y"] {
        for language in languages {
            // The first answer says that there are variants.
            let kept = files(nginx, "varied").len();
            assert_eq!(get(path, language).await.0, "MISS");
            keeps(nginx, "varied", kept + 1).await;
        }
        for language in languages {
            let (status, text) = get(path, language).await;
            assert_eq!(status, "HIT");
            before.push(text);
        }
    }
    let told = purge(pincerd, &["--cache", "varied", "--cache-key", "/varied/x"]).await;
    assert_eq!((&told["removed"], files(nginx, "varied").len()), (&4.into(), 4), "{told}");
    for language in languages {
        let (status, text) = get("/varied/x", language).await;
        assert!(status == "MISS" && !before.contains(&text), "{language}: {status}");
        assert_eq!(get("/varied/y", language).await.0, "HIT");
    }
}

/// What is fetched when a purge comes is served and not kept, before its header and in the middle
/// of its body; under another key it is kept.
async fn in_flight(pincerd: &Pincerd, nginx: &Nginx, replica: &Replica) {
    let client = nginx.client();
    let counted = async || nginx.status().await.number("/counters/purge_voided");
    let before = counted().await;
    let path = |name: &str, kind: &str| format!("/slow/{kind}?{name}");
    let get = |path: String| {
        let client = client.clone();
        tokio::spawn(async move { client.get(&path).await })
    };
    replica.forget();
    let kept = files(nginx, "answers").len();
    // `late` sends its header at once and its body after the time of service; the other nothing
    // until then.
    let fetched = [get(path("a", "late/5000")), get(path("b", "bytes/5000")), get(path("c", "late/5000"))];
    eventually("all are being fetched", 10.0, || async { replica.seen().running == 3 }).await;
    for name in [path("a", "late/5000"), path("b", "bytes/5000")] {
        assert_eq!(purge(pincerd, &["--cache", "answers", "--cache-key", &name]).await["removed"], 0);
    }
    for reply in futures_util::future::join_all(fetched).await {
        let reply = reply.expect("an answer");
        assert_eq!((cached(&reply), reply.body.len()), ("MISS".into(), 5000), "clients get what they asked for");
    }
    assert_eq!(counted().await - before, 2.0);
    keeps(nginx, "answers", kept + 1).await;
    let again = [path("a", "late/5000"), path("b", "bytes/5000"), path("c", "late/5000")];
    let again = futures_util::future::join_all(again.iter().map(|path| ask(&client, path))).await;
    assert_eq!(again, ["MISS", "MISS", "HIT"]);
    keeps(nginx, "answers", kept + 3).await;
    assert_eq!(ask(&client, &path("a", "late/5000")).await, "HIT", "what was fetched after the purge is kept");
    let temporary = fs::read_dir(nginx.path("temp/proxy")).expect("folder").flatten();
    assert!(
        temporary.into_iter().all(|entry| entry.path().is_dir() && files_below(&entry.path()) == 0),
        "no file is left"
    );
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_or_all_is_gone_from_memory_and_disk_and_nothing_else() {
    let pincerd = Pincerd::start().await;
    let nginx = start(&pincerd, &replicas(0.0).await).await;
    one_key_then_all(&pincerd, &nginx).await;
    let status = nginx.status().await;
    assert_eq!((status.number("/counters/purges"), status.number("/counters/purged_entries")), (3.0, 4.0));
    let metrics = nginx.metrics().await;
    for line in ["pincer_cache_purges_total 3\n", "pincer_cache_purged_entries_total 4\n"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let logs = nginx.log() + &pincerd.log();
    // From `printf /canary | md5sum`.
    assert!(
        !logs.contains("canary") && !logs.contains("65f5270f1d4b77fd6fb54d5a4d6fa183"),
        "the key is in a log:\n{logs}"
    );
    assert!(nginx.log().contains("pincer: purges a cache, entries=one, removed=1"), "{}", nginx.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_nginx_has_read_in_is_purged_as_well() {
    let pincerd = Pincerd::start().await;
    let replicas = slow_replicas().await;
    let nginx = start(&pincerd, &replicas).await;
    warm(&nginx).await;
    one_key_then_all(&pincerd, &nginx).await;
    variants(&pincerd, &nginx).await;
    in_flight(&pincerd, &nginx, &replicas[0]).await;
    generations(&pincerd, &nginx, 5).await;
    let told = purge(&pincerd, &["--every-cache", "--all"]).await;
    assert!(told["removed"].as_u64() > Some(5), "{told}");
    assert_eq!(["answers", "others", "varied"].map(|cache| files(&nginx, cache).len()), [0; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_variants_of_a_key_go_at_once() {
    let pincerd = Pincerd::start().await;
    variants(&pincerd, &start(&pincerd, &replicas(0.0).await).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_fetched_when_a_purge_comes_is_served_and_not_kept() {
    let pincerd = Pincerd::start().await;
    let replicas = slow_replicas().await;
    let nginx = start(&pincerd, &replicas).await;
    in_flight(&pincerd, &nginx, &replicas[0]).await;
    // The same for a client that has left: nginx fetches on for the cache.
    let client = nginx.client();
    let leaving = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/slow/late/7000?left").await })
    };
    eventually("it is being fetched", 10.0, || async { replicas[0].seen().running == 1 }).await;
    leaving.abort();
    purge(&pincerd, &["--upstream", "u", "--all"]).await;
    eventually("it was fetched", 10.0, || async { replicas[0].seen().running == 0 }).await;
    assert_eq!(ask(&client, "/slow/late/7000?left").await, "MISS");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_means_its_locations_caches_and_no_others() {
    let pincerd = Pincerd::start().await;
    let replicas = replicas(0.0).await;
    let nginx = start(&pincerd, &replicas).await;
    let client = nginx.client();
    let fill = async || {
        for path in ["/a", "/locked/a", "/slow/a", "/varied/a", "/other/a"] {
            ask(&client, path).await;
        }
    };
    let held = || ["answers", "varied", "others"].map(|cache| files(&nginx, cache).len());
    let full = || async { held() == [3, 1, 1] };
    fill().await;
    eventually("all is kept", 10.0, full).await;
    let told = purge(&pincerd, &["--upstream", "u", "--all"]).await;
    assert_eq!((&told["removed"], held()), (&3.into(), [0, 1, 1]), "u's cache holds origin's answers too: {told}");
    fill().await;
    eventually("all is kept", 10.0, full).await;
    assert_eq!(purge(&pincerd, &["--upstream", "origin", "--all"]).await["removed"], 5);
    fill().await;
    eventually("all is kept", 10.0, full).await;
    assert_eq!(purge(&pincerd, &["--location", "/other/", "--all"]).await["removed"], 1);
    assert_eq!(held(), [3, 1, 0]);
    let dry = purge(&pincerd, &["--location", "/varied/", "--all", "--dry-run"]).await;
    assert_eq!((&dry["removed"], &dry["dry_run"], held()), (&0.into(), &true.into(), [3, 1, 0]));
    for (place, name, said) in [
        ("--cache", "nothing", "no cache \"nothing\""),
        ("--cache", "pincer", "no cache \"pincer\""),
        ("--location", "/nothing/", "no location \"/nothing/\" that keeps responses"),
        ("--upstream", "unused", "no location that keeps responses of upstream \"unused\""),
    ] {
        let told = pincerd.ctl(&["cache", "purge", place, name, "--all"]).await;
        assert_eq!(told.code, 2, "{told:?}");
        assert!(told.errors.contains(said), "{told:?}");
    }
    assert_eq!(held(), [3, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_variable_decides_it_does_not_guess() {
    let pincerd = Pincerd::start().await;
    let nginx = caching(&pincerd, "edge-1", &replicas(0.0).await)
        .http("map $arg_to $to { default origin; } map $arg_in $in { default answers; }")
        .server("location /to/ { proxy_pass http://$to; proxy_cache others; }")
        .server("location /in/ { proxy_pass http://unused; proxy_cache $in; }")
        .server("location /both/ { proxy_pass http://$to; proxy_cache $in; }")
        .start()
        .await;
    nginx.connected().await;
    let client = nginx.client();
    assert_eq!(ask(&client, "/to/a").await, "MISS");
    keeps(&nginx, "others", 1).await;
    for (place, name, said) in [
        ("--upstream", "unused", "cannot tell which cache location \"/in/\" uses"),
        ("--upstream", "u", "cannot tell whether location \"/to/\" asks upstream \"u\""),
        ("--location", "/in/", "cannot tell which cache location \"/in/\" uses"),
    ] {
        let told = pincerd.ctl(&["cache", "purge", place, name, "--all"]).await;
        assert_eq!(told.code, 5, "{told:?}");
        assert!(told.output.contains(said), "{told:?}");
    }
    assert_eq!(purge(&pincerd, &["--location", "/to/", "--cache-key", "/to/a"]).await["removed"], 1);
    assert_eq!(ask(&client, "/to/a").await, "MISS");
    keeps(&nginx, "others", 1).await;
    let told = purge(&pincerd, &["--upstream", "origin", "--all"]).await;
    assert_eq!(told["removed"], 1, "every possible cache is meant anyway: {told}");
}

/// Traffic on a few keys over all workers, and again and again a new answer of the origin and a
/// purge: what is asked after a purge is never from before it.
async fn generations(pincerd: &Pincerd, nginx: &Nginx, count: u64) {
    let (ends, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let traffic: Vec<_> = (0..12)
        .map(|n| {
            let (client, ends, asked) = (nginx.client(), Arc::clone(&ends), Arc::clone(&asked));
            tokio::spawn(async move {
                while !ends.load(SeqCst) {
                    let path = if n % 2 == 0 { format!("/k{}", n % 4) } else { format!("/locked/k{}", n % 4) };
                    assert_eq!(client.get(&path).await.status, 200);
                    asked.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let client = Client::single(&nginx.url());
    let first: u64 = fs::read_to_string(nginx.path("files/generation")).expect("file").parse().expect("number");
    for generation in first + 1..=first + count {
        publish(nginx.prefix(), generation);
        if generation % 3 == 0 {
            for n in 0..4 {
                let path = if n % 2 == 0 { format!("/k{n}") } else { format!("/locked/k{n}") };
                purge(pincerd, &["--cache", "answers", "--cache-key", &path]).await;
            }
        } else {
            purge(pincerd, &["--cache", "answers", "--all"]).await;
        }
        let before = asked.load(SeqCst);
        for n in 0..24 {
            let path = if n % 2 == 0 { format!("/k{}", n % 4) } else { format!("/locked/k{}", n % 4) };
            assert_eq!(client.get(&path).await.text(), generation.to_string(), "{path} after the purge");
        }
        eventually("traffic goes on", 10.0, || async { asked.load(SeqCst) > before + 12 }).await;
    }
    ends.store(true, SeqCst);
    for task in traffic {
        task.await.expect("no request fails");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_before_a_purge_is_served_after_it_under_traffic() {
    let pincerd = Pincerd::start().await;
    let nginx = start(&pincerd, &replicas(0.0).await).await;
    generations(&pincerd, &nginx, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_entries_go_while_requests_are_served() {
    let pincerd = Pincerd::start().await;
    let nginx = start(&pincerd, &replicas(0.0).await).await;
    let client = nginx.client();
    let fills: Vec<_> = (0..50)
        .map(|part| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    assert_eq!(ask(&client, &format!("/entry/{part}/{n}")).await, "MISS");
                }
            })
        })
        .collect();
    for fill in fills {
        fill.await.expect("filled");
    }
    keeps(&nginx, "answers", 5_000).await;
    let purging = purge(&pincerd, &["--cache", "answers", "--all"]);
    let pings = async {
        let mut replies = Vec::new();
        for _ in 0..20 {
            replies.extend(load::gets(&client, "/ping", 100, 10).await);
        }
        replies
    };
    let (told, replies) = tokio::join!(purging, pings);
    assert_eq!((&told["removed"], files(&nginx, "answers").len()), (&5_000.into(), 0), "{told}");
    assert!(replies.iter().all(|reply| reply.status == 204), "{}", nginx.tail());
    assert_eq!(ask(&client, "/entry/1/1").await, "MISS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_was_on_disk_before_nginx_started_is_purged_too() {
    let pincerd = Pincerd::start().await;
    let mut nginx = caching(&pincerd, "edge-1", &replicas(0.0).await).detached().start().await;
    nginx.connected().await;
    // An idle connection would hold the old workers up.
    let client = Client::single(&nginx.url());
    let varied = async |path: &str, language: &str| {
        let reply = client.call(hyper::Method::GET, path).header("accept-language", language).must().await;
        cached(&reply)
    };
    for path in ["/a", "/b", "/c"] {
        ask(&client, path).await;
    }
    let mut first = Vec::new();
    for (kept, language) in (1..).zip(["de", "en", "fr"]) {
        varied("/varied/x", language).await;
        keeps(&nginx, "varied", kept).await;
        first.push(files(&nginx, "varied")[0].clone());
    }
    keeps(&nginx, "answers", 3).await;
    // Another master, with empty memory and the files of the first.
    nginx.upgrade().await;
    nginx.connected().await;
    let told = purge(&pincerd, &["--cache", "answers", "--cache-key", "/a"]).await;
    assert_eq!((&told["removed"], files(&nginx, "answers").len()), (&1.into(), 2), "{told}");
    // nginx may let go of the first variant, whose file has the key's own name, and keep the
    // others.
    fs::remove_file(&first[0]).expect("the first variant");
    assert_eq!(purge(&pincerd, &["--cache", "varied", "--cache-key", "/varied/x"]).await["removed"], 2);
    assert_eq!(varied("/varied/x", "fr").await, "MISS");
    keeps(&nginx, "varied", 1).await;
    let client = nginx.client();
    assert_eq!((ask(&client, "/a").await, ask(&client, "/b").await), ("MISS".into(), "HIT".into()));
    keeps(&nginx, "answers", 3).await;
    let told = purge(&pincerd, &["--every-cache", "--all"]).await;
    assert_eq!((&told["removed"], files(&nginx, "answers").len()), (&4.into(), 0), "{told}");
    for path in ["/a", "/b", "/c"] {
        assert_eq!(ask(&client, path).await, "MISS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_connected_is_named_and_makes_the_purge_incomplete() {
    let pincerd = Pincerd::start().await;
    let replicas = replicas(0.0).await;
    let told = pincerd.ctl(&["cache", "purge", "--cache", "answers", "--all"]).await;
    assert_eq!((told.code, told.errors.contains("no node is connected")), (3, true), "{told:?}");
    let away = caching(&pincerd, "edge-2", &replicas).start().await;
    away.connected().await;
    let nginx = start(&pincerd, &replicas).await;
    ask(&nginx.client(), "/a").await;
    away.quit();
    let incomplete = || async {
        let told = pincerd.ctl(&["cache", "purge", "--cache", "answers", "--all"]).await;
        told.code == 5 && told.output.contains("edge-2") && told.errors.contains("1 known nodes are not connected")
    };
    eventually("the other is known to be away", 10.0, incomplete).await;
    assert_eq!(files(&nginx, "answers").len(), 0, "the one that is there has done it");
    let told = pincerd.ctl(&["cache", "purge", "--cache", "answers", "--all", "--node", "edge-2"]).await;
    assert_eq!(told.code, 3, "{told:?}");
    pincerd.must(&["cache", "purge", "--cache", "answers", "--all", "--node", "edge-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_makes_the_purge_incomplete_and_not_endless() {
    let pincerd = Pincerd::start().await;
    let nginx = start(&pincerd, &replicas(0.0).await).await;
    let client = Client::single(&nginx.url());
    ask(&client, "/a").await;
    keeps(&nginx, "answers", 1).await;
    // Not the one that runs the purge.
    let feed = nginx.status().await.number("/control_plane/feed_pid");
    let stopped = nginx.workers().into_iter().find(|pid| f64::from(*pid) != feed).expect("another worker");
    assert!(harness::nginx::process::signal(stopped, harness::nginx::Signal::STOP));
    let told = pincerd.ctl(&["cache", "purge", "--cache", "answers", "--all"]).await;
    assert!(harness::nginx::process::signal(stopped, harness::nginx::Signal::CONT));
    assert_eq!(told.code, 5, "{told:?}");
    assert!(told.output.contains("1 workers do not answer") && told.output.contains("removed 1"), "{told:?}");
    assert_eq!(files(&nginx, "answers").len(), 0);
    pincerd.must(&["cache", "purge", "--cache", "answers", "--all"]).await;
}
