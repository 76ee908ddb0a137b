//! Ingresses and slices of endpoints of the first betas.

use serde_json::{Map, Value, json};

/// Calls `turn` with each backend of an ingress: the default one at `default` and those of the paths.
fn backends(spec: &mut Value, default: &str, turn: fn(&mut Value)) {
    spec.get_mut(default).filter(|backend| backend.is_object()).into_iter().for_each(turn);
    for rule in items(spec, "rules") {
        let Some(http) = rule.get_mut("http") else { continue };
        for path in items(http, "paths") {
            path.get_mut("backend").filter(|backend| backend.is_object()).into_iter().for_each(turn);
        }
    }
}

fn items<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn rename(object: &mut Value, from: &str, to: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    if let Some(value) = fields.shift_remove(from) {
        fields.insert(to.to_owned(), value);
    }
}

/// What a path without a type means.
const UNTYPED: &str = "ImplementationSpecific";

pub(super) fn store_ingress(ingress: &mut Value) {
    let Some(spec) = ingress.get_mut("spec") else { return };
    rename(spec, "backend", "defaultBackend");
    backends(spec, "defaultBackend", store_backend);
    for rule in items(spec, "rules") {
        let Some(http) = rule.get_mut("http") else { continue };
        for path in items(http, "paths").filter_map(Value::as_object_mut) {
            path.entry("pathType").or_insert_with(|| json!(UNTYPED));
        }
    }
}

fn store_backend(backend: &mut Value) {
    let Some(fields) = backend.as_object_mut() else { return };
    let (name, port) = (fields.shift_remove("serviceName"), fields.shift_remove("servicePort"));
    if name.is_none() && port.is_none() {
        return;
    }
    let mut service = Map::new();
    service.extend(name.map(|name| ("name".to_owned(), name)));
    let port = port.map(|port| match port {
        Value::Number(number) => json!({ "number": number }),
        Value::String(text) => match text.parse::<u16>() {
            Ok(number) => json!({ "number": number }),
            Err(_) => json!({ "name": text }),
        },
        other => other,
    });
    service.extend(port.map(|port| ("port".to_owned(), port)));
    fields.insert("service".to_owned(), Value::Object(service));
}

pub(super) fn show_ingress(ingress: &mut Value) {
    let Some(spec) = ingress.get_mut("spec") else { return };
    rename(spec, "defaultBackend", "backend");
    for rule in items(spec, "rules") {
        let Some(http) = rule.get_mut("http") else { continue };
        for path in items(http, "paths").filter_map(Value::as_object_mut) {
            if path.get("pathType").is_some_and(|kind| kind == UNTYPED) {
                path.shift_remove("pathType");
            }
        }
    }
    backends(spec, "backend", |backend| {
        let Some(fields) = backend.as_object_mut() else { return };
        let Some(service) = fields.shift_remove("service") else { return };
        fields.insert("serviceName".to_owned(), service["name"].clone());
        let port = &service["port"];
        let port = if port["number"].is_number() { &port["number"] } else { &port["name"] };
        if !port.is_null() {
            fields.insert("servicePort".to_owned(), port.clone());
        }
    });
}

/// Where an endpoint is, by the label that said so and the field that says so.
const PLACES: &[(&str, &str)] =
    &[("kubernetes.io/hostname", "nodeName"), ("topology.kubernetes.io/zone", "zone")];

pub(super) fn store_slice(slice: &mut Value) {
    for endpoint in items(slice, "endpoints").filter_map(Value::as_object_mut) {
        let Some(Value::Object(mut topology)) = endpoint.shift_remove("topology") else { continue };
        for (label, field) in PLACES {
            if let Some(place) = topology.shift_remove(*label) {
                endpoint.entry(*field).or_insert(place);
            }
        }
        if !topology.is_empty() {
            endpoint.insert("deprecatedTopology".to_owned(), Value::Object(topology));
        }
    }
}

pub(super) fn show_slice(slice: &mut Value) {
    for endpoint in items(slice, "endpoints").filter_map(Value::as_object_mut) {
        let mut topology = match endpoint.shift_remove("deprecatedTopology") {
            Some(Value::Object(topology)) => topology,
            _ => Map::new(),
        };
        for (label, field) in PLACES {
            topology.extend(endpoint.get(*field).map(|place| ((*label).to_owned(), place.clone())));
        }
        endpoint.shift_remove("zone");
        if !topology.is_empty() {
            endpoint.insert("topology".to_owned(), Value::Object(topology));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_service_with_a_numbered_or_named_port() {
        let old = json!({ "spec": {
            "backend": { "serviceName": "d", "servicePort": 80 },
            "rules": [{ "http": { "paths": [
                { "path": "/", "pathType": "Prefix", "backend": { "serviceName": "s", "servicePort": "web" } },
            ] } }],
        } });
        let mut ingress = old.clone();
        store_ingress(&mut ingress);
        assert_eq!(
            ingress["spec"]["defaultBackend"],
            json!({ "service": { "name": "d", "port": { "number": 80 } } })
        );
        let path = &ingress["spec"]["rules"][0]["http"]["paths"][0];
        assert_eq!(path["backend"], json!({ "service": { "name": "s", "port": { "name": "web" } } }));
        show_ingress(&mut ingress);
        assert_eq!(ingress, old);
    }

    #[test]
    fn a_path_without_a_type_is_the_controllers_to_read() {
        let mut ingress = json!({ "spec": { "rules": [{ "http": { "paths": [
            { "backend": { "serviceName": "s", "servicePort": "8080" } },
        ] } }] } });
        store_ingress(&mut ingress);
        let path = &ingress["spec"]["rules"][0]["http"]["paths"][0];
        assert_eq!(path["pathType"], "ImplementationSpecific");
        assert_eq!(path["backend"]["service"]["port"], json!({ "number": 8080 }));
    }

    #[test]
    fn an_endpoints_labels_become_its_place() {
        let mut slice = json!({ "endpoints": [{ "topology": {
            "kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z", "x": "y" } }] });
        store_slice(&mut slice);
        let endpoint = json!({ "nodeName": "n1", "zone": "z", "deprecatedTopology": { "x": "y" } });
        assert_eq!(slice["endpoints"][0], endpoint);
    }
}
