//! The user that nginx's workers become, and folders that are theirs alone.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use tempfile::TempDir;

/// User and group as /etc/passwd tells them: the user that nginx was configured with, else
/// `nobody`.
fn user() -> Option<(u32, u32)> {
    let arguments = super::arguments().split_whitespace();
    let name = arguments.filter_map(|argument| argument.strip_prefix("--user=")).next_back().unwrap_or("nobody");
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, _, user, group) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some((user.parse().ok()?, group.parse().ok()?)).filter(|_| found == name)
    })
}

/// Gives `path` to the workers with this mode. Without root they are who we are, and so is the
/// owner.
///
/// # Panics
/// When the user is unknown, or the system refuses.
pub fn give(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    if rustix::process::geteuid().is_root() {
        let (user, group) = user().expect("the workers' user in /etc/passwd");
        chown(path, Some(user), Some(group)).expect("chown");
    }
}

/// A temporary folder of the workers, mode 0700, as the module makes it for its state file.
///
/// # Panics
/// When the system refuses.
#[must_use]
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    give(folder.path(), 0o700);
    folder
}
