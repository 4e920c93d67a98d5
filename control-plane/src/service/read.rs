//! Reads requests of operators into `plan::Op`: names, values and masks. An error names the field
//! and the fault.
//!
//! Pure. Cost: one pass. Bound: `PEERS_PER_UPSTREAM_MAX` and `UPSTREAMS_MAX` entries, checked
//! first.

use pincer_proto::{limits, v1};
use prost_types::FieldMask;
use tonic::Status;

use super::error::{bad_name, invalid};
use crate::{
    model::{Settings, State},
    names,
    plan::{Desired, DesiredPeer, Mask, Op},
};

/// Paths of a mask at most: every field of a peer, a few times over.
const MASK_PATHS_MAX: usize = 64;

fn value(field: &str, value: Option<u32>) -> Result<Option<u16>, Status> {
    let check = |value| {
        u16::try_from(value).map_err(|_| invalid(field, format!("{value} is not in 0 to {}", limits::PEER_VALUE_MAX)))
    };
    value.map(check).transpose()
}

fn settings(prefix: &str, weight: Option<u32>, max_conns: Option<u32>, state: i32) -> Result<Settings, Status> {
    let bad_state = |value| invalid(&format!("{prefix}state"), format!("{value} is no state"));
    Ok(Settings {
        weight: value(&format!("{prefix}weight"), weight)?,
        max_conns: value(&format!("{prefix}max_conns"), max_conns)?,
        state: State::from_proto(state).map_err(bad_state)?,
    })
}

fn given(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

/// The fields to change. Without a mask these are the fields that are set.
fn mask(mask: Option<FieldMask>, settings: Settings) -> Result<Mask, Status> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        return Ok(Mask {
            weight: settings.weight.is_some(),
            max_conns: settings.max_conns.is_some(),
            state: settings.state.is_some(),
        });
    }
    if paths.len() > MASK_PATHS_MAX {
        return Err(invalid("update_mask", format!("{} paths, at most {MASK_PATHS_MAX} are allowed", paths.len())));
    }
    let mut mask = Mask::default();
    for path in &paths {
        match path.as_str() {
            "*" => mask = Mask { weight: true, max_conns: true, state: true },
            "weight" => mask.weight = true,
            "max_conns" => mask.max_conns = true,
            "state" => mask.state = true,
            other => {
                let other = names::cut(other, 100);
                return Err(invalid("update_mask", format!("{other:?} is not one of weight, max_conns, state, *")));
            }
        }
    }
    Ok(mask)
}

/// Reads CreatePeer.
pub fn create(request: v1::CreatePeerRequest) -> Result<Op, Status> {
    let upstream = names::parse_upstream_name(&request.parent).map_err(bad_name("parent"))?;
    let address = names::parse_added_address(&request.peer_id).map_err(bad_name("peer_id"))?;
    let peer = request.peer.unwrap_or_default();
    let settings = settings("peer.", peer.weight, peer.max_conns, peer.state)?;
    Ok(Op::Create { upstream, address, settings })
}

/// Reads UpdatePeer.
pub fn update(request: v1::UpdatePeerRequest) -> Result<Op, Status> {
    let peer = request.peer.ok_or_else(|| invalid("peer", "is missing"))?;
    let (upstream, address) = names::parse_peer_name(&peer.name).map_err(bad_name("peer.name"))?;
    let settings = settings("peer.", peer.weight, peer.max_conns, peer.state)?;
    let mask = mask(request.update_mask, settings)?;
    Ok(Op::Update { upstream, address, settings, mask, etag: given(peer.etag) })
}

/// Reads DeletePeer.
pub fn delete(request: v1::DeletePeerRequest) -> Result<Op, Status> {
    let (upstream, address) = names::parse_peer_name(&request.name).map_err(bad_name("name"))?;
    Ok(Op::Delete { upstream, address, etag: given(request.etag) })
}

/// Reads ApplyUpstreams.
pub fn apply(request: v1::ApplyUpstreamsRequest) -> Result<Op, Status> {
    check_count("upstreams", request.upstreams.len(), limits::UPSTREAMS_MAX)?;
    let upstreams = request.upstreams.into_iter().enumerate();
    Ok(Op::Apply(upstreams.map(|(n, upstream)| desired(n, upstream)).collect::<Result<_, _>>()?))
}

fn check_count(field: &str, count: usize, max: usize) -> Result<(), Status> {
    if count > max { Err(invalid(field, format!("{count} entries, at most {max} are allowed"))) } else { Ok(()) }
}

fn desired(n: usize, given: v1::UpstreamSettings) -> Result<Desired, Status> {
    let field = format!("upstreams[{n}].name");
    let upstream = names::parse_upstream_name(&given.name).map_err(bad_name(&field))?;
    check_count(&format!("upstreams[{n}].peers"), given.peers.len(), limits::PEERS_PER_UPSTREAM_MAX)?;
    let peers = given.peers.into_iter().enumerate();
    let peers = peers.map(|(m, peer)| desired_peer(&format!("upstreams[{n}].peers[{m}]."), peer));
    Ok(Desired { upstream, peers: peers.collect::<Result<_, _>>()? })
}

fn desired_peer(prefix: &str, peer: v1::PeerSettings) -> Result<DesiredPeer, Status> {
    let parse = if peer.add { names::parse_added_address } else { names::parse_address };
    Ok(DesiredPeer {
        address: parse(&peer.peer_id).map_err(bad_name(&format!("{prefix}peer_id")))?,
        settings: settings(prefix, peer.weight, peer.max_conns, peer.state)?,
        add: peer.add,
        etag: given(peer.etag),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(paths: &[&str]) -> v1::UpdatePeerRequest {
        v1::UpdatePeerRequest {
            peer: Some(v1::Peer {
                name: "upstreams/llm/peers/127.0.0.1:1".into(),
                weight: Some(0),
                ..v1::Peer::default()
            }),
            update_mask: Some(FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }),
            validate_only: false,
        }
    }

    fn mask_of(paths: &[&str]) -> Mask {
        match update(request(paths)) {
            Ok(Op::Update { mask, .. }) => mask,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_mask_the_set_fields_change() {
        assert_eq!(mask_of(&[]), Mask { weight: true, ..Mask::default() });
        assert_eq!(mask_of(&["state"]), Mask { state: true, ..Mask::default() });
        assert_eq!(mask_of(&["*"]), Mask { weight: true, max_conns: true, state: true });
    }

    #[test]
    fn a_path_that_is_no_settable_field_is_refused() {
        for path in ["name", "added", "Weight", "peer.weight", "", " weight"] {
            assert!(update(request(&[path])).is_err(), "{path:?} was taken");
        }
        assert!(update(request(&["weight"; 65])).is_err());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let spoil: [fn(&mut v1::Peer); 3] =
            [|p| p.weight = Some(65_536), |p| p.max_conns = Some(u32::MAX), |p| p.state = 99];
        for spoil in spoil {
            let mut request = request(&[]);
            request.peer.as_mut().map(spoil);
            assert_eq!(update(request).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
