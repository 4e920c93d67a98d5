//! Lists, read page by page.

use pincer_proto::v1::{self, control_service_client::ControlServiceClient};
use tonic::transport::Channel;

use super::failure::Failure;

pub type Client = ControlServiceClient<Channel>;

/// Entries per page.
pub const PAGE_SIZE: i32 = 1000;

pub async fn list_upstreams(client: &mut Client) -> Result<Vec<v1::Upstream>, Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListUpstreamsRequest { page_size: PAGE_SIZE, page_token };
        let page = client.list_upstreams(request).await?.into_inner();
        all.extend(page.upstreams);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

pub async fn list_peers(client: &mut Client, parent: &str) -> Result<Vec<v1::Peer>, Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListPeersRequest { parent: parent.to_owned(), page_size: PAGE_SIZE, page_token };
        let page = client.list_peers(request).await?.into_inner();
        all.extend(page.peers);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

pub async fn list_nodes(client: &mut Client) -> Result<(Vec<v1::Node>, u64), Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListNodesRequest { page_size: PAGE_SIZE, page_token };
        let page = client.list_nodes(request).await?.into_inner();
        all.extend(page.nodes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok((all, page.revision));
        }
    }
}
