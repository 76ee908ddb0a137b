//! What expressions evaluate to, and how they are refused.

use expect_test::{Expect, expect};
use serde_json::{Value as Json, json};

use super::*;
use crate::schema::Schema;

fn object() -> Json {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web", "a.b/c": "x"}},
        "spec": {"replicas": 3, "ratio": 0.5, "paused": false, "ports": [
            {"name": "http", "port": 80}, {"name": "https", "port": 443}
        ], "tags": ["a", "b"], "nothing": null},
    })
}

/// The value of an expression over a dynamic `object`, as JSON; or what is wrong.
fn value(text: &str) -> String {
    let object = object();
    let environment = Environment::new().variable("object", Type::Dyn).with_mutations();
    let program = match environment.compile(text) {
        Ok(program) => program,
        Err(why) => return format!("{why}"),
    };
    let activation = Activation::new().with("object", Value::json(&object));
    match program.eval(&activation, &mut Budget::for_rules()) {
        Ok(value) => value.to_json().map_or_else(|| format!("{:?}", value.kind()), |json| json.to_string()),
        Err(why) => format!("error: {why}"),
    }
}

#[track_caller]
fn check(text: &str, expected: Expect) {
    expected.assert_eq(&value(text));
}

#[track_caller]
fn all_true(texts: &[&str]) {
    for text in texts {
        assert_eq!(value(text), "true", "{text}");
    }
}

#[test]
fn operators_bind_as_in_c() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "-2 - -2 == 0",
        "7 % 3 == 1 && !(1 > 2)",
        "1 < 2 ? true : false",
        "'a' + 'b' == \"ab\"",
        "2 in [1, 2] && !(3 in [1, 2])",
        "'a' in {'a': 1}",
        "1.5 < 2 && 2u > 1",
        "-9223372036854775808 < 0",
        "b'abc' == bytes('abc')",
        "[1, 2] + [3] == [1, 2, 3]",
        "r'\\d' == '\\\\d' && '''a\nb''' == 'a\\nb'",
        "timestamp('2020-01-02T03:04:05Z') + duration('1h') == timestamp('2020-01-02T04:04:05Z')",
        "duration('90s') > duration('1m') && duration('1h30m').getMinutes() == 90",
        "timestamp('2020-01-02T03:04:05Z').getHours('+01:00') == 4",
        "timestamp('2020-07-02T03:04:05Z').getHours('Europe/Berlin') == 5",
        "int('42') == 42 && string(1.0) == '1' && double('1.5') == 1.5 && uint(3) == 3u",
        "type(1) == int && type([]) == list && type('') != int",
        "dyn(1) == dyn(1.0) && dyn(1) == dyn(1u) && dyn(1) != dyn('1')",
    ]);
}

#[test]
fn a_side_that_decides_hides_an_error_on_the_other() {
    all_true(&[
        "object.missing == 1 || true",
        "!(object.missing == 1 && false)",
        "[0, 1].exists(x, 1 / x == 1)",
        "![dyn('a'), dyn(1)].all(x, x == 2 && object.missing)",
    ]);
    check("object.missing == 1 || false", expect!["error: no such key: missing"]);
    check("1 / 0 == 1", expect!["error: division by zero"]);
    check("9223372036854775807 + 1", expect!["error: integer overflow"]);
    check("object.spec.tags[7]", expect!["error: index out of bounds: 7"]);
    check("object.metadata.labels['no']", expect!["error: no such key: no"]);
}

#[test]
fn macros_go_through_lists_and_maps() {
    all_true(&[
        "has(object.spec.ports) && !has(object.spec.gone)",
        "object.spec.ports.all(p, p.port > 0)",
        "object.spec.ports.exists(p, p.name == 'https')",
        "object.spec.ports.exists_one(p, p.port == 80)",
        "object.spec.ports.filter(p, p.port > 100).size() == 1",
        "object.spec.ports.map(p, p.name) == ['http', 'https']",
        "object.spec.ports.map(p, p.port > 100, p.name) == ['https']",
        "object.metadata.labels.all(k, k.startsWith('a'))",
        "[1, 2].all(x, [3, 4].all(y, x < y))",
        "cel.bind(x, 2, x * x) == 4",
        "object.spec.tags.all(i, v, v == ['a', 'b'][i])",
        "object.metadata.labels.exists(k, v, k == 'app' && v == 'web')",
        "[1, 2, 3].transformList(i, v, i > 0, v * 2) == [4, 6]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v + 1) == {'a': 2, 'b': 3}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
    ]);
}

#[test]
fn optionals_stand_for_what_may_be_missing() {
    all_true(&[
        "object.?spec.?gone.orValue(5) == 5",
        "object.?spec.?replicas.orValue(5) == 3",
        "object.metadata.labels[?'app'].orValue('') == 'web'",
        "object.spec.tags[?5].hasValue() == false",
        "optional.of(1).value() == 1 && !optional.none().hasValue()",
        "optional.ofNonZeroValue('').or(optional.of('x')).value() == 'x'",
        "object.?spec.optMap(s, s.replicas + 1).value() == 4",
        "[?object.?gone, ?object.spec.?replicas] == [3]",
        "{?'a': object.?gone, 'b': 1} == {'b': 1}",
    ]);
    check("optional.none().value()", expect!["error: optional.none() dereference"]);
}

#[test]
fn strings_have_the_extension() {
    all_true(&[
        "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "['a', 'b'].join('-') == 'a-b'",
        "'hello'.replace('l', 'L', 1) == 'heLlo' && 'hello'.substring(1, 3) == 'el'",
        "'aBc'.lowerAscii() == 'abc' && 'aBc'.upperAscii() == 'ABC' && ' a '.trim() == 'a'",
        "'abc'.reverse() == 'cba' && strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'äö'.size() == 2 && size('abc') == 3",
        "'abc'.matches('^a.c$') && 'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1'.find('[0-9]') == '1'",
        "'%s is %d of %.2f, %x'.format(['a', 1, 2.5, 255]) == 'a is 1 of 2.50, ff'",
        "'%s'.format([[dyn(1), 'a', {'k': true}]]) == '[1, a, {k: true}]'",
    ]);
    check("'abc'.substring(5)", expect!["error: index out of range: 5"]);
}

#[test]
fn lists_and_sets_have_their_functions() {
    all_true(&[
        "[1, 2, 3].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && [3, 1].max() == 3",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "[3, 1].sort() == [1, 3] && [1, 1].distinct() == [1] && [[1], [2]].flatten() == [1, 2]",
        "[1, 2, 3].slice(1, 2) == [2] && lists.range(2) == [0, 1] && [1, 2].reverse() == [2, 1]",
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 3]) && sets.equivalent([1, 1], [1])",
        "math.greatest(1, 2) == 2 && math.least([3, 1]) == 1 && math.abs(-1) == 1",
        "base64.encode(b'hi') == 'aGk=' && base64.decode('aGk=') == b'hi'",
    ]);
}

#[test]
fn kubernetes_libraries_are_there() {
    all_true(&[
        "quantity('1Gi').isGreaterThan(quantity('1M')) && quantity('500m').add(quantity('500m')).asInteger() == 1",
        "isQuantity('1.5Gi') && !isQuantity('x') && quantity('2').compareTo(quantity('2000m')) == 0",
        "url('https://a.b:80/p?x=1').getHost() == 'a.b:80' && url('https://a.b:80/p').getPort() == '80'",
        "isURL('/a') && !isURL('nope') && url('https://h/p?x=1&x=2').getQuery()['x'] == ['1', '2']",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('10.0.0.256') && ip('::1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true) && !isSemver('1.0')",
        "semver('1.0.0-alpha').compareTo(semver('1.0.0')) == -1 && semver('1.2.3').minor() == 2",
        "!format.named('dns1123Label').value().validate('abc').hasValue()",
        "format.dns1123Label().validate('A').value().size() == 1",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
    check(
        "[JSONPatch{op: 'add', path: '/a', value: {'x': 1}}]",
        expect![[r#"[{"op":"add","path":"/a","value":{"x":1}}]"#]],
    );
    check(
        "Object{metadata: Object.metadata{labels: {'a': 'b'}}}",
        expect![[r#"{"metadata":{"labels":{"a":"b"}}}"#]],
    );
}

#[test]
fn mistakes_are_told_as_cel_go_tells_them() {
    check(
        "nothing.here == 1",
        expect![[r#"
            ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')
             | nothing.here == 1
             | ^"#]],
    );
    check(
        "object.spec >",
        expect![[r#"
            ERROR: <input>:1:14: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
             | object.spec >
             | .............^"#]],
    );
    check(
        "1 + 'a'",
        expect![[r#"
            ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'
             | 1 + 'a'
             | ..^"#]],
    );
    check(
        "'a'.startsWith(1) && foo(1)",
        expect![[r#"
            ERROR: <input>:1:15: found no matching overload for 'startsWith' applied to 'string.(int)'
             | 'a'.startsWith(1) && foo(1)
             | ..............^
            ERROR: <input>:1:25: undeclared reference to 'foo' (in container '')
             | 'a'.startsWith(1) && foo(1)
             | ........................^"#]],
    );
    check(
        "[1, 'a'].size() == 2",
        expect![[r#"
            ERROR: <input>:1:5: expected type 'int' but found 'string'
             | [1, 'a'].size() == 2
             | ....^"#]],
    );
    check(
        "1.all(x, x)",
        expect![[r#"
            ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)
             | 1.all(x, x)
             | ^"#]],
    );
    check(
        "'a'.matches('(')",
        expect![[r#"
            ERROR: <input>:1:13: invalid matches argument
             | 'a'.matches('(')
             | ............^"#]],
    );
}

fn custom() -> Schema {
    Schema::from_openapi(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "min": {"type": "integer"},
        "share": {"type": "number"},
        "namespace": {"type": "string"},
        "a-b": {"type": "string"},
        "since": {"type": "string", "format": "date-time"},
        "wait": {"type": "string", "format": "duration"},
        "port": {"x-kubernetes-int-or-string": true},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "env": {"type": "object", "additionalProperties": {"type": "integer"}},
    }}}}))
    .unwrap()
}

fn typed(text: &str, object: &Json, old: &Json) -> String {
    let schema = custom();
    let ty = Type::of_resource(&schema, "Lamp").unwrap();
    let environment = Environment::new().variable("self", ty.clone()).variable("oldSelf", ty);
    let program = match environment.compile(text) {
        Ok(program) => program,
        Err(why) => return format!("{why}"),
    };
    let activation = Activation::new()
        .with("self", Value::with_schema(object, &schema))
        .with("oldSelf", Value::with_schema(old, &schema));
    match program.eval(&activation, &mut Budget::for_rules()) {
        Ok(value) => format!("{:?}", value.to_json()),
        Err(why) => format!("error: {why}"),
    }
}

#[test]
fn values_are_what_their_schema_says() {
    let object = json!({"metadata": {"name": "x"}, "spec": {
        "min": 1, "share": 2, "namespace": "n", "a-b": "c", "since": "2020-01-02T03:04:05Z", "wait": "90s",
        "port": "http", "set": ["a", "b"], "map": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "env": {"A": 1},
    }});
    let old = json!({"metadata": {"name": "x"}, "spec": {
        "set": ["b", "a"], "map": [{"k": "y", "v": 2}, {"k": "x", "v": 1}],
    }});
    for text in [
        "self.spec.min == 1 && self.spec.share == 2.0 && self.spec.share / 2.0 == 1.0",
        "self.spec.__namespace__ == 'n' && self.spec.a__dash__b == 'c'",
        "self.spec.since < timestamp('2021-01-01T00:00:00Z') && self.spec.wait == duration('1m30s')",
        "type(self.spec.port) == string && self.spec.env.A == 1",
        "self.spec.set == oldSelf.spec.set && self.spec.map == oldSelf.spec.map",
        "(self.spec.set + ['b', 'c']).size() == 3",
        "(self.spec.map + oldSelf.spec.map).size() == 2",
        "self.metadata.name == 'x' && !has(oldSelf.spec.min)",
    ] {
        assert_eq!(typed(text, &object, &old), "Some(Bool(true))", "{text}");
    }
    expect!["error: no such key: min"].assert_eq(&typed("oldSelf.spec.min == 1", &object, &old));
    expect![[r#"
        ERROR: <input>:1:10: undefined field 'max'
         | self.spec.max > 1
         | .........^"#]]
    .assert_eq(&typed("self.spec.max > 1", &object, &old));
    expect![[r#"
        ERROR: <input>:1:14: undefined field 'labels'
         | self.metadata.labels.size() > 1
         | .............^"#]]
    .assert_eq(&typed("self.metadata.labels.size() > 1", &object, &old));
}

#[test]
fn an_evaluation_that_costs_too_much_is_cancelled() {
    let list: Vec<Json> = (0..2000).map(Json::from).collect();
    let list = Json::Array(list);
    let environment = Environment::new().variable("list", Type::list(Type::Int));
    let program = environment.compile("list.all(x, list.all(y, x + y >= 0))").unwrap();
    let activation = Activation::new().with("list", Value::json(&list));
    let mut budget = Budget::for_rules();
    assert_eq!(program.eval(&activation, &mut budget).unwrap_err(), EvalError::OverBudget);
    assert!(budget.left() < RULES_COST_MAX);
}

#[test]
fn cost_is_counted_as_by_cel_go() {
    let object = object();
    let environment = Environment::new().variable("object", Type::Dyn);
    let activation = Activation::new().with("object", Value::json(&object));
    for (text, cost) in [
        ("true", 0),
        ("object.spec.replicas", 3),
        ("object.spec.replicas == 3", 4),
        ("has(object.spec)", 2),
        ("[1, 2]", 10),
        ("'aaaaaaaaaaaaaaa' == 'b'", 1),
        ("object.spec.tags.all(t, t == 'x')", 3 + 2 + 1 + 2 + 2 + 1),
    ] {
        let mut budget = Budget::for_rules();
        environment.compile(text).unwrap().eval(&activation, &mut budget).unwrap();
        assert_eq!(RULES_COST_MAX - budget.left(), cost, "{text}");
    }
}

struct Bounded(u64);

impl Sizes for Bounded {
    fn size(&self, path: &[&str]) -> Option<Range> {
        matches!(path, ["list"] | ["list", "@items"]).then(|| Range::up_to(self.0))
    }
}

#[test]
fn nested_loops_over_unbounded_lists_are_estimated_as_too_dear() {
    let environment = Environment::new().variable("list", Type::list(Type::String));
    let program = environment.compile("list.all(x, list.all(y, x != y))").unwrap();
    assert!(program.estimate(&Bounded(10)).max < 10_000);
    assert!(program.estimate(&Bounded(1 << 20)).max > RULES_COST_MAX);
    assert_eq!(program.estimate(&()).max, u64::MAX);
}

#[test]
fn depth_is_bounded_on_a_small_stack() {
    let run = || {
        let nested = format!("{}1{}", "(".repeat(300), ")".repeat(300));
        assert!(value(&nested).contains("recursion limit"), "parentheses");
        assert!(value(&format!("object{}", ".a".repeat(40_000))).contains("recursion limit"), "members");
        assert!(value(&"!".repeat(90_000)).contains("recursion limit"), "negations");
        assert!(value(&"[".repeat(90_000)).contains("recursion limit"), "lists");
        assert!(value(&"1".repeat(100_001)).contains("exceeds limit"), "length");
        let sum = vec!["1"; 240].join(" + ");
        assert_eq!(value(&sum), "240");
        let lists = format!("{}1{}", "[".repeat(240), "]".repeat(240));
        assert_eq!(value(&lists), lists);
        let any = vec!["object.no"; 4000].join(" || ");
        assert_eq!(value(&format!("{any} || true")), "true");
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}
