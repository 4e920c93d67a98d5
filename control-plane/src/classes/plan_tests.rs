//! What each request changes of classes, and what is refused.

use super::*;
use crate::classes::Declared as DeclaredClass;

fn share(share: u8) -> Settings {
    Settings { share: Some(share), ..Settings::default() }
}

fn burst(burst: u32) -> Settings {
    Settings { burst: Some(burst), ..Settings::default() }
}

/// Node 1 declares vip (share 50) and free; node 2 only free.
fn declared() -> Declared {
    let class = |name: &str, settings| DeclaredClass { name: name.into(), settings };
    let nodes =
        [vec![class("vip", share(50)), class("free", Settings::default())], vec![class("free", Settings::default())]];
    Declared::default().with_classes(nodes.iter().map(Vec::as_slice))
}

fn update(name: &str, settings: Settings) -> Op {
    let (mask, etag, allow_missing) = (Mask::of(&settings), None, false);
    Op::Update { name: name.into(), settings, mask, etag, allow_missing }
}

fn upsert(name: &str, settings: Settings) -> Op {
    let mask = Mask::of(&settings);
    Op::Update { name: name.into(), settings, mask, etag: None, allow_missing: true }
}

fn create(name: &str, settings: Settings) -> Op {
    Op::Create { name: name.into(), settings }
}

fn delete(name: &str) -> Op {
    Op::Delete { name: name.into(), etag: None }
}

fn apply(classes: &[(&str, Settings)]) -> Op {
    let desired =
        |(name, settings): &(&str, Settings)| Desired { name: (*name).into(), settings: *settings, etag: None };
    Op::Apply(classes.iter().map(desired).collect())
}

fn done(config: &Config, op: &Op) -> Config {
    let classes = plan(op, config, &declared()).unwrap();
    assert!(!classes.is_empty());
    let changes = crate::model::Changes { classes, ..Default::default() };
    config.with_all(&changes, config.revision + 1, 0)
}

fn refused(config: &Config, op: &Op) -> Refusal {
    plan(op, config, &declared()).unwrap_err()
}

#[test]
fn a_declared_class_is_set_and_set_again_changes_nothing() {
    let config = done(&Config::default(), &update("vip", burst(7)));
    let record = config.classes["vip"];
    assert_eq!((record.settings, record.added, record.revision), (burst(7), false, 1));
    assert_eq!(plan(&update("vip", burst(7)), &config, &declared()), Ok(vec![]));
    assert_eq!(config.snapshot().classes[0].name, "vip");
}

#[test]
fn a_class_that_nobody_knows_is_added_only_when_asked_to() {
    let config = Config::default();
    assert!(matches!(refused(&config, &update("gold", burst(1))), Refusal::NoClass(_)));
    assert!(matches!(refused(&config, &delete("gold")), Refusal::NoClass(_)));
    let config = done(&config, &upsert("gold", burst(1)));
    assert!(config.classes["gold"].added);
    assert!(matches!(refused(&config, &create("gold", burst(1))), Refusal::Exists(_)));
    let config = done(&config, &delete("gold"));
    assert!(config.classes.is_empty());
    assert!(!done(&config, &upsert("free", burst(1))).classes["free"].added, "declared");
}

#[test]
fn a_class_is_created_where_some_node_lacks_it_and_goes_back_to_nginx_conf_where_one_has_it() {
    let config = Config::default();
    assert!(matches!(refused(&config, &create("free", burst(1))), Refusal::Exists(_)));
    let config = done(&config, &create("vip", burst(1)));
    assert!(config.classes["vip"].added);
    let config = done(&config, &delete("vip"));
    assert_eq!(config.classes["vip"], Record { revision: 2, ..Record::default() });
    assert!(config.snapshot().classes.is_empty());
    assert!(matches!(refused(&config, &delete("vip")), Refusal::DeclaredClass(_)));
}

#[test]
fn an_old_etag_is_refused() {
    let config = done(&Config::default(), &update("vip", burst(1)));
    let with = |etag: &str| Op::Update {
        name: "vip".into(),
        settings: burst(2),
        mask: Mask::ALL,
        etag: Some(etag.into()),
        allow_missing: true,
    };
    assert!(matches!(refused(&config, &with("r0")), Refusal::Stale { .. }));
    assert_eq!(done(&config, &with("r1")).classes["vip"].settings, burst(2));
    let old = Op::Delete { name: "vip".into(), etag: Some("r0".into()) };
    assert!(matches!(refused(&config, &old), Refusal::Stale { .. }));
}

#[test]
fn no_node_ever_has_shares_of_more_than_all() {
    let config = done(&Config::default(), &update("free", share(50)));
    assert!(matches!(refused(&config, &update("free", share(51))), Refusal::Shares(101)));
    assert!(matches!(refused(&config, &upsert("gold", share(1))), Refusal::Shares(101)));
    let config = done(&config, &update("vip", share(0)));
    let config = done(&config, &upsert("gold", share(50)));
    let unset = Op::Update {
        name: "vip".into(),
        settings: Settings::default(),
        mask: Mask::ALL,
        etag: None,
        allow_missing: false,
    };
    assert!(matches!(refused(&config, &unset), Refusal::Shares(150)), "nginx.conf's would be back");
    // What has nothing to do with shares is not held up by them.
    let strict = DeclaredClass { name: "greedy".into(), settings: share(100) };
    let greedy =
        declared().with_classes([&[strict, DeclaredClass { name: "vip".into(), settings: share(50) }][..]].into_iter());
    assert!(plan(&update("free", burst(9)), &config, &greedy).is_ok());
}

#[test]
fn apply_makes_all_classes_exactly_so() {
    let config = done(&Config::default(), &upsert("gold", burst(1)));
    let config = done(&config, &update("vip", burst(2)));
    let config = done(&config, &apply(&[("free", burst(3)), ("silver", burst(4))]));
    assert!(!config.classes.contains_key("gold"));
    assert_eq!(config.classes["vip"].settings, Settings::default());
    assert_eq!((config.classes["free"].added, config.classes["silver"].added), (false, true));
    let same = apply(&[("silver", burst(4)), ("free", burst(3))]);
    assert_eq!(plan(&same, &config, &declared()), Ok(vec![]));
    assert!(matches!(refused(&config, &apply(&[("a", burst(1)), ("a", burst(1))])), Refusal::Twice(_)));
    let config = done(&config, &apply(&[]));
    assert!(config.snapshot().classes.is_empty());
}

#[test]
fn a_node_never_gets_more_classes_than_it_can_hold() {
    let mut config = Config::default();
    for n in 0..limits::CLASSES_PER_NODE_MAX - 2 {
        config = done(&config, &upsert(&format!("c{n}"), burst(1)));
    }
    assert!(matches!(refused(&config, &upsert("one-more", burst(1))), Refusal::Full(_)));
    assert!(plan(&update("vip", burst(1)), &config, &declared()).is_ok());
}
