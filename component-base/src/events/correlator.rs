//! What becomes of an event among those before it: an Event of its own, one more of the same, one of many
//! similar ones, or nothing. Pure; the rules and figures are those of Kubernetes' client library.
//!
//! First, events that differ only in their message are combined into one from the tenth message in ten
//! minutes on. Then what is the same as before is counted up instead of created. Last, a component that says
//! too much about one object is silenced: 25 at once, then one in five minutes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, Duration, Utc};

use super::Note;

/// Series, groups and budgets remembered, each; beyond, those used least recently are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// From this many messages of one group on, they are combined.
const MESSAGES_MAX: usize = 10;
/// A group ends when nothing was added for this long.
const GROUP_AGE_MAX: Duration = Duration::seconds(600);
const BURST: f64 = 25.0;
const SECONDS_A_TOKEN: f64 = 300.0;

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: too much was said about the object.
    Silence,
    /// A new Event.
    Create(Telling),
    /// One more of the Event that is there.
    CountUp(Telling),
}

/// The parts of an Event that depend on those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Telling {
    pub name: String,
    pub message: String,
    pub count: i32,
    pub first: DateTime<Utc>,
}

/// What stands for a name of many texts: two names that differ share one in 2^128.
type Fingerprint = u128;

fn fingerprint(of: impl Hash) -> Fingerprint {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &of).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// The same event so far; of a group that is combined, every event.
#[derive(Debug)]
struct Series {
    name: String,
    count: i32,
    first: DateTime<Utc>,
}

#[derive(Debug)]
struct Group {
    /// Oldest first.
    messages: Vec<Fingerprint>,
    last: DateTime<Utc>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: DateTime<Utc>,
}

impl Bucket {
    fn take(&mut self, now: DateTime<Utc>) -> bool {
        let gained = (now - self.filled).as_seconds_f64().max(0.0) / SECONDS_A_TOKEN;
        self.tokens = (self.tokens + gained).min(BURST);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

/// What was said so far. One correlator sees all events about an object, in their order. Thousands of objects
/// are remembered, so no text is but the names of Events.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    groups: Memory<Group>,
    series: Memory<Series>,
    buckets: Memory<Bucket>,
}

impl Correlator {
    /// Decides about an event of this moment.
    pub(super) fn judge(&mut self, note: &Note, now: DateTime<Utc>) -> Verdict {
        let subject = subject_of(note);
        let group = fingerprint((subject, note.type_, &note.reason));
        let (message, exactly) = if self.is_combined(group, &note.message, now) {
            (format!("(combined from similar events): {}", note.message), None)
        } else {
            (
                note.message.clone(),
                Some((note.about.field_path.as_deref().unwrap_or_default(), &note.message)),
            )
        };
        let verdict = self.observe(fingerprint((group, exactly)), note, message, now);
        let full = || Bucket { tokens: BURST, filled: now };
        if self.buckets.entry(subject, full).take(now) { verdict } else { Verdict::Silence }
    }

    fn is_combined(&mut self, group: Fingerprint, message: &str, now: DateTime<Utc>) -> bool {
        let fresh = || Group { messages: Vec::new(), last: now };
        let group = self.groups.entry(group, fresh);
        if now - group.last > GROUP_AGE_MAX {
            group.messages.clear();
        }
        group.last = now;
        let message = fingerprint(message);
        if !group.messages.contains(&message) {
            group.messages.push(message);
        }
        let combined = group.messages.len() >= MESSAGES_MAX;
        if combined {
            group.messages.remove(0);
        }
        combined
    }

    fn observe(&mut self, key: Fingerprint, note: &Note, message: String, now: DateTime<Utc>) -> Verdict {
        let object = note.about.name.as_deref().unwrap_or_default();
        let begin = || Series { name: name_of(object, now, key), count: 0, first: now };
        let series = self.series.entry(key, begin);
        series.count = series.count.saturating_add(1);
        let telling =
            Telling { name: series.name.clone(), message, count: series.count, first: series.first };
        if series.count == 1 { Verdict::Create(telling) } else { Verdict::CountUp(telling) }
    }
}

/// The name of a new Event: the object's, and what tells the beginning of this series from that of any
/// other, by whatever component: its moment and what it is about.
fn name_of(object: &str, now: DateTime<Utc>, series: Fingerprint) -> String {
    const CHARS_MAX: usize = 253;
    let mut hasher = DefaultHasher::new();
    (now, series).hash(&mut hasher);
    let end = format!(".{:016x}", hasher.finish());
    object.chars().take(CHARS_MAX - end.len()).collect::<String>() + &end
}

/// Who says something about what.
fn subject_of(note: &Note) -> Fingerprint {
    let about = &note.about;
    let object = [&about.kind, &about.namespace, &about.name, &about.uid, &about.api_version];
    fingerprint((&note.component, object.map(|part| part.as_deref().unwrap_or_default())))
}

/// A map that forgets what was used least recently, a quarter at a time.
#[derive(Debug)]
struct Memory<V> {
    known: HashMap<Fingerprint, (u64, V)>,
    uses: u64,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self { known: HashMap::new(), uses: 0 }
    }
}

impl<V> Memory<V> {
    fn entry(&mut self, key: Fingerprint, fresh: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.known.len() >= REMEMBERED_MAX && !self.known.contains_key(&key) {
            let mut uses: Vec<u64> = self.known.values().map(|(used, _)| *used).collect();
            let (_, oldest_kept, _) = uses.select_nth_unstable(REMEMBERED_MAX / 4);
            let oldest_kept = *oldest_kept;
            self.known.retain(|_, (used, _)| *used >= oldest_kept);
        }
        let (used, value) = self.known.entry(key).or_insert_with(|| (0, fresh()));
        *used = self.uses;
        value
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::super::EventType;
    use super::*;

    fn note(object: &str, reason: &str, message: &str) -> Note {
        let about = ObjectReference { name: Some(object.to_owned()), ..ObjectReference::default() };
        Note {
            about,
            component: "c".to_owned(),
            type_: EventType::Normal,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: at(0),
        }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Duration::seconds(second)
    }

    fn tell(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Silence => "-".to_owned(),
            Verdict::Create(new) => format!("new {}", new.message),
            Verdict::CountUp(more) => format!("{}x {}", more.count, more.message),
        }
    }

    /// Says messages about one object, a second apart.
    fn check(messages: &[&str], expected: &[&str]) {
        let mut correlator = Correlator::default();
        let told: Vec<String> = (0..)
            .zip(messages)
            .map(|(second, message)| tell(&correlator.judge(&note("o", "R", message), at(second))))
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn the_same_event_is_counted_and_another_is_new() {
        check(&["a", "a", "b", "a"], &["new a", "2x a", "new b", "3x a"]);
    }

    #[test]
    fn the_tenth_message_and_those_after_it_are_combined() {
        let messages = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "9"];
        let told = [
            "new 1",
            "new 2",
            "new 3",
            "new 4",
            "new 5",
            "new 6",
            "new 7",
            "new 8",
            "new 9",
            "new (combined from similar events): 10",
            "2x (combined from similar events): 11",
            "2x 9",
        ];
        check(&messages, &told);
    }

    #[test]
    fn after_ten_quiet_minutes_messages_stand_alone_again() {
        let mut correlator = Correlator::default();
        let mut say =
            |second: i64, message: &str| tell(&correlator.judge(&note("o", "R", message), at(second)));
        (0..12).for_each(|n| drop(say(n, &n.to_string())));
        assert_eq!(say(600, "x"), "4x (combined from similar events): x");
        assert_eq!(say(1201, "y"), "new y");
    }

    #[test]
    fn a_burst_about_one_object_is_silenced_and_another_object_is_not() {
        let mut correlator = Correlator::default();
        let mut say = |object: &str, second: i64| correlator.judge(&note(object, "R", "m"), at(second));
        let passed = (0..100).filter(|_| say("o", 0) != Verdict::Silence).count();
        assert_eq!(passed, 25);
        assert_ne!(say("other", 0), Verdict::Silence);
        assert_eq!(say("o", 299), Verdict::Silence);
        assert_eq!(tell(&say("o", 301)), "102x m", "what was silenced counts when it is told again");
    }

    #[test]
    fn two_events_of_one_instant_have_two_names() {
        let mut correlator = Correlator::default();
        let mut name = |object: &str, reason: &str| match correlator.judge(&note(object, reason, "m"), at(1))
        {
            Verdict::Create(new) => new.name,
            other => panic!("{other:?}"),
        };
        let (one, other) = (name("o", "R"), name("o", "S"));
        assert!(one.starts_with("o.") && other.starts_with("o.") && one != other, "{one} {other}");
        assert_eq!(name(&"o".repeat(300), "R").len(), 253);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut memory = Memory::default();
        (0..10_000).for_each(|key| *memory.entry(key, || 0) = key);
        assert!(memory.known.len() <= REMEMBERED_MAX);
        assert_eq!(*memory.entry(9_999, || 0), 9_999);
        assert_eq!(*memory.entry(0, || 1), 1, "forgotten");
    }
}
