//! Why objects are as they are: what each controller last did about each, what failed, and what it waits for.
//!
//! Conditions and events tell most of it; this tells the rest, of every controller in the same way. The runtime
//! opens an account around each reconcile; the client enters the writes, a controller what it waits for.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use http::{Method, Request};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::key::ObjectKey;

/// Objects remembered, all controllers together; beyond that the one first remembered is forgotten.
const NOTES_MAX: usize = 10_000;
/// Writes and waits remembered of one reconcile; a thousand pods made at once are alike.
const ENTRIES_MAX: usize = 16;

tokio::task_local! {
    static ACCOUNT: RefCell<Account>;
}

/// What one reconcile did and found.
#[derive(Debug, Default)]
pub(crate) struct Account {
    wrote: Vec<String>,
    waits: Vec<String>,
}

/// Runs one reconcile and gives what it did besides what it returned.
pub(crate) async fn account<F: Future>(reconcile: F) -> (F::Output, Account) {
    let account = RefCell::new(Account::default());
    ACCOUNT
        .scope(account, async {
            let output = reconcile.await;
            (output, ACCOUNT.with(|account| account.take()))
        })
        .await
}

/// Says what the reconcile under way waits for.
pub(crate) fn waits_for(what: impl Into<String>) {
    enter(|account| &mut account.waits, || what.into());
}

fn enter(list: impl FnOnce(&mut Account) -> &mut Vec<String>, text: impl FnOnce() -> String) {
    let add = |account: &RefCell<Account>| {
        let mut account = account.borrow_mut();
        let list = list(&mut account);
        if list.len() < ENTRIES_MAX {
            list.push(text());
        }
    };
    // Who writes outside of a reconcile has no account.
    ACCOUNT.try_with(add).unwrap_or_default();
}

/// A client that enters its writes, with their answers, in the account of the reconcile that makes them.
pub(crate) fn accounted(client: kube::Client) -> kube::Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let write = (!matches!(*request.method(), Method::GET | Method::HEAD))
            .then(|| format!("{} {}", request.method(), request.uri().path()));
        let client = client.clone();
        async move {
            let answer = client.send(request).await;
            if let (Some(write), Ok(answer)) = (write, &answer) {
                enter(|account| &mut account.wrote, || format!("{write} {}", answer.status().as_u16()));
            }
            answer
        }
    });
    kube::Client::new(service, namespace)
}

/// What is known of the objects that controllers looked at.
#[derive(Clone)]
pub(crate) struct Ledger {
    notes: Arc<Mutex<Notes>>,
    clock: Clock,
}

#[derive(Default)]
struct Notes {
    by_object: HashMap<(&'static str, ObjectKey), Note>,
    /// The kinds whose names are a controller's keys.
    kinds: HashMap<&'static str, Vec<String>>,
    /// Oldest first.
    order: VecDeque<(&'static str, ObjectKey)>,
}

/// What one controller says of one object.
struct Note {
    at: DateTime<Utc>,
    failure: Option<String>,
    waits: Vec<String>,
    again_at: Option<DateTime<Utc>>,
    /// The last reconcile that wrote anything, and what.
    wrote: Option<(DateTime<Utc>, Vec<String>)>,
}

impl Ledger {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { notes: Arc::default(), clock }
    }

    /// Says whose names the keys of a controller are; of one that says nothing they may be any object's.
    pub(crate) fn concerns(&self, controller: &'static str, kinds: Vec<String>) {
        self.notes.lock().kinds.insert(controller, kinds);
    }

    /// Notes one reconcile and why it failed, if it did; the key comes again after `again`.
    pub(crate) fn note(
        &self,
        controller: &'static str,
        key: &ObjectKey,
        failure: Option<&str>,
        account: Account,
        again: Option<std::time::Duration>,
    ) {
        let at = self.clock.now();
        let again_at = again.and_then(|again| Some(at + chrono::Duration::from_std(again).ok()?));
        let failure = failure.map(str::to_owned);
        let place = (controller, key.clone());
        let mut notes = self.notes.lock();
        let wrote = match account.wrote.is_empty() {
            true => notes.by_object.get_mut(&place).and_then(|before| before.wrote.take()),
            false => Some((at, account.wrote)),
        };
        let note = Note { at, failure, waits: account.waits, again_at, wrote };
        if notes.by_object.insert(place.clone(), note).is_none() {
            notes.order.push_back(place);
        }
        if notes.order.len() > NOTES_MAX
            && let Some(oldest) = notes.order.pop_front()
        {
            notes.by_object.remove(&oldest);
        }
    }

    /// The page `/debug/why`: newest first; `?object=NAMESPACE/NAME` (or a name), `?kind=KIND` and
    /// `?controller=NAME` choose.
    pub(crate) fn page(&self, query: Option<&str>) -> String {
        let asked = |name: &str| {
            let parts = query.into_iter().flat_map(|query| query.split('&'));
            let value = parts.filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name)?.1;
            Some(value.replace("%2F", "/").replace("%2f", "/"))
        };
        let (object, kind, controller) = (asked("object"), asked("kind"), asked("controller"));
        let notes = self.notes.lock();
        let is_of_kind = |name: &str| {
            let kinds = notes.kinds.get(name).filter(|kinds| !kinds.is_empty());
            kind.as_ref().zip(kinds).is_none_or(|(wanted, kinds)| kinds.contains(wanted))
        };
        let is_chosen = |(name, key): &(&'static str, ObjectKey)| {
            controller.as_ref().is_none_or(|wanted| wanted == name)
                && is_of_kind(name)
                && object.as_ref().is_none_or(|wanted| *wanted == key.name || *wanted == key.to_string())
        };
        let mut chosen: Vec<_> = notes.by_object.iter().filter(|(place, _)| is_chosen(place)).collect();
        chosen.sort_by_key(|(_, note)| std::cmp::Reverse(note.at));
        let shown: Vec<Value> =
            chosen.into_iter().map(|((name, key), note)| note.to_value(name, key)).collect();
        json!({ "controllers": shown }).to_string() + "\n"
    }
}

impl Note {
    fn to_value(&self, controller: &str, key: &ObjectKey) -> Value {
        json!({
            "controller": controller,
            "object": key.to_string(),
            "lookedAt": self.at.to_rfc3339(),
            "failed": self.failure,
            "waitsFor": self.waits,
            "looksAgainAt": self.again_at.map(|at| at.to_rfc3339()),
            "wroteAt": self.wrote.as_ref().map(|(at, _)| at.to_rfc3339()),
            "wrote": self.wrote.as_ref().map(|(_, writes)| writes),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn page(ledger: &Ledger, query: &str) -> Vec<Value> {
        let page: Value = serde_json::from_str(&ledger.page(Some(query))).unwrap();
        page["controllers"].as_array().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_reconcile_wrote_and_waits_for_is_told_until_the_next_write() {
        let server = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(b"{}".to_vec())))
        });
        let client = accounted(kube::Client::new(server, "default"));
        let ledger = Ledger::new(Clock::starting_at(DateTime::UNIX_EPOCH));
        let key = ObjectKey::new("ns", "web");
        let send = async |method: &str| {
            let request = Request::builder().method(method).uri("/x?y=z").body(Vec::new()).unwrap();
            client.request_text(request).await.unwrap();
        };
        let reconcile = async {
            send("GET").await;
            send("PATCH").await;
            waits_for("pod web-0");
        };
        let ((), first) = account(reconcile).await;
        ledger.note("c", &key, None, first, Some(Duration::from_secs(5)));
        tokio::time::advance(Duration::from_secs(5)).await;
        ledger.note("c", &key, Some("no quota"), Account::default(), None);
        let [note] = &page(&ledger, "object=ns%2Fweb&controller=c")[..] else { panic!() };
        assert_eq!(
            (&note["wrote"], &note["wroteAt"]),
            (&json!(["PATCH /x 200"]), &json!("1970-01-01T00:00:00+00:00"))
        );
        assert_eq!((&note["failed"], &note["waitsFor"]), (&json!("no quota"), &json!([])));
        assert!(page(&ledger, "object=other").is_empty());
        ledger.concerns("c", vec!["Deployment".to_owned()]);
        let of_kind = |kind: &str| page(&ledger, &format!("object=ns/web&kind={kind}")).len();
        assert_eq!((of_kind("Deployment"), of_kind("Service")), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_objects_are_remembered() {
        let ledger = Ledger::new(Clock::starting_at(DateTime::UNIX_EPOCH));
        for number in 0..=NOTES_MAX {
            let key = ObjectKey::cluster(number.to_string());
            ledger.note("c", &key, None, Account::default(), None);
        }
        assert_eq!(page(&ledger, "controller=c").len(), NOTES_MAX);
        assert!(page(&ledger, "object=0").is_empty());
    }
}
