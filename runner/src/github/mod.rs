//! The way to GitHub: as an App or with a token, over its REST API, within its limits.
//!
//! Comes in: the configuration, and what others want to ask or say. Goes out: requests, each with a token that may do just this,
//! and answers; what went wrong as one of a few kinds, of which each says what to do. Never here: what a run or a job should look
//! like there (`segue_pipelines::checks` says that), or when to try again (the callers keep what they have to say in the store).

mod account;
mod answer;
mod app;
mod budget;
mod client;
mod commenter;
mod deployer;
mod error;
mod heads;
mod pages;
mod people;
mod presser;
mod previewer;
mod reconciler;
mod settle;
mod sweeper;
mod teller;
mod tokens;
mod transport;

pub use answer::Answer;
pub use budget::{Budget, Urgency};
pub use client::{GitHub, Speaker};
pub use error::GitHubError;
pub use reconciler::Reconciler;
pub use sweeper::Sweeper;
pub use teller::Teller;
pub use tokens::Purpose;
