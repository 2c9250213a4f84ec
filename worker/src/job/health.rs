//! `segue/health-check`: asks an address, or what serves in the job's environment, until it answers as it should.

use std::time::Duration;

use indexmap::IndexMap;
use reqwest::{Client, Url, redirect::Policy};
use segue_schemas::{duration::Span, worker_api::Serving};
use tokio::time::sleep;

use super::{
    built_in::{BuiltIn, BuiltInEnd, Inputs},
    error::StepError,
};

pub const HEALTH_CHECK: &str = "segue/health-check";

const DEFAULT_TRIES: u32 = 10;
const MAX_TRIES: u32 = 1_000;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(3);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

impl BuiltIn<'_> {
    pub(super) async fn health_check(&mut self, with: &IndexMap<String, String>) -> Result<BuiltInEnd, StepError> {
        let known = ["url", "service", "path", "tries", "interval", "timeout", "status"];
        let inputs = Inputs::of(HEALTH_CHECK, with, &known)?;
        let wrong = |input: &str, problem: String| {
            StepError::Configuration(format!("input `{input}` of `{HEALTH_CHECK}`: {problem}"))
        };
        let span = |input: &str, default: Duration| {
            inputs
                .get(input)
                .map_or(Ok(default), |text| text.parse::<Span>().map(|span| span.0).map_err(|e| wrong(input, e)))
        };
        let number = |input: &str| {
            let parsed =
                |text: &str| text.parse::<u32>().map_err(|_| wrong(input, format!("`{text}` is no whole number")));
            inputs.get(input).map(parsed).transpose()
        };
        let tries = number("tries")?.unwrap_or(DEFAULT_TRIES).clamp(1, MAX_TRIES);
        let (interval, timeout) = (span("interval", DEFAULT_INTERVAL)?, span("timeout", DEFAULT_TIMEOUT)?);
        let status = number("status")?;
        let (url, host) = match (inputs.get("url"), inputs.get("service")) {
            (Some(url), None) => (url.to_owned(), None),
            (None, Some(service)) => {
                let (url, host) = self.address(service, inputs.get("path")).await?;
                (url, Some(host))
            }
            _ => return Err(StepError::Configuration(format!("`{HEALTH_CHECK}` needs either `url` or `service`"))),
        };
        let url = Url::parse(&url).map_err(|error| wrong("url", format!("`{url}` is no address: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("url", format!("`{url}` is neither `http` nor `https`")));
        }
        let client = Client::builder().timeout(timeout).redirect(Policy::none()).build();
        let client = client.map_err(|error| StepError::Infrastructure(error.to_string()))?;
        let mut last = String::new();
        for tried in 1..=tries {
            last = match ask(&client, &url, host.as_deref()).await {
                Ok(found) if status.map_or((200..400).contains(&found), |wanted| u32::from(found) == wanted) => {
                    self.log.line(format!("{url} answered {found} at try {tried}")).await;
                    let outputs = [("status", found.to_string()), ("tries", tried.to_string())];
                    return Ok(BuiltInEnd::Done(outputs.map(|(name, value)| (name.to_owned(), value)).into()));
                }
                Ok(found) => format!("it answered {found}"),
                Err(reason) => reason,
            };
            self.log.line(format!("Try {tried} of {tries}: {last}")).await;
            if tried < tries {
                sleep(interval).await;
            }
        }
        Ok(BuiltInEnd::Refused(format!("{url} is not healthy after {tries} tries: {last}")))
    }

    /// The address of a service's health, at the proxy of the job's environment, and the host to ask for.
    async fn address(&self, service: &str, path: Option<&str>) -> Result<(String, String), StepError> {
        let Some(environment) = &self.claim.plan.environment else {
            let text = format!("`{HEALTH_CHECK}` with `service` needs to know where: give the job an `environment`");
            return Err(StepError::Configuration(text));
        };
        let Some(serving) = self.control_plane.serving(self.claim.job, environment, service).await? else {
            return Err(StepError::Configuration(format!("nothing of `{service}` serves in `{environment}`")));
        };
        address(&serving, environment, path).ok_or_else(|| {
            StepError::Configuration(format!("nothing says where the proxy of `{environment}` listens; give the `url`"))
        })
    }
}

fn address(serving: &Serving, environment: &str, path: Option<&str>) -> Option<(String, String)> {
    // A proxy that listens on every address of the machine is reached by the loopback.
    let listen = serving.listen.first()?.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
    let path = path.unwrap_or(&serving.service.health.path);
    let here = |name: &Option<String>| name.as_deref().is_none_or(|name| name == environment);
    let mut routes = serving.service.routes.iter().filter(|route| here(&route.environment));
    let routed = routes.find_map(|route| route.host.clone());
    let host = routed.unwrap_or_else(|| format!("{}.{environment}.localhost", serving.service.name));
    Some((format!("http://{listen}/{}", path.trim_start_matches('/')), host))
}

async fn ask(client: &Client, url: &Url, host: Option<&str>) -> Result<u16, String> {
    let mut request = client.get(url.clone());
    if let Some(host) = host {
        request = request.header(reqwest::header::HOST, host);
    }
    match request.send().await {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) if error.is_timeout() => Err("it did not answer in time".into()),
        Err(error) if error.is_connect() => Err("it can't be reached".into()),
        Err(error) => Err(error.without_url().to_string()),
    }
}
