//! pincerd's life: killed, ended, started again, and who may talk to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Daemon, Node, PATIENCE, command, eventually, hello, peer_name, signal, weight};
use pincer_control::{
    client::{Target, connect, control},
    dev::{self, Name},
};
use pincer_proto::v1::{self, NodeMessage, node_service_client::NodeServiceClient};
use tokio::time;
use tokio_stream::StreamExt as _;
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const A: &str = "127.0.0.1:8001";

#[tokio::test]
async fn what_was_answered_survives_kill_9_at_any_moment() {
    let mut daemon = Daemon::start();
    let node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut last = 1;
    for round in 0..5 {
        let answered = Arc::new(AtomicU64::new(0));
        let (mut operator, noted) = (daemon.operator().await, Arc::clone(&answered));
        let changes = tokio::spawn(async move {
            for n in 0.. {
                // A weight of its own for each change: its revision.
                let Ok(peer) = operator.update_peer(weight(A, (round * 1000 + n) % 65_536)).await else { return };
                noted.store(peer.into_inner().revision, Ordering::SeqCst);
            }
        });
        let enough = last + 10 + u64::from(round) * 3;
        eventually("changes are answered", || async { (answered.load(Ordering::SeqCst) >= enough).then_some(()) })
            .await;
        daemon.kill();
        changes.await.unwrap();
        daemon.start_again();
        let mut operator = connect(daemon.dir()).await.unwrap();
        let revision = operator.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().revision;
        let answered = answered.load(Ordering::SeqCst);
        assert!(revision == answered || revision == answered + 1, "{answered} was answered, {revision} is kept");
        let peer = operator.get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.unwrap().into_inner();
        assert_eq!(peer.revision, revision, "the declared peer and its settings are known without the node");
        last = operator.update_peer(weight(A, 60_000)).await.unwrap().into_inner().revision;
        assert_eq!(last, revision + 1, "revisions rise on");
    }
    drop(node);
    let mut node = Node::join(&daemon, hello("web-1", &[A])).await;
    let snapshot = node.snapshot().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.upstreams[0].peers[0].weight), (last, Some(60_000)));
}

#[tokio::test]
async fn told_to_end_it_ends_every_stream_and_keeps_all() {
    let mut daemon = Daemon::start();
    let mut node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut operator = daemon.operator().await;
    operator.update_peer(weight(A, 5)).await.unwrap();
    let mut watch = operator.watch(v1::WatchRequest {}).await.unwrap().into_inner();
    watch.message().await.unwrap();
    assert_eq!(daemon.terminate().await, Some(0));
    node.snapshot().await.unwrap();
    assert_eq!(node.snapshot().await.unwrap_err().code(), Code::Unavailable);
    let end = loop {
        if let Err(status) = watch.message().await {
            break status;
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    daemon.start_again();
    let mut operator = daemon.operator().await;
    let peer = operator.get_peer(v1::GetPeerRequest { name: peer_name(A) }).await.unwrap().into_inner();
    assert_eq!((peer.weight, peer.revision), (Some(5), 2));
}

#[tokio::test]
async fn a_frozen_node_does_not_keep_pincerd_from_ending() {
    let mut daemon = Daemon::start();
    // A client that has a connection and never reads it.
    let idle = tokio::net::TcpStream::connect(&daemon.grpc).await.unwrap();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    assert_eq!(daemon.terminate().await, Some(0));
    drop(idle);
}

#[tokio::test]
async fn a_second_pincerd_on_the_same_folder_is_refused_and_harms_nothing() {
    let daemon = Daemon::start();
    let output = command(daemon.dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use by another pincerd"));
    let endpoint = std::fs::read_to_string(daemon.dir().join(dev::ENDPOINT_FILE)).unwrap();
    assert_eq!(endpoint, format!("grpc={}\nhttp={}\n", daemon.grpc, daemon.http));
    daemon.operator().await;
}

#[tokio::test]
async fn wrong_command_lines_are_refused_with_what_is_missing() {
    for (arguments, said) in [
        (&["--store", "etcd:127.0.0.1:2379/pincer"][..], "the etcd store is not in this version"),
        (&["--store", "/tmp/x"][..], "no such store"),
        (&[][..], "--store"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_pincerd")).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(said), "{errors}");
    }
}

#[tokio::test]
async fn with_dev_it_listens_for_this_machine_alone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("dev");
    for address in ["192.0.2.1:0", "[2001:db8::1]:0", "0.0.0.0:0", "[::]:0", "[::ffff:192.0.2.1]:0"] {
        for flag in ["--listen", "--grpc-listen", "--http-listen"] {
            let other = if flag == "--http-listen" { "--listen" } else { "--http-listen" };
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pincerd"));
            command.arg("--dev").arg(&folder).args([flag, address, other, "127.0.0.1:0"]);
            command.stdin(Stdio::null()).kill_on_drop(true);
            let output = time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{flag} {address}: {errors}");
            let shown = flag.replace("grpc-", "");
            let said = format!("{shown} {address} is no loopback address, 127.0.0.0/8 or [::1] is needed beside --dev");
            assert!(errors.contains(&said), "{errors}");
            assert!(!folder.exists(), "nothing was made");
        }
    }
    let arguments = ["--listen", "[::ffff:127.0.0.9]:0", "--http-listen", "127.0.0.9:0"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_pincerd"));
    command.arg("--dev").arg(&folder).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("pincerd ready") && line.contains("http=127.0.0.9:"), "{line}");
}

#[tokio::test]
async fn with_dev_no_key_is_put_where_others_can_write() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("dev");
    std::fs::create_dir(&folder).unwrap();
    symlink("dev", parent.path().join("link")).unwrap();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = async |folder: std::path::PathBuf, said: &str| {
        let mut command = tokio::process::Command::from(command(&folder));
        let output = time::timeout(PATIENCE, command.kill_on_drop(true).output()).await.expect("it ends").unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && errors.contains("is no place for keys"), "{errors}");
        assert!(errors.contains(said), "{errors}");
    };
    for (path, bits, said) in [
        (&*folder, 0o777, "mode 0777 lets others write"),
        (&*folder, 0o1730, "mode 1730 lets others write"),
        (parent.path(), 0o770, "mode 0770 lets others write"),
    ] {
        mode(path, bits);
        for given in ["dev", "link"] {
            refused(parent.path().join(given), said).await;
        }
        mode(path, 0o700);
    }
    if std::os::unix::fs::chown(&folder, Some(12_345), None).is_ok() {
        refused(folder.clone(), "user 12345 owns").await;
        std::os::unix::fs::chown(&folder, Some(0), None).unwrap();
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing was made");
    // As /tmp is.
    mode(parent.path(), 0o1777);
    let mut child = command(&parent.path().join("link")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("pincerd ready"), "{line}");
    for (file, bits) in [("operator.key", 0o600), ("node.key", 0o600), ("server.key", 0o600), ("store.redb", 0o600)] {
        assert_eq!(std::fs::metadata(folder.join(file)).unwrap().permissions().mode() & 0o777, bits, "{file}");
        mode(&folder.join(file), 0o622);
        refused(folder.clone(), "mode 0622 lets others write").await;
        mode(&folder.join(file), bits);
    }
    // Who may write where a link stands decides where it leads, as does who owns it.
    let open = parent.path().join("open");
    std::fs::create_dir(&open).unwrap();
    symlink("../dev", open.join("link")).unwrap();
    mode(&open, 0o777);
    refused(open.join("link"), "mode 0777 lets others write").await;
    if std::os::unix::fs::lchown(parent.path().join("link"), Some(12_345), None).is_ok() {
        refused(parent.path().join("link/below"), "user 12345 owns").await;
    }
}

#[tokio::test]
async fn it_runs_with_certificates_and_a_store_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    dev::ensure(folder.path(), std::time::SystemTime::now()).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let run = |certificate: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pincerd"));
        command.args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--store"]);
        command.arg(format!("embedded:{}", path("own.redb"))).args(["--certificate", &path(certificate)]);
        command.args(["--certificate-key", &path("server.key"), "--client-ca", &path("ca.pem")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = run("server.pem");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert!(line.starts_with("pincerd ready grpc=127.0.0.1:"), "{line}");
    assert!(!folder.path().join(dev::ENDPOINT_FILE).exists());
    let endpoint = line.split_whitespace().find_map(|word| word.strip_prefix("grpc=")).unwrap().to_owned();
    let (ca, certificate, key) = (path("ca.pem").into(), path("operator.pem").into(), path("operator.key").into());
    let channel = Target { endpoint, ca, certificate, key }.connect().await.unwrap();
    control(channel).list_nodes(v1::ListNodesRequest::default()).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::write(path("bad.pem"), "nonsense").unwrap();
    for (certificate, said) in
        [("bad.pem", "bad.pem: it holds no certificate"), ("node.pem", "server.key: it is not the key of")]
    {
        let output = run(certificate).wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.is_empty()),
            (Some(1), true),
            "not ready with a bad certificate"
        );
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(&path("")) && errors.contains(said), "{errors}");
    }
    std::fs::write(path("own.redb"), "no store".repeat(1000)).unwrap();
    let output = run("server.pem").wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let named = errors.contains(&path("own.redb")) && errors.contains("restore it from a backup, or move it away");
    assert!(named && output.status.code() == Some(1), "{errors}");
}

async fn channel(daemon: &Daemon, name: Name) -> Channel {
    Target::dev(daemon.dir(), name).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn each_role_may_call_its_own_service_only() {
    let daemon = Daemon::start();
    let mut as_operator = control(channel(&daemon, Name::Node).await);
    let status = as_operator.list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("OU=pincer-operator"));
    let mut as_node = NodeServiceClient::new(channel(&daemon, Name::Operator).await);
    let status = as_node.sync(tokio_stream::empty::<NodeMessage>()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    // The server's own certificate is for serving only: the handshake fails.
    let server = Target::dev(daemon.dir(), Name::Server).unwrap().connect().await;
    if let Ok(channel) = server {
        let status = control(channel).list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
        assert!(!matches!(status.code(), Code::Ok | Code::PermissionDenied), "{status:?}");
    }
}

/// A channel as far as TLS lets it come: TLS 1.3 tells a refused client only at its first request.
async fn list_over(tls: Option<ClientTlsConfig>, daemon: &Daemon) -> bool {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", daemon.grpc)).unwrap().timeout(PATIENCE);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).unwrap();
    }
    match endpoint.connect().await {
        Ok(channel) => control(channel).list_nodes(v1::ListNodesRequest::default()).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn without_a_certificate_of_the_ca_nobody_gets_in() {
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let read = |daemon: &Daemon, name: &str| std::fs::read_to_string(daemon.dir().join(name)).unwrap();
    let tls = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&daemon, "ca.pem")));
    let identity = |of| Identity::from_pem(read(of, "operator.pem"), read(of, "operator.key"));
    assert!(list_over(Some(tls().identity(identity(&daemon))), &daemon).await);
    assert!(!list_over(Some(tls().identity(identity(&other))), &daemon).await, "another CA's certificate");
    assert!(!list_over(Some(tls()), &daemon).await, "no certificate");
    assert!(!list_over(None, &daemon).await, "no TLS");
    assert!(
        !list_over(Some(tls().identity(identity(&daemon))), &other).await,
        "a server that the client does not trust"
    );
}

#[tokio::test]
async fn health_and_reflection_answer_and_http_tells_the_state() {
    let daemon = Daemon::start();
    let _node = Node::joined(&daemon, "web-1", &[A]).await;
    let mut health = HealthClient::new(channel(&daemon, Name::Node).await);
    for service in ["", "pincer.v1.NodeService", "pincer.v1.ControlService"] {
        let status = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    let mut reflection = ServerReflectionClient::new(channel(&daemon, Name::Operator).await);
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    for service in ["pincer.v1.NodeService", "pincer.v1.ControlService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
    }
    assert!(daemon.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(daemon.get("/nothing").await.starts_with("HTTP/1.1 404 "));
    eventually("the node is counted", || async {
        let text = daemon.get("/metrics").await;
        (text.contains("\npincer_control_nodes_connected 1\n") && text.contains("\npincer_control_acks_total 1\n"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_vanished_without_a_word_is_noticed() {
    let daemon = Daemon::start();
    // A proxy that swallows everything once told to, as a cable that is cut.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let (cut, is_cut) = tokio::sync::oneshot::channel::<()>();
    let grpc = daemon.grpc.clone();
    let carrying = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(grpc).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = is_cut => {}
        }
        // Both connections stay open and nothing moves.
        std::future::pending::<()>().await;
    });
    let target = Target { endpoint: proxy.to_string(), ..Target::dev(daemon.dir(), Name::Node).unwrap() };
    let mut client = NodeServiceClient::new(target.connect().await.unwrap());
    let message = v1::node_message::Message::Hello(hello("web-1", &[A]));
    let messages = tokio_stream::once(NodeMessage { message: Some(message) }).chain(tokio_stream::pending());
    let mut stream = client.sync(messages).await.unwrap().into_inner();
    stream.message().await.unwrap();
    cut.send(()).unwrap();
    let operator = daemon.operator().await;
    let gone = eventually("the node is away", || async {
        let node =
            operator.clone().get_node(v1::GetNodeRequest { name: "nodes/web-1".into() }).await.unwrap().into_inner();
        (!node.connected).then_some(())
    });
    time::timeout(PATIENCE, gone).await.unwrap();
    carrying.abort();
}

#[tokio::test]
async fn a_frozen_pincerd_is_unreachable_and_not_an_endless_wait() {
    let daemon = Daemon::start();
    signal(daemon.pid(), "STOP");
    let told = daemon.ctl(&["node", "list"]).await;
    signal(daemon.pid(), "CONT");
    assert_eq!(told.code, 4, "{told:?}");
    assert!(told.errors.contains("does not respond"), "{told:?}");
}

#[tokio::test]
async fn a_node_that_dies_while_it_is_let_in_is_not_taken_for_connected() {
    let daemon = Daemon::start();
    for number in 0..40 {
        // What it declares is new, so it is written before the node is in; at some moment of that
        // the node goes.
        let node = Node::join(&daemon, hello(&format!("web-{number}"), &[A])).await;
        time::sleep(Duration::from_micros(number * 100)).await;
        drop(node);
    }
    let mut operator = daemon.operator().await;
    let mut known = 0;
    for number in 0..40 {
        let request = v1::GetNodeRequest { name: format!("nodes/web-{number}") };
        if operator.get_node(request.clone()).await.is_err() {
            continue;
        }
        known += 1;
        let away = async |mut operator: common::Operator| {
            operator.get_node(request.clone()).await.ok().filter(|node| !node.get_ref().connected)
        };
        eventually("the node is away", || away(operator.clone())).await;
    }
    assert!(known > 20, "{known}");
}
