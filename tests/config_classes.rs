//! Every mistake in classes, limits and keys is a clear error of `nginx -t` that names what stands
//! there, what is needed, and file and line.

use harness::Nginx;

const ZONE: &str = "pincer_zone pincer:1m;";

/// `nginx -t` refuses these http directives, with all of `needles` in the error, and with its
/// place.
async fn refused(http: &str, needles: &[&str]) {
    let checked = Nginx::builder().http(http).check().await;
    assert!(!checked.ok, "accepted: {http}");
    let error = checked.error();
    for needle in needles.iter().chain(&["nginx.conf:"]) {
        assert!(error.contains(needle), "{http}\nno {needle:?} in: {}", checked.output);
    }
}

/// What `nginx -t` says of these http directives, which it takes.
async fn accepted(http: &str) -> String {
    let checked = Nginx::builder().http(http).check().await;
    assert!(checked.ok, "{}", checked.output);
    checked.output
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_classes_are_named() {
    const RATE: &str = "10r/s or 30r/m, from 1 to 1000000000";
    const COUNT: &str = "from 0 to 1000000";
    let cases: [(&str, &[&str]); 21] = [
        ("c delay=1", &["\"c\"", "no rate", "rate="]),
        ("c nodelay", &["\"c\"", "no rate", "rate="]),
        ("c rate=1r/s nodelay delay=1", &["delay", "twice"]),
        ("c rate=1r/s rate=2r/s", &["rate", "twice"]),
        ("c rate=1r/s burst=-1", &["burst \"-1\"", COUNT]),
        ("c rate=1r/s burst=1.5", &["burst \"1.5\"", COUNT]),
        ("c rate=1r/s burst=1000001", &["burst \"1000001\"", COUNT]),
        ("c concurrency=many", &["concurrency \"many\"", COUNT]),
        ("c concurrency=", &["concurrency \"\"", COUNT]),
        ("c bandwidth=1x", &["bandwidth \"1x\"", "up to 1024g"]),
        ("c bandwidth=1025g", &["bandwidth \"1025g\"", "up to 1024g"]),
        ("c bandwidth=99999999999999999999g", &["bandwidth", "up to 1024g"]),
        ("c priority=256", &["priority \"256\"", "from 0 to 255"]),
        ("c priority=-1", &["priority \"-1\"", "from 0 to 255"]),
        ("c share=101", &["share \"101\"", "from 0 to 100"]),
        ("c queue=all", &["queue \"all\"", COUNT]),
        ("c queue_timeout=2d", &["queue_timeout \"2d\"", "up to 1d"]),
        ("c queue_timeout=soon", &["queue_timeout \"soon\"", "up to 1d"]),
        ("c limit=1", &["limit=1", "known are rate=, burst="]),
        ("a/b", &["class name \"a/b\"", "1 to 64 of A-Za-z0-9._-"]),
        ("$http_x_class", &["$http_x_class", "1 to 64 of A-Za-z0-9._-"]),
    ];
    for (arguments, needles) in cases {
        let named: Vec<_> = needles.iter().copied().chain(["\"pincer_class\""]).collect();
        refused(&format!("{ZONE} pincer_class {arguments};"), &named).await;
    }
    for rate in [
        "",
        "10",
        "r/s",
        "10r",
        "10/s",
        "10r/h",
        "10R/s",
        "10 r/s",
        "0r/s",
        "0r/m",
        "-1r/s",
        "+1r/s",
        "1.5r/s",
        "1e9r/s",
        "0x10r/s",
        "10r/s10r/s",
        "10r/s,",
        "10r/ms",
        "1000000001r/s",
        "99999999999999999999r/s",
        "10mr/s",
        "unlimited",
    ] {
        let value = format!("\"pincer_class\" rate \"{rate}\"");
        refused(&format!("{ZONE} pincer_class c \"rate={rate}\";"), &[&value, "invalid", RATE]).await;
    }
    refused(&format!("{ZONE} pincer_class c; pincer_class d; pincer_class c rate=1r/s;"), &["\"c\"", "duplicate"])
        .await;
    refused(&format!("{ZONE} pincer_class {};", "c".repeat(65)), &["class name", "1 to 64"]).await;
    refused(&format!("{ZONE} pincer_class a share=60; pincer_class b share=41;"), &["pincer_class", "101", "100"])
        .await;
    let many = |count: usize| (0..count).map(|number| format!("pincer_class c{number} share=0;")).collect::<String>();
    refused(&format!("{ZONE} {}", many(65)), &["pincer_class", "65", "64"]).await;
    // Those that say none divide what is left.
    accepted(&format!("{ZONE} {}", many(64).replace(" share=0", ""))).await;
    refused("pincer_class c;", &["pincer_class", "pincer_zone"]).await;
    let all =
        "pincer_class a rate=1r/s burst=1000000 delay=0 concurrency=1000000 bandwidth=1024g priority=255 share=50%
            queue=1000000 queue_timeout=1d;
        pincer_class b rate=1000000000r/m nodelay share=50; pincer_class c share=0 priority=0; pincer_class A share=0;";
    accepted(&format!("{ZONE} {all}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_limits_are_named() {
    let cases: [(&str, &[&str]); 12] = [
        ("key=$arg_k", &["no \"class=\"", "class' name or a variable is needed"]),
        ("class=", &["class name \"\"", "1 to 64"]),
        ("class=a/b", &["class name \"a/b\"", "1 to 64"]),
        ("class=c class=d", &["class", "twice"]),
        ("class=c key=", &["key \"\"", "a variable such as $binary_remote_addr"]),
        ("class=c key=address", &["key \"address\"", "a variable such as $binary_remote_addr"]),
        ("class=c key=$arg_a key=$arg_b", &["key", "twice"]),
        ("class=c key=$", &["invalid variable name"]),
        ("class=c dry_run dry_run", &["dry_run", "twice"]),
        ("class=c dry_run=on", &["dry_run=on", "off, class=, key= and dry_run"]),
        ("class=c burst=1", &["burst=1", "off, class=, key= and dry_run"]),
        ("class=nobody", &["unknown class \"nobody\"", "pincer_class nobody"]),
    ];
    let class = "pincer_class c;";
    for (arguments, needles) in cases {
        refused(&format!("{ZONE} {class} pincer_limit {arguments};"), needles).await;
        refused(&format!("{ZONE} server {{ location /x {{ pincer_limit {arguments}; }} }} {class}"), needles).await;
    }
    refused(&format!("{ZONE} {class} pincer_limit class=C;"), &["unknown class \"C\""]).await;
    refused(
        &format!(
            "{ZONE} {class} {}",
            (0..9).map(|at| format!("pincer_limit class=c key=$arg_{at};")).collect::<String>()
        ),
        &["pincer_limit", "more than 8"],
    )
    .await;
    for (twice, named) in [
        ("class=c; pincer_limit class=c", "\"class=c\" is duplicate"),
        ("class=c key=$arg_k; pincer_limit class=c key=$arg_k dry_run", "\"class=c key=$arg_k\" is duplicate"),
        ("class=$arg_c; pincer_limit class=c; pincer_limit class=$arg_c", "\"class=$arg_c\" is duplicate"),
    ] {
        refused(&format!("{ZONE} {class} pincer_limit {twice};"), &["\"pincer_limit\"", named]).await;
    }
    accepted(&format!("{ZONE} {class} pincer_limit class=c; pincer_limit class=c key=$arg_k; server {{ location /x {{ pincer_limit class=c; }} }}")).await;
    refused("pincer_limit class=$arg_c;", &["pincer_limit", "pincer_zone"]).await;
    // Off is all that stands in its place.
    for (both, named) in [
        ("off; pincer_limit class=c", "only one"),
        ("class=c; pincer_limit off", "only one"),
        ("off; pincer_limit off", "duplicate"),
    ] {
        refused(&format!("{ZONE} {class} pincer_limit {both};"), &["\"pincer_limit\"", named]).await;
    }
    refused(&format!("{ZONE} {class} pincer_limit off class=c;"), &["pincer_limit", "unknown parameter \"off\""]).await;
    accepted("pincer_limit off;").await;
    accepted(&format!("{ZONE} {class} pincer_limit class=c; server {{ location /x {{ pincer_limit off; }} }}")).await;
    for status in ["494", "495", "496", "497"] {
        refused(&format!("{ZONE} pincer_limit_status {status};"), &["pincer_limit_status", status, "494 to 497"]).await;
    }
    accepted(&format!("{ZONE} pincer_limit_status 498;")).await;
    for status in ["399", "600", "-1", "429x", "\"\""] {
        let needles = ["pincer_limit_status", status.trim_matches('"'), "from 400 to 599"];
        refused(&format!("{ZONE} pincer_limit_status {status};"), &needles).await;
    }
    // nginx itself finds this one when all is read, and names no place.
    let http = format!("{ZONE} {class} pincer_limit class=c key=$no_such_variable;");
    let checked = Nginx::builder().http(http).check().await;
    assert!(!checked.ok && checked.error().contains("no_such_variable"), "{}", checked.output);
    accepted(&format!("{ZONE} pincer_limit class=c key=$arg_k dry_run; {class}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_too_small_for_its_classes_says_how_much_is_enough() {
    let declared = |classes: usize, peers: usize| {
        let classes: String = (0..classes).map(|number| format!("pincer_class c{number};")).collect();
        let peers: String = (1..=peers).map(|number| format!("server 127.0.0.{number}:9;")).collect();
        let upstream = format!("upstream u {{ pincer_balance; {peers} }}");
        format!("{classes} {}", if peers.is_empty() { "" } else { &upstream })
    };
    for (classes, peers, size, enough, named) in [
        (1, 0, 64, 116, "0 peers in 0 upstreams and 1 classes "),
        (24, 1, 64, 740, "1 peers in 1 upstreams and 24 classes "),
        (64, 120, 100, 1_720, "120 peers in 1 upstreams and 64 classes "),
    ] {
        let directives = declared(classes, peers);
        let zone = |size: usize| format!("pincer_zone pincer:{size}k; {directives}");
        let checked = Nginx::builder().http(zone(size)).check().await;
        let error = checked.error();
        assert!(
            !checked.ok && error.contains(&format!("size {size}k is too small")) && error.contains(named),
            "{error}"
        );
        let words: Vec<&str> = error.split_whitespace().collect();
        let before = words.iter().position(|word| *word == "needed").expect("a need") - 1;
        let need: usize = words[before].trim_end_matches('k').parse().expect("a size");
        accepted(&zone(need)).await;
        for more in [4, 8, 16] {
            accepted(&zone(need + more)).await;
        }
        assert!(need <= enough, "{need}k are named, {enough}k are enough");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_keys_are_named() {
    const KEY: &str = "pincer_key $http_authorization;";
    refused(
        &format!("{ZONE} pincer_key on;"),
        &["pincer_key", "\"on\"", "off or a variable such as $http_authorization"],
    )
    .await;
    refused(&format!("{ZONE} pincer_key \"\";"), &["pincer_key", "\"\"", "off or a variable"]).await;
    refused(&format!("{ZONE} {KEY} pincer_key off;"), &["pincer_key", "duplicate"]).await;
    refused(&format!("{ZONE} pincer_key_required yes;"), &["pincer_key_required", "\"yes\"", "on or off"]).await;
    refused(&format!("{ZONE} pincer_key_required on; pincer_key_required on;"), &["pincer_key_required", "duplicate"])
        .await;
    refused(KEY, &["pincer_key", "pincer_zone"]).await;
    for own in ["$pincer_class", "$pincer_tenant", "\"${pincer_class}x\"", "x$PINCER_TENANT"] {
        refused(&format!("{ZONE} pincer_key {own};"), &["pincer_key", own.trim_matches('"'), "not what it gives"])
            .await;
    }
    let needles = ["\"pincer_key_required\"", "\"pincer_key\"", "needed"];
    for required in ["pincer_key_required on;", "pincer_key off; server { location /x { pincer_key_required on; } }"] {
        refused(&format!("{ZONE} {required}"), &needles).await;
    }
    let needles = ["\"pincer_key_required\" is on", "\"pincer_key $http_authorization\"", "needed"];
    refused(&format!("{ZONE} server {{ pincer_key_required on; location /x {{ return 204; }} }}"), &needles).await;
    let warned = async |http: &str| {
        let output = accepted(http).await;
        let lines = output.lines().filter(|line| line.contains("[warn]") && line.contains("nginx.conf:"));
        lines.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    let output = warned(&format!("{ZONE} {KEY}")).await;
    assert!(output.contains("\"pincer_key\"") && output.contains("\"pincer_control_plane\" is needed"), "{output}");
    let plane = format!("{ZONE} pincer_control_plane 127.0.0.1:9443 plaintext;");
    let with = |location: &str| {
        format!("server {{ pincer_key_required on; {location} location /key {{ pincer_key $arg_key; empty_gif; }} }}")
    };
    for location in [
        "location /open { empty_gif; }",
        "location /open { root html; }",
        "location /open { try_files $uri @app; } location @app { pincer_key $arg_key; empty_gif; }",
        "location /open { proxy_pass http://127.0.0.1:9; location /open/key { pincer_key $arg_key; } }",
        "location /o { location /open { root html; } }",
        "location /open { pincer_key off; }",
    ] {
        let needles =
            ["\"pincer_key_required\" refuses every request of location \"/open\"", "pincer_key_required off"];
        refused(&format!("{plane} {}", with(location)), &needles).await;
        if !location.contains("key off") {
            assert_eq!(warned(&format!("{plane} {KEY} {}", with(location))).await, "", "{location}");
        }
        let open = location.replace("location /open {", "location /open { pincer_key_required off;");
        assert_eq!(warned(&format!("{plane} {}", with(&open))).await, "", "{open}");
    }
    // Places that refuse nobody, as the key is looked for further in, or `return` answers before.
    for location in [
        "location /outer { location /outer/key { pincer_key $arg_key; } }",
        "location = /robots.txt { return 404; }",
        "",
    ] {
        assert_eq!(warned(&format!("{plane} {}", with(location))).await, "", "{location}");
    }
    let http = "pincer_key $arg_key; server { location /key { pincer_key_required on; empty_gif; } }";
    assert_eq!(warned(&format!("{plane} {http}")).await, "");
}
