#!/usr/bin/env bash
# Makes node.tar.gz beside this file: the data directory of the only manager of
# a lab, as the release whose binaries it is given writes it, and the operator
# key that opens it. This one was made with the first release (commit 7308ad4).
# The cluster holds nothing and is gone; its key is worth nothing.
# Usage, as root: make.sh DIRECTORY-WITH-THE-RELEASE'S-BINARIES
set -euo pipefail
bin=$1 here=$(cd "$(dirname "$0")" && pwd) name=release-$$ work=$(mktemp -d)
lab() { local verb=$1; shift; "$bin/redoubt" lab "$verb" --name "$name" "$@"; }
on() { lab exec manager-1 -- redoubt "$@"; }
trap 'lab down; rm -rf "$work"' EXIT
lab up --managers 1 --workers 1 --bin-dir "$bin"
"$bin/redoubt" lab image "$work/image"
lab load "$work/image"
on service create --detach --name web --replicas 2 redoubt.lab/demo:1
on service create --detach --name api --replicas 0 redoubt.lab/demo:1
on join-token worker >/dev/null
lab stop manager-1
mkdir "$work/node"
cp -a "/var/lib/redoubt-lab/$name/manager-1/data" "/var/lib/redoubt-lab/$name/operator.key" "$work/node"
tar -C "$work/node" --numeric-owner --owner=0 --group=0 -czf "$here/node.tar.gz" data operator.key
