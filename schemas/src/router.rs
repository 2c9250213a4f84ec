//! What carries a host's traffic: the proxy that Segue brings along, or an HAProxy or nginx that stands there already.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::HostConfig;

/// Which router a host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouterKind {
    /// `segue proxy`, which the host starts itself.
    #[default]
    Embedded,
    /// An HAProxy of version 2.4 or newer, steered over its admin socket.
    Haproxy,
    /// An nginx of version 1.18 or newer, steered by a file that it includes.
    Nginx,
}

/// The HAProxy of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HaproxyConfig {
    /// Its `stats socket`, which needs `level admin`.
    pub admin_socket: PathBuf,
    /// The file that Segue writes and HAProxy is started with, by a second `-f`. Nobody else writes it.
    pub config: PathBuf,
    /// The address of the loopback at which the host hears what HAProxy logs of each request, by UDP. Left out: a free port, which stays.
    pub log: Option<String>,
    /// Program and arguments that look whether the configuration holds. Left out: `haproxy -c -f /etc/haproxy/haproxy.cfg -f CONFIG`.
    pub check: Option<Vec<String>>,
    /// Program and arguments that have HAProxy read its configuration again, dropping nothing.
    pub reload: Vec<String>,
}

impl Default for HaproxyConfig {
    fn default() -> Self {
        Self {
            admin_socket: "/run/haproxy/admin.sock".into(),
            config: "/etc/haproxy/segue.cfg".into(),
            log: None,
            check: None,
            reload: ["systemctl", "reload", "haproxy"].map(Into::into).into(),
        }
    }
}

impl HaproxyConfig {
    /// The command that looks whether the configuration holds.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let own = self.config.display().to_string();
        let built_in = || ["haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg", "-f", &own].map(Into::into).into();
        self.check.clone().unwrap_or_else(built_in)
    }
}

/// The nginx of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NginxConfig {
    /// The file that Segue writes and nginx includes in its `http` block. Nobody else writes it.
    pub include: PathBuf,
    /// The file in which nginx keeps the process id of its master.
    pub pid: PathBuf,
    /// Where nginx writes errors of Segue's services, which the host hears as well.
    pub error_log: PathBuf,
    /// The address of the loopback at which the host hears what nginx logs of each request, by UDP. Left out: a free port, which stays.
    pub log: Option<String>,
    /// Program and arguments that look whether the configuration holds.
    pub check: Vec<String>,
    /// Program and arguments that have nginx read its configuration again, dropping nothing.
    pub reload: Vec<String>,
}

impl Default for NginxConfig {
    fn default() -> Self {
        Self {
            include: "/etc/nginx/conf.d/segue.conf".into(),
            pid: "/run/nginx.pid".into(),
            error_log: "/var/log/nginx/error.log".into(),
            log: None,
            check: ["nginx", "-t"].map(Into::into).into(),
            reload: ["nginx", "-s", "reload"].map(Into::into).into(),
        }
    }
}

/// A host's router with its settings, as `segue host --router` takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterSettings {
    /// `segue proxy`.
    #[default]
    Embedded,
    /// HAProxy.
    Haproxy(HaproxyConfig),
    /// nginx.
    Nginx(NginxConfig),
}

impl RouterSettings {
    /// The router that a host's configuration names.
    #[must_use]
    pub fn of(host: &HostConfig) -> Self {
        match host.router {
            RouterKind::Embedded => Self::Embedded,
            RouterKind::Haproxy => Self::Haproxy(host.haproxy.clone().unwrap_or_default()),
            RouterKind::Nginx => Self::Nginx(host.nginx.clone().unwrap_or_default()),
        }
    }
}
