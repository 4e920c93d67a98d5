//! pincerctl: the operators' command over `ControlService`.
//!
//! Exit status: 0 success; 2 usage: the command, a name or a value is wrong, the named resource
//! doesn't exist, or the certificate isn't an operator's; 3 conflict: the etag is old, the resource
//! exists already, or its state forbids the change; 4 pincerd is not reachable; 5 a node refused
//! the revision or didn't acknowledge it in time (the change is made all the same), or a purge is
//! not complete; 1 any other failure. Results go to stdout, all messages to stderr. Bound:
//! `client`'s deadlines.

mod args;
mod change;
mod class;
mod failure;
mod file;
mod output;
mod pages;
mod purge;
mod refused;
mod request;
mod show;
mod wait;
mod watch;

use clap::Parser as _;
use pincer_proto::v1;
use tokio::task;
use tonic::Status;

use self::{
    args::{Args, CacheVerb, NodeVerb, Noun, Output, PeerVerb, UpstreamVerb},
    failure::Failure,
    output::print,
    pages::{Client, list_nodes, list_peers, list_upstreams},
    request::{node_name, upstream_name},
};
use crate::{
    client::{self, Target},
    handshake,
};

/// Runs the process's command line; its exit status.
pub async fn main() -> u8 {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => 0,
        Err(failure) => {
            let code = failure.exit_code();
            if code != 0 {
                eprintln!("pincerctl: {failure}");
            }
            code
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    if args.wait.is_some() && !args.noun.is_change() {
        return Err(Failure::Usage("--wait goes with the commands that change peers, classes or keys, and with apply"));
    }
    let prepared = change::prepare(&args.noun)?;
    let (output, noun) = (args.output, args.noun);
    if let Noun::Cache { verb: CacheVerb::Purge(purge) } = &noun {
        let request = purge::prepare(purge)?;
        let target = args.target.resolve()?;
        return explained(purge::run(&target, request, output).await, target).await;
    }
    let target = args.target.resolve()?;
    let mut client = client::control(target.connect().await?);
    let done = match prepared {
        Some(change) => change::run(&mut client, change, output, args.wait).await,
        None => query(&mut client, noun, output).await,
    };
    explained(done, target).await
}

/// Returns `done`. If the transport failed, its error does not always say why; so pincerd is asked
/// whether it refuses the certificate.
async fn explained(done: Result<(), Failure>, target: Target) -> Result<(), Failure> {
    let is_transport = |status: &Status| std::error::Error::source(status).is_some();
    if !matches!(&done, Err(Failure::Call(status)) if is_transport(status)) {
        return done;
    }
    let asked = task::spawn_blocking(move || (handshake::refusal(&target), target)).await;
    match asked {
        Ok((Some(alert), Target { endpoint, certificate, .. })) => {
            Err(Failure::Certificate { endpoint, certificate, alert })
        }
        _ => done,
    }
}

/// The commands that make no revision.
async fn query(client: &mut Client, noun: Noun, output: Output) -> Result<(), Failure> {
    match noun {
        Noun::Upstream { verb: UpstreamVerb::List } => {
            let upstreams = list_upstreams(client).await?;
            print(output, &show::Upstreams::from(upstreams))
        }
        Noun::Upstream { verb: UpstreamVerb::Get { upstream } } => {
            let name = upstream_name(&upstream)?;
            let got = client.get_upstream(v1::GetUpstreamRequest { name: name.clone() }).await?.into_inner();
            let peers = list_peers(client, &name).await?;
            print(output, &show::UpstreamAndPeers::new(&got, peers))
        }
        Noun::Peer { verb: PeerVerb::List { upstream } } => {
            let peers = list_peers(client, &upstream_name(&upstream)?).await?;
            print(output, &show::Peers::from(peers))
        }
        Noun::Node { verb: NodeVerb::List } => {
            let (nodes, revision) = list_nodes(client).await?;
            print(output, &show::Nodes::new(nodes, revision))
        }
        Noun::Node { verb: NodeVerb::Delete { node } } => {
            client.delete_node(v1::DeleteNodeRequest { name: node_name(&node)?, validate_only: false }).await?;
            print(output, &show::Forgotten { node })
        }
        Noun::Class { verb } => class::query(client, &verb, output).await,
        Noun::Key { .. } => class::list_keys(client, output).await,
        Noun::Watch => watch::run(client, output).await,
        Noun::Peer { .. } | Noun::Apply { .. } | Noun::Cache { .. } => Err(Failure::Usage("nothing to do")),
    }
}
