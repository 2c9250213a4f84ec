//! `strategy` of a job: its matrix, and how its combinations run.

use indexmap::IndexMap;
use segue_schemas::plan::{MatrixPlan, Setting, StrategyPlan};
use serde_json::Value as Json;

use super::{
    expressions::{MatrixScope, STRATEGY, Scope},
    reader::{Keys, Reader},
};
use crate::{
    diagnostic::Code,
    document::{Content, Node, Scalar, ScalarKind},
    expr::Contexts,
    matrix::{MAX_COMBINATIONS, MatrixError, combinations},
};

const STRATEGY_KEYS: Keys = Keys { known: &["matrix", "fail-fast", "max-parallel"], later: &[] };

impl Reader<'_, '_> {
    /// `strategy:` of a job. What expressions can know of the matrix is noted in `scope`.
    pub(super) fn strategy(&mut self, owner: &Node, scope: &mut Scope) -> Option<StrategyPlan> {
        let entry = owner.entry("strategy")?;
        let node = &entry.value;
        // until it is read, nothing is said about what is in it
        scope.matrix = Some(MatrixScope::default());
        if !self.keys(node, "`strategy`", &STRATEGY_KEYS) {
            return None;
        }
        let fail_fast = node.get("fail-fast").and_then(|node| self.setting(node, "fail-fast", &STRATEGY, scope));
        let max_parallel = node.get("max-parallel").and_then(|node| self.max_parallel(node, scope));
        let Some(matrix) = node.entry("matrix") else {
            let help = "name variables and their values: `matrix: { version: [1, 2] }`";
            self.missing("matrix", "`strategy`", &entry.key_span, help);
            return None;
        };
        let errors = self.findings.errors();
        let plan = self.matrix(&matrix.value, scope)?;
        if self.findings.errors() == errors {
            self.check_matrix(&plan, &matrix.value);
        }
        Some(StrategyPlan { matrix: plan, fail_fast: fail_fast.unwrap_or(Setting::Fixed(true)), max_parallel })
    }

    fn max_parallel(&mut self, node: &Node, scope: &mut Scope) -> Option<Setting<u32>> {
        const WHAT: &str = "max-parallel";
        match node.scalar() {
            Some(scalar) if scalar.text.contains("${{") => {
                self.template(node, WHAT, &STRATEGY, scope).map(Setting::Late)
            }
            Some(Scalar { kind: ScalarKind::Integer(most), .. }) => match u32::try_from(*most) {
                Ok(most) if most > 0 => Some(Setting::Fixed(most)),
                _ => {
                    let message = format!("`{WHAT}` is {most}, and at least one job must be able to run");
                    self.findings.error(Code::InvalidValue, &node.span, message, None);
                    None
                }
            },
            _ => {
                self.wrong_type(node, &format!("`{WHAT}`"), "a whole number");
                None
            }
        }
    }

    fn matrix(&mut self, node: &Node, scope: &mut Scope) -> Option<MatrixPlan> {
        match &node.content {
            Content::Scalar(scalar) if scalar.text.contains("${{") => {
                let template = self.template(node, "matrix", &STRATEGY, scope)?;
                scope.matrix = Some(MatrixScope { names: None, is_untrusted: scope.is_untrusted_text(&template) });
                Some(MatrixPlan::Whole(template))
            }
            Content::Mapping(entries) => {
                let mut known = MatrixScope { names: Some(Vec::new()), is_untrusted: false };
                let (mut vectors, mut include, mut exclude) = (IndexMap::new(), None, None);
                for entry in entries {
                    let (key, node) = (entry.key.as_str(), &entry.value);
                    if !matches!(key, "include" | "exclude") {
                        self.identifier(key, &entry.key_span, "a variable of the matrix");
                    }
                    let value = self.matrix_value(node, key, scope)?;
                    known.note(key, node, &value, scope);
                    match (key, &value) {
                        ("include", _) => include = Some(value),
                        ("exclude", _) => exclude = Some(value),
                        (_, Json::Array(_)) => drop(vectors.insert(key.to_owned(), value)),
                        (_, Json::String(text)) if text.contains("${{") => drop(vectors.insert(key.to_owned(), value)),
                        _ => {
                            self.wrong_type(node, &format!("`matrix.{key}`"), "a list of values");
                            return None;
                        }
                    }
                }
                scope.matrix = Some(known);
                Some(MatrixPlan::Vectors { vectors, include, exclude })
            }
            _ => {
                self.wrong_type(node, "`matrix`", "a mapping from variables to lists of values");
                None
            }
        }
    }

    /// A value of the matrix with its types; templates are checked and kept.
    fn matrix_value(&mut self, node: &Node, key: &str, scope: &mut Scope) -> Option<Json> {
        match &node.content {
            Content::Sequence(items) => items
                .iter()
                .map(|item| self.matrix_value(item, key, scope))
                .collect::<Option<Vec<_>>>()
                .map(Json::Array),
            Content::Mapping(entries) => {
                let mut values = serde_json::Map::new();
                for entry in entries {
                    values.insert(entry.key.clone(), self.matrix_value(&entry.value, key, scope)?);
                }
                Some(Json::Object(values))
            }
            Content::Scalar(scalar) if scalar.text.contains("${{") => {
                self.template(node, &format!("matrix.{key}"), &STRATEGY, scope).map(Json::String)
            }
            Content::Scalar(scalar) => Some(typed(scalar)),
        }
    }

    /// A matrix that is wholly written out is tried at once; of another one it is known how many combinations it has at least.
    fn check_matrix(&mut self, plan: &MatrixPlan, node: &Node) {
        let MatrixPlan::Vectors { vectors, include, exclude } = plan else { return };
        let parts = || vectors.values().chain(include).chain(exclude);
        if parts().any(has_template) {
            let written = vectors.values().filter_map(Json::as_array).filter(|values| !values.is_empty());
            let least = written.fold(1_u128, |product, values| product.saturating_mul(values.len() as u128));
            if least > MAX_COMBINATIONS as u128 && exclude.is_none() {
                let error = MatrixError::TooMany { found: format!("at least {least}"), limit: MAX_COMBINATIONS };
                self.refuse_matrix(node, &error);
            }
            return;
        }
        match combinations(plan, &Contexts::new()) {
            Err(error) => self.refuse_matrix(node, &error),
            Ok(found) if found.is_empty() => {
                let help = "take a list that is empty, or the `exclude` that leaves nothing, out".to_owned();
                self.findings.error(Code::InvalidValue, &node.span, "the matrix has no combination", Some(help));
            }
            Ok(_) => {}
        }
    }

    fn refuse_matrix(&mut self, node: &Node, error: &MatrixError) {
        let code = match error {
            MatrixError::TooMany { .. } | MatrixError::TooLarge => Code::TooMany,
            MatrixError::Kind { .. } => Code::WrongType,
            _ => Code::InvalidValue,
        };
        self.findings.error(code, &node.span, format!("this matrix cannot be run: {error}"), None);
    }
}

impl MatrixScope {
    /// Notes what an entry of the matrix says: names, and whether an outsider has a say.
    fn note(&mut self, key: &str, node: &Node, value: &Json, scope: &Scope) {
        each_text(value, &mut |text| self.is_untrusted |= scope.is_untrusted_text(text));
        let Some(names) = &mut self.names else { return };
        match (key, &node.content) {
            ("exclude", _) => {}
            ("include", Content::Sequence(items)) if items.iter().all(|item| item.scalar().is_none()) => {
                names.extend(items.iter().flat_map(|item| item.entries()).map(|entry| entry.key.clone()));
            }
            // what an expression includes is not known before
            ("include", _) => self.names = None,
            _ => names.push(key.to_owned()),
        }
    }
}

fn each_text(value: &Json, see: &mut impl FnMut(&str)) {
    match value {
        Json::String(text) => see(text),
        Json::Array(items) => items.iter().for_each(|item| each_text(item, see)),
        Json::Object(entries) => entries.values().for_each(|item| each_text(item, see)),
        _ => {}
    }
}

fn has_template(value: &Json) -> bool {
    let mut found = false;
    each_text(value, &mut |text| found |= text.contains("${{"));
    found
}

/// A scalar with its type. The version 1.10 stays 1.10; as a number it would become 1.1.
fn typed(scalar: &Scalar) -> Json {
    match scalar.kind {
        ScalarKind::Null => Json::Null,
        ScalarKind::Bool(value) => value.into(),
        ScalarKind::Integer(number) => number.into(),
        ScalarKind::Float(number) => match serde_json::Number::from_f64(number) {
            Some(number) if !(scalar.text.contains('.') && scalar.text.ends_with('0')) => Json::Number(number),
            _ => scalar.text.clone().into(),
        },
        ScalarKind::String => scalar.text.clone().into(),
    }
}
