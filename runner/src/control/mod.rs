//! The control plane's operations: each is one transaction of the [`Store`](crate::store::Store), and a method of it.
//!
//! Comes in: what the webhook, the planner, workers and people ask for. What follows from it is decided by
//! `segue_pipelines::progress`, purely; what it decides is performed here and nowhere else, in the same transaction.
//! Goes out: claims, records, bells. Never here: HTTP, files of pipelines, processes.
//!
//! `intake` takes deliveries and plans; `claim` hands work out, the best by `order`, behind `gates` and `concurrency`; `report` and `logs` take what
//! workers say; `provenance` says where images are from; `contents` are what artifacts and caches hold, `caches` and `of_steps` do what steps ask for;
//! `advance` performs what progress decides, `retry` begins again; `rollouts` and `rollback` keep what deploys, `previews` which copies open pull requests have, `pulls` what GitHub says of those when it is asked, `heads` the pushes that nobody told of, and `resume` goes
//! on after it;
//! `snapshots` keeps what jobs' directories held, and says where a rerun begins;
//! `joined` says which machines are hosts and what opens them, `told` reads what they carry, `silent` knows who does not answer; `absent` records what a host carries that had been away, `in_step` brings one of several hosts to what the others serve, `carried` compares what it carries of previews; `schedules` makes deliveries of times that have come;
//! `backups` has data of services brought back, and `sync` from one environment to another; `machines` knows what runs rent, which `crate::lambda` asks the cloud for;
//! `people` cancels, reruns and approves, `asked` and `commented` do what they ask on GitHub; `workers` registers, `tokens` says who may speak as one; `reaper` looks after what was lost.

mod absent;
mod advance;
mod asked;
mod backups;
mod caches;
mod carried;
mod claim;
mod commented;
mod concurrency;
pub(crate) mod contents;
mod contexts;
pub(crate) mod gates;
mod heads;
mod in_step;
mod intake;
pub(crate) mod joined;
mod logs;
mod machines;
mod of_steps;
mod order;
mod people;
mod previews;
mod provenance;
mod pulls;
mod reaper;
mod report;
mod resume;
mod retry;
mod rollback;
mod rollouts;
mod schedules;
mod silent;
mod snapshots;
pub(crate) mod sync;
pub(crate) mod tokens;
mod told;
mod tries;
mod workers;

pub use carried::Carried;
pub use commented::PullHead;
pub use in_step::Lack;
pub use joined::Invited;
pub use machines::{Basis, Keeping, KeptMachines, MachineChange, change_of};
pub use of_steps::MAX_SUMMARY_BYTES;
pub use reaper::{APPROVAL_LIMIT, QUEUE_LIMIT, ROLLOUT_QUEUE_LIMIT};
pub use told::{serving, whole};
pub use workers::{Kept, MAX_LOG_CHUNK};
