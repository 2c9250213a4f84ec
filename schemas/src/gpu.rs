//! GPUs: what a service or a job asks for, and what a machine has.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The most GPUs of one machine that can be asked for.
pub const MAX_GPUS: u32 = 64;

/// GPUs that are asked for. Written as a number, or as `{count, memory, capability, cuda}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GpuNeed {
    /// How many.
    pub count: u32,
    /// Memory of each, in MiB. `None`: whole GPUs that nobody else uses, whatever they have.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "memory", serialize_with = "write_mib")]
    #[schema(value_type = Option<String>)]
    pub memory_mib: Option<u64>,
    /// The least compute capability, `8.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// The least CUDA version that the driver must support, `12.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
}

impl GpuNeed {
    /// So many whole GPUs.
    #[must_use]
    pub const fn whole(count: u32) -> Self {
        Self { count, memory_mib: None, capability: None, cuda: None }
    }

    /// As a sentence says it: `2 GPUs with 40960 MiB each`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let gpus = if self.count == 1 { "1 GPU".to_owned() } else { format!("{} GPUs", self.count) };
        match self.memory_mib {
            Some(mib) if self.count == 1 => format!("{gpus} with {mib} MiB"),
            Some(mib) => format!("{gpus} with {mib} MiB each"),
            None => gpus,
        }
    }
}

/// GPUs that each instance of a service asks for. Written as those of jobs, with `when-full` beside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceGpus {
    /// What each instance gets.
    #[serde(flatten)]
    pub need: GpuNeed,
    /// What a rollout does where the new release does not fit beside the one that serves.
    #[serde(default, skip_serializing_if = "WhenFull::is_refuse")]
    pub when_full: WhenFull,
}

/// What a rollout does where old and new do not fit on the GPUs side by side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// It ends, and what serves goes on serving.
    #[default]
    Refuse,
    /// It stops what serves, then starts the new release: nobody answers meanwhile.
    Recreate,
}

impl WhenFull {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
    const fn is_refuse(&self) -> bool {
        matches!(self, Self::Refuse)
    }
}

/// A GPU that a worker offers to jobs, or a host to services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct GpuOffer {
    /// `GPU-...`, as `nvidia-smi -L` names it.
    pub uuid: String,
    /// `NVIDIA H100 80GB HBM3`
    pub name: String,
    /// Its memory in MiB.
    pub memory_mib: u64,
}

/// GPUs of this size, of those that a worker offers or a job asks for. Written in labels as `gpu:COUNTxMIB`; nobody else writes such ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    count: u32,
    memory_mib: u64,
}

impl Shape {
    fn read(label: &str) -> Option<Self> {
        let (count, memory_mib) = label.strip_prefix("gpu:")?.split_once('x')?;
        Some(Self { count: count.parse().ok()?, memory_mib: memory_mib.parse().ok()? })
    }

    fn label(self) -> String {
        format!("gpu:{}x{}", self.count, self.memory_mib)
    }
}

/// The label by which placement knows what a job asks for: `gpu:2x40960`, 2 GPUs of at least 40960 MiB.
#[must_use]
pub fn wanted_label(need: &GpuNeed) -> String {
    Shape { count: need.count, memory_mib: need.memory_mib.unwrap_or(0) }.label()
}

/// The labels of a worker that offers these, one for each size: `gpu:4x81559`. So workers with the same labels can do the same.
#[must_use]
pub fn offered_labels(gpus: &[GpuOffer]) -> Vec<String> {
    let mut shapes: Vec<Shape> = Vec::new();
    for gpu in gpus {
        match shapes.iter_mut().find(|shape| shape.memory_mib == gpu.memory_mib) {
            Some(shape) => shape.count += 1,
            None => shapes.push(Shape { count: 1, memory_mib: gpu.memory_mib }),
        }
    }
    shapes.sort_by_key(|shape| shape.memory_mib);
    shapes.into_iter().map(Shape::label).collect()
}

/// Whether a label stands for GPUs.
#[must_use]
pub fn is_shape(label: &str) -> bool {
    Shape::read(label).is_some()
}

/// Whether who offers these labels has what one asks for: that label, or so many GPUs of at least that size.
#[must_use]
pub fn offers(offered: &[String], wanted: &str) -> bool {
    let Some(wanted) = Shape::read(wanted) else { return offered.iter().any(|label| label == wanted) };
    let large =
        offered.iter().filter_map(|label| Shape::read(label)).filter(|shape| shape.memory_mib >= wanted.memory_mib);
    large.map(|shape| u64::from(shape.count)).sum::<u64>() >= u64::from(wanted.count)
}

/// A label as a sentence says it: `2 GPUs with 40960 MiB each` for one that stands for GPUs.
#[must_use]
pub fn label_in_words(label: &str) -> String {
    match Shape::read(label) {
        Some(Shape { count, memory_mib }) => {
            GpuNeed { memory_mib: (memory_mib > 0).then_some(memory_mib), ..GpuNeed::whole(count) }.in_words()
        }
        None => label.to_owned(),
    }
}

/// Which of the free GPUs a job gets: the smallest that do, so that large ones are left for who needs them. `None`: there are too few.
#[must_use]
pub fn pick(mut free: Vec<GpuOffer>, need: &GpuNeed) -> Option<Vec<GpuOffer>> {
    free.retain(|gpu| gpu.memory_mib >= need.memory_mib.unwrap_or(0));
    free.sort_by_key(|gpu| gpu.memory_mib);
    let count = usize::try_from(need.count).ok().filter(|count| *count <= free.len())?;
    free.truncate(count);
    Some(free)
}

/// Memory of a GPU with its unit, in MiB. `GiB` and `MiB` are powers of 1024; `GB` and `MB` powers of 1000, as cards are named: an
/// "80 GB" one has 81559 MiB, which is less than `80GiB`.
///
/// # Errors
/// What is expected.
pub fn memory_mib(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is no memory of a GPU; write a number and a unit, such as `40GiB`, `24GB` or `8000MiB`");
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let unit: u64 = match text.get(digits..).map(|unit| unit.trim().to_ascii_lowercase()).as_deref() {
        Some("mib") => 1 << 20,
        Some("gib") => 1 << 30,
        Some("mb") => 1_000_000,
        Some("gb") => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let mib = number.checked_mul(unit).ok_or_else(wrong)?.div_ceil(1 << 20);
    if (1..=1 << 22).contains(&mib) { Ok(mib) } else { Err(wrong()) }
}

/// The signature is serde's.
#[expect(clippy::ref_option, reason = "serde hands it over like this")]
fn write_mib<S: serde::Serializer>(mib: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match mib {
        Some(mib) => serializer.collect_str(&format_args!("{mib}MiB")),
        None => serializer.serialize_none(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    count: Option<u32>,
    memory: Option<String>,
    capability: Option<String>,
    cuda: Option<String>,
}

/// What a service may write.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenOfService {
    count: Option<u32>,
    memory: Option<String>,
    capability: Option<String>,
    cuda: Option<String>,
    #[serde(default)]
    when_full: WhenFull,
}

impl Written {
    fn read(self) -> Result<GpuNeed, String> {
        let memory_mib = self.memory.as_deref().map(memory_mib).transpose()?;
        checked(GpuNeed { count: self.count.unwrap_or(1), memory_mib, capability: self.capability, cuda: self.cuda })
    }
}

impl<'de> Deserialize<'de> for GpuNeed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NeedVisitor(|written: Written| written.read()))
    }
}

impl<'de> Deserialize<'de> for ServiceGpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NeedVisitor(|written: WrittenOfService| {
            let WrittenOfService { count, memory, capability, cuda, when_full } = written;
            Ok(Self { need: Written { count, memory, capability, cuda }.read()?, when_full })
        }))
    }
}

impl From<GpuNeed> for ServiceGpus {
    fn from(need: GpuNeed) -> Self {
        Self { need, when_full: WhenFull::Refuse }
    }
}

/// A number of GPUs, or a mapping of what is to be read.
struct NeedVisitor<W, T>(fn(W) -> Result<T, String>);

impl<'de, W: Deserialize<'de>, T: From<GpuNeed>> serde::de::Visitor<'de> for NeedVisitor<W, T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number of GPUs, or `{ count: 1, memory: 40GiB }`")
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<T, E> {
        checked(GpuNeed::whole(u32::try_from(count).unwrap_or(u32::MAX))).map(T::from).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<T, E> {
        self.visit_u64(u64::try_from(count).unwrap_or(0))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        use serde::de::Error as _;
        let written = W::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        (self.0)(written).map_err(A::Error::custom)
    }
}

fn checked(need: GpuNeed) -> Result<GpuNeed, String> {
    if !(1..=MAX_GPUS).contains(&need.count) {
        return Err(format!(
            "`gpus` is {}, and 1 to {MAX_GPUS} are allowed; leave it out where none is needed",
            need.count
        ));
    }
    for (key, version) in [("capability", &need.capability), ("cuda", &need.cuda)] {
        let is_version = |text: &String| {
            text.split('.').count() <= 3
                && text
                    .split('.')
                    .all(|part| !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit()))
        };
        if let Some(text) = version.as_ref().filter(|text| !is_version(text)) {
            return Err(format!("`{key}: {text}` is no version; write it in quotes, such as `{key}: \"8.0\"`"));
        }
    }
    Ok(need)
}

impl JsonSchema for GpuNeed {
    fn schema_name() -> Cow<'static, str> {
        "Gpus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        need_schema("GPUs that are asked for: how many, or what each must have.", None)
    }
}

impl JsonSchema for ServiceGpus {
    fn schema_name() -> Cow<'static, str> {
        "ServiceGpus".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let when_full = generator.subschema_for::<WhenFull>();
        need_schema("GPUs that each instance asks for: how many, or what each must have.", Some(when_full))
    }
}

fn need_schema(description: &str, when_full: Option<Schema>) -> Schema {
    let mut properties = serde_json::json!({
        "count": {"type": "integer", "minimum": 1, "maximum": MAX_GPUS, "description": "How many; 1 where it is left out."},
        "memory": {
            "type": "string",
            "description": "Memory of each, `40GiB`. Left out: whole GPUs that nobody else uses.",
            "examples": ["40GiB", "24GB"]
        },
        "capability": {"type": "string", "description": "The least compute capability, `8.0`."},
        "cuda": {"type": "string", "description": "The least CUDA version that the driver must support, `12.4`."}
    });
    if let (Some(when_full), Some(properties)) = (when_full, properties.as_object_mut()) {
        properties.insert("when-full".into(), when_full.to_value());
    }
    json_schema!({
        "description": description,
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": MAX_GPUS},
            {"type": "object", "additionalProperties": false, "properties": properties}
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GpuNeed, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_and_a_mapping_are_read() {
        assert_eq!(read("2"), Ok(GpuNeed::whole(2)));
        assert_eq!(read("{}"), Ok(GpuNeed::whole(1)));
        let need = read(r#"{"count": 2, "memory": "40GiB", "capability": "8.0", "cuda": "12.4"}"#).unwrap();
        assert_eq!(
            (need.count, need.memory_mib, need.in_words().as_str()),
            (2, Some(40_960), "2 GPUs with 40960 MiB each")
        );
        let again = read(&serde_json::to_string(&need).unwrap());
        assert_eq!(again, Ok(need), "what is stored is read again");
    }

    #[test]
    fn a_service_says_as_well_what_becomes_of_what_serves() {
        let read = |text: &str| serde_json::from_str::<ServiceGpus>(text).map_err(|error| error.to_string());
        assert_eq!(read("2"), Ok(GpuNeed::whole(2).into()));
        let gpus = read(r#"{"memory": "40GiB", "when-full": "recreate"}"#).unwrap();
        assert_eq!((gpus.need.memory_mib, gpus.when_full), (Some(40_960), WhenFull::Recreate));
        assert_eq!(read(&serde_json::to_string(&gpus).unwrap()), Ok(gpus), "what is stored is read again");
        assert_eq!(serde_json::to_string(&ServiceGpus::from(GpuNeed::whole(1))).unwrap(), r#"{"count":1}"#);
        for (text, wanted) in [
            (r#"{"when-full": "wait"}"#, "unknown variant `wait`"),
            (r#"{"count": 0}"#, "1 to 64 are allowed"),
            (r#"{"when_full": "recreate"}"#, "unknown field `when_full`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused() {
        for (text, wanted) in [
            ("0", "1 to 64 are allowed"),
            ("-1", "1 to 64 are allowed"),
            ("65", "1 to 64 are allowed"),
            (r#""two""#, "a number of GPUs"),
            (r#"{"count": 1, "memory": "40"}"#, "a number and a unit"),
            (r#"{"memory": "0GiB"}"#, "a number and a unit"),
            (r#"{"memory": "99999999999999999999GiB"}"#, "a number and a unit"),
            (r#"{"kind": "h100"}"#, "unknown field `kind`"),
            (r#"{"capability": "sm_80"}"#, "is no version"),
            (r#"{"cuda": "12."}"#, "is no version"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    fn gpu(uuid: &str, memory_mib: u64) -> GpuOffer {
        GpuOffer { uuid: uuid.into(), name: "x".into(), memory_mib }
    }

    #[test]
    fn labels_say_what_is_offered_and_what_is_asked_for() {
        let machine = [gpu("a", 81_559), gpu("b", 24_564), gpu("c", 81_559)];
        let mut offered = offered_labels(&machine);
        assert_eq!(offered, ["gpu:1x24564", "gpu:2x81559"]);
        offered.push("gpu:a100".into());
        for (need, fits) in [
            (GpuNeed::whole(1), true),
            (GpuNeed::whole(3), true),
            (GpuNeed::whole(4), false),
            (GpuNeed { memory_mib: Some(40_000), ..GpuNeed::whole(2) }, true),
            (GpuNeed { memory_mib: Some(40_000), ..GpuNeed::whole(3) }, false),
            (GpuNeed { memory_mib: Some(81_560), ..GpuNeed::whole(1) }, false),
        ] {
            assert_eq!(offers(&offered, &wanted_label(&need)), fits, "{need:?}");
            assert_eq!(pick(machine.to_vec(), &need).is_some(), fits, "{need:?}");
            assert_eq!(label_in_words(&wanted_label(&need)), need.in_words());
        }
        assert!(offers(&offered, "gpu:a100") && !offers(&offered, "gpu:h100") && !offers(&[], "gpu:1x0"));
        assert_eq!(label_in_words("gpu:a100"), "gpu:a100");
    }

    #[test]
    fn the_smallest_that_do_are_given() {
        let machine = vec![gpu("a", 81_559), gpu("b", 24_564), gpu("c", 81_559)];
        let uuids =
            |need: &GpuNeed| pick(machine.clone(), need).unwrap().into_iter().map(|gpu| gpu.uuid).collect::<Vec<_>>();
        assert_eq!(uuids(&GpuNeed::whole(1)), ["b"]);
        assert_eq!(uuids(&GpuNeed { memory_mib: Some(30_000), ..GpuNeed::whole(1) }), ["a"]);
    }

    #[test]
    fn a_card_has_what_its_name_says_in_decimal_units() {
        assert_eq!(memory_mib("80GB"), Ok(76_294));
        assert_eq!(memory_mib("80 GiB"), Ok(81_920));
        assert_eq!(memory_mib("8000mib"), Ok(8000));
        assert!(memory_mib("80GB").unwrap() <= 81_559, "an 80 GB card is one");
    }
}
