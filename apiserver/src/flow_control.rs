//! Priority and fairness: each request is of a FlowSchema, which leads to a priority level with seats of its own.
//!
//! [`rules`] finds schema and flow, [`level`] has the seats, [`queues`] decides who of those that wait goes next,
//! [`keeper`] keeps the default objects and their status. Schemas and levels are compiled from the live objects
//! when these have changed. A request that is let in holds its seats until its answer begins; watches hold them
//! until their first events are ready, other streams hold none.

pub(crate) mod keeper;
mod level;
mod queues;
mod rules;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::Value;
use sha2::Digest as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::authz::Attributes;
use crate::bootstrap::flow_control as defaults;
use crate::view::{Version, View};

use level::{Entry, Kind, Level, Pool, WhenFull};
use queues::Shape;
use rules::Schema;

pub(crate) const SCHEMAS: &str = "flowcontrol.apiserver.k8s.io/flowschemas";
pub(crate) const LEVELS: &str = "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations";

/// A list takes a seat for each so many objects, up to a bound.
const OBJECTS_PER_SEAT: usize = 100;
const LIST_SEATS_MAX: u32 = 10;

/// The seats that a list of so many objects takes.
pub(crate) fn seats_of_list(objects: usize) -> u32 {
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(LIST_SEATS_MAX).clamp(1, LIST_SEATS_MAX)
}

/// A server's priority and fairness.
pub(crate) struct FlowControl {
    view: Arc<dyn View>,
    /// Seats of all levels together.
    total: u32,
    compiled: ArcSwapOption<Compiled>,
    compiling: Mutex<()>,
    levels: Mutex<BTreeMap<String, Arc<Level>>>,
    pool: Arc<Pool>,
    figures: Figures,
    /// Told when schemas or levels have changed.
    changed: Notify,
}

struct Compiled {
    versions: [Version; 2],
    schemas: Vec<Arc<Class>>,
}

/// A schema and where it leads.
struct Class {
    schema: Schema,
    target: Target,
    labels: ClassLabels,
}

/// What an answer says of how its request was classified.
#[derive(Clone)]
pub(crate) struct ClassLabels {
    pub(crate) schema_uid: HeaderValue,
    pub(crate) level_uid: HeaderValue,
}

impl ClassLabels {
    fn new(schema: &Schema, target: &Target) -> Self {
        let text = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
        Self { schema_uid: text(&schema.uid), level_uid: text(&target.level_uid) }
    }
}

/// Where a schema leads.
#[derive(Clone)]
struct Target {
    level: Arc<Level>,
    level_uid: String,
    seats_max: u32,
    dispatched: Counter,
    executing: Gauge,
    inqueue: Gauge,
}

/// A request that may run. Its seats are free again when this is dropped.
pub(crate) struct Admitted {
    control: Arc<FlowControl>,
    class: Arc<Class>,
    queue: Option<usize>,
    seats: u32,
    since: Instant,
}

/// A request that may not run now, and as what it was classified.
pub(crate) struct Refused {
    pub(crate) labels: ClassLabels,
}

impl FlowControl {
    pub(crate) fn new(view: Arc<dyn View>, total: u32) -> Arc<Self> {
        Arc::new(Self {
            view,
            total: total.max(1),
            compiled: ArcSwapOption::empty(),
            compiling: Mutex::new(()),
            levels: Mutex::default(),
            pool: Arc::default(),
            figures: Figures::default(),
            changed: Notify::new(),
        })
    }

    /// Lets a request in at once, when it is its turn within `patience`, or not.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        attributes: &Attributes,
        seats: u32,
        patience: Duration,
    ) -> Result<Admitted, Refused> {
        let compiled = self.compiled();
        let found = compiled.schemas.iter().find(|class| class.schema.fits(attributes));
        // The last one is catch-all, which takes whoever is left.
        let Some(class) = found.or(compiled.schemas.last()) else {
            unreachable!("the mandatory schemas are always there")
        };
        let Class { schema, target, labels } = &**class;
        let seats = seats.min(target.seats_max);
        let refused = |reason: &'static str| {
            self.figures.refused(&target.level.name, &schema.name, reason);
            Refused { labels: labels.clone() }
        };
        let queue = match target.level.enter(hash(&schema.name, schema.flow(attributes)), seats) {
            Entry::Now => None,
            Entry::Refused(reason) => return Err(refused(reason)),
            Entry::Wait(turn) => {
                target.inqueue.inc();
                let mut turn = Turn { turn, level: &target.level, seats };
                let waited = tokio::time::timeout(patience, &mut turn.turn).await;
                target.inqueue.dec();
                match waited {
                    Ok(Ok(queue)) => Some(queue),
                    _ => return Err(refused("time-out")),
                }
            }
        };
        target.dispatched.inc();
        target.executing.inc();
        Ok(Admitted { control: self.clone(), class: class.clone(), queue, seats, since: Instant::now() })
    }

    fn compiled(&self) -> Arc<Compiled> {
        let versions = || [SCHEMAS, LEVELS].map(|resource| self.view.version(resource));
        let now = versions();
        let fresh = |c: &Compiled| c.versions.iter().zip(&now).all(|(a, b)| a.is_same(b));
        if let Some(compiled) = self.compiled.load_full().filter(|c| fresh(c)) {
            return compiled;
        }
        let _one_at_a_time = self.compiling.lock();
        // The versions are read before the objects: at worst the rules are newer than they say.
        let compiled = Arc::new(self.compile(versions()));
        self.compiled.store(Some(compiled.clone()));
        self.changed.notify_one();
        compiled
    }

    fn compile(&self, versions: [Version; 2]) -> Compiled {
        let levels = self.with_mandatory(LEVELS, "PriorityLevelConfiguration");
        let targets = self.configure(&levels);
        let objects = self.with_mandatory(SCHEMAS, "FlowSchema");
        let schemas = rules::compile(objects.iter().map(|object| &**object));
        // A schema that leads nowhere counts as if it were not there.
        let schemas = schemas.into_iter().filter_map(|schema| {
            let target = targets.get(&schema.level)?.clone();
            let target = self.figures.count(&schema, target);
            Some(Arc::new(Class { labels: ClassLabels::new(&schema, &target), schema, target }))
        });
        Compiled { versions, schemas: schemas.collect() }
    }

    /// The live objects, and those that have to be there whatever anybody deletes.
    fn with_mandatory(&self, resource: &str, kind: &str) -> Vec<Arc<Value>> {
        let mut objects = self.view.objects(resource, None);
        for mandatory in
            defaults::objects().into_iter().filter(|o| o["kind"] == kind && defaults::is_mandatory(o))
        {
            let place = objects.iter().position(|o| o["metadata"]["name"] == mandatory["metadata"]["name"]);
            match place {
                None => objects.push(Arc::new(mandatory)),
                Some(at) if objects[at]["spec"] == mandatory["spec"] => {}
                Some(at) => {
                    let metadata = objects[at]["metadata"].clone();
                    let mut put_right = mandatory;
                    put_right["metadata"] = metadata;
                    objects[at] = Arc::new(put_right);
                }
            }
        }
        objects
    }

    /// Gives each level its seats and takes away those that are gone.
    fn configure(&self, objects: &[Arc<Value>]) -> HashMap<String, Target> {
        let shares: u64 = objects
            .iter()
            .map(|object| limits(object)["nominalConcurrencyShares"].as_u64().unwrap_or(0))
            .sum();
        let mut known = self.levels.lock();
        let mut targets = HashMap::new();
        for object in objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let level = known.entry(name.to_owned());
            let level = level.or_insert_with(|| Arc::new(Level::new(name, self.pool.clone()))).clone();
            let seats = self.share(object, shares.max(1), &level);
            level.configure(kind_of(object));
            self.figures.limit(name, seats);
            let level_uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            targets.insert(name.to_owned(), Target::new(level, level_uid, seats));
        }
        known.retain(|name, _| targets.contains_key(name));
        self.pool.set(known.values().map(|level| level.seats.clone()).collect());
        targets
    }

    /// Its own seats, those it lends, those it may borrow.
    fn share(&self, object: &Value, all: u64, level: &Level) -> u32 {
        let limits = limits(object);
        let percent = |field: &str| limits[field].as_u64();
        let own = u64::from(self.total) * limits["nominalConcurrencyShares"].as_u64().unwrap_or(0);
        let own = u32::try_from(own.div_ceil(all)).unwrap_or(u32::MAX);
        let part = |percent: u64| u32::try_from((u64::from(own) * percent + 50) / 100).unwrap_or(u32::MAX);
        level.seats.limit.store(own, Ordering::SeqCst);
        level.seats.lendable.store(part(percent("lendablePercent").unwrap_or(0)), Ordering::SeqCst);
        level
            .seats
            .borrowable
            .store(percent("borrowingLimitPercent").map_or(self.total, part), Ordering::SeqCst);
        own.max(1)
    }

    /// Lets those in who wait on any level, now that seats are free that may be borrowed.
    fn let_in(&self) {
        if self.pool.has_waiting() {
            let levels: Vec<_> = self.levels.lock().values().cloned().collect();
            levels.iter().for_each(|level| level.let_in());
        }
    }

    /// Shows the figures at `/metrics`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.figures.register(registry);
    }
}

impl Target {
    fn new(level: Arc<Level>, level_uid: String, seats_max: u32) -> Self {
        let (dispatched, executing, inqueue) = Default::default();
        Self { level, level_uid, seats_max, dispatched, executing, inqueue }
    }
}

impl Admitted {
    pub(crate) fn labels(&self) -> ClassLabels {
        self.class.labels.clone()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.class.target.executing.dec();
        self.class.target.level.leave(self.queue, self.seats, self.since.elapsed().as_secs_f64());
        self.control.let_in();
    }
}

/// A place in a queue. A turn that comes too late is given back.
struct Turn<'a> {
    turn: tokio::sync::oneshot::Receiver<usize>,
    level: &'a Level,
    seats: u32,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turn.close();
        if let Ok(queue) = self.turn.try_recv() {
            self.level.leave(Some(queue), self.seats, 0.0);
        }
    }
}

fn limits(object: &Value) -> &Value {
    match object["spec"]["type"].as_str() {
        Some("Exempt") => &object["spec"]["exempt"],
        _ => &object["spec"]["limited"],
    }
}

fn kind_of(object: &Value) -> Kind {
    let response = &object["spec"]["limited"]["limitResponse"];
    let number = |field: &str, usual: u64| {
        usize::try_from(response["queuing"][field].as_u64().unwrap_or(usual)).unwrap_or(usize::MAX)
    };
    match (object["spec"]["type"].as_str(), response["type"].as_str()) {
        (Some("Exempt"), _) => Kind::Exempt,
        (_, Some("Queue")) => Kind::Limited(WhenFull::Queue(Shape {
            queues: number("queues", 64).min(10_000),
            hand: number("handSize", 8).min(15),
            length_max: number("queueLengthLimit", 50),
        })),
        _ => Kind::Limited(WhenFull::Reject),
    }
}

fn hash(schema: &str, flow: &str) -> u64 {
    let digest = sha2::Sha256::new().chain_update(schema).chain_update([0]).chain_update(flow).finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has more than eight bytes"))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

/// Counts under the names that kube-apiserver gives them.
#[derive(Default)]
struct Figures {
    dispatched: Family<Labels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    executing: Family<Labels, Gauge>,
    inqueue: Family<Labels, Gauge>,
    limits: Family<LevelLabels, Gauge>,
}

impl Figures {
    /// The target with the counters of its schema, so that a request does not look for them.
    fn count(&self, schema: &Schema, target: Target) -> Target {
        let labels = Labels { priority_level: target.level.name.clone(), flow_schema: schema.name.clone() };
        Target {
            dispatched: self.dispatched.get_or_create(&labels).clone(),
            executing: self.executing.get_or_create(&labels).clone(),
            inqueue: self.inqueue.get_or_create(&labels).clone(),
            ..target
        }
    }

    fn refused(&self, level: &str, schema: &str, reason: &'static str) {
        let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
        self.refused.get_or_create(&RefusedLabels { priority_level, flow_schema, reason }).inc();
    }

    fn limit(&self, level: &str, seats: u32) {
        self.limits.get_or_create(&LevelLabels { priority_level: level.to_owned() }).set(i64::from(seats));
    }

    fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("apiserver_flowcontrol");
        registry.register("dispatched_requests", "Requests let in", self.dispatched.clone());
        registry.register("rejected_requests", "Requests refused, by reason", self.refused.clone());
        registry.register("current_executing_requests", "Requests that run", self.executing.clone());
        registry.register("current_inqueue_requests", "Requests that wait", self.inqueue.clone());
        registry.register("nominal_limit_seats", "Seats of a level's own", self.limits.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;
    use crate::view::fixture::Fixture;

    fn world() -> Fixture {
        let level = |name: &str, shares: u64, response: Value| {
            serde_json::json!({"metadata": {"name": name, "uid": format!("level-{name}")}, "spec": {"type": "Limited",
                "limited": {"nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": response}}})
        };
        let queue = serde_json::json!({"type": "Queue", "queuing": {"queues": 64, "handSize": 4, "queueLengthLimit": 50}});
        let schema = serde_json::json!({"metadata": {"name": "all", "uid": "schema-all"}, "spec": {"matchingPrecedence": 5,
            "priorityLevelConfiguration": {"name": "narrow"}, "distinguisherMethod": {"type": "ByUser"}, "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
        Fixture::default().with(LEVELS, level("narrow", 1, queue)).with(SCHEMAS, schema)
    }

    fn list_by(user: &str) -> Attributes {
        Attributes {
            user: UserInfo::new(user, &["system:authenticated"]),
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "a".into(),
            ..Attributes::default()
        }
    }

    const PATIENCE: Duration = Duration::from_secs(15);

    /// One seat, a hundred requests of a noisy client before one of a quiet client.
    #[tokio::test(start_paused = true)]
    async fn a_noisy_client_does_not_starve_a_quiet_one() {
        let control = FlowControl::new(Arc::new(world()), 1);
        let first = control.enter(&list_by("noisy"), 1, PATIENCE).await.ok().unwrap();
        let ClassLabels { schema_uid, level_uid } = first.labels();
        assert_eq!(
            (schema_uid.to_str().unwrap(), level_uid.to_str().unwrap()),
            ("schema-all", "level-narrow")
        );
        let served = Arc::new(Mutex::new(Vec::new()));
        let one = |user: &'static str| {
            let (control, served) = (control.clone(), served.clone());
            async move {
                let admitted = control.enter(&list_by(user), 1, PATIENCE).await;
                if admitted.is_ok() {
                    served.lock().push(user);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        };
        let mut all: Vec<_> = (0..100).map(|_| futures::future::Either::Left(one("noisy"))).collect();
        all.push(futures::future::Either::Right(one("quiet")));
        let end = async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            drop(first);
        };
        futures::future::join(futures::future::join_all(all), end).await;
        let served = served.lock();
        let place = served.iter().position(|user| *user == "quiet").unwrap();
        assert!(place < 6, "the quiet client came after {place} of the noisy one");
        assert_eq!(served.len(), 101);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused_and_leaves_no_seat_behind() {
        let control = FlowControl::new(Arc::new(world()), 1);
        let first = control.enter(&list_by("a"), 1, PATIENCE).await.ok().unwrap();
        assert!(control.enter(&list_by("b"), 1, PATIENCE).await.is_err());
        drop(first);
        assert!(control.enter(&list_by("b"), 1, PATIENCE).await.is_ok());
    }

    #[tokio::test]
    async fn without_any_schema_the_mandatory_ones_hold() {
        let control = FlowControl::new(Arc::new(Fixture::default()), 10);
        let admin = Attributes { user: UserInfo::admin(), ..list_by("x") };
        let exempt: Vec<_> =
            futures::future::join_all((0..50).map(|_| control.enter(&admin, 1, PATIENCE))).await;
        assert!(exempt.iter().all(Result::is_ok));
        let others = futures::future::join_all((0..50).map(|_| {
            let control = control.clone();
            async move { control.enter(&list_by("jane"), 1, PATIENCE).await }
        }));
        assert_eq!(others.await.iter().filter(|entered| entered.is_ok()).count(), 10);
    }

    #[test]
    fn a_list_takes_more_seats_the_more_objects_there_are() {
        assert_eq!([0, 1, 100, 101, 100_000].map(seats_of_list), [1, 1, 1, 2, 10]);
    }
}
