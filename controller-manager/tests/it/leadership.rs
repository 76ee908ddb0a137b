//! Several controller managers at once: one works.

use component_base::leader::Election;
use controller_manager::Config;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ServiceAccount;

use crate::cluster::Cluster;

async fn holder(cluster: &Cluster) -> Option<String> {
    let lease = cluster.api::<Lease>("kube-system").get_opt("kube-controller-manager").await.unwrap()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_at_once() {
    let mut cluster = Cluster::without_manager().await;
    let config = cluster.config();
    let elected = |name: &str| {
        let election = Election { identity: name.to_owned(), ..Election::new("kube-controller-manager") };
        Config { election: Some(election), ..config.clone() }
    };
    let first = cluster.run_manager(elected("first"));
    let is = |name: &'static str| {
        let cluster = &cluster;
        move || async move { (holder(cluster).await.as_deref() == Some(name)).then_some(()) }
    };
    cluster.until_idle("the first as leader", is("first")).await;
    let second = cluster.run_manager(elected("second"));
    first.stop().await;
    let handed_over = tokio::time::Instant::now();
    cluster.until_idle("the second as leader", is("second")).await;
    assert!(handed_over.elapsed() < Election::new("x").lease_duration, "it waited for the lease to expire");
    cluster.create_namespace("team").await;
    cluster
        .until_idle("the second at work", || async {
            cluster.api::<ServiceAccount>("team").get_opt("default").await.unwrap()
        })
        .await;
    cluster.keep(second);
    cluster.stop().await;
}
