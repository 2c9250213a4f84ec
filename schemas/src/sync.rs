//! The data of a service that come from one environment to another, without what is personal in them: the rules of its file, the rollout
//! that asks for it, and what hosts and workers say to each other of it.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::{
    deploy::BackupKeep,
    host_api::Fence,
    id::{BackupId, CommitSha, Digest, Epoch, InvalidId, ReleaseId, RolloutId},
};

/// The most rules of a service, and the most names under `keep`.
pub const MAX_RULES: usize = 500;

/// Bytes of one piece of a copy at most.
pub const PIECE_BYTES: u64 = 2 * 1024 * 1024;

/// How a service's data come to another environment without what is personal in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceSync {
    /// What `run` writes.
    pub format: SyncFormat,
    /// The shell command that writes the data in that form to its standard output, run as that of a backup is. Left out: the backup's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The shell command that takes them in, in the environment that they come to. Left out: the backup's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// What is put in the place of what. The first rule that names a column counts there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub rules: Vec<SyncRule>,
    /// Columns that stay as they are: `TABLE.COLUMN`, `TABLE.*`, `*.COLUMN`; of CSV and JSON lines the column, or the path, alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub keep: Vec<String>,
    /// Whether every column must be named by a rule or under `keep`, or be named like an e-mail address, a telephone number or a person.
    #[serde(default = "yes")]
    pub strict: bool,
    /// What e-mail addresses become.
    #[serde(default)]
    pub emails: SyncEmails,
}

fn yes() -> bool {
    true
}

/// The form of data that can be read to be made harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SyncFormat {
    /// A plain dump of PostgreSQL, as `pg_dump --format plain` writes it.
    Sql,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// One JSON object on each line.
    Jsonl,
}

/// What e-mail addresses become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SyncEmails {
    /// All the same: `test@example.com`.
    #[default]
    Same,
    /// `test+HASH@example.com`: equal ones stay equal, and different ones different, as a unique index wants it.
    Unique,
}

/// What is put in the place of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SyncRule {
    /// `TABLE.COLUMN` (or `SCHEMA.TABLE.COLUMN`), with `*` for any; of CSV the column's name, of JSON lines the path, such as
    /// `user.email`. Left out: every column, for which `matching` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// A regular expression: only what it matches of a value is replaced. Left out: the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<String>,
    /// What takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetTo>,
    /// The text that takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether the data need not have the column.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// What takes the place of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SetTo {
    /// Nothing: null.
    Empty,
    /// A keyed hash: equal ones stay equal within one sync, and nobody finds by guessing what they were.
    Hash,
    /// `test@example.com`.
    Email,
    /// `555-0123`.
    Phone,
    /// `Test User`.
    Name,
    /// The whole row or record goes.
    DropRow,
}

/// Which data of the environment that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncFrom {
    /// As they are now.
    Fresh,
    /// The newest backup that is kept there.
    Latest,
    /// That backup.
    Backup(BackupId),
}

impl fmt::Display for SyncFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.write_str("fresh"),
            Self::Latest => f.write_str("latest"),
            Self::Backup(id) => id.fmt(f),
        }
    }
}

impl FromStr for SyncFrom {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Ok(match text {
            "fresh" => Self::Fresh,
            "latest" => Self::Latest,
            id => Self::Backup(id.parse()?),
        })
    }
}

impl Serialize for SyncFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SyncFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a rollout brings that brings data of another environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct SyncSpec {
    /// The environment that they come from.
    pub from: String,
    /// Its hosts.
    pub hosts: Vec<String>,
    /// `fresh`, `latest`, or a backup's name.
    #[schemars(with = "String")]
    #[schema(value_type = String)]
    pub data: SyncFrom,
    /// The release that serves there: its file has the rules.
    pub release: ReleaseId,
    /// The commit of that.
    pub commit: CommitSha,
    /// The rules.
    pub rules: ServiceSync,
    /// The command that writes the data.
    pub run: String,
    /// The image that it runs in, where the service is a container; without one, the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// After how many minutes that, and making them harmless, is given up.
    pub timeout_minutes: u32,
}

/// Have a host make a copy of a service's data, without what is personal in them. The copy is the host's own, and lies there until it
/// was fetched, for a few hours at most.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MakeCopy {
    /// The rollout that it is for; asking again changes nothing but whose it is.
    pub id: RolloutId,
    /// The right by which that rollout is driven. Whoever has a lower one can't take the copy away.
    pub epoch: Epoch,
    /// The environment whose data they are.
    pub environment: String,
    /// The service.
    pub service: String,
    /// Which data.
    pub data: SyncFrom,
    /// The shell command that writes them.
    pub run: String,
    /// The image that it runs in, where the service is a container; without one, the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// After how long that is given up.
    pub timeout_ms: u64,
    /// What is replaced.
    pub rules: ServiceSync,
    /// The release whose rules these are: data as they are now are copied while it alone serves. A worker of before says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
}

/// Take a copy away; one that is being made is ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DropCopy {
    /// As in [`MakeCopy`].
    pub epoch: Epoch,
}

/// A copy of a service's data without what is personal in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCopy {
    /// The rollout that it is for.
    pub id: RolloutId,
    /// What has become of it.
    #[serde(flatten)]
    pub state: CopyState,
}

/// What has become of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum CopyState {
    /// It is being made.
    Making,
    /// It can be fetched.
    Ready {
        /// Its size.
        bytes: u64,
        /// The digest of its bytes.
        sha256: Digest,
        /// What was replaced.
        counts: Vec<SyncCount>,
    },
    /// It could not be made, and nothing is left of it.
    Failed {
        /// Why; nothing of the data stands in it.
        reason: String,
        /// The last lines that the command wrote to standard error, without what looks like a secret.
        said: Vec<String>,
        /// Whether the host was ended meanwhile: another try may fare better.
        cut_short: bool,
    },
}

/// How often something was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncCount {
    /// By what: the rule, or the column.
    pub what: String,
    /// Values, or rows.
    pub count: u64,
}

/// A piece of a copy.
#[derive(Clone, Serialize, Deserialize)]
pub struct CopyPiece {
    /// Its bytes, in base64; fewer than [`PIECE_BYTES`] at the end alone.
    pub bytes: String,
}

/// A backup of a service is to come from elsewhere, in pieces. It counts as being taken until it is whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImportBackup {
    /// The right to.
    pub fence: Fence,
    /// Its name; asking again with the same name changes nothing.
    pub id: BackupId,
    /// The environment that the data are from.
    pub from: String,
    /// The release that they are of.
    pub release: ReleaseId,
    /// The commit of that.
    pub commit: CommitSha,
    /// How many bytes come.
    pub bytes: u64,
    /// Their digest.
    pub sha256: Digest,
    /// After how long it is given up.
    pub timeout_ms: u64,
    /// Which backups of the service stay once this one is kept.
    pub keep: BackupKeep,
    /// One that stays whatever that says: what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<BackupId>,
    /// What it is for, in words.
    pub why: String,
}

/// The next piece of a backup that comes.
#[derive(Clone, Serialize, Deserialize)]
pub struct BackupPiece {
    /// The right to.
    pub fence: Fence,
    /// Where it begins.
    pub at: u64,
    /// Its bytes, in base64.
    pub bytes: String,
}

/// How far a backup has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Bytes that are there: where the next piece begins.
    pub bytes: u64,
}

/// Ask for the data of a service in another environment.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Where they come from.
    pub from: String,
    /// Where they go to.
    pub to: String,
    /// Whose they are.
    pub service: String,
    /// `fresh`, `latest` or a backup's name; left out: `fresh`.
    #[serde(default)]
    pub data: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who asks.
    #[serde(default)]
    pub by: Option<String>,
}

/// A step asks for the same: to the environment of its job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepSync {
    /// The job's right.
    pub epoch: Epoch,
    /// The step.
    pub step: usize,
    /// Where they come from.
    pub from: String,
    /// Whose they are.
    pub service: String,
    /// Which.
    pub data: SyncFrom,
}
