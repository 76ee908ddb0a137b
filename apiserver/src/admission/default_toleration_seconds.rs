//! DefaultTolerationSeconds: a pod stays on a node that is not ready or unreachable for five minutes, unless
//! it says otherwise.

use api_types::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};

pub(crate) struct DefaultTolerationSeconds;

const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: u32 = 300;

impl Plugin for DefaultTolerationSeconds {
    const NAME: &'static str = "DefaultTolerationSeconds";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        let writes =
            matches!(review.operation, Operation::Create | Operation::Update) && review.is_of("pods");
        let Some(pod) = review.new.as_deref_mut().filter(|pod| writes && pod["spec"].is_object()) else {
            return Ok(());
        };
        for key in KEYS {
            let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
            if !tolerations.into_iter().any(|toleration| tolerates(toleration, key)) {
                let added = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
                match pod.pointer_mut("/spec/tolerations").and_then(Value::as_array_mut) {
                    Some(tolerations) => tolerations.push(added),
                    None => pod["spec"]["tolerations"] = json!([added]),
                }
            }
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    (text("key").is_empty() || text("key") == key) && matches!(text("effect"), "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    fn tolerations(spec: Value) -> Value {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        admit::<DefaultTolerationSeconds>(Fixture::default(), "pods", pod).unwrap()["spec"]["tolerations"]
            .clone()
    }

    #[test]
    fn both_are_added_unless_the_pod_has_its_own() {
        assert_eq!(tolerations(json!({})).as_array().unwrap().len(), 2);
        let own =
            json!([{"key": KEYS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]);
        let both = tolerations(json!({"tolerations": own}));
        assert_eq!((both.as_array().unwrap().len(), &both[0]["tolerationSeconds"]), (2, &json!(5)));
        let all = json!([{"operator": "Exists"}]);
        assert_eq!(tolerations(json!({"tolerations": all})), all);
    }
}
