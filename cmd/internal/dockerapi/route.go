package dockerapi

import (
	"net/http"
	"strings"
)

// route is one of the API's endpoints.
type route struct {
	pattern string
	// manager: it needs a manager, of a cluster, that is not locked.
	manager bool
	// follows: its answer may go on for as long as the caller reads.
	follows bool
	handle  func(*Server, *request) (any, error)
}

// routes are what is answered. A path of the API that is not here is answered by
// elsewhere.
var routes = []route{
	{pattern: "GET /_ping", handle: (*Server).ping}, // and HEAD
	{pattern: "GET /version", handle: (*Server).version},
	{pattern: "GET /info", handle: (*Server).info},
	{pattern: "GET /events", manager: true, follows: true, handle: (*Server).events},
	{pattern: "GET /distribution/{name...}", manager: true, handle: (*Server).distribution},

	{pattern: "GET /swarm", manager: true, handle: (*Server).swarm},
	{pattern: "POST /swarm/init", handle: (*Server).swarmInit},
	{pattern: "POST /swarm/join", handle: (*Server).swarmJoin},
	{pattern: "POST /swarm/leave", handle: (*Server).swarmLeave},
	{pattern: "POST /swarm/update", manager: true, handle: (*Server).swarmUpdate},
	{pattern: "GET /swarm/unlockkey", manager: true, handle: (*Server).unlockKey},
	{pattern: "POST /swarm/unlock", handle: (*Server).unlock},

	{pattern: "GET /nodes", manager: true, handle: (*Server).nodes},
	{pattern: "GET /nodes/{id}", manager: true, handle: (*Server).node},
	{pattern: "POST /nodes/{id}/update", manager: true, handle: (*Server).nodeUpdate},
	{pattern: "DELETE /nodes/{id}", manager: true, handle: (*Server).nodeRemove},

	{pattern: "GET /services", manager: true, handle: (*Server).services},
	{pattern: "GET /services/{id}", manager: true, handle: (*Server).service},
	{pattern: "POST /services/create", manager: true, handle: (*Server).serviceCreate},
	{pattern: "POST /services/{id}/update", manager: true, handle: (*Server).serviceUpdate},
	{pattern: "DELETE /services/{id}", manager: true, handle: (*Server).serviceRemove},
	{pattern: "GET /services/{id}/logs", manager: true, follows: true, handle: (*Server).logs},

	{pattern: "GET /tasks", manager: true, handle: (*Server).tasks},
	{pattern: "GET /tasks/{id}", manager: true, handle: (*Server).task},
	{pattern: "GET /tasks/{id}/logs", manager: true, follows: true, handle: (*Server).logs},

	{pattern: "GET /secrets", manager: true, handle: (*Server).secrets},
	{pattern: "GET /secrets/{id}", manager: true, handle: (*Server).secret},
	{pattern: "POST /secrets/create", manager: true, handle: (*Server).secretCreate},
	{pattern: "POST /secrets/{id}/update", manager: true, handle: (*Server).secretUpdate},
	{pattern: "DELETE /secrets/{id}", manager: true, handle: (*Server).secretRemove},

	{pattern: "GET /configs", manager: true, handle: (*Server).configs},
	{pattern: "GET /configs/{id}", manager: true, handle: (*Server).config},
	{pattern: "POST /configs/create", manager: true, handle: (*Server).configCreate},
	{pattern: "POST /configs/{id}/update", manager: true, handle: (*Server).configUpdate},
	{pattern: "DELETE /configs/{id}", manager: true, handle: (*Server).configRemove},

	{pattern: "GET /networks", manager: true, handle: (*Server).networks},
	{pattern: "GET /networks/{id}", manager: true, handle: (*Server).network},
	{pattern: "POST /networks/create", manager: true, handle: (*Server).networkCreate},
	{pattern: "DELETE /networks/{id}", manager: true, handle: (*Server).networkRemove},

	{pattern: "GET /volumes", manager: true, handle: (*Server).volumes},
	{pattern: "GET /volumes/{name}", manager: true, handle: (*Server).volume},
	{pattern: "POST /volumes/create", manager: true, handle: (*Server).volumeCreate},
	{pattern: "POST /volumes/prune", manager: true, handle: (*Server).volumesPrune},
	{pattern: "DELETE /volumes/{name}", manager: true, handle: (*Server).volumeRemove},
}

// parts of the API that are not the cluster's, and what to use in their place.
var parts = map[string]string{
	"containers":   "Containers are tasks of services here: `docker service create`, `docker service ps` and `docker service logs`, or `redoubt service`.",
	"exec":         "Containers are tasks of services here, and nothing is run in them beside what they are for.",
	"images":       "Images are the nodes' own: give them to a registry, or `redoubt image load ARCHIVE` on each node.",
	"build":        "Nothing is built here: build with docker or buildah elsewhere and give the image to a registry.",
	"session":      "Nothing is built here: build with docker or buildah elsewhere and give the image to a registry.",
	"grpc":         "Nothing is built here: build with docker or buildah elsewhere and give the image to a registry.",
	"commit":       "Images are not made of containers here: build them elsewhere and give them to a registry.",
	"volumes":      "Volumes are made and removed, and never changed: make another one.",
	"plugins":      "There are no plugins: networks of other kinds come by CNI (`redoubt network create --driver cni`).",
	"auth":         "Credentials for a registry are secrets here: `redoubt secret create --registry HOST --username NAME`.",
	"system":       "What images and containers occupy is told by node: `redoubt node inspect NODE`.",
	"checkpoints":  "Containers are not frozen here.",
	"networks":     "Only networks of the cluster are kept here; a service joins one by --network, and the others are removed by name.",
	"distribution": "Images are not pushed or pulled here: nodes get what their tasks run.",
}

// elsewhere is the answer to what is not in routes.
func elsewhere(r *http.Request) error {
	part, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if why, ok := parts[part]; ok {
		return notHere("%s %s is not answered by Redoubt. %s", r.Method, r.URL.Path, why)
	}
	return refuse(http.StatusNotFound, "page not found")
}
