//! Keys of jobs, some of them of pipelines too, that are small mappings: strategy, concurrency, retry, containers.

use segue_schemas::gpu::MAX_GPUS;
use serde_json::{Value, json};

use super::shapes::{
    definition, described, expression, key, one_of, reference, setting, some_text, text, texts, variables, whole_number,
};

pub(super) fn definitions() -> Vec<(&'static str, Value)> {
    let strategy = vec![
        key("matrix", "Variables and their values; the job runs once for each combination.", matrix()),
        key(
            "fail-fast",
            "Whether the first combination that fails ends the others; true where it is left out.",
            setting(),
        ),
        key("max-parallel", "How many combinations may be at work at a time.", whole_number()),
    ];
    let runs_on =
        vec![key("group", "One more label.", texts()), key("labels", "Labels that the worker must have.", texts())];
    let concurrency = vec![
        key("group", "The group's name, without regard to case.", some_text()),
        key("cancel-in-progress", "Whether what is older in the group is cancelled.", setting()),
    ];
    let classes = ["failure", "timeout", "worker-lost", "infrastructure", "rollout"];
    let retry = vec![
        key("max", "How often it is begun again, at most.", json!({ "type": "integer", "minimum": 1, "maximum": 10 })),
        key(
            "on",
            "After which kinds of failure.",
            json!({ "anyOf": [one_of(&classes), { "type": "array", "items": one_of(&classes) }] }),
        ),
        key("backoff", "How long before the first time; doubled each time.", json!({ "type": ["integer", "string"] })),
    ];
    let container = vec![
        key("image", "The image; a template.", some_text()),
        key("env", "Environment variables.", variables()),
        key("ports", "Published ports: `80`, `8080:80`, `8080:80/udp`.", texts()),
        key("volumes", "Volumes, `NAME:/path` or `/path`; never a path of the host.", texts()),
        key("options", "Options of the engine that stay within the container.", some_text()),
        key("credentials", "For the registry.", reference("credentials")),
        key("resources", "Limits.", reference("resources")),
    ];
    let credentials = vec![
        key("username", "A template.", some_text()),
        key("password", "A template that names a secret.", expression()),
    ];
    let resources = vec![
        key("cpus", "Processors.", json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1024 })),
        key("memory", "A size: `512MiB`, `2g`.", text()),
    ];
    let job_resources = vec![key("gpus", "GPUs: how many, or what each must have.", gpus())];
    let gpu = vec![
        key("count", "How many; 1 where it is left out.", gpu_count()),
        key("memory", "The least memory of each: `40GiB`, `24GB`.", some_text()),
    ];
    let place = "jobs.<id>.container";
    vec![
        definition("strategy", "jobs.<id>.strategy", described("How the job is multiplied.", strategy, &["matrix"])),
        definition("runs-on", "jobs.<id>.runs-on", described("What the worker must have.", runs_on, &[])),
        definition("concurrency", "concurrency", described("A concurrency group.", concurrency, &["group"])),
        definition("retry", "jobs.<id>.retry", described("When the job is begun again.", retry, &["max"])),
        definition("container", place, described("A container.", container, &["image"])),
        definition(
            "credentials",
            "jobs.<id>.container.credentials",
            described("Who asks the registry.", credentials, &["username", "password"]),
        ),
        definition(
            "job-resources",
            "jobs.<id>.resources",
            described("What of the machine the job has to itself.", job_resources, &["gpus"]),
        ),
        definition("gpus", "jobs.<id>.resources.gpus", described("What each GPU must have.", gpu, &[])),
        definition(
            "resources",
            "jobs.<id>.container.resources",
            described("What the container may use.", resources, &[]),
        ),
    ]
}

fn gpus() -> Value {
    json!({ "anyOf": [gpu_count(), reference("gpus")] })
}

fn gpu_count() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": MAX_GPUS })
}

pub(super) fn concurrency() -> Value {
    json!({ "anyOf": [some_text(), reference("concurrency")] })
}

pub(super) fn retry() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 10 }, reference("retry")] })
}

pub(super) fn container() -> Value {
    json!({ "anyOf": [text(), { "type": "null" }, reference("container")] })
}

pub(super) fn services() -> Value {
    json!({ "type": ["object", "null"], "maxProperties": 16, "additionalProperties": container() })
}

pub(super) fn permissions() -> Value {
    let any = || one_of(&["read", "write", "none"]);
    let scopes = crate::pipeline::SCOPES.iter().map(|scope| {
        let levels = match *scope {
            "id-token" => one_of(&["write", "none"]),
            "models" => one_of(&["read", "none"]),
            _ => any(),
        };
        ((*scope).to_owned(), levels)
    });
    let scopes: serde_json::Map<String, Value> = scopes.collect();
    json!({
        "anyOf": [
            one_of(&["read-all", "write-all"]),
            { "type": "object", "additionalProperties": false, "properties": scopes },
        ],
    })
}

/// A mapping from variables to lists, or an expression that says it.
fn matrix() -> Value {
    let entries =
        json!({ "anyOf": [{ "type": "array", "items": { "type": "object" } }, expression(), { "type": "null" }] });
    json!({
        "anyOf": [expression(), {
            "type": "object",
            "properties": { "include": entries, "exclude": entries },
            "additionalProperties": { "anyOf": [{ "type": "array" }, expression()] },
        }],
    })
}
