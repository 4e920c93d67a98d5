//! What each request changes of classes, and what is refused.

use super::*;
use crate::classes::{Declared as DeclaredClass, Period, Rate};

fn share(share: u8) -> Settings {
    Settings { share: Some(share), ..Settings::default() }
}

fn places(queue: u32) -> Settings {
    Settings { queue: Some(queue), ..Settings::default() }
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
    let config = done(&Config::default(), &update("vip", places(7)));
    let record = config.classes["vip"];
    assert_eq!((record.settings, record.added, record.revision), (places(7), false, 1));
    assert_eq!(plan(&update("vip", places(7)), &config, &declared()), Ok(vec![]));
    assert_eq!(config.snapshot(0).classes[0].name, "vip");
}

#[test]
fn a_class_that_nobody_knows_is_added_only_when_asked_to() {
    let config = Config::default();
    assert!(matches!(refused(&config, &update("gold", places(1))), Refusal::NoClass(_)));
    assert!(matches!(refused(&config, &delete("gold")), Refusal::NoClassToDelete(_)));
    let config = done(&config, &upsert("gold", places(1)));
    assert!(config.classes["gold"].added);
    assert!(matches!(refused(&config, &create("gold", places(1))), Refusal::Exists(_)));
    let config = done(&config, &delete("gold"));
    assert!(config.classes.is_empty());
    assert!(!done(&config, &upsert("free", places(1))).classes["free"].added, "declared");
}

#[test]
fn a_class_is_created_where_some_node_lacks_it_and_goes_back_to_nginx_conf_where_one_has_it() {
    let config = Config::default();
    assert!(matches!(refused(&config, &create("free", places(1))), Refusal::Exists(_)));
    let config = done(&config, &create("vip", places(1)));
    assert!(config.classes["vip"].added);
    let config = done(&config, &delete("vip"));
    assert_eq!(config.classes["vip"], Record { revision: 2, ..Record::default() });
    assert!(config.snapshot(0).classes.is_empty());
    assert!(matches!(refused(&config, &delete("vip")), Refusal::DeclaredClass(_)));
}

#[test]
fn an_old_etag_is_refused() {
    let config = done(&Config::default(), &update("vip", places(1)));
    let with = |etag: &str| Op::Update {
        name: "vip".into(),
        settings: places(2),
        mask: Mask::ALL,
        etag: Some(etag.into()),
        allow_missing: true,
    };
    assert!(matches!(refused(&config, &with("r0")), Refusal::Stale { .. }));
    assert_eq!(done(&config, &with("r1")).classes["vip"].settings, places(2));
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
    assert!(plan(&update("free", places(9)), &config, &greedy).is_ok());
}

#[test]
fn apply_makes_all_classes_exactly_so() {
    let config = done(&Config::default(), &upsert("gold", places(1)));
    let config = done(&config, &update("vip", places(2)));
    let config = done(&config, &apply(&[("free", places(3)), ("silver", places(4))]));
    assert!(!config.classes.contains_key("gold"));
    assert_eq!(config.classes["vip"].settings, Settings::default());
    assert_eq!((config.classes["free"].added, config.classes["silver"].added), (false, true));
    let same = apply(&[("silver", places(4)), ("free", places(3))]);
    assert_eq!(plan(&same, &config, &declared()), Ok(vec![]));
    assert!(matches!(refused(&config, &apply(&[("a", places(1)), ("a", places(1))])), Refusal::Twice(_)));
    let config = done(&config, &apply(&[]));
    assert!(config.snapshot(0).classes.is_empty());
}

#[test]
fn a_node_never_gets_more_classes_than_it_can_hold() {
    let mut config = Config::default();
    for n in 0..limits::CLASSES_PER_NODE_MAX - 2 {
        config = done(&config, &upsert(&format!("c{n}"), places(1)));
    }
    assert!(matches!(refused(&config, &upsert("one-more", places(1))), Refusal::Full(_)));
    assert!(plan(&update("vip", places(1)), &config, &declared()).is_ok());
}

#[test]
fn a_burst_or_delay_needs_a_rate_in_force() {
    let burst = Settings { burst: Some(5), ..Settings::default() };
    let delay = Settings { delay: Some(5), ..Settings::default() };
    let rate = |requests| Settings { rate: Some(Rate { requests, per: Period::Second }), ..Settings::default() };
    let with_rate = |settings: Settings, requests| Settings { rate: rate(requests).rate, ..settings };
    let config = Config::default();
    let no_rate = |config: &Config, op: &Op| {
        let refusal = refused(config, op);
        assert!(matches!(refusal, Refusal::NoRate { .. }), "{refusal:?}");
        refusal.to_string()
    };
    let said = no_rate(&config, &upsert("gold", burst));
    assert_eq!(said, "classes/gold has no rate in force, which its burst needs: set a rate with it, as 10r/s");
    for op in [upsert("gold", delay), create("gold", burst), apply(&[("gold", burst)]), update("free", burst)] {
        no_rate(&config, &op);
    }
    no_rate(&config, &upsert("gold", with_rate(burst, 0)));
    // With the change, set before, or declared.
    let config = done(&config, &upsert("gold", with_rate(burst, 10)));
    let config = done(&config, &upsert("gold", delay));
    let limited = [DeclaredClass { name: "vip".into(), settings: rate(10) }];
    let limited = Declared::default().with_classes([&limited[..]].into_iter());
    assert!(plan(&update("vip", burst), &config, &limited).is_ok());
    let lifted = done(&config, &upsert("gold", rate(0)));
    no_rate(&lifted, &upsert("gold", Settings { burst: Some(6), ..Settings::default() }));
    // What was there before is not in the way of other fields.
    let lifted = done(&lifted, &upsert("gold", places(1)));
    assert_eq!(lifted.classes["gold"].settings.burst, Some(5));
}

#[test]
fn deleting_a_class_that_nobody_has_says_that_there_is_none() {
    let said = refused(&Config::default(), &delete("gold")).to_string();
    assert_eq!(said, "there is no classes/gold, no node declares it and it was not added: nothing to delete");
}
