// Package dockerapi speaks the Docker Engine API, versions 1.40 to 1.51, for the
// cluster's side of it: nodes, services, tasks, secrets, configs, networks, logs,
// events and the cluster itself. The docker command, Prometheus and whatever else
// knows that API work with a cluster through it.
//
// It is a client of the operator API and nothing more. Each connection to docker.sock
// gets a connection of its own to the node's operator servers, which look at the
// process at the far end of docker.sock itself, as the kernel knows it, and judge each
// call as if that process had made it natively: who may do what, who must approve, and
// what the audit log says is decided there, and nothing of it can be forgotten here.
// It has no access to the store, nor to keyd's socket.
//
// What cannot be done exactly as it was asked for is refused. A field of a request that
// means something and is not translated is an error which names it: translations take
// what they know out of the request, and whatever is left over is refused. So is a field
// that this version of the API's types does not know. What belongs to a machine and not
// to the cluster (containers, images, builds) is answered with 501 and what to use.
//
// Names are the API's own here: Service, Task and Node of package swarm are Docker's,
// those of schedulerpb ours.
package dockerapi
