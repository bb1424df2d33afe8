// Package e2e has no code: its tests are stories. Each drives the built binaries
// over hosts of a lab, with real containers and real packets, as an operator or
// an attacker would, and looks at what can be seen from outside: exit codes,
// /proc, files on disk, answers on sockets.
//
// Stories need root and the container runtime and fail where these are missing.
// REDOUBT_BIN names the directory of the binaries; without it they are built.
package e2e
