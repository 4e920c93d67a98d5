//! The last good revision: from disk into a new zone, and every revision into the zone.

use super::conf::Main;
use super::hello::upstreams;
use crate::feed::folder::Fault;
use crate::feed::state::{self, StateFile};
use crate::feed::translate;
use crate::ffi::base::{clock, log};
use pincer_core::trust::Trusted;
use pincer_core::zone::OverlayError;
use pincer_proto::v1::Snapshot;

/// Puts the last good revision from disk into a zone that has none. In the master, as root; a
/// damaged file is set aside, and one that others can write is not read.
///
/// `owner` is the user and group that workers run as.
pub(super) fn restore(main: &Main, owner: (u32, u32)) {
    let (Some(file), Some(zone)) = (state_file(main, owner.0), main.zone()) else { return };
    let prepared = file.prepare(is_root().then_some(owner));
    zone.header.state_file.found(prepared.as_ref().err().and_then(Fault::distrust));
    if let Err(fault) = prepared {
        log_unusable(&file, &fault, zone.header.revision());
        return;
    }
    if zone.header.revision() != 0 {
        return;
    }
    match file.load() {
        state::Loaded::Missing => {}
        state::Loaded::Good(snapshot) => match publish(main, &snapshot) {
            Ok(()) => log::write_cycle(
                log::NGX_LOG_NOTICE,
                &format!(
                    "restores the last good revision, revision={}, file={}",
                    snapshot.revision,
                    file.path.display()
                ),
            ),
            // Sound, but not for this configuration (a smaller zone, a peer no longer allowed): it
            // may be again.
            Err(reason) => log::write_cycle(
                log::NGX_LOG_ERR,
                &format!(
                    "the last good revision does not fit the configuration, serves from nginx.conf, revision={}, file={}, reason={reason}",
                    snapshot.revision,
                    file.path.display()
                ),
            ),
        },
        state::Loaded::Damaged { reason } => set_aside(&file, &reason),
        state::Loaded::Unreadable(fault) => {
            zone.header.state_file.found(fault.distrust());
            log_unusable(&file, &fault, 0);
        }
    }
}

/// The state file that `main` names, if it names one, and whose it may be: root's and, as `user`,
/// the workers'.
pub(super) fn state_file(main: &Main, user: u32) -> Option<StateFile> {
    // Only root becomes another user; all others' workers are what their master is.
    let user = if is_root() { user } else { effective_user() };
    main.memory.get()?.state_path.clone().map(|path| StateFile { path, trusted: Trusted { user } })
}

fn effective_user() -> u32 {
    // SAFETY: reads this process's own user, and cannot fail.
    unsafe { libc::geteuid() }
}

fn is_root() -> bool {
    effective_user() == 0
}

/// `revision` is the one in force, 0 = none.
fn log_unusable(file: &StateFile, fault: &Fault, revision: u64) {
    let what = match fault.distrust() {
        Some(_) => "refuses the state file, reads and writes nothing there until it is mended",
        None => "cannot use the state file",
    };
    let serves = if revision == 0 { "serves from nginx.conf until the control plane is reached" } else { "serves on" };
    let message = format!("{what}, {serves}, file={}, reason={fault}", file.path.display());
    log::write_cycle(log::NGX_LOG_ERR, &message);
}

fn set_aside(file: &StateFile, reason: &state::Damage) {
    let outcome = match file.set_aside() {
        Ok(moved) => format!("moved to {}", moved.display()),
        Err(fault) => format!("cannot be moved: {fault}"),
    };
    let path = file.path.display();
    let message = format!("state file {path} is damaged ({reason}), {outcome}, serves from nginx.conf");
    log::write_cycle(log::NGX_LOG_ERR, &message);
}

/// Why a revision is not put into the zone.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPublished {
    /// nginx has not made it: a fault of ours.
    #[error("there is no zone")]
    NoZone,
    /// The control plane's fault, or of the operator who allows less than they add.
    #[error(transparent)]
    Snapshot(#[from] translate::Fault),
    /// The control plane's fault, or the zone is too small.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// Checks the snapshot and puts it into the zone, all or nothing.
pub(super) fn publish(main: &Main, snapshot: &Snapshot) -> Result<(), NotPublished> {
    let (Some(memory), Some(zone)) = (main.memory.get(), main.zone()) else {
        return Err(NotPublished::NoZone);
    };
    let rules = translate::Rules::new(&upstreams(main), main.allow_peers.clone());
    let checked = rules.check(snapshot)?;
    // The wall clock says only how long keys have yet; from here on they are held to the monotonic
    // one.
    let now = translate::Now { wall: std::time::SystemTime::now(), mono: clock::now() };
    checked.with_overlay(now, |overlay| Ok(memory.slab.get().locked(|| zone.overlay_apply(overlay, clock::now()))?))
}
