//! The statements of each table: rows in, rows out, no decision. An entity that has a state is loaded, changed through
//! its transition, and saved whole.

pub(crate) mod blobs;
pub(crate) mod caches;
pub(crate) mod deliveries;
pub(crate) mod gpus;
pub(crate) mod hosts;
pub(crate) mod jobs;
pub(crate) mod machines;
pub(crate) mod previews;
pub(crate) mod releases;
pub(crate) mod rollouts;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod slots;
pub(crate) mod snapshots;
