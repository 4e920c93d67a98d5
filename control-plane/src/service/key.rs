//! API keys, as operators read and change them. Only this file makes and shows secrets: a secret
//! goes into one response and nowhere else.

use std::{sync::Arc, time::Duration};

use pincer_proto::{limits, v1};
use tonic::Status;

use super::{
    audit,
    error::{self, bad_name, invalid, not_found},
    page::Page,
};
use crate::{
    keys::{
        Record, TIME_S_MAX,
        plan::{Holder, Kind, Op},
        secret::{self, Secret},
        time,
    },
    names, plan,
    plane::{Changed, Plane},
    refusal, times,
};

/// How long the previous secret stays valid after a rotation that names no overlap.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// The longest overlap.
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

fn render(id: &str, record: &Record, now_s: i64) -> v1::Key {
    let state = record.state(now_s);
    let old = record.old.filter(|_| state == v1::key::State::Rotating);
    v1::Key {
        name: names::key_name(id),
        tenant: record.tenant.clone(),
        class: record.class.clone(),
        cidrs: record.cidrs.clone(),
        expire_time: record.expire_s.map(time),
        etag: refusal::etag_of(record.revision),
        revision: record.revision,
        state: state.into(),
        fingerprint: record.sha256.fingerprint(),
        old_fingerprint: old.map(|old| old.sha256.fingerprint()).unwrap_or_default(),
        old_expire_time: old.map(|old| time(old.until_s)),
        create_time: Some(time(record.created_s)),
        rotate_time: Some(time(record.rotated_s)),
    }
}

/// ListKeys.
pub fn list(plane: &Arc<Plane>, request: v1::ListKeysRequest) -> Result<v1::ListKeysResponse, Status> {
    let page = Page::parse("keys", request.page_size, &request.page_token)?;
    let (current, now_s) = (plane.current(), plane.now_s());
    let keys = current.config.keys.iter().map(|(id, record)| (id.as_str(), record));
    let (keys, next_page_token) = page.take(keys, |id, record| render(id, record, now_s));
    Ok(v1::ListKeysResponse { keys, next_page_token })
}

/// GetKey.
pub fn get(plane: &Arc<Plane>, request: v1::GetKeyRequest) -> Result<v1::Key, Status> {
    let id = names::parse_key_name(&request.name).map_err(bad_name("name"))?;
    let current = plane.current();
    let record = current.config.keys.get(&id).ok_or_else(|| not_found(&request.name))?;
    Ok(render(&id, record, plane.now_s()))
}

/// CreateKey.
pub async fn create(plane: &Arc<Plane>, request: v1::CreateKeyRequest) -> Result<v1::KeySecret, Status> {
    let now_s = plane.now_s();
    let holder = holder(request.key.unwrap_or_default(), now_s)?;
    let id = match request.key_id {
        id if id.is_empty() => secret::make_id().map_err(|error| error::no_randomness(&error))?,
        id => id,
    };
    names::check_key(&id).map_err(bad_name("key_id"))?;
    let secret = Secret::generate().map_err(|error| error::no_randomness(&error))?;
    let kind = Kind::Create { id: id.clone(), holder, sha256: secret.hash() };
    with_secret(plane, &id, Op { now_s, kind }, secret, request.validate_only).await
}

/// RotateKey.
pub async fn rotate(plane: &Arc<Plane>, request: v1::RotateKeyRequest) -> Result<v1::KeySecret, Status> {
    let id = names::parse_key_name(&request.name).map_err(bad_name("name"))?;
    let overlap = request.overlap.map_or(Some(OVERLAP_DEFAULT), times::span);
    let overlap_s = overlap.filter(|overlap| *overlap <= OVERLAP_MAX).map(|overlap| overlap.as_secs_f64().ceil());
    let overlap_s = overlap_s.ok_or_else(|| invalid("overlap", "is not in 0 to 30 days"))?;
    #[allow(clippy::cast_possible_truncation, reason = "at most 30 days")]
    let overlap_s = overlap_s as i64;
    let secret = Secret::generate().map_err(|error| error::no_randomness(&error))?;
    let kind = Kind::Rotate { id: id.clone(), sha256: secret.hash(), overlap_s, etag: given(request.etag) };
    with_secret(plane, &id, Op { now_s: plane.now_s(), kind }, secret, request.validate_only).await
}

/// RevokeKey.
pub async fn revoke(plane: &Arc<Plane>, request: v1::RevokeKeyRequest) -> Result<v1::Key, Status> {
    let id = names::parse_key_name(&request.name).map_err(bad_name("name"))?;
    let now_s = plane.now_s();
    let op = Op { now_s, kind: Kind::Revoke { id: id.clone(), etag: given(request.etag) } };
    let changed = change(plane, op, request.validate_only).await?;
    changed.config.keys.get(&id).map(|record| render(&id, record, now_s)).ok_or_else(|| not_found(&request.name))
}

/// DeleteKey.
pub async fn delete(plane: &Arc<Plane>, request: v1::DeleteKeyRequest) -> Result<v1::DeleteKeyResponse, Status> {
    let id = names::parse_key_name(&request.name).map_err(bad_name("name"))?;
    let op = Op { now_s: plane.now_s(), kind: Kind::Delete { id, etag: given(request.etag) } };
    let changed = change(plane, op, request.validate_only).await?;
    Ok(v1::DeleteKeyResponse { revision: changed.revision })
}

async fn change(plane: &Arc<Plane>, op: Op, validate_only: bool) -> Result<Changed, Status> {
    audit::change(plane, plan::Op::Key(op), validate_only).await
}

/// Makes the change, and only then returns the secret.
async fn with_secret(
    plane: &Arc<Plane>,
    id: &str,
    op: Op,
    secret: Secret,
    validate_only: bool,
) -> Result<v1::KeySecret, Status> {
    let now_s = op.now_s;
    let changed = change(plane, op, validate_only).await?;
    let key = changed.config.keys.get(id).map(|record| render(id, record, now_s));
    let secret = if validate_only { String::new() } else { secret.reveal() };
    Ok(v1::KeySecret { key, secret })
}

fn given(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn holder(key: v1::Key, now_s: i64) -> Result<Holder, Status> {
    names::check_tenant(&key.tenant).map_err(bad_name("key.tenant"))?;
    names::check_class(&key.class).map_err(bad_name("key.class"))?;
    if key.cidrs.len() > limits::CIDRS_PER_KEY_MAX {
        let (have, max) = (key.cidrs.len(), limits::CIDRS_PER_KEY_MAX);
        return Err(invalid("key.cidrs", format!("{have} entries, at most {max} are allowed")));
    }
    let cidr = |(n, text): (usize, &String)| {
        names::parse_cidr(text).map_err(|fault| bad_name(&format!("key.cidrs[{n}]"))(fault))
    };
    let mut cidrs = key.cidrs.iter().enumerate().map(cidr).collect::<Result<Vec<_>, _>>()?;
    cidrs.sort_unstable();
    cidrs.dedup();
    let malformed = || invalid("key.expire_time", "is no moment: nanos are not in 0 to 999999999");
    let expire_s = key.expire_time.map(|end| times::moment_s(end).ok_or_else(malformed)).transpose()?;
    if expire_s.is_some_and(|end| end <= now_s || end > TIME_S_MAX) {
        return Err(invalid("key.expire_time", "is not in the future"));
    }
    Ok(Holder { tenant: key.tenant, class: key.class, cidrs, expire_s })
}
