package control

import (
	"cmp"
	"slices"
)

// All are the controls that exist, by id.
func All() []Control {
	all := slices.Concat(ofNodes(), ofCluster(), ofServices())
	slices.SortFunc(all, func(a, b Control) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func ofNodes() []Control {
	return []Control{
		{ID: "autolock-on", Title: "A manager's disk does not open itself", Severity: High, Scope: OfManager,
			Reads: "names of files in keyd's directory", Remedy: "redoubt autolock on", Check: checkAutolock},
		{ID: "config-trusted", Title: "Root alone writes the node's configuration", Severity: Critical, Scope: OfNode,
			Reads: "owner and mode of the file each daemon was started with", Remedy: "chown root FILE && chmod 0644 FILE", Check: checkConfig},
		{ID: "containers-confined", Title: "Every container is held to what it was started as", Severity: Critical, Scope: OfNode, By: ByRund,
			Reads: "capabilities, filter of system calls, no_new_privs and ids of each running container's processes, and its root mount", Remedy: "stop the task, and ask who had root on its node", Check: checkConfined},
		{ID: "containers-files-granted", Title: "A task has the secrets and configs that its service was granted, and no others", Severity: Critical, Scope: OfNode, By: ByRund,
			Reads: "names of files in memory of each task against its specification", Remedy: "drain the node, restart rund, and renew the secrets", Check: eachContainer(checkGranted)},
		{ID: "containers-image", Title: "What runs is the image that its service names, and the image policy admits it", Severity: Critical, Scope: OfNode, By: ByRund,
			Reads: "the snapshot that each running container lies upon, the layers of the image of its digest, and what vouches for it on the node", Remedy: "redoubt service update --force SERVICE; where the image policy refuses it, redoubt service update --image IMAGE SERVICE with one that it admits", Check: eachContainer(checkImage)},
		{ID: "containers-signed", Title: "On a node under the deployment lock nothing runs but what a deployer signed", Severity: High, Scope: OfLocked, By: ByRund,
			Reads: "what each running container was made from, and what was signed for it, against the chain that its node follows", Remedy: "redoubt service update --sign-with KEY --sign-as-is SERVICE, once a deployer has looked at it; redoubt service rm SERVICE where none knows it", Check: eachContainer(checkSignedTask)},
		{ID: "daemon-capabilities", Title: "No daemon has capabilities beyond its own", Severity: High, Scope: OfNode,
			Reads: "capability sets of the running daemons", Remedy: "start the daemons by the units or the supervisor that came with them", Check: checkCapabilities},
		{ID: "daemon-no-core", Title: "No daemon dumps its memory", Severity: High, Scope: OfNode,
			Reads: "limits of the running daemons", Remedy: "start the daemons by the units or the supervisor that came with them", Check: checkNoCore},
		{ID: "daemon-no-new-privs", Title: "No daemon gains privileges by starting a program", Severity: High, Scope: OfNode,
			Reads: "no_new_privs of the running daemons", Remedy: "start the daemons as they were installed", Check: checkStatus("NoNewPrivs", "1", "may gain privileges by starting a program")},
		{ID: "daemon-seccomp", Title: "Every daemon has a filter of system calls", Severity: High, Scope: OfNode,
			Reads: "seccomp mode of the running daemons", Remedy: "start the daemons as they were installed", Check: checkStatus("Seccomp", "2", "has no filter of system calls")},
		{ID: "daemon-undumpable", Title: "No process of a daemon's user reads its memory", Severity: High, Scope: OfNode,
			Reads: "owner of the running daemons' /proc/PID/mem", Remedy: "start the daemons as they were installed", Check: checkUndumpable},
		{ID: "daemon-users", Title: "Daemons without privileges run as users of their own", Severity: High, Scope: OfNode,
			Reads: "users and groups of the running daemons", Remedy: "start the daemons by the units or the supervisor that came with them", Check: checkUsers},
		{ID: "files-own", Title: "What a daemon keeps can be used by no other user", Severity: Critical, Scope: OfNode,
			Reads: "owners and modes of all in the data directories of redoubtd and keyd", Remedy: "chown the daemon's user, and chmod go= what is named; then ask who read it", Check: checkOwnFiles},
		{ID: "keyd-locked-memory", Title: "keyd's keys are in memory that is not swapped", Severity: High, Scope: OfManager,
			Reads: "locked and swapped memory of the running keyd", Remedy: "raise the limit of locked memory that keyd names, and restart it", Check: checkLockedMemory},
		{ID: "keyd-no-network", Title: "keyd has no socket to any network", Severity: Critical, Scope: OfNode,
			Reads: "descriptors of the running keyd against the kernel's sockets", Remedy: "stop the node: what runs as keyd is not keyd", Check: checkNoNetwork},
		{ID: "lock-kept", Title: "A node will trust no other deployers than those that it trusts now", Severity: High, Scope: OfNode, By: ByRund,
			Reads: "the file of the deployment lock against what rund goes by", Remedy: "ask who had root on the node; redoubt lock trust CHAIN there writes it anew, redoubt lock forget where the node has no lock", Check: checkLockKept},
		{ID: "networks-enforced", Title: "A node's networks are as they were made, and nobody changed their rules", Severity: Critical, Scope: OfNode, By: ByControl,
			Reads: "tables, tunnels and networks in the kernel against what netd was told, and what it had to put back within a day", Remedy: "ask who had root on the node: netd has put the rules back; then restart redoubt-netd, which counts from then on", Check: checkNetworks},
		{ID: "nothing-in-clear", Title: "No key, share or token is written in clear", Severity: Critical, Scope: OfNode,
			Reads: "every byte of the data directories of redoubtd and keyd", Remedy: "remove the file, and rotate what it held", Check: checkNothingInClear},
		{ID: "programs-trusted", Title: "Root alone writes the programs that run, and none was changed since it was started", Severity: Critical, Scope: OfNode,
			Reads: "the program each daemon runs, its owner and mode, and those of the directories above", Remedy: "install the programs again, and restart the daemons", Check: checkPrograms},
		{ID: "roots-kept", Title: "A node will trust no root that it does not trust now", Severity: Critical, Scope: OfNode, By: ByControl,
			Reads: "the file of roots that redoubtd has against those that it trusts", Remedy: "remove the file, and restart redoubtd: managers tell it the cluster's roots", Check: checkRootsKept},
		{ID: "sockets-own", Title: "Each local socket is of the one user who may connect", Severity: High, Scope: OfNode,
			Reads: "owners and modes of the sockets in the run directory", Remedy: "restart the supervisor, or the socket units", Check: checkSockets},
		{ID: "state-sealed", Title: "State and keys of a manager are sealed on its disk", Severity: Critical, Scope: OfManager,
			Reads: "headers of keyd's state, of snapshots and of the store's records", Remedy: "take the node out of the cluster, and let it join anew", Check: checkSealed},
	}
}
