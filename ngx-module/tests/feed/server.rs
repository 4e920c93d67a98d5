//! A control plane of the test's making: says what it is told to say, and repeats what it heard.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pincer_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use pincer_proto::v1::{Ack, ControlMessage, Hello, Nack, NodeMessage, Ping, Snapshot, control_message, node_message};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Said = Result<ControlMessage, Status>;

/// Where it listens.
pub(crate) enum Place<'p> {
    AnyPort,
    Port(u16),
    Socket(&'p Path),
}

/// A running control plane; dropping it closes all its connections at once, as a kill would.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    service: Service,
    heard: Receiver<node_message::Message>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Service {
    greeting: Arc<Mutex<Vec<ControlMessage>>>,
    refusal: Arc<Mutex<Option<Status>>>,
    streams: Arc<Mutex<Vec<UnboundedSender<Said>>>>,
    heard: Sender<node_message::Message>,
}

impl ControlPlane {
    pub(crate) fn start(greeting: Vec<ControlMessage>) -> Self {
        Self::start_at(&Place::AnyPort, None, greeting)
    }

    pub(crate) fn start_at(place: &Place<'_>, tls: Option<ServerTlsConfig>, greeting: Vec<ControlMessage>) -> Self {
        let (heard_in, heard) = channel();
        let greeting = Arc::new(Mutex::new(greeting));
        let service = Service { greeting, refusal: Arc::default(), streams: Arc::default(), heard: heard_in };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tcp, unix) = match place {
            Place::AnyPort => (Some(listen(0)), None),
            Place::Port(port) => (Some(listen(*port)), None),
            Place::Socket(path) => (None, Some(std::os::unix::net::UnixListener::bind(path).unwrap())),
        };
        let address = tcp.as_ref().map_or(SocketAddr::from(([0; 4], 0)), |tcp| tcp.local_addr().unwrap());
        let theirs = service.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut builder = Server::builder();
                if let Some(tls) = tls {
                    builder = builder.tls_config(tls).unwrap();
                }
                let router = builder.add_service(NodeServiceServer::new(theirs));
                let serve = async {
                    match (tcp, unix) {
                        (Some(tcp), _) => {
                            let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
                            router.serve_with_incoming(TcpListenerStream::new(tcp)).await.unwrap();
                        }
                        (None, Some(unix)) => {
                            unix.set_nonblocking(true).unwrap();
                            let unix = tokio::net::UnixListener::from_std(unix).unwrap();
                            router.serve_with_incoming(UnixListenerStream::new(unix)).await.unwrap();
                        }
                        (None, None) => {}
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { address, service, heard, stop: Some(stop), thread: Some(thread) }
    }

    /// What a stream begins with, from the next one on.
    pub(crate) fn greet_with(&self, greeting: Vec<ControlMessage>) {
        *self.service.greeting.lock().unwrap() = greeting;
    }

    /// Ends each stream with this as soon as it is open, from the next one on.
    pub(crate) fn refuse_with(&self, status: &Status) {
        *self.service.refusal.lock().unwrap() = Some(status.clone());
    }

    /// Refuses no more.
    pub(crate) fn refuse_with_nothing(&self) {
        *self.service.refusal.lock().unwrap() = None;
    }

    /// Says it on the streams that are open.
    pub(crate) fn say(&self, message: &ControlMessage) {
        for stream in self.service.streams.lock().unwrap().iter() {
            let _ = stream.send(Ok(message.clone()));
        }
    }

    /// Ends the streams that are open with an error.
    pub(crate) fn hang_up(&self, status: &Status) {
        for stream in self.service.streams.lock().unwrap().drain(..) {
            let _ = stream.send(Err(status.clone()));
        }
    }

    pub(crate) fn hear(&self) -> node_message::Message {
        self.heard.recv_timeout(PATIENCE).expect("the node said nothing")
    }

    pub(crate) fn hear_hello(&self) -> Hello {
        match self.hear() {
            node_message::Message::Hello(hello) => hello,
            other => panic!("not a Hello: {other:?}"),
        }
    }

    pub(crate) fn hear_ack(&self) -> Ack {
        match self.hear() {
            node_message::Message::Ack(ack) => ack,
            other => panic!("not an Ack: {other:?}"),
        }
    }

    pub(crate) fn hear_nack(&self) -> Nack {
        match self.hear() {
            node_message::Message::Nack(nack) => nack,
            other => panic!("not a Nack: {other:?}"),
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tonic::async_trait]
impl NodeService for Service {
    type SyncStream = Pin<Box<dyn Stream<Item = Said> + Send>>;

    async fn sync(&self, request: Request<Streaming<NodeMessage>>) -> Result<Response<Self::SyncStream>, Status> {
        let (say, said) = unbounded_channel();
        for message in self.greeting.lock().unwrap().iter() {
            let _ = say.send(Ok(message.clone()));
        }
        match self.refusal.lock().unwrap().clone() {
            Some(refusal) => drop(say.send(Err(refusal))),
            None => self.streams.lock().unwrap().push(say),
        }
        let (heard, mut incoming) = (self.heard.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let _ = heard.send(message.message.expect("a message says something"));
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(said))))
    }
}

fn listen(port: u16) -> std::net::TcpListener {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    // By tokio: it sets SO_REUSEADDR, so a port can be taken again at once.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    socket.listen(64).unwrap().into_std().unwrap()
}

pub(crate) fn snapshot(revision: u64) -> ControlMessage {
    said(Snapshot { revision, ..Snapshot::default() })
}

pub(crate) fn said(snapshot: Snapshot) -> ControlMessage {
    ControlMessage { message: Some(control_message::Message::Snapshot(snapshot)) }
}

pub(crate) fn ping() -> ControlMessage {
    ControlMessage { message: Some(control_message::Message::Ping(Ping::default())) }
}
