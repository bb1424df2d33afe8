// Package kernel is how netd speaks to the kernel: work inside a network
// namespace, interfaces, sysctls, transactions of nftables, what
// identifies the content of a table, and the kernel's notices of changes. It
// knows nothing of what netd makes; the packages of netd share it.
//
// Whatever runs in a namespace runs on a thread of its own that ends with it
// (InNetns). Every request has a deadline.
package kernel
