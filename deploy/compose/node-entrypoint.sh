#!/bin/sh
# A node inside a container: the engine mounts cgroups read-only, and the pods of this node need some.
set -eu
mounts=$(cat /proc/mounts)
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    case "$mounts" in
    *" $hierarchy "*) mount -o remount,bind,rw "$hierarchy" || echo "$hierarchy stays read-only" >&2 ;;
    esac
done
exec nodeagent "$@"
