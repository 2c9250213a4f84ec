//! What an image wants of a machine: `NVIDIA_REQUIRE_CUDA` and every other variable `NVIDIA_REQUIRE_*` of its environment. Within one
//! of them, what is between spaces are alternatives, and what is between commas must hold together:
//! `cuda>=12.1 brand=tesla,driver>=470,driver<471`. All variables must hold.
//! <https://github.com/NVIDIA/nvidia-container-toolkit/blob/main/internal/requirements/constraints/factory.go>,
//! <https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html#constraints>

use super::facts::{Facts, Gpu, Version};

/// What an image wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    text: String,
    /// Alternatives; what must hold together in each.
    alternatives: Vec<Vec<Constraint>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Constraint {
    property: Property,
    operator: Operator,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Property {
    Cuda,
    Driver,
    Arch,
    Brand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Not,
    AtMost,
    AtLeast,
    Equal,
    Below,
    Above,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Version(Version),
    Word(String),
}

/// Two characters before one.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::Not),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Equal),
    ("<", Operator::Below),
    (">", Operator::Above),
];

/// Reads one variable's value. Properties that are unknown here are passed over, as NVIDIA's own tools do.
///
/// # Errors
/// What can't be read.
pub fn requirement(text: &str) -> Result<Requirement, String> {
    let mut alternatives = Vec::new();
    for term in text.split(' ').filter(|term| !term.trim().is_empty()) {
        let mut together = Vec::new();
        for factor in term.split(',').filter(|factor| !factor.trim().is_empty()) {
            together.extend(constraint(factor.trim())?);
        }
        if !together.is_empty() {
            alternatives.push(together);
        }
    }
    Ok(Requirement { text: text.to_owned(), alternatives })
}

fn constraint(text: &str) -> Result<Option<Constraint>, String> {
    let wrong = || format!("`{text}` is no requirement of NVIDIA's; one is `cuda>=12.1`");
    let at = text.find(['<', '>', '=', '!']).ok_or_else(wrong)?;
    let (name, rest) = text.split_at(at);
    let property = match name {
        "cuda" => Property::Cuda,
        "driver" => Property::Driver,
        "arch" => Property::Arch,
        "brand" => Property::Brand,
        _ => return Ok(None),
    };
    let (operator, value) =
        OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?))).ok_or_else(wrong)?;
    let value = match property {
        Property::Brand => Value::Word(value.to_owned()),
        _ => Value::Version(value.parse().map_err(|()| wrong())?),
    };
    Ok(Some(Constraint { property, operator, value }))
}

impl Requirement {
    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds for this GPU of the machine. What is not known does not hold.
    #[must_use]
    pub fn holds(&self, facts: &Facts, gpu: &Gpu) -> bool {
        let none = self.alternatives.is_empty();
        none || self.alternatives.iter().any(|together| together.iter().all(|one| one.holds(facts, gpu)))
    }

    /// The least CUDA that an alternative names by itself: what to say where the machine's is too old.
    #[must_use]
    pub fn least_cuda(&self) -> Option<&Version> {
        self.alternatives.iter().find_map(|together| match together.as_slice() {
            [Constraint { property: Property::Cuda, operator: Operator::AtLeast, value: Value::Version(version) }] => {
                Some(version)
            }
            _ => None,
        })
    }
}

impl Constraint {
    fn holds(&self, facts: &Facts, gpu: &Gpu) -> bool {
        let ordering = match (&self.value, self.property) {
            (Value::Word(word), _) => gpu.brand.as_ref().map(|brand| brand.cmp(word)),
            (Value::Version(version), property) => {
                let known = match property {
                    Property::Cuda => facts.cuda.as_ref(),
                    Property::Driver => facts.driver.as_ref(),
                    _ => gpu.capability.as_ref(),
                };
                known.map(|known| known.cmp(version))
            }
        };
        ordering.is_some_and(|ordering| match self.operator {
            Operator::Not => ordering.is_ne(),
            Operator::AtMost => ordering.is_le(),
            Operator::AtLeast => ordering.is_ge(),
            Operator::Equal => ordering.is_eq(),
            Operator::Below => ordering.is_lt(),
            Operator::Above => ordering.is_gt(),
        })
    }
}
