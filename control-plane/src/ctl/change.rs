//! The commands that make a revision. Each is checked as far as possible before it is sent; then it
//! is made, and its nodes are waited for.

use std::{
    io,
    io::Write as _,
    time::{Duration, Instant},
};

use pincer_proto::v1;

use super::{
    args::{Noun, Output, PeerArgs, PeerVerb, Setting, SettingsArgs},
    class,
    failure::Failure,
    file,
    output::print,
    pages::Client,
    refused,
    request::{Change, upstream_name},
    show, wait,
};
use crate::{model::State, names};

/// Reads the command; `None` if it changes nothing.
pub fn prepare(noun: &Noun) -> Result<Option<Change>, Failure> {
    Ok(Some(match noun {
        Noun::Peer { verb: PeerVerb::Set { peer, settings, etag } } => update(peer, settings, etag.clone())?,
        Noun::Peer { verb: PeerVerb::Add { peer, settings } } => create(peer, settings)?,
        Noun::Peer { verb: PeerVerb::Remove { peer, etag } } => Change::Delete(v1::DeletePeerRequest {
            name: peer_name(peer)?,
            etag: etag.clone().unwrap_or_default(),
            validate_only: false,
        }),
        Noun::Apply { file, dry_run } => {
            Change::Apply(v1::ApplyUpstreamsRequest { validate_only: *dry_run, ..file::read(file)? })
        }
        Noun::Class { verb } => return class::prepare(verb),
        Noun::Key { verb } => return class::prepare_key(verb),
        _ => return Ok(None),
    }))
}

fn address(peer: &PeerArgs) -> Result<String, names::Fault> {
    names::parse_address(&peer.address)
}

fn peer_name(peer: &PeerArgs) -> Result<String, Failure> {
    Ok(format!("{}/peers/{}", upstream_name(&peer.upstream)?, address(peer)?))
}

/// The settings as a peer, with the fields that were given.
fn settings(given: &SettingsArgs) -> (v1::Peer, Vec<String>) {
    let peer = v1::Peer {
        weight: given.weight.and_then(Setting::value),
        max_conns: given.max_conns.and_then(Setting::value),
        state: State::to_proto(given.state.and_then(Setting::value)).into(),
        ..v1::Peer::default()
    };
    let fields = [
        ("weight", given.weight.is_some()),
        ("max_conns", given.max_conns.is_some()),
        ("state", given.state.is_some()),
    ];
    (peer, fields.into_iter().filter(|(_, is_given)| *is_given).map(|(field, _)| field.to_owned()).collect())
}

fn update(peer: &PeerArgs, given: &SettingsArgs, etag: Option<String>) -> Result<Change, Failure> {
    let (settings, paths) = settings(given);
    if paths.is_empty() {
        return Err(Failure::Usage("say what to set: --weight, --max-conns or --state"));
    }
    let peer = v1::Peer { name: peer_name(peer)?, etag: etag.unwrap_or_default(), ..settings };
    let update_mask = Some(prost_types::FieldMask { paths });
    Ok(Change::Update(v1::UpdatePeerRequest { peer: Some(peer), update_mask, validate_only: false }))
}

fn create(peer: &PeerArgs, given: &SettingsArgs) -> Result<Change, Failure> {
    Ok(Change::Create(v1::CreatePeerRequest {
        parent: upstream_name(&peer.upstream)?,
        peer_id: address(peer)?,
        peer: Some(settings(given).0),
        validate_only: false,
    }))
}

async fn send(client: &mut Client, change: Change) -> Result<show::Change, Failure> {
    let mut done = show::Change::default();
    let peer = match change {
        Change::Update(request) => client.update_peer(request).await?.into_inner(),
        Change::Create(request) => client.create_peer(request).await?.into_inner(),
        Change::Delete(request) => {
            done.revision = client.delete_peer(request).await?.into_inner().revision;
            return Ok(done);
        }
        Change::Apply(request) => {
            done.dry_run = request.validate_only;
            let applied = client.apply_upstreams(request).await?.into_inner();
            done.revision = applied.revision;
            done.changes = Some(applied.changes.iter().map(show::PeerChange::from).collect());
            done.class_changes = Some(applied.class_changes.iter().map(show::ClassChange::from).collect());
            return Ok(done);
        }
        other => return send_other(client, other).await,
    };
    done.revision = peer.revision;
    done.peer = Some((&peer).into());
    Ok(done)
}

/// The same for classes and keys.
async fn send_other(client: &mut Client, change: Change) -> Result<show::Change, Failure> {
    let mut done = show::Change::default();
    let made = match change {
        Change::UpdateClass(request) => {
            let class = client.update_class(request).await?.into_inner();
            return Ok(show::Change { revision: class.revision, class: Some((&class).into()), ..done });
        }
        Change::DeleteClass(request) => {
            done.revision = client.delete_class(request).await?.into_inner().revision;
            return Ok(done);
        }
        Change::DeleteKey(request) => {
            done.revision = client.delete_key(request).await?.into_inner().revision;
            return Ok(done);
        }
        Change::RevokeKey(request) => {
            let key = Some(client.revoke_key(request).await?.into_inner());
            v1::KeySecret { key, secret: String::new() }
        }
        Change::CreateKey(request) => client.create_key(request).await?.into_inner(),
        Change::RotateKey(request) => client.rotate_key(request).await?.into_inner(),
        Change::Update(_) | Change::Create(_) | Change::Delete(_) | Change::Apply(_) => return Ok(done),
    };
    done.revision = made.key.as_ref().map_or(0, |key| key.revision);
    done.key = made.key.as_ref().map(show::Key::from);
    done.secret = (!made.secret.is_empty()).then_some(show::Secret(made.secret));
    Ok(done)
}

fn key_name(done: &show::Change) -> Option<String> {
    done.key.as_ref().map(|key| names::key_name(key.id()))
}

/// Revokes a new key whose secret could not be printed: nobody has it, and nobody will.
async fn keep_or_revoke(
    printed: Result<(), Failure>,
    mut client: Client,
    name: Option<String>,
    is_new: bool,
) -> Result<(), Failure> {
    let (Err(failure), Some(name), true) = (&printed, name, is_new) else { return printed };
    let (why, key) = (failure.to_string(), name.clone());
    match client.revoke_key(v1::RevokeKeyRequest { name, ..v1::RevokeKeyRequest::default() }).await {
        Ok(_) => Err(Failure::SecretLost { key, why, outcome: "the key is revoked".to_owned() }),
        Err(status) => {
            let outcome = format!("the key could not be revoked, revoke it: {}", status.message());
            Err(Failure::SecretLost { key, why, outcome })
        }
    }
}

/// Makes the change, prints it, and waits for the nodes with `--wait`. Without `--wait` it reports
/// the nodes that refuse revisions.
pub async fn run(client: &mut Client, change: Change, output: Output, limit: Option<Duration>) -> Result<(), Failure> {
    let warning = match &change {
        Change::CreateKey(v1::CreateKeyRequest { key: Some(key), .. }) => {
            class::warning_of_unknown(client, &key.class).await
        }
        _ => None,
    };
    let is_creation = matches!(change, Change::CreateKey(_));
    let mut done = send(client, change).await?;
    let made = Instant::now();
    if let Some(warning) = warning {
        // The secret is printed even if stderr is closed.
        let _ = writeln!(io::stderr(), "pincerctl: warning: {warning}");
    }
    let is_new = is_creation && done.secret.is_some();
    let printed = |result: Result<(), Failure>, client: Client| keep_or_revoke(result, client, key_name(&done), is_new);
    let Some(limit) = limit else {
        printed(print(output, &done), client.clone()).await?;
        if !done.dry_run {
            refused::report(client, done.revision).await;
        }
        return Ok(());
    };
    if output == Output::Table {
        printed(print(output, &done), client.clone()).await?;
    }
    let nodes = match wait::run(client, done.revision, made, limit, output).await {
        Ok(nodes) => nodes,
        Err(failure) => {
            // The secret is printed even if the wait fails, since it is shown only once.
            if output == Output::Json && done.secret.is_some() {
                printed(print(output, &done), client.clone()).await?;
            }
            return Err(failure);
        }
    };
    if nodes.is_empty() {
        // It is no failure if no node is connected, but the operator should know.
        writeln!(io::stderr(), "pincerctl: no node is connected")?;
    }
    let verdict = wait::verdict(done.revision, &nodes);
    if output == Output::Json {
        done.nodes = Some(nodes);
        let name = key_name(&done);
        keep_or_revoke(print(output, &done), client.clone(), name, is_new).await?;
    }
    verdict
}
