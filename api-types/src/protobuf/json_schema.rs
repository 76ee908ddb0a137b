//! Schemas of custom kinds in protobuf: they hold themselves, and values that are one of two things.

use serde_json::{Map, Value};

use super::{Fields, Place, ProtobufError, Wire, add_entry, add_item, embedded, entry_of, places, text_of};
use crate::schema::{self, Schema};

/// How the name of a schema's definition ends.
pub(super) const DEFINITION: &str = ".JSONSchemaProps";

/// How deep schemas may stand in each other; JSON is not read deeper either.
const DEPTH_MAX: usize = 60;

/// Reads a schema and what stands below it.
pub(super) fn read(bytes: &[u8], out: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    let definition = format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1{DEFINITION}");
    let schema = schema::builtin_definition(&definition).ok_or(ProtobufError::Unknown(definition))?;
    Reader { schema, depth: 0 }.fields(bytes, out)
}

struct Reader {
    schema: Schema,
    depth: usize,
}

impl Reader {
    fn fields(&mut self, bytes: &[u8], out: &mut Map<String, Value>) -> Result<(), ProtobufError> {
        if self.depth == DEPTH_MAX {
            return Err(ProtobufError::Depth);
        }
        self.depth += 1;
        for field in Fields(bytes) {
            let (number, wire) = field?;
            let place = places(&self.schema.definition).and_then(|places| places.get(&number));
            match (place, wire) {
                (Some(Place::Field(name)), Wire::Bytes(bytes)) if self.put(name, bytes, out)? => {}
                (Some(Place::Field(name)), wire) => super::put(&self.schema, name, wire, out)?,
                _ => {}
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Puts a field that is itself made of schemas or of plain JSON; says whether it is one.
    fn put(&mut self, name: &str, bytes: &[u8], out: &mut Map<String, Value>) -> Result<bool, ProtobufError> {
        match name {
            "default" | "example" => drop(out.insert(name.to_owned(), embedded(bytes)?)),
            "enum" => add_item(out, name, embedded(bytes)?),
            "not" => drop(out.insert(name.to_owned(), self.one(bytes)?)),
            "allOf" | "anyOf" | "oneOf" => add_item(out, name, self.one(bytes)?),
            "items" => drop(out.insert(name.to_owned(), self.one_or_list(bytes)?)),
            "additionalProperties" | "additionalItems" => {
                out.insert(name.to_owned(), self.one_or_boolean(bytes)?);
            }
            "properties" | "patternProperties" | "definitions" => {
                let (key, below) = self.entry(bytes, Self::one)?;
                add_entry(out, name, key, below);
            }
            "dependencies" => {
                let (key, below) = self.entry(bytes, Self::one_or_names)?;
                add_entry(out, name, key, below);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn one(&mut self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut fields = Map::new();
        self.fields(bytes, &mut fields)?;
        let mut schema = Value::Object(fields);
        self.schema.normalize(&mut schema);
        Ok(schema)
    }

    fn entry(
        &mut self,
        bytes: &[u8],
        read: fn(&mut Self, &[u8]) -> Result<Value, ProtobufError>,
    ) -> Result<(String, Value), ProtobufError> {
        let (key, held) = entry_of(bytes)?;
        let held = if let Some(Wire::Bytes(held)) = held { held } else { &[] };
        Ok((key, read(self, held)?))
    }

    /// A schema in field 1, or several in field 2.
    fn one_or_list(&mut self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut several = Vec::new();
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(schema)) => return self.one(schema),
                (2, Wire::Bytes(schema)) => several.push(self.one(schema)?),
                _ => {}
            }
        }
        Ok(Value::Array(several))
    }

    /// A boolean in field 1, which a schema in field 2 overrides.
    fn one_or_boolean(&mut self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut allows = false;
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Varint(said)) => allows = said != 0,
                (2, Wire::Bytes(schema)) => return self.one(schema),
                _ => {}
            }
        }
        Ok(Value::Bool(allows))
    }

    /// A schema in field 1, or names in field 2.
    fn one_or_names(&mut self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut names = Vec::new();
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(schema)) => return self.one(schema),
                (2, Wire::Bytes(name)) => names.push(Value::String(text_of(name))),
                _ => {}
            }
        }
        Ok(Value::Array(names))
    }
}
