//! One phase of a scenario: how long it took, and what it cost the servers in CPU time and requests.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::Bench;
use crate::connection::Cluster;
use crate::figures::Figures;

/// Requests told by themselves; the others are in the sum.
const KINDS_MAX: usize = 6;
const METRIC: &str = "apiserver_request_total{";

/// What the servers had done when the phase began.
pub(crate) struct Phase {
    begun: Instant,
    cpu: Option<Duration>,
    requests: Requests,
}

/// Requests answered so far, by verb and resource.
type Requests = BTreeMap<String, f64>;

impl Phase {
    pub(crate) async fn begin(bench: &Bench) -> anyhow::Result<Self> {
        let requests = requests(&bench.cluster).await?;
        Ok(Self { begun: Instant::now(), cpu: bench.servers.cpu(), requests })
    }

    /// Adds the figures of the phase, in which `pods` pods were concerned.
    pub(crate) async fn end(
        self,
        bench: &Bench,
        figures: &mut Figures,
        name: &str,
        pods: usize,
    ) -> anyhow::Result<()> {
        let (elapsed, pods) = (self.begun.elapsed(), pods as f64);
        figures.add(name, elapsed.as_secs_f64(), "s");
        if let (Some(before), Some(after)) = (self.cpu, bench.servers.cpu()) {
            let used = after.saturating_sub(before).as_secs_f64();
            figures.add(format!("{name}, CPU"), used, "s");
            figures.add(format!("{name}, CPU per 1,000 pods"), used * 1000.0 / pods, "s");
        }
        let made = difference(&self.requests, &requests(&bench.cluster).await?);
        figures.add(format!("{name}, requests"), made.values().sum::<f64>() / pods, "/pod");
        let mut most: Vec<_> = made.into_iter().collect();
        most.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        for (kind, count) in most.into_iter().take(KINDS_MAX) {
            figures.add(format!("{name}, {kind}"), count / pods, "/pod");
        }
        Ok(())
    }
}

async fn requests(cluster: &Cluster) -> anyhow::Result<Requests> {
    let text = cluster.client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
    Ok(read(&text))
}

/// Sums `apiserver_request_total` by verb, resource and subresource.
fn read(text: &str) -> Requests {
    let mut sums = Requests::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(METRIC)) {
        let Some((labels, count)) = line.rsplit_once("} ") else { continue };
        let label = |name: &str| {
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let mut named = labels.filter(|(key, _)| *key == name);
            named.next().map_or("", |(_, value)| value.trim_matches('"'))
        };
        let mut kind = format!("{} {}", label("verb"), label("resource"));
        if !label("subresource").is_empty() {
            kind = format!("{kind}/{}", label("subresource"));
        }
        *sums.entry(kind).or_default() += count.parse().unwrap_or(0.0);
    }
    sums
}

fn difference(before: &Requests, after: &Requests) -> Requests {
    let more = |(kind, count): (&String, &f64)| {
        let more = count - before.get(kind).copied().unwrap_or(0.0);
        (more > 0.0).then(|| (kind.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_verb_and_resource() {
        let text = "# HELP x\n\
            apiserver_request_total{verb=\"POST\",group=\"\",resource=\"pods\",subresource=\"\",code=\"201\"} 2\n\
            apiserver_request_total{verb=\"POST\",group=\"\",resource=\"pods\",subresource=\"\",code=\"409\"} 1\n\
            apiserver_request_total{verb=\"PATCH\",group=\"\",resource=\"pods\",subresource=\"status\",code=\"200\"} 4\n";
        let after = read(text);
        let before = Requests::from([("POST pods".to_owned(), 3.0), ("PATCH pods/status".to_owned(), 1.0)]);
        assert_eq!(difference(&before, &after), Requests::from([("PATCH pods/status".to_owned(), 3.0)]));
    }
}
