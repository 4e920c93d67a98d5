//! A real pincerd on free ports in a folder of its own, a node that only pretends, and pincerctl.
//!
//! Nothing here sleeps for a fixed time: everything waits for a condition, at most `PATIENCE`.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use pincer_control::client;
use pincer_proto::v1::node_service_client::NodeServiceClient;
use pincer_proto::{
    google::rpc,
    v1::{
        self, ControlMessage, Hello, NodeMessage, Snapshot, control_message,
        control_service_client::ControlServiceClient, node_message,
    },
};
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long anything may take, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Operator = ControlServiceClient<Channel>;

/// A running pincerd.
pub struct Daemon {
    pub folder: tempfile::TempDir,
    child: Option<Child>,
    pub grpc: String,
    pub http: String,
}

impl Daemon {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self { folder, child: None, grpc: String::new(), http: String::new() };
        daemon.start_again();
        daemon
    }

    /// As `start`, with everything logged that can be.
    pub fn start_tracing() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self { folder, child: None, grpc: String::new(), http: String::new() };
        let mut command = command(daemon.dir());
        command.env("PINCER_LOG", "trace");
        daemon.run(command);
        daemon
    }

    /// As `start`, with its log as JSON.
    pub fn start_json() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self { folder, child: None, grpc: String::new(), http: String::new() };
        let mut command = command(daemon.dir());
        command.args(["--log-format", "json"]);
        daemon.run(command);
        daemon
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap()
    }

    /// Starts it on the same folder, and waits for its ready line.
    pub fn start_again(&mut self) {
        self.run(command(self.dir()));
    }

    fn run(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
        self.child = Some(child);
        self.grpc = word("grpc=").unwrap_or_else(|| panic!("not ready: {line:?}"));
        self.http = word("http=").unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; its exit status.
    pub async fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap());
        time::timeout(PATIENCE, status).await.expect("pincerd ends").unwrap().code()
    }

    pub async fn operator(&self) -> Operator {
        client::connect(self.dir()).await.unwrap()
    }

    pub async fn ctl(&self, arguments: &[&str]) -> Told {
        ctl(&[&["--dev", self.dir().to_str().unwrap()], arguments].concat()).await
    }

    /// GET over plain HTTP: the status line and all that follows.
    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.dir().join("log")).unwrap_or_default());
        }
    }
}

/// pincerd over `folder`, on free ports.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pincerd"));
    command.arg("--dev").arg(folder).args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    command.stdin(Stdio::null());
    command
}

/// kill -SIGNAL PID.
pub fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap().success());
}

/// What pincerctl said.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub out: String,
    pub errors: String,
}

impl Told {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// pincerctl with nothing of the environment.
pub async fn ctl(arguments: &[&str]) -> Told {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pincerctl"));
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = time::timeout(2 * PATIENCE, command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Told { code: status.code().unwrap(), out: text(stdout), errors: text(stderr) }
}

/// A folder with a file.
pub fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// An nginx that only pretends.
pub struct Node {
    to: mpsc::Sender<NodeMessage>,
    from: Streaming<ControlMessage>,
}

/// A Hello of `node` that declares these peers, each of weight 1, in the upstream `llm`.
pub fn hello(node: &str, addresses: &[&str]) -> Hello {
    let peer = |address: &&str| v1::DeclaredPeer {
        address: (*address).to_owned(),
        server: (*address).to_owned(),
        weight: 1,
        ..v1::DeclaredPeer::default()
    };
    Hello {
        node: node.to_owned(),
        instance_id: format!("{node}-zone"),
        module_version: "0.1.0".to_owned(),
        nginx_version: "1.22.1".to_owned(),
        worker_processes: 4,
        upstreams: vec![v1::DeclaredUpstream { name: "llm".to_owned(), peers: addresses.iter().map(peer).collect() }],
        ..Hello::default()
    }
}

impl Node {
    /// Opens the stream and says nothing yet.
    pub async fn connect(daemon: &Daemon) -> Self {
        Self::over(client::connect_node(daemon.dir()).await.unwrap()).await
    }

    /// As `connect`, with room for no more than 64 KiB that were not read.
    pub async fn connect_narrow(daemon: &Daemon) -> Self {
        let read = |name: &str| std::fs::read_to_string(daemon.dir().join(name)).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")))
            .identity(Identity::from_pem(read("node.pem"), read("node.key")));
        let endpoint = Endpoint::from_shared(format!("https://{}", daemon.grpc)).unwrap().tls_config(tls).unwrap();
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        Self::over(NodeServiceClient::new(endpoint.connect().await.unwrap())).await
    }

    async fn over(mut client: NodeServiceClient<Channel>) -> Self {
        let (to, receiver) = mpsc::channel(16);
        let from = client.sync(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { to, from }
    }

    pub async fn join(daemon: &Daemon, hello: Hello) -> Self {
        let node = Self::connect(daemon).await;
        node.say(node_message::Message::Hello(hello)).await;
        node
    }

    /// Joins and reads the first snapshot.
    pub async fn joined(daemon: &Daemon, name: &str, addresses: &[&str]) -> Self {
        let mut node = Self::join(daemon, hello(name, addresses)).await;
        let first = node.snapshot().await.unwrap();
        node.ack(first.revision).await;
        node
    }

    pub async fn say(&self, message: node_message::Message) {
        self.to.send(NodeMessage { message: Some(message) }).await.unwrap();
    }

    pub async fn ack(&self, revision: u64) {
        let apply_duration = Some(prost_types::Duration { seconds: 0, nanos: 250_000 });
        self.say(node_message::Message::Ack(v1::Ack { revision, apply_duration })).await;
    }

    pub async fn nack(&self, revision: u64, message: &str) {
        let error = Some(rpc::Status { code: 3, message: message.to_owned(), details: vec![] });
        self.say(node_message::Message::Nack(v1::Nack { revision, error })).await;
    }

    /// The next snapshot; `Err` if the stream ends with a status, or without one (then OK).
    pub async fn snapshot(&mut self) -> Result<Snapshot, Status> {
        loop {
            let message = time::timeout(PATIENCE, self.from.message()).await.expect("the control plane says something");
            match message?.ok_or_else(|| Status::ok("ended"))?.message {
                Some(control_message::Message::Snapshot(snapshot)) => return Ok(snapshot),
                Some(control_message::Message::Ping(_) | control_message::Message::Purge(_)) | None => {}
            }
        }
    }

    /// The next purge.
    pub async fn purge(&mut self) -> v1::Purge {
        loop {
            let message = time::timeout(PATIENCE, self.from.message()).await.expect("the control plane says something");
            if let Some(control_message::Message::Purge(purge)) = message.unwrap().expect("the stream is open").message
            {
                return purge;
            }
        }
    }

    /// Answers a purge.
    pub async fn purged(&self, id: u64, removed: u64, error: Option<rpc::Status>) {
        self.say(node_message::Message::Purged(v1::Purged { id, removed, bytes: removed * 4096, error })).await;
    }

    /// Reads until a snapshot of at least `revision`; how many came.
    pub async fn snapshots_until(&mut self, revision: u64) -> (usize, Snapshot) {
        for count in 1.. {
            let snapshot = self.snapshot().await.unwrap();
            if snapshot.revision >= revision {
                return (count, snapshot);
            }
        }
        unreachable!()
    }

    /// Answers each snapshot at once until the stream ends.
    pub fn answering(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while let Ok(snapshot) = self.snapshot().await {
                self.ack(snapshot.revision).await;
            }
        })
    }
}

/// Asks again until it holds.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// The name of a peer of `llm`.
pub fn peer_name(address: &str) -> String {
    format!("upstreams/llm/peers/{address}")
}

/// Sets the weight of a peer of `llm`.
pub fn weight(address: &str, weight: u32) -> v1::UpdatePeerRequest {
    v1::UpdatePeerRequest {
        peer: Some(v1::Peer { name: peer_name(address), weight: Some(weight), ..v1::Peer::default() }),
        ..v1::UpdatePeerRequest::default()
    }
}

/// Adds a peer to `llm`.
pub fn add(address: &str) -> v1::CreatePeerRequest {
    v1::CreatePeerRequest {
        parent: "upstreams/llm".to_owned(),
        peer_id: address.to_owned(),
        ..v1::CreatePeerRequest::default()
    }
}
