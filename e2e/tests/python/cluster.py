"""A client that sees requests and answers as they are: paths, media types, codes, watch events."""

import json
import random
import string
import time
import traceback
import urllib.parse

import urllib3
from kubernetes import config

LIMIT_SECONDS = 60

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

config.load_kube_config()
_settings = config.new_client_from_config().configuration
_pool = urllib3.PoolManager(
    ca_certs=_settings.ssl_ca_cert, cert_file=_settings.cert_file, key_file=_settings.key_file, maxsize=8
)


class Refused(Exception):
    """An answer that is no success, with its Status."""

    def __init__(self, code, status):
        super().__init__(f"{code}: {status}")
        self.code, self.status = code, status

    @property
    def message(self):
        return self.status.get("message", "")


def send(method, path, body=None, media="application/json", accept="application/json", headers=None, **query):
    """The answer, whatever it is. A body that is no text is written as JSON."""
    if body is not None and not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    found = {key: value for key, value in query.items() if value is not None}
    url = _settings.host + path + ("?" + urllib.parse.urlencode(found) if found else "")
    said = {"Accept": accept, **({"Content-Type": media} if body is not None else {}), **(headers or {})}
    return _pool.request(method, url, body=body, headers=said, retries=False, timeout=LIMIT_SECONDS)


def call(method, path, body=None, **more):
    """The object that a request answers with."""
    answer = send(method, path, body, **more)
    parsed = json.loads(answer.data) if answer.data[:1] in (b"{", b"[") else {"message": answer.data.decode()}
    if answer.status >= 400:
        raise Refused(answer.status, parsed)
    return parsed


def get(path, **more):
    return call("GET", path, **more)


def create(path, body, **more):
    return call("POST", path, body, **more)


def update(path, body, **more):
    return call("PUT", path, body, **more)


def patch(path, body, media=MERGE, **more):
    return call("PATCH", path, body, media=media, **more)


def delete(path, body=None, **more):
    return call("DELETE", path, body, **more)


def refused(code, act, *args, **more):
    """The Status of a request that must fail with this code."""
    try:
        done = act(*args, **more)
    except Refused as error:
        assert error.code == code, f"{error} instead of {code}"
        return error
    raise AssertionError(f"not refused with {code}: {done}")


def is_gone(path):
    return send("GET", path).status == 404


def until(condition, what=""):
    """Waits for a condition and answers with what it found."""
    end = time.monotonic() + LIMIT_SECONDS
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not in time: {what or condition}: {found}"
        time.sleep(0.05)


class Watch:
    """Events of a watch, one after the other."""

    def __init__(self, path, **query):
        url = _settings.host + path + "?" + urllib.parse.urlencode({"watch": "true", **query})
        # Clients written in Go ask for protobuf first and take JSON.
        accept = "application/vnd.kubernetes.protobuf;stream=watch,application/vnd.kubernetes.protobuf, */*"
        self.answer = _pool.request(
            "GET", url, headers={"Accept": accept}, preload_content=False, retries=False, timeout=LIMIT_SECONDS
        )
        assert self.answer.status == 200, self.answer.data
        self.chunks, self.rest = self.answer.stream(), b""

    def next(self):
        while b"\n" not in self.rest:
            self.rest += next(self.chunks)
        line, self.rest = self.rest.split(b"\n", 1)
        event = json.loads(line)
        return event["type"], event["object"]

    def until(self, condition):
        while True:
            kind, found = self.next()
            if condition(kind, found):
                return found

    def close(self):
        self.answer.close()


def name(base):
    return base + "-" + "".join(random.choice(string.ascii_lowercase) for _ in range(6))


def namespace(labels=None):
    """A new namespace in which pods may run."""
    meta = {"name": name("walk"), "labels": labels or {}}
    create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    until(lambda: not is_gone(f"/api/v1/namespaces/{meta['name']}/serviceaccounts/default"))
    return meta["name"]


def has_life(base, body, everywhere=None, status=None, sheltered=False):
    """What the life of an object is in each conformance test of an API: made, listed, watched, changed, gone.

    A write of the status of a sheltered kind leaves the metadata as it was.
    """
    mark = name("life")
    selector = f"walk={mark}"

    def one():
        metadata = {"generateName": "walk-", "labels": {"walk": mark}}
        return create(base, {**body, "metadata": metadata})

    first = one()
    others = [one(), one()]
    path = f"{base}/{first['metadata']['name']}"
    assert get(path)["metadata"]["uid"] == first["metadata"]["uid"]
    assert len(get(everywhere or base, labelSelector=selector)["items"]) == 3
    watch = Watch(base, labelSelector=selector, resourceVersion=others[-1]["metadata"]["resourceVersion"])
    patched = patch(path, {"metadata": {"annotations": {"patched": "true"}}})
    assert patched["metadata"]["annotations"]["patched"] == "true"
    until(lambda: annotates(path, "updated", "true"), "nobody else writes the object")
    watch.until(lambda kind, it: kind == "MODIFIED" and "updated" in it["metadata"].get("annotations", {}))
    if status is not None:
        changed = patch(path + "/status", {"metadata": {"annotations": {"seen": "true"}}, "status": status})
        if sheltered:
            assert "seen" not in changed["metadata"]["annotations"], changed
            assert set(status) <= set(changed["status"]), changed
        else:
            assert changed["metadata"]["annotations"]["seen"] == "true", changed
            until(lambda: annotates(path + "/status", "seen", "twice"), "nobody else writes the status")
            assert get(path + "/status")["metadata"]["annotations"]["seen"] == "twice"
    delete(path)
    watch.until(lambda kind, it: kind == "DELETED" and it["metadata"]["uid"] == first["metadata"]["uid"])
    watch.close()
    assert is_gone(path)
    delete(base, labelSelector=selector)
    until(lambda: not get(base, labelSelector=selector)["items"], f"{base} is empty")


def annotates(path, key, value):
    """Writes what was read with one more annotation, which fails when somebody else was quicker."""
    found = get(path)
    found["metadata"]["annotations"][key] = value
    answer = send("PUT", path, found)
    assert answer.status in (200, 409), answer.data
    return answer.status == 200


def run(tests):
    """Runs each function and says which sentences do not hold."""
    failed = []
    for test in tests:
        try:
            test()
        except Exception:
            traceback.print_exc()
            failed.append(test.__name__)
    assert not failed, f"does not hold: {', '.join(failed)}"
    print("all good")
