//! What the house rules say that a compiler does not check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crate → the crates of ours it may use; `kube` says whether it may use the Kubernetes client.
/// The same table stands in ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str], bool)] = &[
    ("api-types", &[], false),
    ("component-base", &["api-types"], true),
    ("apiserver", &["api-types", "component-base"], false),
    ("controller-manager", &["api-types", "component-base"], true),
    ("scheduler", &["api-types", "component-base"], true),
    ("nodeagent", &["api-types", "component-base"], true),
    ("kubectl-lite", &["api-types", "component-base"], true),
    (
        "coxswain",
        &[
            "api-types",
            "component-base",
            "apiserver",
            "controller-manager",
            "scheduler",
            "nodeagent",
            "kubectl-lite",
        ],
        true,
    ),
    ("e2e", &["api-types", "component-base", "coxswain", "kubectl-lite"], true),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// The normal (not test) dependencies of each workspace member.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    metadata()["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().expect("dependencies");
            let names = used.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect();
            (text(&package["name"]), names)
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_dependency_table_allows() {
    let found = dependencies();
    let ours: Vec<&String> = found.keys().collect();
    for (name, used) in &found {
        let Some((_, allowed, kube)) = MAY_USE.iter().find(|(row, ..)| row == name) else {
            panic!("{name} has no row in the dependency table");
        };
        for dependency in used.iter().filter(|used| ours.contains(used)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not use {dependency}");
        }
        if !kube {
            assert!(!used.iter().any(|used| used.starts_with("kube")), "{name} must not use the client");
        }
    }
}

#[test]
fn the_api_types_do_no_input_or_output() {
    let found = dependencies();
    for banned in ["tokio", "hyper", "kube", "axum", "nix", "sled"] {
        assert!(!found["api-types"].iter().any(|used| used == banned), "api-types must not use {banned}");
    }
}

#[test]
fn only_the_api_server_knows_the_store() {
    for (name, used) in dependencies() {
        if name != "apiserver" {
            assert!(!used.iter().any(|used| used == "sled"), "{name} must not open the store");
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            if !["target", ".git", "node_modules"].iter().any(|skip| path.ends_with(skip)) {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    found
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in all_sources() {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        assert!(text.starts_with("//!"), "{} does not start with //!", file.display());
    }
}

#[test]
fn no_file_is_a_drawer_for_everything() {
    for file in all_sources() {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(!["utils", "util", "helpers", "common", "misc"].contains(&stem), "{}", file.display());
    }
}

#[test]
fn the_generic_path_names_no_kind() {
    let kinds = [
        "\"Pod\"",
        "\"Deployment\"",
        "\"ReplicaSet\"",
        "\"Job\"",
        "\"Node\"",
        "\"Service\"",
        "\"pods\"",
        "\"nodes\"",
    ];
    let source = root().join("apiserver/src");
    for part in ["rest", "store", "cache", "discovery"] {
        let mut files = Vec::new();
        if source.join(part).is_dir() {
            sources(&source.join(part), &mut files);
        }
        let single = source.join(part).with_extension("rs");
        if single.exists() {
            files.push(single);
        }
        assert!(!files.is_empty(), "the API server has its {part}");
        let tests = ["tests.rs", "conformance.rs", "crash.rs"];
        for file in files.iter().filter(|file| !tests.iter().any(|name| file.ends_with(name))) {
            let text = std::fs::read_to_string(file).expect("a readable file");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for kind in kinds {
                assert!(!code.contains(kind), "{} names {kind}", file.display());
            }
        }
    }
}

/// Folders whose `mod.rs` is a table: each other file is a row of it.
const TABLES: &[&str] = &[
    "apiserver/src/admission",
    "apiserver/src/subresource",
    "controller-manager/src/controllers",
    "kubectl-lite/src/verbs",
    "scheduler/src/plugins",
];

/// Files beside the rows that several rows share.
const SHARED: &[&str] = &["target", "tests"];

#[test]
fn each_file_of_a_table_folder_is_a_row() {
    for folder in TABLES {
        let folder = root().join(folder);
        let table = std::fs::read_to_string(folder.join("mod.rs"))
            .unwrap_or_else(|error| panic!("{}: {error}", folder.join("mod.rs").display()));
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            if stem == "mod" || path.is_dir() || SHARED.contains(&stem.as_str()) {
                continue;
            }
            assert!(table.contains(&format!("{stem}::")), "{} is no row of its table", path.display());
        }
    }
}
