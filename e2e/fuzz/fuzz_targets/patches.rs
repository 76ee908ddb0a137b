//! All patches on all documents: no panic, and a patch that applies leaves JSON that the schema can normalize.
#![no_main]

use api_types::kinds;
use api_types::patch::{self, apply, strategic};
use api_types::schema::{self, Schema};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    kind: u8,
    form: u8,
    live: &'a str,
    patch: &'a str,
}

fn any_schema(choice: u8) -> Schema {
    let all = kinds::builtin();
    let kind = &all[usize::from(choice) % all.len()];
    schema::builtin(kind).unwrap_or_else(Schema::open)
}

fuzz_target!(|input: Input<'_>| {
    let (Ok(live), Ok(patch)) =
        (serde_json::from_str::<Value>(input.live), serde_json::from_str::<Value>(input.patch))
    else {
        return;
    };
    let schema = any_schema(input.kind);
    let writer = apply::Writer {
        manager: "fuzz",
        api_version: "v1",
        subresource: "",
        now: chrono::DateTime::UNIX_EPOCH,
        reset: &[],
        translate: None,
    };
    let patched = match input.form % 4 {
        0 => patch::json(&live, &patch).ok(),
        1 => patch::merge(&live, &patch).ok(),
        2 => strategic::apply(&schema, &live, &patch).ok(),
        _ => apply::apply(&schema, Some(&live), &patch, &writer, false).ok().map(|applied| applied.object),
    };
    if let Some(mut patched) = patched {
        schema.normalize(&mut patched);
        apply::track(&schema, Some(&live), &mut patched, &writer);
    }
});
