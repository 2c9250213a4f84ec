//! What `with:` of `segue/deploy`, `segue/canary` and `segue/promote` says, checked before anything is done.

use std::str::FromStr;

use indexmap::IndexMap;
use segue_pipelines::strategies;
use segue_schemas::{
    deploy::{CanarySpec, JudgeSpec, Strategy},
    duration::Span,
    id::{ReleaseId, is_name},
    strategy::{BlueGreenSpec, RollingSpec},
};

/// The action that swaps a release in at once.
pub const DEPLOY: &str = "segue/deploy";

/// The action that gives a pull request a copy of its own.
pub const PREVIEW: &str = segue_pipelines::preview::ACTION;

/// The action that lets a release in by stages.
pub const CANARY: &str = "segue/canary";

/// The action that brings what serves in one environment to another.
pub const PROMOTE: &str = "segue/promote";

const COMMON_INPUTS: &[&str] = &["service", "artifact", "path", "image"];
const PREVIEW_INPUTS: &[&str] = &["service", "artifact", "path", "image", "seed"];
const PROMOTE_INPUTS: &[&str] = &["service", "from", "release"];
const STRATEGY_INPUTS: &[&str] = &[strategies::INPUT, "batch", "pause", "hold", "soak"];
const STAGE_INPUTS: &[&str] = &["stages", "stage-duration"];
const WATCH_INPUTS: &[&str] = &strategies::WATCHED;

/// What is wrong with an input; the text names the input, what is wrong and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// An input that must be there is not.
    #[error("`{action}` needs `with: {input}`: {remedy}")]
    Missing {
        /// The action.
        action: String,
        /// The input.
        input: &'static str,
        /// What to write.
        remedy: &'static str,
    },
    /// An input that the action does not know.
    #[error("`{action}` has no input `{input}`; it has {known}")]
    Unknown {
        /// The action.
        action: String,
        /// What was written.
        input: String,
        /// What could have been.
        known: String,
    },
    /// A value that can't be used.
    #[error("input `{input}` of `{action}`: {problem}")]
    Invalid {
        /// The action.
        action: String,
        /// The input.
        input: &'static str,
        /// What is wrong with it, and what to write.
        problem: String,
    },
}

/// What is rolled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An artifact that the run has, by name.
    Artifact(String),
    /// A directory of the workspace, from its root.
    Path(String),
    /// An image, by its digest or by a name that means one now.
    Image(String),
    /// What serves in this environment.
    Serving(String),
}

/// The inputs of a deploy step, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// The service.
    pub service: String,
    /// What is rolled out.
    pub source: Source,
    /// How.
    pub strategy: Strategy,
    /// Of [`PROMOTE`] alone: the release that is to serve there, else nothing is promoted.
    pub release: Option<ReleaseId>,
    /// Of [`PREVIEW`] alone: the shell command that fills the preview's data folder when it is first made.
    pub seed: Option<String>,
}

impl Inputs {
    /// Reads the evaluated inputs of a step that uses `action`, [`DEPLOY`], [`CANARY`] or [`PROMOTE`]. An empty value counts as left
    /// out, so that an optional input may come from an expression.
    ///
    /// # Errors
    /// The first [`InputError`], in the order in which the inputs are documented.
    pub fn parse(action: &str, with: &IndexMap<String, String>) -> Result<Self, InputError> {
        let given = Given { action, with };
        let is_promote = action == PROMOTE;
        let known: &[&[&'static str]] = match action {
            PROMOTE => &[PROMOTE_INPUTS, STRATEGY_INPUTS, STAGE_INPUTS, WATCH_INPUTS],
            PREVIEW => &[PREVIEW_INPUTS],
            CANARY => &[COMMON_INPUTS, STAGE_INPUTS, WATCH_INPUTS],
            _ => &[COMMON_INPUTS, STRATEGY_INPUTS, WATCH_INPUTS],
        };
        given.only_known(known)?;
        let service = given.text("service").ok_or_else(|| given.missing("service", SERVICE_REMEDY))?;
        if !is_name(service) {
            return Err(given.invalid("service", format!("`{service}` is not a service's name; {SERVICE_REMEDY}")));
        }
        Ok(Self {
            service: service.into(),
            source: if is_promote { given.serving()? } else { given.source()? },
            strategy: given.strategy()?,
            release: given.release()?,
            seed: given.text("seed").map(str::to_owned),
        })
    }
}

const SERVICE_REMEDY: &str = "name the service, as its file `.segue/services/<service>.yml` does";
const SOURCE_REMEDY: &str = "name an artifact of this run (`artifact: app`, made by `segue/upload-artifact`), a directory (`path: dist`), or an \
     image (`image: ${{ needs.build.outputs.image }}`, made by `segue/build-image`)";

struct Given<'a> {
    action: &'a str,
    with: &'a IndexMap<String, String>,
}

impl Given<'_> {
    fn only_known(&self, known: &[&[&'static str]]) -> Result<(), InputError> {
        let known = || known.iter().copied().flatten().copied();
        match self.with.keys().find(|key| !known().any(|known| known == key.as_str())) {
            None => Ok(()),
            Some(input) => Err(InputError::Unknown {
                action: self.action.into(),
                input: input.clone(),
                known: known().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn serving(&self) -> Result<Source, InputError> {
        const REMEDY: &str = "name the environment where the release serves, such as `from: staging`";
        let from = self.text("from").ok_or_else(|| self.missing("from", REMEDY))?;
        if !is_name(from) {
            return Err(self.invalid("from", format!("`{from}` is not an environment's name; {REMEDY}")));
        }
        Ok(Source::Serving(from.into()))
    }

    fn release(&self) -> Result<Option<ReleaseId>, InputError> {
        let parsed = self.text("release").map(str::parse).transpose();
        parsed.map_err(|error: segue_schemas::id::InvalidId| self.invalid("release", error.to_string()))
    }

    fn source(&self) -> Result<Source, InputError> {
        let given =
            [("artifact", Source::Artifact as fn(String) -> Source), ("path", Source::Path), ("image", Source::Image)];
        let mut given = given.into_iter().filter_map(|(key, source)| Some((key, source(self.text(key)?.into()))));
        match (given.next(), given.next()) {
            (None, _) => Err(self.missing("artifact", SOURCE_REMEDY)),
            (Some((_, source)), None) => Ok(source),
            (Some((first, _)), Some((second, _))) => {
                Err(self.invalid(second, format!("`{first}` is given as well; leave one of the two out")))
            }
        }
    }

    fn strategy(&self) -> Result<Strategy, InputError> {
        if self.action == CANARY {
            return self.canary().map(Strategy::Canary);
        }
        let named = self.text(strategies::INPUT);
        if let Some((input, problem)) = strategies::misplaced(self.action, named, |input| self.text(input).is_some()) {
            return Err(self.invalid(input, problem));
        }
        match named {
            None if self.action == PROMOTE && self.text("stages").is_some() => self.canary().map(Strategy::Canary),
            None | Some(strategies::HOT_SWAP) => Ok(Strategy::HotSwap),
            Some(strategies::ROLLING) => self.rolling().map(Strategy::Rolling),
            Some(strategies::BLUE_GREEN) => self.blue_green().map(Strategy::BlueGreen),
            Some(other) => {
                let names = strategies::NAMES.map(|name| format!("`{name}`")).join(", ");
                Err(self.invalid(strategies::INPUT, format!("there is no `{other}`; write one of {names}")))
            }
        }
    }

    fn rolling(&self) -> Result<RollingSpec, InputError> {
        let default = RollingSpec::default();
        let batch = self.text("batch").map(str::parse).transpose();
        Ok(RollingSpec {
            batch: batch.map_err(|problem| self.invalid("batch", problem))?.unwrap_or(default.batch),
            pause: self.span("pause")?.unwrap_or(default.pause),
            hold_limit: self.span("hold-limit")?.unwrap_or(default.hold_limit),
            judge: self.judge(default.judge)?,
        })
    }

    fn blue_green(&self) -> Result<BlueGreenSpec, InputError> {
        let default = BlueGreenSpec::default();
        let hold = match self.text("hold") {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(self.invalid("hold", format!("`{other}` is neither `true` nor `false`"))),
        };
        Ok(BlueGreenSpec {
            hold,
            hold_limit: self.span("hold-limit")?.unwrap_or(default.hold_limit),
            soak: self.span("soak")?.unwrap_or(default.soak),
            judge: self.judge(default.judge)?,
        })
    }

    fn canary(&self) -> Result<CanarySpec, InputError> {
        let default = CanarySpec::default();
        Ok(CanarySpec {
            stages: self.stages()?.unwrap_or(default.stages),
            stage_duration: self.span("stage-duration")?.unwrap_or(default.stage_duration),
            hold_limit: self.span("hold-limit")?.unwrap_or(default.hold_limit),
            judge: self.judge(default.judge)?,
        })
    }

    fn judge(&self, default: JudgeSpec) -> Result<JudgeSpec, InputError> {
        let min_requests = self.number::<u64>("min-requests", "a whole number of requests, such as `50`")?;
        let latency_ratio = self.number::<f64>("latency-ratio", "a factor of at least 1, such as `1.25`")?;
        if let Some(ratio) = latency_ratio
            && !(ratio.is_finite() && ratio >= 1.0)
        {
            return Err(
                self.invalid("latency-ratio", format!("`{ratio}` is not a factor of at least 1, such as `1.25`"))
            );
        }
        Ok(JudgeSpec {
            min_requests: min_requests.unwrap_or(default.min_requests),
            false_alarm: self.rate("false-alarm", 1e-9)?.unwrap_or(default.false_alarm),
            error_margin: self.rate("error-margin", 0.0)?.unwrap_or(default.error_margin),
            latency_ratio: latency_ratio.unwrap_or(default.latency_ratio),
            latency_floor: self.span("latency-floor")?.unwrap_or(default.latency_floor),
            max_error_rate: self.rate("max-error-rate", 0.0)?,
            max_p95: self.span("max-p95")?,
        })
    }

    fn stages(&self) -> Result<Option<Vec<u8>>, InputError> {
        let Some(text) = self.text("stages") else { return Ok(None) };
        let remedy = "write rising percentages that end with 100, such as `10,50,100`";
        let wrong = |problem: String| self.invalid("stages", format!("{problem}; {remedy}"));
        let percentage = |part: &str| match part.trim().trim_end_matches('%').trim_end().parse::<u8>() {
            Ok(percent) if (1..=100).contains(&percent) => Ok(percent),
            _ => Err(wrong(format!("`{}` is not a percentage from 1 to 100", part.trim()))),
        };
        let stages = text.split(',').map(percentage).collect::<Result<Vec<u8>, _>>()?;
        if let Some(pair) = stages.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(wrong(format!("{} does not rise to {}", pair[0], pair[1])));
        }
        match stages.last() {
            Some(100) => Ok(Some(stages)),
            last => Err(wrong(format!("the last stage is {}", last.copied().unwrap_or_default()))),
        }
    }

    fn span(&self, input: &'static str) -> Result<Option<Span>, InputError> {
        let Some(text) = self.text(input) else { return Ok(None) };
        match text.parse::<Span>() {
            Ok(span) if !span.0.is_zero() => Ok(Some(span)),
            Ok(_) => Err(self.invalid(input, "it is zero; write a duration, such as `15m`".into())),
            Err(problem) => Err(self.invalid(input, problem)),
        }
    }

    /// A share from `least` to below 1, as a number or with a percent sign.
    fn rate(&self, input: &'static str, least: f64) -> Result<Option<f64>, InputError> {
        let Some(text) = self.text(input) else { return Ok(None) };
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse::<f64>(),
        };
        match parsed {
            Ok(rate) if rate >= least && rate < 1.0 => Ok(Some(rate)),
            _ => Err(self.invalid(
                input,
                format!("`{text}` is not a share between 0 and 1; write it as a number or in percent: `0.01`, `1%`"),
            )),
        }
    }

    fn number<N: FromStr>(&self, input: &'static str, expected: &str) -> Result<Option<N>, InputError> {
        let Some(text) = self.text(input) else { return Ok(None) };
        match text.parse::<N>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.invalid(input, format!("`{text}` is not {expected}"))),
        }
    }

    fn text(&self, input: &str) -> Option<&str> {
        self.with.get(input).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn missing(&self, input: &'static str, remedy: &'static str) -> InputError {
        InputError::Missing { action: self.action.into(), input, remedy }
    }

    fn invalid(&self, input: &'static str, problem: String) -> InputError {
        InputError::Invalid { action: self.action.into(), input, problem }
    }
}

#[cfg(test)]
mod tests {
    use segue_schemas::strategy::Batch;

    use super::*;

    fn parse(action: &str, pairs: &[(&str, &str)]) -> Result<Inputs, String> {
        let with = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Inputs::parse(action, &with).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_error(action: &str, pairs: &[(&str, &str)], expected: &str) {
        let error = parse(action, pairs).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_deploy_names_its_service_and_its_artifact() {
        let inputs = parse(DEPLOY, &[("service", "web"), ("artifact", "app")]).unwrap();
        assert_eq!(inputs.service, "web");
        assert_eq!(inputs.source, Source::Artifact("app".into()));
        assert_eq!(inputs.strategy, Strategy::HotSwap);
    }

    #[test]
    fn a_promotion_names_where_the_release_serves() {
        let inputs = parse(PROMOTE, &[("service", "web"), ("from", "staging")]).unwrap();
        assert_eq!(inputs.source, Source::Serving("staging".into()));
        assert_eq!(inputs.strategy, Strategy::HotSwap);
        let pairs = [("service", "web"), ("from", "staging"), ("stages", "10,100")];
        assert!(matches!(parse(PROMOTE, &pairs).unwrap().strategy, Strategy::Canary(_)));
        check_error(PROMOTE, &[("service", "web")], "such as `from: staging`");
        check_error(PROMOTE, &[("service", "web"), ("from", "a"), ("path", "x")], "has no input `path`");
    }

    #[test]
    fn a_canary_says_its_stages_and_its_rules() {
        let pairs = [
            ("service", "web"),
            ("path", "dist"),
            ("stages", "5%, 25, 100"),
            ("stage-duration", "90s"),
            ("hold-limit", "1h"),
            ("min-requests", "20"),
            ("false-alarm", "0.1%"),
            ("error-margin", "0.02"),
            ("latency-ratio", "2"),
            ("max-error-rate", "5%"),
            ("max-p95", "300ms"),
        ];
        let inputs = parse(CANARY, &pairs).unwrap();
        assert_eq!(inputs.source, Source::Path("dist".into()));
        let Strategy::Canary(spec) = inputs.strategy else { panic!("not a canary") };
        assert_eq!(spec.stages, [5, 25, 100]);
        assert_eq!(spec.stage_duration, Span::seconds(90));
        assert_eq!(spec.hold_limit, Span::seconds(3600));
        assert_eq!(spec.judge.min_requests, 20);
        assert!((spec.judge.false_alarm - 0.001).abs() < 1e-12);
        assert_eq!(spec.judge.max_error_rate, Some(0.05));
        assert_eq!(spec.judge.max_p95, Some(Span::millis(300)));
    }

    #[test]
    fn a_deploy_may_name_its_strategy() {
        let of = |pairs: &[(&str, &str)]| {
            let all: Vec<_> = [("service", "web"), ("artifact", "app")].iter().chain(pairs).copied().collect();
            parse(DEPLOY, &all).unwrap().strategy
        };
        assert_eq!(of(&[("strategy", "hot-swap")]), Strategy::HotSwap);
        let Strategy::Rolling(spec) = of(&[("strategy", "rolling"), ("batch", "25%"), ("max-p95", "1s")]) else {
            panic!("not rolling")
        };
        assert_eq!((spec.batch, spec.pause), (Batch::Percent(25), Span::seconds(60)));
        assert_eq!((spec.judge.min_requests, spec.judge.max_p95), (0, Some(Span::seconds(1))));
        let Strategy::BlueGreen(spec) = of(&[("strategy", "blue-green"), ("hold", "true"), ("soak", "5m")]) else {
            panic!("not blue-green")
        };
        assert_eq!((spec.hold, spec.soak, spec.hold_limit), (true, Span::seconds(300), Span::seconds(86_400)));
        let pairs = [("service", "web"), ("from", "staging"), ("strategy", "rolling"), ("pause", "5s")];
        assert!(matches!(parse(PROMOTE, &pairs).unwrap().strategy, Strategy::Rolling(_)));
    }

    #[test]
    fn a_canary_without_rules_has_the_documented_ones() {
        let inputs = parse(CANARY, &[("service", "web"), ("artifact", "app"), ("stages", "")]).unwrap();
        assert_eq!(inputs.strategy, Strategy::Canary(CanarySpec::default()));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_input_and_the_remedy() {
        let web = ("service", "web");
        let app = ("artifact", "app");
        check_error(DEPLOY, &[app], "needs `with: service`");
        check_error(DEPLOY, &[("service", "../web"), app], "`../web` is not a service's name");
        check_error(DEPLOY, &[web], "name an artifact of this run");
        check_error(DEPLOY, &[web, app, ("path", "dist")], "leave one of the two out");
        check_error(DEPLOY, &[web, app, ("stages", "10,100")], "`segue/deploy` has no input `stages`");
        check_error(DEPLOY, &[web, app, ("pause", "1m")], "belongs to `strategy: rolling`");
        check_error(
            DEPLOY,
            &[web, app, ("strategy", "rolling"), ("hold", "true")],
            "belongs to `strategy: blue-green`",
        );
        check_error(DEPLOY, &[web, app, ("strategy", "rollin")], "there is no `rollin`; write one of `hot-swap`");
        check_error(DEPLOY, &[web, app, ("strategy", "rolling"), ("batch", "0")], "`0` is no number of hosts");
        check_error(DEPLOY, &[web, app, ("strategy", "blue-green"), ("hold", "1")], "neither `true` nor `false`");
        check_error(PREVIEW, &[web, app, ("strategy", "rolling")], "has no input `strategy`");
        check_error(CANARY, &[web, app, ("stages", "10,50")], "the last stage is 50; write rising percentages");
        check_error(CANARY, &[web, app, ("stages", "50,10,100")], "50 does not rise to 10");
        check_error(CANARY, &[web, app, ("stages", "0,100")], "`0` is not a percentage from 1 to 100");
        check_error(CANARY, &[web, app, ("stage-duration", "15")], "input `stage-duration`");
        check_error(CANARY, &[web, app, ("hold-limit", "0s")], "it is zero");
        check_error(CANARY, &[web, app, ("false-alarm", "0")], "`0` is not a share");
        check_error(CANARY, &[web, app, ("max-error-rate", "120%")], "`120%` is not a share");
        check_error(CANARY, &[web, app, ("latency-ratio", "0.5")], "at least 1");
        check_error(CANARY, &[web, app, ("latency-ratio", "NaN")], "at least 1");
        check_error(CANARY, &[web, app, ("min-requests", "many")], "`many` is not a whole number");
    }
}
