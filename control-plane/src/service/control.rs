//! `pincer.v1.ControlService`: what operators read and change.
//!
//! It translates requests and responses; `plan` decides. Every list is a page. Cost: a list of
//! upstreams or peers looks at the last stats of every connected node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use pincer_proto::v1::{self, control_service_server::ControlService};
use tonic::{Request, Response, Status};

use super::{
    audit, class, describe,
    error::{self, bad_name, not_found},
    key,
    page::Page,
    purge, read,
    render::{self, Sums},
    watch,
};
use crate::{
    fleet::Fleet,
    model::Record,
    names,
    plan::Op,
    plane::{Changed, Plane},
};

/// The service.
#[derive(Debug, Clone)]
pub struct Control {
    plane: Arc<Plane>,
}

impl Control {
    /// Over `plane`.
    pub fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }

    async fn change(&self, op: Op, validate_only: bool) -> Result<Changed, Status> {
        audit::change(&self.plane, op, validate_only).await
    }

    fn sums(&self, upstream: &str) -> Sums {
        self.plane.with_fleet(|fleet| Sums::of(fleet, upstream))
    }

    /// The peer with `record`.
    fn peer(&self, upstream: &str, address: &str, record: Option<&Record>) -> Result<v1::Peer, Status> {
        let declared = self.plane.with_fleet(Fleet::declared);
        render::peer(upstream, address, &declared, record, &self.sums(upstream))
            .ok_or_else(|| not_found(&names::peer_name(upstream, address)))
    }

    /// Changes one peer and returns it.
    async fn change_peer(&self, op: Op, validate_only: bool) -> Result<Response<v1::Peer>, Status> {
        let (upstream, address) = match &op {
            Op::Create { upstream, address, .. } | Op::Update { upstream, address, .. } => {
                (upstream.clone(), address.clone())
            }
            _ => return Err(Status::internal("not a change of one peer")),
        };
        let changed = self.change(op, validate_only).await?;
        // A peer that no node declares has no record after its last setting was unset. It is
        // returned without settings.
        let gone = Record { revision: changed.revision, ..Record::default() };
        let record = changed.config.record(&upstream, &address).copied().unwrap_or(gone);
        Ok(Response::new(self.peer(&upstream, &address, Some(&record))?))
    }
}

#[tonic::async_trait]
impl ControlService for Control {
    type WatchStream = watch::Stream;

    async fn list_upstreams(
        &self,
        request: Request<v1::ListUpstreamsRequest>,
    ) -> Result<Response<v1::ListUpstreamsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse("upstreams", request.page_size, &request.page_token)?;
        let (declared, current) = (self.plane.with_fleet(Fleet::declared), self.plane.current());
        let names: BTreeSet<&str> =
            declared.upstreams.keys().chain(current.config.upstreams.keys()).map(String::as_str).collect();
        let (upstreams, next_page_token) = page.take(names.into_iter().map(|name| (name, ())), |name, ()| {
            render::upstream(name, declared.upstream(name), &current.config, &self.sums(name))
        });
        Ok(Response::new(v1::ListUpstreamsResponse { upstreams, next_page_token }))
    }

    async fn get_upstream(&self, request: Request<v1::GetUpstreamRequest>) -> Result<Response<v1::Upstream>, Status> {
        let name = names::parse_upstream_name(&request.into_inner().name).map_err(bad_name("name"))?;
        let (declared, current) = (self.plane.with_fleet(Fleet::declared), self.plane.current());
        if declared.upstream(&name).is_none() && !current.config.upstreams.contains_key(&name) {
            return Err(not_found(&names::upstream_name(&name)));
        }
        let upstream = render::upstream(&name, declared.upstream(&name), &current.config, &self.sums(&name));
        Ok(Response::new(upstream))
    }

    async fn list_peers(
        &self,
        request: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let request = request.into_inner();
        let upstream = names::parse_upstream_name(&request.parent).map_err(bad_name("parent"))?;
        let page = Page::parse(&request.parent, request.page_size, &request.page_token)?;
        let (declared, current) = (self.plane.with_fleet(Fleet::declared), self.plane.current());
        let records = current.config.upstreams.get(&upstream);
        if declared.upstream(&upstream).is_none() && records.is_none() {
            return Err(not_found(&request.parent));
        }
        let specs = declared.upstream(&upstream).into_iter().flat_map(|u| u.peers.keys()).map(|a| (a.as_str(), None));
        let mut all: BTreeMap<&str, Option<&Record>> = specs.collect();
        all.extend(records.into_iter().flatten().map(|(address, record)| (address.as_str(), Some(record))));
        let sums = self.sums(&upstream);
        let (peers, next_page_token) = page.take(all.into_iter(), |address, record| {
            render::peer(&upstream, address, &declared, record, &sums).unwrap_or_default()
        });
        Ok(Response::new(v1::ListPeersResponse { peers, next_page_token }))
    }

    async fn get_peer(&self, request: Request<v1::GetPeerRequest>) -> Result<Response<v1::Peer>, Status> {
        let (upstream, address) = names::parse_peer_name(&request.into_inner().name).map_err(bad_name("name"))?;
        let current = self.plane.current();
        Ok(Response::new(self.peer(&upstream, &address, current.config.record(&upstream, &address))?))
    }

    async fn create_peer(&self, request: Request<v1::CreatePeerRequest>) -> Result<Response<v1::Peer>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        self.change_peer(read::create(request)?, validate_only).await
    }

    async fn update_peer(&self, request: Request<v1::UpdatePeerRequest>) -> Result<Response<v1::Peer>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        self.change_peer(read::update(request)?, validate_only).await
    }

    async fn delete_peer(
        &self,
        request: Request<v1::DeletePeerRequest>,
    ) -> Result<Response<v1::DeletePeerResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let changed = self.change(read::delete(request)?, validate_only).await?;
        Ok(Response::new(v1::DeletePeerResponse { revision: changed.revision }))
    }

    async fn apply_upstreams(
        &self,
        request: Request<v1::ApplyUpstreamsRequest>,
    ) -> Result<Response<v1::ApplyUpstreamsResponse>, Status> {
        let mut request = request.into_inner();
        let (validate_only, classes) = (request.validate_only, request.classes.take());
        let mut ops = vec![read::apply(request)?];
        if let Some(classes) = classes {
            ops.push(Op::Class(class::desired(classes)?));
        }
        let changed = self.change(Op::All(ops), validate_only).await?;
        let changes = changed.changes.peers.iter().map(describe::peer).collect();
        let class_changes = changed.changes.classes.iter().map(describe::class).collect();
        Ok(Response::new(v1::ApplyUpstreamsResponse { revision: changed.revision, changes, class_changes }))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse("nodes", request.page_size, &request.page_token)?;
        let revision = self.plane.current().config.revision;
        let (nodes, next_page_token) = self.plane.with_fleet(|fleet| {
            page.take(fleet.nodes().iter().map(|(n, node)| (n.as_str(), node)), |n, node| render::node(n, node, true))
        });
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token, revision }))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let name = names::parse_node_name(&request.into_inner().name).map_err(bad_name("name"))?;
        let node = self.plane.with_fleet(|fleet| fleet.nodes().get(&name).map(|node| render::node(&name, node, true)));
        node.map(Response::new).ok_or_else(|| not_found(&names::node_name(&name)))
    }

    async fn delete_node(
        &self,
        request: Request<v1::DeleteNodeRequest>,
    ) -> Result<Response<v1::DeleteNodeResponse>, Status> {
        let request = request.into_inner();
        let name = names::parse_node_name(&request.name).map_err(bad_name("name"))?;
        self.plane.forget(name, request.validate_only).await.map_err(error::forget)?;
        if !request.validate_only {
            audit::note(&request.name, "deleted");
        }
        Ok(Response::new(v1::DeleteNodeResponse {}))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(watch::stream(Arc::clone(&self.plane))))
    }

    async fn list_classes(
        &self,
        request: Request<v1::ListClassesRequest>,
    ) -> Result<Response<v1::ListClassesResponse>, Status> {
        class::list(&self.plane, request.into_inner()).map(Response::new)
    }

    async fn get_class(&self, request: Request<v1::GetClassRequest>) -> Result<Response<v1::Class>, Status> {
        class::get(&self.plane, request.into_inner()).map(Response::new)
    }

    async fn create_class(&self, request: Request<v1::CreateClassRequest>) -> Result<Response<v1::Class>, Status> {
        class::create(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn update_class(&self, request: Request<v1::UpdateClassRequest>) -> Result<Response<v1::Class>, Status> {
        class::update(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn delete_class(
        &self,
        request: Request<v1::DeleteClassRequest>,
    ) -> Result<Response<v1::DeleteClassResponse>, Status> {
        class::delete(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        key::list(&self.plane, request.into_inner()).map(Response::new)
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Result<Response<v1::Key>, Status> {
        key::get(&self.plane, request.into_inner()).map(Response::new)
    }

    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Result<Response<v1::KeySecret>, Status> {
        key::create(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Result<Response<v1::KeySecret>, Status> {
        key::rotate(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_key(&self, request: Request<v1::RevokeKeyRequest>) -> Result<Response<v1::Key>, Status> {
        key::revoke(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn delete_key(
        &self,
        request: Request<v1::DeleteKeyRequest>,
    ) -> Result<Response<v1::DeleteKeyResponse>, Status> {
        key::delete(&self.plane, request.into_inner()).await.map(Response::new)
    }

    async fn purge_cache(
        &self,
        request: Request<v1::PurgeCacheRequest>,
    ) -> Result<Response<v1::PurgeCacheResponse>, Status> {
        purge::run(&self.plane, request.into_inner()).await.map(Response::new)
    }
}
