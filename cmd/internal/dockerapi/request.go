package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/strictjson"
)

// readBody reads the one JSON value of a request. A key that the API's types do not know
// is refused, and so is one that is there twice: Docker ignores the first and takes the
// last of the second, and neither was asked for.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return badRequest("unsupported Content-Type header (%s): must be 'application/json'", r.Header.Get("Content-Type"))
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	defer clear(data) // it may be a secret's
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return refuse(http.StatusRequestEntityTooLarge, "the request is longer than %d bytes", maxBody)
	case err != nil:
		return refuse(http.StatusRequestTimeout, "the request did not come whole")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the answer may take longer than the body
	if err := strictjson.Decode(data, into); err != nil {
		why := strings.TrimPrefix(err.Error(), "json: ")
		if field, ok := strings.CutPrefix(why, "unknown field "); ok {
			return badRequest("invalid JSON: %s is not known here, and would have to be ignored", field)
		}
		return badRequest("invalid JSON: %s", why)
	}
	return nil
}

// versionOf is the version that an update says it read.
func versionOf(r *http.Request) (uint64, error) {
	n, err := strconv.ParseUint(r.URL.Query().Get("version"), 10, 64)
	if err != nil {
		return 0, badRequest("invalid version '%s': give the one that was read", r.URL.Query().Get("version"))
	}
	return n, nil
}

// isOn reads a parameter that is true or false, in the ways that Docker takes.
func isOn(r *http.Request, name string) bool {
	switch strings.ToLower(strings.TrimSpace(r.URL.Query().Get(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// onlyParameters refuses parameters that are not known, as what they ask for would not
// be done.
func onlyParameters(r *http.Request, known ...string) error {
next:
	for name, values := range r.URL.Query() {
		for _, k := range known {
			if name == k {
				continue next
			}
		}
		for _, v := range values {
			if v != "" {
				return badRequest("parameter %q is not supported here", name)
			}
		}
	}
	return nil
}

// withoutCredentials refuses credentials for a registry, which are no field of a service
// here.
func withoutCredentials(r *http.Request) error {
	text := r.Header.Get("X-Registry-Auth")
	if text == "" {
		return nil
	}
	data, err := base64.URLEncoding.DecodeString(text)
	if err != nil {
		data, err = base64.RawURLEncoding.DecodeString(text)
	}
	defer clear(data)
	var said map[string]any
	if err != nil || json.Unmarshal(data, &said) != nil {
		return badRequest("X-Registry-Auth is no JSON in base64")
	}
	for name, v := range said {
		if s, ok := v.(string); name != "serveraddress" && (!ok || s != "") {
			return notHere("credentials for a registry are secrets here: keep them by `redoubt secret create --registry HOST --username NAME`, and name that secret by `redoubt service update --registry-auth`; leave --with-registry-auth out")
		}
	}
	return nil
}
