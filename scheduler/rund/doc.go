// Package rund makes a node's containers be what the agent says they should be.
// It is the only part of Redoubt that speaks to containerd and the only one
// that runs as root with the right to mount.
//
// # What it owns
//
// Everything a task is on the node below its network: image, file system, user
// and network namespace (the interfaces in it are netd's), container, files
// such as /etc/hosts, log and exit status. The caller gives the whole desired
// state under a growing generation; a worker per task converges; Watch tells
// how far each came. Desired phases are CREATED, RUNNING and STOPPING; a task
// that is absent is stopped, removed and forgotten. A container that ended is
// never started again: a new try is a new task.
//
// State lives in containerd: each container carries its task's specification
// and endpoint, and its exit once it ended. So rund may be restarted, or
// killed, at any time: it adopts what it finds, and until the first Apply it
// changes nothing. Containers and their logs go on meanwhile, and also while
// containerd restarts.
//
// # What it refuses
//
// Shell strings, privileged containers, capabilities and devices on request;
// host paths outside the allow-list of the node's own configuration; images
// without a digest; registries without verified TLS; an older generation. What
// a specification asks for and is not built is an error, never ignored. It
// reads nothing of the cluster's state. The one key it holds is born here when it
// starts and opens what is sealed to it: the secrets of tasks of this node.
//
// # How a container is confined
//
// See package ocispec for what a container may do and package netns for its
// user namespace. Containers of a node share one range of host ids, unless their
// service wants another for each: they have user namespaces of their own, but a file
// that leaked from one to another would be accessible.
//
// # Where a task's data may be found
//
// containerd's database holds specifications with their environment, its
// content store the images: both in containerd's root, outside Redoubt's data
// directory. <run-dir>/rund/<task>/ holds the generated files and the log; no
// environment. Neither is encrypted.
package rund
