//! Changes in words: for the response to an operator, and for the log.

use pincer_proto::v1;

use crate::{
    classes,
    model::{Change, Record, Replaced, Settings, State},
    names, words,
};

/// A change of a peer, for operators and for the log.
pub fn peer(change: &Change) -> v1::PeerChange {
    use v1::peer_change::Kind;
    let is_added = |record: Option<Record>| record.is_some_and(|r| r.added);
    let kind = match (is_added(change.before), is_added(change.after)) {
        (false, true) => Kind::Added,
        (true, false) => Kind::Removed,
        _ => Kind::Updated,
    };
    v1::PeerChange {
        kind: kind.into(),
        name: names::peer_name(&change.upstream, &change.address),
        description: settings_of(change),
    }
}

fn settings_of(change: &Change) -> String {
    let settings = |record: Option<Record>| record.map(|r| r.settings).unwrap_or_default();
    let (before, after): (Settings, Settings) = (settings(change.before), settings(change.after));
    let number = |value: Option<u16>| value.map_or("unset".to_owned(), |value| value.to_string());
    let state = |value: Option<State>| value.map_or("unset", State::word).to_owned();
    let fields = [
        ("weight", number(before.weight), number(after.weight)),
        ("max_conns", number(before.max_conns), number(after.max_conns)),
        ("state", state(before.state), state(after.state)),
    ];
    let changed = fields.into_iter().filter(|(_, before, after)| before != after);
    changed.map(|(field, before, after)| format!("{field} {before} → {after}")).collect::<Vec<_>>().join(", ")
}

/// A change, as the response of `apply` lists it.
pub fn class(change: &Replaced<classes::Record>) -> v1::PeerChange {
    use v1::peer_change::Kind;
    let is_added = |record: Option<classes::Record>| record.is_some_and(|r| r.added);
    let kind = match (is_added(change.before), is_added(change.after)) {
        (false, true) => Kind::Added,
        (true, false) => Kind::Removed,
        _ => Kind::Updated,
    };
    let words = |record: Option<classes::Record>| words::settings(&record.map(|r| r.settings).unwrap_or_default());
    let fields = words(change.before).into_iter().zip(words(change.after)).zip(classes::FIELDS);
    let changed = fields.filter(|((before, after), _)| before != after);
    let shown = |word: Option<String>| word.unwrap_or_else(|| "unset".to_owned());
    let description = changed.map(|((before, after), field)| format!("{field} {} → {}", shown(before), shown(after)));
    v1::PeerChange {
        kind: kind.into(),
        name: names::class_name(&change.id),
        description: description.collect::<Vec<_>>().join(", "),
    }
}
