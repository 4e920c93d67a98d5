//! pincerctl: the operators' command over `ControlService`.
//!
//! Exit status: 0 done; 2 usage: the command, a name or a value is wrong, what is named doesn't exist, or the certificate isn't an operator's; 3 conflict: an etag
//! is old, it exists already, or its state forbids it; 4 pincerd is not reachable; 5 a node refused the revision or didn't acknowledge it in time (the
//! change is made all the same), or a purge is not complete; 1 anything else. Results go to stdout, all else to stderr. Bound: `client`'s deadlines.

mod args;
mod change;
mod class;
mod file;
mod purge;
mod refused;
mod show;
mod wait;
mod watch;

use std::{io, io::Write as _, path::PathBuf};

use clap::Parser as _;
use pincer_proto::v1::{self, control_service_client::ControlServiceClient};
use rustls::AlertDescription;
use serde::Serialize;
use tokio::task;
use tonic::{Code, Status, transport::Channel};

use crate::{
    causes,
    client::{self, ConnectError, Target},
    handshake, names,
};
use args::{Args, CacheVerb, NodeVerb, Noun, Output, PeerVerb, UpstreamVerb};

type Client = ControlServiceClient<Channel>;

/// Entries asked for at once.
const PAGE_SIZE: i32 = 1000;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", told(.0))]
    Call(#[from] Status),
    #[error(
        "pincerd at {endpoint} refuses the certificate in {}: {alert:?}; its --client-ca has to have signed it, for clients, and it must not have expired",
        certificate.display()
    )]
    Certificate { endpoint: String, certificate: PathBuf, alert: AlertDescription },
    #[error("revision {revision} is made, but {why}")]
    NotApplied { revision: u64, why: &'static str },
    #[error("{0}")]
    NotPurged(String),
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
    #[error("cannot write the result: {0}")]
    Json(#[from] serde_json::Error),
}

/// What the server said; a transport's error with all its causes.
fn told(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => format!("pincerd is not reachable: {}", show::plain(&causes::of(source))),
        None => show::plain(status.message()),
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Connect(error) if error.is_usage() => 2,
            Self::Connect(_) | Self::Certificate { .. } => 4,
            Self::Call(status) => match status.code() {
                Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => 3,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => 4,
                Code::Internal | Code::DataLoss | Code::Unimplemented => 1,
                _ => 2,
            },
            Self::NotApplied { .. } | Self::NotPurged(_) => 5,
            // Nobody reads any more, as in `pincerctl watch | head`.
            Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Write(_) | Self::Json(_) => 1,
        }
    }
}

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
        return Err(Failure::Usage(
            "--wait goes with the commands that change peers, classes or keys, and with apply".to_owned(),
        ));
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
        None => look(&mut client, noun, output).await,
    };
    explained(done, target).await
}

/// `done`; where the transport failed, pincerd is asked whether it refuses the certificate, which such an error doesn't always say.
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
async fn look(client: &mut Client, noun: Noun, output: Output) -> Result<(), Failure> {
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
        Noun::Class { verb } => class::look(client, &verb, output).await,
        Noun::Key { .. } => class::list_keys(client, output).await,
        Noun::Watch => watch::run(client, output).await,
        Noun::Peer { .. } | Noun::Apply { .. } | Noun::Cache { .. } => Err(Failure::Usage("nothing to do".to_owned())),
    }
}

fn upstream_name(upstream: &str) -> Result<String, Failure> {
    names::check_upstream(upstream).map_err(|fault| Failure::Usage(fault.to_string()))?;
    Ok(names::upstream_name(upstream))
}

fn node_name(node: &str) -> Result<String, Failure> {
    names::check_node(node).map_err(|fault| Failure::Usage(fault.to_string()))?;
    Ok(names::node_name(node))
}

async fn list_upstreams(client: &mut Client) -> Result<Vec<v1::Upstream>, Failure> {
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

async fn list_peers(client: &mut Client, parent: &str) -> Result<Vec<v1::Peer>, Failure> {
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

async fn list_nodes(client: &mut Client) -> Result<(Vec<v1::Node>, u64), Failure> {
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

/// Prints a result, whole.
fn print<T: Serialize + show::Table>(output: Output, result: &T) -> Result<(), Failure> {
    let text = match output {
        Output::Table => result.table(),
        Output::Json => serde_json::to_string(result)? + "\n",
    };
    print_text(&text)
}

fn print_text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
