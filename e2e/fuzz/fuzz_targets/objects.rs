//! Bodies as they are read: manifests, protobuf, and the schema engine over any JSON and any schema.
#![no_main]

use api_types::schema::{self, Schema};
use api_types::{kinds, protobuf};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn all_of_the_engine(schema: &Schema, object: &Value) {
    let mut object = object.clone();
    schema.check(&object);
    schema.normalize(&mut object);
    schema.default_fields(&mut object);
    schema.prune(&mut object);
}

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, body) = input;
    drop(protobuf::decode(body));
    let Ok(text) = std::str::from_utf8(body) else { return };
    drop(kubectl_lite::parse_manifests("input", text));
    let Ok(object) = serde_json::from_str::<Value>(text) else { return };
    if let Ok(custom) = Schema::from_openapi(&object) {
        all_of_the_engine(&custom, &object);
    }
    let all = kinds::builtin();
    if let Some(schema) = schema::builtin(&all[usize::from(choice) % all.len()]) {
        all_of_the_engine(&schema, &object);
    }
});
