//! The state file belongs to root and the workers' user: what nginx makes for it is closed to
//! others, and where others can write it is not used.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use harness::metrics::Metrics;
use harness::nginx::{Builder, workers};
use harness::replica::Settings;
use harness::{Nginx, Pincerd, Replica, eventually};

/// A user that is neither root nor the workers'.
const STRANGER: u32 = 12_345;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn fed(pincerd: &Pincerd, zone: &str, replica: &Replica) -> Builder {
    Nginx::builder()
        .http(format!("pincer_zone pincer:1m {zone}; {}", pincerd.directives("edge-1")))
        .upstream("u", format!("pincer_balance; server {};", replica.server()))
}

async fn set_weight(pincerd: &Pincerd, replica: &Replica, weight: u32) {
    let weight = weight.to_string();
    pincerd.must(&["--wait", "10s", "peer", "set", "u", replica.server(), "--weight", &weight]).await;
}

async fn weight(nginx: &Nginx, replica: &Replica) -> f64 {
    nginx.status().await.upstream("u").peer(replica.server()).number("/weight/effective")
}

/// Why the state file is refused, by the status page; by the metrics, whether it is. The two agree.
async fn refused(nginx: &Nginx) -> Option<String> {
    let reason = nginx.status().await.0["state_file"]["refused"].as_str().map(str::to_owned);
    let metric = Metrics::read(&nginx.metrics().await).sum("pincer_state_file_refused", &[]);
    assert_eq!(metric, if reason.is_some() { 1.0 } else { 0.0 }, "{reason:?}");
    reason
}

/// Mode and owner.
fn whose(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.mode() & 0o7777, found.uid())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_or_a_reload_makes_for_the_state_file_is_the_workers_alone_whatever_the_umask() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let theirs = workers::folder();
    let (_, user) = whose(theirs.path());
    // A daemon's master has none; one in the foreground has the shell's, which may take away even
    // what the owner needs.
    for (detached, umask, reload) in
        [(false, "022", false), (false, "000", true), (false, "377", false), (true, "022", false), (true, "022", true)]
    {
        let started = |builder: Builder| if detached { builder.detached() } else { builder }.umask(umask);
        let keeping = |builder: Builder| {
            started(builder.clear())
                .http(format!("pincer_zone pincer:1m state=var/lib/pincer/last; {}", pincerd.directives("edge-1")))
                .upstream("u", format!("pincer_balance; server {};", replica.server()))
        };
        let nginx = if reload {
            let mut nginx = started(fed(&pincerd, "", &replica)).start().await;
            nginx.reconfigure(keeping).await;
            nginx
        } else {
            keeping(Nginx::builder()).start().await
        };
        nginx.connected().await;
        set_weight(&pincerd, &replica, 3).await;
        let file = nginx.path("var/lib/pincer/last");
        eventually("the revision is on disk", 10.0, || async { file.exists() }).await;
        for made in ["var", "var/lib", "var/lib/pincer"] {
            assert_eq!(
                whose(&nginx.path(made)),
                (0o700, user),
                "{made}, daemon: {detached}, umask {umask}, reload: {reload}"
            );
        }
        assert_eq!(whose(&file), (0o600, user));
        assert_eq!(refused(&nginx).await, None);
        nginx.quit();
    }
}

/// The state file in a folder of the workers, and one above that.
struct Files {
    base: tempfile::TempDir,
}

impl Files {
    fn above(&self) -> PathBuf {
        self.base.path().join("above")
    }

    fn folder(&self) -> PathBuf {
        self.above().join("folder")
    }

    fn file(&self) -> PathBuf {
        self.folder().join("last")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.file()).expect("the state file")
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(self.folder()).expect("the folder").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    }
}

/// What others can do, what is said of it, and how an operator mends it.
struct Fault {
    reason: &'static str,
    place: fn(&Files) -> PathBuf,
    make: fn(&Files),
    mend: fn(&Files),
    needs_root: bool,
}

fn faults() -> Vec<Fault> {
    vec![
        Fault {
            reason: "mode 0777 lets others write to the file's folder, 0700 is needed",
            place: Files::folder,
            make: |files| mode(&files.folder(), 0o777),
            mend: |files| mode(&files.folder(), 0o700),
            needs_root: false,
        },
        Fault {
            // The sticky bit keeps nobody from putting a file there first.
            reason: "mode 1720 lets others write to the file's folder, 0700 is needed",
            place: Files::folder,
            make: |files| mode(&files.folder(), 0o1720),
            mend: |files| mode(&files.folder(), 0o700),
            needs_root: false,
        },
        Fault {
            reason: "mode 0602 lets others write to the file, 0600 is needed",
            place: Files::file,
            make: |files| mode(&files.file(), 0o602),
            mend: |files| mode(&files.file(), 0o600),
            needs_root: false,
        },
        Fault {
            reason: "mode 0775 lets others write to a folder above the file's, 0755 or the sticky bit is needed",
            place: Files::above,
            make: |files| mode(&files.above(), 0o775),
            // As /tmp is.
            mend: |files| mode(&files.above(), 0o1777),
            needs_root: false,
        },
        Fault {
            reason: "the file is a symbolic link, a regular file is needed",
            place: Files::file,
            make: |files| {
                fs::rename(files.file(), files.above().join("moved")).expect("rename");
                symlink("../moved", files.file()).expect("a link");
            },
            mend: |files| fs::rename(files.above().join("moved"), files.file()).expect("rename"),
            needs_root: false,
        },
        Fault {
            reason: "user 12345 owns the file, the user that uses it or root is needed as owner",
            place: Files::file,
            make: |files| chown(files.file(), Some(STRANGER), None).expect("chown"),
            mend: |files| chown(files.file(), Some(0), None).expect("chown"),
            needs_root: true,
        },
        Fault {
            reason: "user 12345 owns the file's folder, the user that uses it or root is needed as owner",
            place: Files::folder,
            make: |files| chown(files.folder(), Some(STRANGER), None).expect("chown"),
            mend: |files| workers::give(&files.folder(), 0o700),
            needs_root: true,
        },
        Fault {
            reason: "user 12345 owns a folder above the file's, the user that uses it or root is needed as owner",
            place: Files::above,
            make: |files| chown(files.above(), Some(STRANGER), None).expect("chown"),
            mend: |files| chown(files.above(), Some(0), None).expect("chown"),
            needs_root: true,
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_others_can_change_is_neither_read_nor_written_until_that_is_mended() {
    let mut pincerd = Pincerd::start().await;
    let replica = Replica::named("a").settings(Settings::served_in(1.0)).start().await;
    let files = Files { base: workers::folder() };
    mode(files.base.path(), 0o755);
    let zone = format!("state={}", files.file().display());
    let nginx = fed(&pincerd, &zone, &replica).start().await;
    nginx.connected().await;
    set_weight(&pincerd, &replica, 100).await;
    eventually("the revision is on disk", 10.0, || async { files.file().exists() }).await;
    mode(&files.above(), 0o755);
    nginx.quit();
    for (round, fault) in (1..).zip(faults()) {
        if fault.needs_root && !is_root() {
            println!("left out, root is needed: {}", fault.reason);
            continue;
        }
        let (before, place) = (files.content(), (fault.place)(&files));
        (fault.make)(&files);
        let names = files.names();
        pincerd.kill();
        let nginx = fed(&pincerd, &zone, &replica).start().await;
        assert_eq!(nginx.client().get("/").await.status, 200, "{}", fault.reason);
        assert_eq!((weight(&nginx, &replica).await, nginx.status().await.number("/revision")), (1.0, 0.0));
        assert_eq!(refused(&nginx).await.as_deref(), Some(fault.reason));
        let said = format!("reason={}: {}", place.display(), fault.reason);
        nginx.logs(&said, 5.0).await;
        assert!(nginx.log().contains("refuses the state file, reads and writes nothing there"), "{}", nginx.tail());

        pincerd.start_again().await;
        nginx.connected().await;
        set_weight(&pincerd, &replica, 100 + round).await;
        assert_eq!(weight(&nginx, &replica).await, f64::from(100 + round), "the control plane is heard all the same");
        nginx.logs("refuses the state file, the last good revision will not survive a restart", 10.0).await;
        assert_eq!(refused(&nginx).await.as_deref(), Some(fault.reason));
        assert_eq!((files.names(), files.content()), (names, before.clone()), "{}", fault.reason);

        (fault.mend)(&files);
        // The first is found by the worker alone, which tries again; the others by a reload.
        if round > 1 {
            nginx.reload().await;
        }
        let is_written = || async { files.content() != before };
        eventually("the revision is on disk", 15.0, is_written).await;
        eventually("the file is in use", 10.0, || async { refused(&nginx).await.is_none() }).await;
        assert!(fs::symlink_metadata(files.file()).expect("the file").is_file());
        nginx.quit();
    }
    // And it is read again.
    pincerd.kill();
    let nginx = fed(&pincerd, &zone, &replica).start().await;
    assert!(weight(&nginx, &replica).await > 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reads_a_state_file_whose_folder_was_mended() {
    let mut pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let files = Files { base: workers::folder() };
    let zone = format!("state={}", files.file().display());
    let nginx = fed(&pincerd, &zone, &replica).start().await;
    nginx.connected().await;
    set_weight(&pincerd, &replica, 9).await;
    eventually("the revision is on disk", 10.0, || async { files.file().exists() }).await;
    nginx.quit();
    pincerd.kill();
    mode(&files.folder(), 0o777);
    let nginx = fed(&pincerd, &zone, &replica).start().await;
    assert_eq!(weight(&nginx, &replica).await, 1.0);
    assert!(refused(&nginx).await.is_some());
    mode(&files.folder(), 0o700);
    nginx.reload().await;
    assert_eq!(weight(&nginx, &replica).await, 9.0);
    assert_eq!(refused(&nginx).await, None);
    // What is refused at a reload takes nothing back.
    mode(&files.folder(), 0o777);
    nginx.reload().await;
    assert_eq!(weight(&nginx, &replica).await, 9.0);
    assert!(refused(&nginx).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_folder_is_made_where_others_could_rename_it() {
    let pincerd = Pincerd::start().await;
    let replica = Replica::named("a").start().await;
    let base = workers::folder();
    mode(base.path(), 0o777);
    let zone = format!("state={}/pincer/last", base.path().display());
    let nginx = fed(&pincerd, &zone, &replica).start().await;
    nginx.connected().await;
    set_weight(&pincerd, &replica, 4).await;
    nginx.logs("the last good revision will not survive a restart", 10.0).await;
    let reason = refused(&nginx).await.expect("refused");
    assert!(reason.contains("lets others write to a folder above the file's"), "{reason}");
    assert_eq!(fs::read_dir(base.path()).expect("the folder").count(), 0);
    mode(base.path(), 0o1777);
    nginx.reload().await;
    eventually("the revision is on disk", 10.0, || async { base.path().join("pincer/last").exists() }).await;
    assert_eq!(refused(&nginx).await, None);
}
