#!/bin/bash
# Boots systemd as the first process of a machine of its own: usage
# systemd.sh DIR GROUP. DIR holds `make install`'s tree (dest), unit files
# (units), a place for logs (log) and one for a scratch file system (scratch);
# GROUP is the name of the cgroup to live in. Run twice: outside, to enter the
# cgroup, and again inside the new namespaces.
set -eu
dir=$1 group=$2

cgroups() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2, $3, $4}' /proc/mounts; }

if [ -z "${3-}" ]; then
  while read -r at type opts; do
    mkdir -p "$at/$group"
    for f in cpuset.cpus cpuset.mems; do # an empty set takes no process
      if [ -f "$at/$group/$f" ] && [ "$type" = cgroup ]; then cat "$at/$f" >"$at/$group/$f"; fi
    done
    echo $$ >"$at/$group/cgroup.procs"
  done < <(cgroups)
  exec unshare --pid --fork --mount --uts --ipc --net --cgroup --kill-child bash "$0" "$dir" "$group" inside
fi

mount --make-rprivate /
mount -t proc proc /proc
while read -r at type opts; do # the same hierarchies, seen from the group
  opts=$(tr ',' '\n' <<<"$opts" | grep -vE '^(rw|ro|relatime|nosuid|nodev|noexec|xattr|release_agent=.*)$' | paste -sd,)
  umount "$at"
  mount -t "$type" ${opts:+-o "$opts"} cgroup "$at"
done < <(cgroups)
mount -t tmpfs scratch "$dir/scratch"
mkdir "$dir/scratch/etc" "$dir/scratch/work"
mount -t overlay etc -o "lowerdir=/etc,upperdir=$dir/scratch/etc,workdir=$dir/scratch/work" /etc
mount -t overlay usr -o "lowerdir=$dir/dest/usr:/usr" /usr
mount -t tmpfs run /run
mount -t tmpfs var /var/lib
mkdir /run/log && mount --bind "$dir/log" /run/log
hostname machine
ip link set lo up
ip link add uplink type bridge && ip addr add 192.0.2.10/24 dev uplink && ip link set uplink up
mount --make-rshared /
systemd-sysusers /usr/lib/sysusers.d/redoubt.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/redoubt.conf
# These units and no others: nothing of the machine's own is started.
export container=redoubt-test SYSTEMD_UNIT_PATH="$dir/units:/usr/lib/systemd/redoubt"
exec /lib/systemd/systemd --system --unit=machine.target --show-status=no
