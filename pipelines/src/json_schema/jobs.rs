//! `jobs.<id>`.

use serde_json::{Value, json};

use super::{
    settings,
    shapes::{
        Key, boolean, definition, described, expression, key, minutes, reference, setting, some_text, text, texts,
        variables,
    },
};

pub(super) fn definitions() -> Vec<(&'static str, Value)> {
    let run = vec![
        key("shell", "The shell of `run` steps.", some_text()),
        key("working-directory", "Where `run` steps run, from the workspace's root.", some_text()),
    ];
    let environment = vec![
        key("name", "Its name; a template.", some_text()),
        key("url", "Where what it deploys can be seen; a template over its steps.", text()),
    ];
    vec![
        definition("job", "jobs.<id>", described("A job.", job(), &[])),
        definition(
            "environment",
            "jobs.<id>.environment",
            described("The environment that the job changes.", environment, &["name"]),
        ),
        definition(
            "defaults",
            "defaults",
            described("Defaults of steps.", vec![key("run", "Of steps with `run`.", reference("defaults-run"))], &[]),
        ),
        definition("defaults-run", "defaults.run", described("Defaults of steps with `run`.", run, &[])),
    ]
}

fn job() -> Vec<Key> {
    vec![
        key("name", "The name that is shown; the key, where it is left out.", text()),
        key("needs", "The jobs that must have ended before it starts.", texts()),
        key("if", "An expression; the job is skipped where it does not hold.", text()),
        key("runs-on", "Labels that the worker must have.", json!({ "anyOf": [texts(), reference("runs-on")] })),
        key("strategy", "Once for each combination of values.", reference("strategy")),
        key(
            "environment",
            "The environment that it changes: its protection is asked before the job starts.",
            json!({ "anyOf": [some_text(), reference("environment")] }),
        ),
        key(
            "idempotent",
            "Whether it may be run again after its worker was lost, although it has an environment.",
            boolean(),
        ),
        key(
            "snapshots",
            "Whether what its directories hold before each step is kept, for reruns from a step, even where it is large.",
            boolean(),
        ),
        key(
            "timeout-minutes",
            "How long it may run; 360 where it is left out.",
            json!({ "anyOf": [minutes(), expression()] }),
        ),
        key("continue-on-error", "Whether its failure is none of the run.", setting()),
        key("concurrency", "Of all that name the same group, one is at work.", settings::concurrency()),
        key("retry", "How often it is begun again after a failure.", settings::retry()),
        key("container", "The container that its steps run in.", settings::container()),
        key("services", "Containers beside it, by name.", settings::services()),
        key("resources", "What of the machine it has to itself.", reference("job-resources")),
        key("permissions", "What the repository's token may be used for, by scope.", settings::permissions()),
        key("env", "Environment variables of its steps.", variables()),
        key("defaults", "What its steps do unless they say otherwise.", reference("defaults")),
        key("outputs", "What jobs that need it see as `needs.<id>.outputs`.", variables_of_any_name()),
        key("uses", "The pipeline that it calls, `./.segue/pipelines/NAME.yml`, in the place of steps.", some_text()),
        key("with", "What the called pipeline is given.", variables_of_any_name()),
        key(
            "secrets",
            "The secrets that the called pipeline is given.",
            json!({ "anyOf": [{ "const": "inherit" }, { "type": ["object", "null"], "additionalProperties": { "type": "string" } }] }),
        ),
        key(
            "steps",
            "Its steps, in order.",
            json!({ "type": "array", "items": reference("step"), "minItems": 1, "maxItems": 1000 }),
        ),
    ]
}

fn variables_of_any_name() -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "number", "boolean", "null"] } })
}
