//! Custom objects between the version they are stored in and the one that a request asks for.
//!
//! What comes from the store is first brought into the form that its own version has now (defaults that were
//! added later, fields that were taken out), then converted, then cut to the version that is asked for.

use api_types::kinds::{Custom, CustomVersion, Family};
use api_types::status::Status;
use serde_json::{Value, json};

use crate::server::Server;

/// Stored objects as the row of `custom` shows them.
pub(crate) async fn read(server: &Server, custom: &Custom, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    let family = &custom.family;
    let mut objects = objects;
    for object in &mut objects {
        version_of(family, object).schema.conform(object);
    }
    turn(server, family, custom.version(), objects).await
}

/// Objects of the row of `custom` as they are stored.
pub(crate) async fn store(server: &Server, custom: &Custom, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    let family = &custom.family;
    let mut objects = turn(server, family, family.stored(), objects).await?;
    for object in &mut objects {
        family.stored().schema.conform(object);
    }
    Ok(objects)
}

fn version_of<'a>(family: &'a Family, object: &Value) -> &'a CustomVersion {
    // A version that is no longer in the definition was not stored by what its author says.
    family.find(object["apiVersion"].as_str().unwrap_or_default()).unwrap_or(family.stored())
}

async fn turn(_server: &Server, _family: &Family, to: &CustomVersion, objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    let mut objects = objects;
    for object in &mut objects {
        if object["apiVersion"] != to.api_version.as_str() {
            object["apiVersion"] = json!(to.api_version);
            to.schema.prune(object);
        }
    }
    Ok(objects)
}
