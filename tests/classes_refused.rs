//! What a class cannot be told is said clearly by whoever knows it first, changes nothing, and
//! holds nothing else up.

use harness::nginx::Builder;
use harness::pincerd::Told;
use harness::{Nginx, Pincerd};
use pincer_proto::v1;
use tonic::Code;

const WAIT: [&str; 2] = ["--wait", "5s"];
/// Classes of a node at most.
const CLASSES_MAX: usize = 64;

type Control = v1::control_service_client::ControlServiceClient<tonic::transport::Channel>;

/// Fed by `pincerd`, with a zone of this size.
fn fed(pincerd: &Pincerd, zone: &str, classes: &str) -> Builder {
    Nginx::builder()
        .http(format!("pincer_zone pincer:{zone}; {classes}"))
        .http(pincerd.directives("edge-1"))
        .server("location / { pincer_limit class=$arg_class key=$arg_key; empty_gif; }")
}

async fn class(pincerd: &Pincerd, arguments: &[&str]) -> Told {
    pincerd.ctl(&[&WAIT, &["class"][..], arguments].concat()).await
}

/// What is in force, as text to compare.
async fn in_force(nginx: &Nginx) -> (f64, String) {
    let status = nginx.status().await;
    (status.number("/revision"), status.0["classes"].to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn pincerctl_says_what_is_wrong_with_a_value_before_anything_is_sent() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "1m", "pincer_class free rate=10r/s burst=2;").start().await;
    nginx.connected().await;
    let before = in_force(&nginx).await;
    let (long, name) = ("n".repeat(65), "a name with spaces");
    let cases: [(&[&str], &str); 12] = [
        (&["set", "free", "--rate", "0r/s"], "0r/s"),
        (&["set", "free", "--rate", "10"], "is not a rate as 100r/s, 30r/m or unlimited"),
        (&["set", "free", "--rate=-5r/s"], "-5r/s"),
        (&["set", "free", "--rate", "2000000000r/s"], "2000000000r/s"),
        (&["set", "free", "--burst", "1000001"], "1000001"),
        (&["set", "free", "--bandwidth", "2t"], "has another unit than k, m, g"),
        (&["set", "free", "--priority", "256"], "256"),
        (&["set", "free", "--share", "101"], "101"),
        (&["set", "free", "--queue-timeout", "25h"], "25h"),
        (&["set", &long, "--burst", "1"], "65 bytes, at most 64"),
        (&["set", name, "--burst", "1"], "a name with spaces"),
        (&["set", "free"], "say what to set"),
    ];
    for (arguments, says) in cases {
        let told = class(&pincerd, arguments).await;
        assert!(told.code == 2 && told.errors.contains(says), "{arguments:?}: {told:?}");
    }
    assert_eq!(class(&pincerd, &["delete", "nobody"]).await.code, 2);
    assert_eq!(class(&pincerd, &["delete", "free"]).await.code, 3, "nginx.conf declares it");
    assert_eq!(in_force(&nginx).await, before);
    assert_eq!(class(&pincerd, &["set", "free", "--rate", "11r/s"]).await.code, 0);
    assert_eq!(nginx.status().await.class("free").text("/rate/effective"), "11r/s");
}

async fn update(control: &mut Control, class: &str, settings: v1::ClassSettings) -> Result<u64, tonic::Status> {
    let class = v1::Class { name: class.to_owned(), settings: Some(settings), ..v1::Class::default() };
    let request =
        v1::UpdateClassRequest { class: Some(class), allow_missing: true, ..v1::UpdateClassRequest::default() };
    control.update_class(request).await.map(|answer| answer.into_inner().revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_values_out_of_range_are_refused_by_name() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "1m", "pincer_class free rate=10r/s burst=2;").start().await;
    nginx.connected().await;
    let before = in_force(&nginx).await;
    let mut control = pincer_control::client::connect(&pincerd.dev()).await.expect("pincerd answers");
    let none = v1::ClassSettings::default;
    let rate = |requests, period| v1::ClassSettings { rate: Some(v1::Rate { requests, period }), ..none() };
    let queue_timeout = std::time::Duration::from_secs(86_401).try_into().ok();
    let cases = [
        ("classes/free", rate(2_000_000_000, 1), "rate"),
        ("classes/free", rate(10, 0), "period"),
        ("classes/free", rate(10, 77), "period"),
        ("classes/free", v1::ClassSettings { burst: Some(1_000_001), ..none() }, "burst"),
        ("classes/free", v1::ClassSettings { delay: Some(1_000_001), ..none() }, "delay"),
        ("classes/free", v1::ClassSettings { concurrency: Some(u32::MAX), ..none() }, "concurrency"),
        ("classes/free", v1::ClassSettings { bandwidth: Some(u64::MAX), ..none() }, "bandwidth"),
        ("classes/free", v1::ClassSettings { priority: Some(256), ..none() }, "priority"),
        ("classes/free", v1::ClassSettings { share: Some(101), ..none() }, "share"),
        ("classes/free", v1::ClassSettings { queue_timeout, ..none() }, "queue_timeout"),
        (&format!("classes/{}", "n".repeat(65)), none(), "65"),
        ("classes/", none(), "class"),
        ("classes/a/b", none(), "class"),
        ("free", none(), "free"),
    ];
    for (name, settings, says) in cases {
        let refused = update(&mut control, name, settings).await.expect_err(says);
        assert!(
            refused.code() == Code::InvalidArgument && refused.message().contains(says),
            "{name} {settings:?}: {refused:?}"
        );
    }
    assert_eq!(in_force(&nginx).await, before);
    // 0 is no rate at all on the wire, as in the module.
    let revision = update(&mut control, "classes/free", rate(0, 1)).await.expect("unlimited");
    let there = || async { in_force(&nginx).await.0 == revision as f64 };
    harness::eventually("it is there", 5.0, there).await;
    assert_eq!(nginx.status().await.class("free").text("/rate/effective"), "unlimited");
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_over_a_hundred_percent_are_refused_with_those_of_nginx_conf_counted() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "1m", "pincer_class free share=40; pincer_class vip share=30;").start().await;
    nginx.connected().await;
    let before = in_force(&nginx).await;
    let cases: [(&[&str], &str); 2] = [
        (&["set", "free", "--share", "71"], "shares of 101 %"),
        (&["set", "gold", "--share", "31"], "shares of 101 %"),
    ];
    for (arguments, says) in cases {
        let told = class(&pincerd, arguments).await;
        assert!(told.code == 2 && told.errors.contains(says), "{arguments:?}: {told:?}");
    }
    assert_eq!(in_force(&nginx).await, before);
    for arguments in
        [["set", "gold", "--share", "30"], ["set", "free", "--share", "0"], ["set", "gold", "--share", "70"]]
    {
        let told = class(&pincerd, &arguments).await;
        assert_eq!(told.code, 0, "{told:?}");
    }
    let told = class(&pincerd, &["set", "free", "--share", "unset"]).await;
    assert!(told.code == 2 && told.errors.contains("shares of 140 %"), "{told:?}");
    assert_eq!(class(&pincerd, &["set", "free", "--rate", "5r/s"]).await.code, 0, "other fields do not count");
    let status = nginx.status().await;
    let shares = ["free", "vip", "gold"].map(|name| status.class(name).number("/share/effective"));
    assert_eq!(shares, [0.0, 30.0, 70.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_class_more_than_a_node_may_have_is_refused_and_the_others_change_as_before() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "1m", "pincer_class default; pincer_class free rate=10r/s;").start().await;
    nginx.connected().await;
    for number in 2..CLASSES_MAX {
        pincerd.must(&["class", "set", &format!("class-{number}"), "--queue", "1"]).await;
    }
    assert_eq!(class(&pincerd, &["set", "class-2", "--queue", "2"]).await.code, 0);
    let before = in_force(&nginx).await;
    let told = class(&pincerd, &["set", "one-more", "--queue", "1"]).await;
    assert!(told.code == 2 && told.errors.contains("64"), "{told:?}");
    assert_eq!(in_force(&nginx).await, before);
    let status = nginx.status().await;
    assert_eq!(status.0["classes"].as_array().map(Vec::len), Some(CLASSES_MAX));
    assert_eq!(status.0["class_records"]["free"], 0);
    assert_eq!(class(&pincerd, &["set", "class-3", "--queue", "7"]).await.code, 0);
    assert_eq!(nginx.status().await.class("class-3").number("/queue/effective"), 7.0);
    // Nor may nginx.conf declare one more: nginx goes on with what it has.
    let file = nginx.path("conf/nginx.conf");
    let text = std::fs::read_to_string(&file).expect("nginx.conf");
    std::fs::write(&file, text.replace("pincer_class default;", "pincer_class default; pincer_class late;"))
        .expect("nginx.conf");
    let before = in_force(&nginx).await;
    let refused = nginx.try_reload().await.expect_err("one too many");
    assert!(refused.contains("\"pincer_class\": 3 classes are declared") && refused.contains("65 in all"), "{refused}");
    assert_eq!(in_force(&nginx).await, before);
    // One goes, another comes, in full zones too.
    assert_eq!(class(&pincerd, &["delete", "class-9"]).await.code, 0);
    assert_eq!(class(&pincerd, &["set", "one-more", "--queue", "1"]).await.code, 0);
    assert_eq!(nginx.status().await.class("one-more").number("/queue/effective"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_without_room_for_a_class_says_how_large_it_must_be_and_keeps_what_it_has() {
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "96k", "pincer_class default; pincer_class free rate=10r/s;").start().await;
    nginx.connected().await;
    let free = nginx.status().await.number("/class_records/free") as usize;
    for number in 0..free {
        assert_eq!(class(&pincerd, &["set", &format!("class-{number}"), "--queue", "1"]).await.code, 0);
    }
    let before = in_force(&nginx).await;
    let told = class(&pincerd, &["set", "one-more", "--queue", "1"]).await;
    assert_eq!(told.code, 5, "{told:?}");
    let (what, needed) = told.output.trim_end().split_once(", it needs ").expect("what is needed");
    assert!(what.ends_with("class \"one-more\" has no room in the zone of 5 classes"), "{what}");
    let larger = fed(&pincerd, needed, "").start().await;
    assert!(larger.status().await.number("/class_records/size") >= (free + 3) as f64, "{needed}");
    larger.quit();
    assert_eq!(in_force(&nginx).await, before);
    let told = class(&pincerd, &["set", "free", "--rate", "20r/s"]).await;
    assert_eq!(told.code, 5, "a revision is taken as a whole: {told:?}");
    assert_eq!(in_force(&nginx).await, before);
    let told = class(&pincerd, &["delete", "one-more"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(nginx.status().await.class("free").text("/rate/effective"), "20r/s");
    let reply = nginx.client().get("/?class=free").await;
    assert_eq!(reply.status, 200);
}
