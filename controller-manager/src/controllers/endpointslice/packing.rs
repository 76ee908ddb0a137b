//! How endpoints are put into slices: a slice has at most a hundred, and few slices are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Endpoints in one slice.
pub(super) const ENDPOINTS_MAX: usize = 100;

/// What becomes of the slices with the same ports, and what new ones are needed.
#[derive(Default)]
pub(super) struct Packed {
    pub unchanged: Vec<Arc<EndpointSlice>>,
    pub changed: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)>,
    pub emptied: Vec<Arc<EndpointSlice>>,
    pub new: Vec<Vec<Endpoint>>,
}

struct Content {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Content {
    fn fill(&mut self, wanted: &mut BTreeMap<String, Endpoint>) {
        while self.endpoints.len() < ENDPOINTS_MAX
            && let Some((_, one)) = wanted.pop_first()
        {
            self.endpoints.push(one);
            self.changed = true;
        }
    }
}

/// The pod behind an endpoint.
pub(super) fn pod_name(endpoint: &Endpoint) -> String {
    endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_default()
}

/// Puts `wanted` (by pod) into `slices`. What is listed stays where it is. What is new goes first into
/// slices that are written anyway, then together into the fullest that has room for it, else into new ones.
pub(super) fn pack(slices: &[Arc<EndpointSlice>], mut wanted: BTreeMap<String, Endpoint>) -> Packed {
    let content = |slice: &Arc<EndpointSlice>| {
        let listed = slice.endpoints.as_deref().unwrap_or_default();
        let endpoints: Vec<_> = listed.iter().filter_map(|one| wanted.remove(&pod_name(one))).collect();
        let changed = endpoints != listed;
        Content { slice: slice.clone(), endpoints, changed }
    };
    let mut contents: Vec<Content> = slices.iter().map(content).collect();
    contents.sort_by_key(|content| std::cmp::Reverse(content.endpoints.len()));
    for content in contents.iter_mut().filter(|content| content.changed && !content.endpoints.is_empty()) {
        content.fill(&mut wanted);
    }
    let mut packed = Packed::default();
    while !wanted.is_empty() {
        let room = |content: &&mut Content| {
            !content.changed && content.endpoints.len() + wanted.len() <= ENDPOINTS_MAX
        };
        match contents.iter_mut().find(room) {
            Some(content) => content.fill(&mut wanted),
            None => packed.new.push(
                std::iter::from_fn(|| wanted.pop_first()).take(ENDPOINTS_MAX).map(|(_, one)| one).collect(),
            ),
        }
    }
    for content in contents {
        match content {
            Content { slice, endpoints, .. } if endpoints.is_empty() => packed.emptied.push(slice),
            Content { slice, changed: false, .. } => packed.unchanged.push(slice),
            Content { slice, endpoints, .. } => packed.changed.push((slice, endpoints)),
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(name: &str) -> Endpoint {
        serde_json::from_value(json!({"addresses": ["10.0.0.1"], "targetRef": {"name": name}})).unwrap()
    }

    fn slice(name: &str, pods: std::ops::Range<usize>) -> Arc<EndpointSlice> {
        let endpoints: Vec<_> = pods.map(|index| endpoint(&format!("p{index:03}"))).collect();
        let slice = json!({"metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn check(slices: &[Arc<EndpointSlice>], pods: impl Iterator<Item = usize>, expected: &str) {
        let wanted = pods.map(|index| format!("p{index:03}")).map(|name| (name.clone(), endpoint(&name)));
        let packed = pack(slices, wanted.collect());
        let name = |slice: &Arc<EndpointSlice>| slice.metadata.name.clone().unwrap();
        let mut told: Vec<String> =
            packed.unchanged.iter().map(|one| format!("{} same", name(one))).collect();
        told.extend(packed.changed.iter().map(|(one, all)| format!("{} {}", name(one), all.len())));
        told.extend(packed.emptied.iter().map(|one| format!("{} empty", name(one))));
        told.extend(packed.new.iter().map(|all| format!("new {}", all.len())));
        assert_eq!(told.join(", "), expected);
    }

    #[test]
    fn what_does_not_fit_goes_into_new_slices() {
        check(&[], 0..250, "new 100, new 100, new 50");
    }

    #[test]
    fn one_endpoint_more_or_less_writes_one_slice() {
        let slices = [slice("a", 0..100), slice("b", 100..130)];
        check(&slices, 0..130, "a same, b same");
        check(&slices, 0..129, "a same, b 29");
        check(&slices, 0..131, "a same, b 31");
    }

    #[test]
    fn new_endpoints_fill_what_is_written_anyway() {
        let slices = [slice("a", 0..50), slice("b", 50..90)];
        check(&slices, (0..80).chain(90..95), "a same, b 35");
        check(&slices, (1..90).chain(90..95), "b same, a 54");
    }

    #[test]
    fn new_endpoints_that_fit_in_no_slice_together_get_a_new_one() {
        check(&[slice("a", 0..90)], 0..105, "a same, new 15");
        check(&[slice("a", 0..60), slice("b", 60..140)], 0..155, "a same, b 95");
    }

    #[test]
    fn a_slice_without_endpoints_is_emptied() {
        check(&[slice("a", 0..3), slice("b", 3..5)], 0..3, "a same, b empty");
    }
}
