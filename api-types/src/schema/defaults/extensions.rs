//! Defaults of kinds that extend the server: admission policies and webhooks, flow control, devices.

use super::{at, each, put};
use serde_json::{Map, Value};

/// Rules are for both scopes unless they say one; selectors that say nothing match everything.
fn matching(object: &mut Value) {
    put(object, "matchPolicy", "Equivalent");
    for selector in ["namespaceSelector", "objectSelector"] {
        put(object, selector, Map::new());
    }
    for rules in ["rules", "resourceRules", "excludeResourceRules"] {
        each(object, rules, |rule| put(rule, "scope", "*"));
    }
}

pub(super) fn webhooks(object: &mut Value) {
    each(object, "webhooks", |hook| {
        put(hook, "failurePolicy", "Fail");
        put(hook, "timeoutSeconds", 10);
        matching(hook);
        at(hook, &["clientConfig", "service"], |service| put(service, "port", 443));
    });
}

pub(super) fn policy(object: &mut Value) {
    at(object, &["spec"], |spec| put(spec, "failurePolicy", "Fail"));
    at(object, &["spec", "matchConstraints"], matching);
}

pub(super) fn binding_match(object: &mut Value) {
    at(object, &["spec", "matchResources"], matching);
}

pub(super) fn flow_schema(object: &mut Value) {
    at(object, &["spec"], |spec| {
        if spec.get("matchingPrecedence").is_none_or(|p| p.is_null() || *p == 0) {
            spec["matchingPrecedence"] = 1000.into();
        }
    });
}

pub(super) fn priority_level(object: &mut Value) {
    at(object, &["spec", "exempt"], |exempt| {
        put(exempt, "nominalConcurrencyShares", 0);
        put(exempt, "lendablePercent", 0);
    });
    at(object, &["spec", "limited"], |limited| {
        put(limited, "nominalConcurrencyShares", 30);
        put(limited, "lendablePercent", 0);
        at(limited, &["limitResponse"], |response| {
            at(response, &["queuing"], |queuing| {
                for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    if queuing.get(field).is_none_or(|v| v.is_null() || *v == 0) {
                        queuing[field] = value.into();
                    }
                }
            });
        });
    });
}

pub(super) fn claim(object: &mut Value) {
    at(object, &["spec", "devices"], |devices| {
        each(devices, "requests", |request| {
            at(request, &["exactly"], device_request);
            each(request, "firstAvailable", device_request);
        });
    });
}

pub(super) fn claim_template(object: &mut Value) {
    at(object, &["spec"], claim);
}

fn device_request(request: &mut Value) {
    put(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount"
        && request.get("count").is_none_or(|count| count.is_null() || *count == 0)
    {
        request["count"] = 1.into();
    }
    each(request, "tolerations", |toleration| put(toleration, "operator", "Equal"));
}
