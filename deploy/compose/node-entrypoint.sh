#!/bin/sh
# A node inside a container: cgroups must be writable, and the data directory is a volume.
set -eu
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -d "$hierarchy" ] && mount -o remount,bind,rw "$hierarchy" 2>/dev/null || true
done
exec nodeagent "$@"
