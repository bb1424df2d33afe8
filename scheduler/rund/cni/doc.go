// Package cni puts tasks' sandboxes on networks that CNI plugins make. rund uses
// it, and nobody else executes a plugin.
//
// # Who decides what
//
// A plugin runs as root and does what its configuration says, so neither ever
// comes through the API. A network names a conflist, no more. The conflist is a
// file that this node's administrator put in one directory; the plugins are
// binaries in another, each pinned by its SHA-256 in the node's configuration.
// Whatever could have been written by others than root is refused, and so is a
// conflist that names a plugin by path, one that is not pinned, or a file
// outside of the directories that the configuration allows.
//
// # Who runs plugins
//
// rund itself may not start a program: its filter of system calls says so. Before
// it puts that filter on it starts a helper, which is the same binary with the
// argument Command, on nodes that have a pinned plugin and on no others; and
// gives up the capabilities that only the helper needs. The two speak over a pair
// of sockets (cnipb): put task T on network N by conflist C, take it off, these
// are the tasks that exist. The helper reads the configuration itself, so that
// whoever took over rund could have plugins run, but not choose them.
//
// The helper lives in namespaces of its own. In its mount namespace lies a file
// system in memory with copies of the pinned plugins, read-only: the bytes that
// were hashed are those that run, also where one plugin starts another (bridge
// starts host-local), because PATH and CNI_PATH lead only there. It is the first
// of its process namespace: when it ends, however it ends, every plugin and
// whatever one left behind ends with it.
//
// # What a plugin gets
//
// CNI's environment, and PATH; root's id with CAP_NET_ADMIN, CAP_NET_RAW and
// CAP_SYS_ADMIN (without which nobody enters a network namespace); a filter that
// leaves it setns for network namespaces and no mount, module, trace, bpf or
// other namespace; a working directory that is read-only. A call of a conflist
// has a deadline, at which the plugin's process group is killed; what it writes is
// bounded.
//
// # No address leaks
//
// Before ADD a record is written that holds the conflist's bytes, and it goes only
// when DEL succeeded. Whoever dies in between, plugin, helper, rund or machine,
// what the next helper finds recorded and no task has is deleted, again and again
// until it succeeds. DEL is given the conflist as it was at ADD.
//
// # What it is not
//
// Isolation of such a network is what its plugins make of it: a bridge of CNI has
// no rules of Redoubt's, and its packets are not encrypted.
package cni
