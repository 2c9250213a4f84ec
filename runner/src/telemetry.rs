//! What is counted: `/metrics` in the OpenMetrics text format. Labels are from closed sets; nothing that a sender chooses
//! becomes one.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use segue_schemas::status::JobStatus;

use crate::store::Figures;

/// Upper ends of the buckets, in seconds: from a warm plan to a first clone.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// The counters of one server.
pub struct Metrics {
    registry: Registry,
    deliveries: Family<DeliveryLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    planning_seconds: Histogram,
    notifications: Family<ResultLabels, Counter>,
    deliveries_waiting: Gauge,
    jobs: Family<JobLabels, Gauge>,
    rollouts_open: Gauge,
    workers: Gauge,
    oldest_queued_seconds: Gauge<f64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    event: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    api: Api,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    status: &'static str,
}

/// Which part of the API a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// People's.
    Public,
    /// The workers'.
    Worker,
    /// That of hosts on other machines.
    Host,
}

impl EncodeLabelValue for Api {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        let word = match self {
            Self::Public => "public",
            Self::Worker => "worker",
            Self::Host => "host",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("segue"),
            deliveries: Family::default(),
            requests: Family::default(),
            planning_seconds: Histogram::new(SECONDS),
            notifications: Family::default(),
            deliveries_waiting: Gauge::default(),
            jobs: Family::default(),
            rollouts_open: Gauge::default(),
            workers: Gauge::default(),
            oldest_queued_seconds: Gauge::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("deliveries", "Webhook deliveries by the answer that they got", self.deliveries.clone());
        registry.register("requests", "Requests by the answer that they got", self.requests.clone());
        let help = "From taking a delivery up to its runs being stored";
        registry.register("planning_seconds", help, self.planning_seconds.clone());
        registry.register("notifications", "Messages by what became of them", self.notifications.clone());
        let help = "Deliveries that wait for the planner";
        registry.register("deliveries_waiting", help, self.deliveries_waiting.clone());
        registry.register("jobs", "Jobs that have not ended, by status", self.jobs.clone());
        registry.register("rollouts_open", "Rollouts that have not ended", self.rollouts_open.clone());
        registry.register("workers", "Workers that were heard within two leases", self.workers.clone());
        let help = "How long the oldest claimable job has waited";
        registry.register("oldest_queued_seconds", help, self.oldest_queued_seconds.clone());
        self
    }

    /// A webhook was answered.
    pub fn webhook(&self, event: Option<&str>, status: StatusCode) {
        let event = match event {
            Some("push") => "push",
            Some("pull_request") => "pull_request",
            Some("ping") => "ping",
            _ => "other",
        };
        self.deliveries.get_or_create(&DeliveryLabels { event, status: status.as_u16() }).inc();
    }

    /// A request was answered.
    pub fn request(&self, api: Api, status: StatusCode) {
        self.requests.get_or_create(&RequestLabels { api, status: status.as_u16() }).inc();
    }

    /// A delivery was planned.
    pub fn planned(&self, took: Duration) {
        self.planning_seconds.observe(took.as_secs_f64());
    }

    /// A message was sent, or was not.
    pub fn notification(&self, is_sent: bool) {
        let result = if is_sent { "sent" } else { "failed" };
        self.notifications.get_or_create(&ResultLabels { result }).inc();
    }

    /// Everything as text, with the numbers of the store as they are now.
    ///
    /// # Errors
    /// Only if a label can't be written.
    pub fn encode(&self, figures: &Figures, oldest_queued: Duration) -> Result<String, fmt::Error> {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.deliveries_waiting.set(gauge(figures.deliveries_waiting));
        self.rollouts_open.set(gauge(figures.rollouts_open));
        self.workers.set(gauge(figures.workers));
        self.oldest_queued_seconds.set(oldest_queued.as_secs_f64());
        for status in JobStatus::ALL.iter().filter(|status| !status.is_final()) {
            let of_status = figures.jobs.iter().find(|(s, _)| s == status).map_or(0, |(_, n)| *n);
            self.jobs.get_or_create(&JobLabels { status: status.as_str() }).set(gauge(of_status));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_was_counted_and_only_known_labels() {
        let metrics = Metrics::default();
        metrics.webhook(Some("push"), StatusCode::ACCEPTED);
        metrics.webhook(Some("x\"y\n"), StatusCode::UNAUTHORIZED);
        metrics.request(Api::Worker, StatusCode::OK);
        metrics.planned(Duration::from_millis(3));
        let figures = Figures { jobs: vec![(JobStatus::Queued, 3)], ..Figures::default() };
        let text = metrics.encode(&figures, Duration::from_secs(5)).unwrap();
        for line in [
            "segue_deliveries_total{event=\"push\",status=\"202\"} 1",
            "segue_deliveries_total{event=\"other\",status=\"401\"} 1",
            "segue_requests_total{api=\"worker\",status=\"200\"} 1",
            "segue_planning_seconds_bucket{le=\"0.005\"} 1",
            "segue_jobs{status=\"queued\"} 3",
            "segue_jobs{status=\"running\"} 0",
            "segue_oldest_queued_seconds 5.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
