//! Output formats: the server's tables, YAML, JSON, names.

use std::io::Write;

use clap::{Arg, ArgMatches};
use serde_json::Value;

use crate::error::Error;
use crate::resources::Resource;

/// Asks the server for its own printing of a kind.
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table { wide: bool },
    Yaml,
    Json,
    Name,
}

pub(crate) fn format_arg() -> Arg {
    Arg::new("output")
        .short('o')
        .long("output")
        .value_parser(["table", "wide", "yaml", "json", "name"])
        .help("Output format")
}

impl Format {
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        match matches.get_one::<String>("output").map(String::as_str) {
            Some("wide") => Self::Table { wide: true },
            Some("yaml") => Self::Yaml,
            Some("json") => Self::Json,
            Some("name") => Self::Name,
            _ => Self::Table { wide: false },
        }
    }

    /// Prints one object or list in a format that needs the object itself; `Name` needs `resource`.
    pub(crate) fn print_object(
        self,
        out: &mut dyn Write,
        resource: &Resource,
        object: &Value,
    ) -> Result<(), Error> {
        match self {
            Self::Json => writeln!(out, "{object:#}")?,
            Self::Yaml => write!(out, "{}", to_yaml(object)?)?,
            Self::Name | Self::Table { .. } => {
                writeln!(out, "{}", resource.named(object["metadata"]["name"].as_str().unwrap_or_default()))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn to_yaml(object: &Value) -> Result<String, Error> {
    serde_yaml::to_string(object).map_err(|error| Error::Answer(error.to_string()))
}

/// Prints rows of a server table; remembers widths so that a watch keeps its columns.
pub(crate) struct TablePrinter {
    wide: bool,
    namespaces: bool,
    /// Put before each name: `pod/`.
    prefix: Option<String>,
    columns: Vec<usize>,
    headers: Vec<String>,
    widths: Vec<usize>,
}

impl TablePrinter {
    pub(crate) fn new(wide: bool, namespaces: bool, prefix: Option<String>) -> Self {
        Self { wide, namespaces, prefix, columns: Vec::new(), headers: Vec::new(), widths: Vec::new() }
    }

    /// Prints `table`'s rows, with the header when these are the first.
    pub(crate) fn print(&mut self, out: &mut dyn Write, table: &Value) -> Result<(), Error> {
        let first = self.headers.is_empty();
        if first {
            self.read_columns(table);
        }
        let rows: Vec<Vec<String>> =
            table["rows"].as_array().into_iter().flatten().map(|row| self.cells(row)).collect();
        if first {
            self.widths = self.headers.iter().map(|header| header.chars().count()).collect();
        }
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if first {
            self.line(out, &self.headers)?;
        }
        rows.iter().try_for_each(|row| self.line(out, row))
    }

    fn read_columns(&mut self, table: &Value) {
        if self.namespaces {
            self.headers.push("NAMESPACE".to_owned());
        }
        for (index, column) in table["columnDefinitions"].as_array().into_iter().flatten().enumerate() {
            if self.wide || column["priority"].as_i64().unwrap_or(0) == 0 {
                self.columns.push(index);
                self.headers.push(column["name"].as_str().unwrap_or_default().to_uppercase());
            }
        }
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        let namespace = row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let mut cells = if self.namespaces { vec![namespace] } else { Vec::new() };
        for (position, index) in self.columns.iter().enumerate() {
            let text = match &row["cells"][*index] {
                Value::String(text) => text.clone(),
                Value::Null => "<none>".to_owned(),
                other => other.to_string(),
            };
            match &self.prefix {
                Some(prefix) if position == 0 => cells.push(format!("{prefix}{text}")),
                _ => cells.push(text),
            }
        }
        cells
    }

    fn line(&self, out: &mut dyn Write, cells: &[String]) -> Result<(), Error> {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        writeln!(out, "{}", line.trim_end())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn wide_columns_are_hidden_unless_asked_for() {
        let table = json!({"columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0},
            {"name": "Node", "priority": 1}], "rows": [{"cells": ["web-0", "1/1", "n1"],
            "object": {"metadata": {"namespace": "default"}}}, {"cells": ["longer-name", "0/1", null]}]});
        let print = |wide, namespaces| {
            let mut out = Vec::new();
            TablePrinter::new(wide, namespaces, None).print(&mut out, &table).expect("prints");
            String::from_utf8(out).expect("text")
        };
        expect![[r#"
            NAME          READY
            web-0         1/1
            longer-name   0/1
        "#]]
        .assert_eq(&print(false, false));
        expect![[r#"
            NAMESPACE   NAME          READY   NODE
            default     web-0         1/1     n1
                        longer-name   0/1     <none>
        "#]]
        .assert_eq(&print(true, true));
    }
}
