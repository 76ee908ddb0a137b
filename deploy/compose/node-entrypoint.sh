#!/bin/sh
# A node inside a container: the engine mounts cgroups read-only, and the pods of this node need some.
set -eu
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    if mountpoint -q "$hierarchy" 2>/dev/null; then
        mount -o remount,bind,rw "$hierarchy" || echo "$hierarchy stays read-only" >&2
    fi
done
exec nodeagent "$@"
