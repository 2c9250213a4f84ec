//! The engine that a host's containers run at: on this machine by its socket, or on another one by TLS or SSH.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An engine for containers, and how it is reached. The path of a socket alone stands for one that has nothing but an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineConfig {
    /// `unix:///run/docker.sock` or the path alone, `tcp://HOST:PORT`, `ssh://USER@HOST[:PORT]`.
    pub address: String,
    /// Of `tcp`: who signed the engine's certificate.
    pub ca: Option<PathBuf>,
    /// Of `tcp`: the certificate that the engine is shown.
    pub cert: Option<PathBuf>,
    /// Of `tcp`: its key.
    pub key: Option<PathBuf>,
    /// Of `ssh`: the private key.
    pub identity: Option<PathBuf>,
    /// Of `ssh`: the machines' keys that are known.
    pub known_hosts: Option<PathBuf>,
    /// Where services of an engine on another machine listen there.
    pub publish: Option<String>,
    /// The number of an engine that was set up anew in the place of the one before, whose data are lost.
    pub anew: Option<String>,
}

impl EngineConfig {
    /// The engine at an address that needs nothing else.
    #[must_use]
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }
}

/// An engine, and what it takes to reach it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EngineSettings {
    /// `unix:///run/docker.sock`, `tcp://HOST:PORT` (with `ca`, `cert` and `key`, unless it is this machine's loopback), or
    /// `ssh://USER@HOST[:PORT]`.
    address: String,
    /// Of `tcp`: a file with the certificate of whoever signed the engine's (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// Of `tcp`: a file with the certificate that the engine is shown (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cert: Option<PathBuf>,
    /// Of `tcp`: a file with its key (PEM), which nobody else may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    /// Of `ssh`: a file with a private key that has no passphrase. Left out: what `ssh` uses by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<PathBuf>,
    /// Of `ssh`: a file with the keys of machines. Left out: what `ssh` uses by itself, mostly `~/.ssh/known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known_hosts: Option<PathBuf>,
    /// The address of the other machine at which services listen there. Left out: that of the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publish: Option<String>,
    /// The number (`ID` of `docker info`) of an engine that was set up anew: what services kept at the one before is lost, and they begin with
    /// nothing. It is for that engine alone, and may stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anew: Option<String>,
}

impl From<EngineSettings> for EngineConfig {
    fn from(written: EngineSettings) -> Self {
        let EngineSettings { address, ca, cert, key, identity, known_hosts, publish, anew } = written;
        Self { address, ca, cert, key, identity, known_hosts, publish, anew }
    }
}

impl Serialize for EngineConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::at(self.address.clone()) {
            return serializer.serialize_str(&self.address);
        }
        let Self { address, ca, cert, key, identity, known_hosts, publish, anew } = self.clone();
        EngineSettings { address, ca, cert, key, identity, known_hosts, publish, anew }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EngineConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> serde::de::Visitor<'de> for Visitor {
    type Value = EngineConfig;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the path of a socket, or `{ address: tcp://HOST:PORT, ca: FILE, cert: FILE, key: FILE }`")
    }

    fn visit_str<E: serde::de::Error>(self, address: &str) -> Result<EngineConfig, E> {
        Ok(EngineConfig::at(address))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<EngineConfig, A::Error> {
        EngineSettings::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(EngineConfig::from)
    }
}

/// The engine that containers of a host run at.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "its schema alone is used")]
enum Shape {
    /// The path of a socket.
    Path(String),
    /// An engine on another machine.
    Engine(EngineSettings),
}

impl JsonSchema for EngineConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EngineConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Shape::json_schema(generator)
    }
}
