//! Who did what, in the log: a line for each change, and one for each call that was refused.
//!
//! A layer around all services knows the caller: the name in the certificate and the address. The
//! calls of a caller without a role could be as many as it likes: `rarely` bounds their lines. No
//! secret and no cache key is ever in a line. Cost: the certificate is parsed once a call.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{Code, Status, codegen::http, transport::server::TlsConnectInfo};
use tower_layer::Layer;
use tower_service::Service;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{describe, error};
use crate::{
    connection::Caller,
    keys,
    metrics::Metrics,
    model::Replaced,
    names,
    plan::Op,
    plane::{Changed, Plane},
    rarely::Rarely,
};

/// Lines for one call; a file of settings may change thousands of peers.
const LINES_MAX: usize = 100;
/// Bytes of a name or message in a line.
const SHOWN_BYTES_MAX: usize = 300;

/// Who calls.
#[derive(Debug, Clone, Default)]
struct Actor {
    name: String,
    address: String,
}

tokio::task_local! {
    static ACTOR: Actor;
}

fn name_of(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(names::shown(name, SHOWN_BYTES_MAX))
}

impl Actor {
    fn of<B>(request: &http::Request<B>) -> Self {
        let Some(info) = request.extensions().get::<TlsConnectInfo<Caller>>() else { return Self::default() };
        let chain = info.peer_certs();
        let name = chain.as_ref().and_then(|chain| name_of(chain.first()?));
        Self { name: name.unwrap_or_else(|| "-".to_owned()), address: info.get_ref().address().to_string() }
    }
}

/// Puts `Told` around the services.
#[derive(Debug, Clone)]
pub struct AuditLayer {
    metrics: Metrics,
    strangers: Arc<Rarely>,
}

impl AuditLayer {
    /// Counts into `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, strangers: Arc::default() }
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, layer: self.clone() }
    }
}

/// A service whose refused calls are logged.
#[derive(Debug, Clone)]
pub struct Audited<S> {
    inner: S,
    layer: AuditLayer,
}

impl<S, B, R> Service<http::Request<B>> for Audited<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (actor, layer) = (Actor::of(&request), self.layer.clone());
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let responding = ACTOR.scope(actor.clone(), self.inner.call(request));
        Box::pin(async move {
            let response = responding.await?;
            // A call that was refused has its status in the head of the response.
            if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
            {
                layer.refused(&actor, &method, &status);
            }
            Ok(response)
        })
    }
}

impl AuditLayer {
    fn refused(&self, actor: &Actor, method: &str, status: &Status) {
        self.metrics.calls_refused.inc();
        let method = names::shown(method, SHOWN_BYTES_MAX);
        let (who, from, code) = (&actor.name, &actor.address, status.code());
        let line = || {
            let why = names::shown(status.message(), SHOWN_BYTES_MAX);
            tracing::warn!(who, from, method, ?code, why, "pincer: call refused");
        };
        match code {
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented | Code::ResourceExhausted => {
                self.strangers.say(line);
            }
            _ => line(),
        }
    }
}

/// Makes a change, and logs what it changed.
pub async fn change(plane: &Arc<Plane>, op: Op, validate_only: bool) -> Result<Changed, Status> {
    let changed = plane.change(op, validate_only).await.map_err(error::change)?;
    if !validate_only {
        log(&changed);
    }
    Ok(changed)
}

/// Logs a change that has no revision.
pub fn note(what: &str, change: &str) {
    let actor = ACTOR.try_with(Clone::clone).unwrap_or_default();
    tracing::info!(who = actor.name, from = actor.address, what, change, "pincer: changed");
}

fn log(changed: &Changed) {
    let actor = ACTOR.try_with(Clone::clone).unwrap_or_default();
    let (who, from, revision) = (actor.name, actor.address, changed.revision);
    let changes = &changed.changes;
    let peers = changes.peers.iter().map(describe::peer);
    let peers = peers.chain(changes.classes.iter().map(describe::class)).map(|change| {
        let kind = change.kind().as_str_name().trim_start_matches("KIND_").to_lowercase();
        (change.name, if change.description.is_empty() { kind } else { format!("{kind}: {}", change.description) })
    });
    let mut all = peers.chain(changes.keys.iter().map(key));
    for (what, change) in all.by_ref().take(LINES_MAX) {
        tracing::info!(who, from, revision, what, change, "pincer: changed");
    }
    let more = all.count();
    if more > 0 {
        tracing::info!(who, from, revision, more, "pincer: changed");
    }
}

fn key(change: &Replaced<keys::Record>) -> (String, String) {
    let named = |record: &keys::Record| {
        format!("secret {} of {}, class {}", record.sha256.fingerprint(), record.tenant, record.class)
    };
    let what = match (&change.before, &change.after) {
        (None, Some(after)) => format!("created: {}", named(after)),
        (Some(before), None) => format!("deleted: {}", named(before)),
        (Some(before), Some(after)) if after.revoked_s.is_some() && before.revoked_s.is_none() => {
            format!("revoked: {}", named(after))
        }
        (Some(before), Some(after)) => {
            format!("rotated: {} → {}", before.sha256.fingerprint(), after.sha256.fingerprint())
        }
        (None, None) => String::new(),
    };
    (names::key_name(&change.id), what)
}
