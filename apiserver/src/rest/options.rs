//! The parameters that all writes share.

use api_types::status::{FieldError, Status};
use http::{HeaderMap, header};

use crate::request_info::Query;

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// `dryRun`, `fieldValidation`, `fieldManager` and `force`.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// The same, when the client said it.
    pub(crate) field_validation_named: Option<FieldValidation>,
    pub(crate) manager: String,
    /// Whether the client named the manager itself.
    pub(crate) manager_is_named: bool,
    pub(crate) force: bool,
}

const MANAGER_LENGTH_MAX: usize = 128;

impl WriteOptions {
    /// Reads and checks the parameters; `options` is the options kind that errors are about.
    pub(crate) fn parse(query: &Query, headers: &HeaderMap, options: &str) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let dry_run = parse_dry_run(query.get_all("dryRun").filter(|v| !v.is_empty()), &mut errors);
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        let field_validation_named = query.has("fieldValidation").then_some(field_validation);
        let named = query.get("fieldManager");
        if let Some(long) = named.filter(|m| m.len() > MANAGER_LENGTH_MAX) {
            errors.push(FieldError {
                value: Some(long.into()),
                ..FieldError::too_long("fieldManager", MANAGER_LENGTH_MAX)
            });
        }
        errors.extend(named.into_iter().flat_map(unprintable));
        if !errors.is_empty() {
            return Err(Status::invalid_kind("meta.k8s.io", options, "", errors));
        }
        let manager = named.map_or_else(|| manager_of(headers), str::to_owned);
        Ok(Self {
            dry_run,
            field_validation,
            field_validation_named,
            manager,
            manager_is_named: named.is_some(),
            force: query.is_true("force"),
        })
    }
}

/// The characters of a manager's name that nobody could read.
fn unprintable(manager: &str) -> impl Iterator<Item = FieldError> {
    manager.char_indices().filter(|(_, c)| c.is_control()).map(move |(at, c)| {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        FieldError::invalid("fieldManager", manager, why)
    })
}

/// Only `All` is a dry run.
pub(super) fn parse_dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let values: Vec<_> = values.collect();
    if values.iter().any(|v| *v != "All") {
        errors.push(FieldError::not_supported("dryRun", values.clone(), &["All"]));
    }
    !values.is_empty()
}

/// A client that does not say its name is named by its `User-Agent`, up to the first slash.
pub(super) fn manager_of(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
    let name = agent.split('/').next().unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).take(MANAGER_LENGTH_MAX).collect()
}
