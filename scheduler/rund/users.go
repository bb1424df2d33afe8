package rund

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
)

// users remembers whose numbers a user has in an image. Images do not change,
// and finding out mounts one twice.
type users struct {
	mu    sync.Mutex
	known map[userKey]specs.User // guarded by mu
}

type userKey struct{ parent, user, groups string }

// resolve finds the numbers of a user, and of more groups, in the file system of a
// container that is fresh from the image parent.
func (u *users) resolve(ctx context.Context, client oci.Client, id, parent, user string, groups []string) (specs.User, error) {
	if user == "" {
		user = "0"
	}
	key := userKey{parent, user, strings.Join(groups, ",")}
	u.mu.Lock()
	found, ok := u.known[key]
	u.mu.Unlock()
	if ok {
		return found, nil
	}
	found, err := lookUp(ctx, client, id, user, groups)
	if err != nil {
		return specs.User{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil || len(u.known) >= maxKnownUsers {
		u.known = map[userKey]specs.User{}
	}
	u.known[key] = found
	return found, nil
}

func lookUp(ctx context.Context, client oci.Client, id, user string, groups []string) (specs.User, error) {
	c := &containers.Container{ID: id, Snapshotter: image.Snapshotter, SnapshotKey: id}
	spec := &specs.Spec{Linux: &specs.Linux{}, Process: &specs.Process{}}
	if err := oci.WithUser(user)(ctx, client, c, spec); err != nil {
		if transient(err) {
			return specs.User{}, err
		}
		return specs.User{}, rejected(fmt.Errorf("user %q is not known to the image: %w", user, err))
	}
	found := spec.Process.User
	if err := oci.WithAdditionalGIDs(strconv.Itoa(int(found.UID)))(ctx, client, c, spec); err != nil {
		return specs.User{}, fmt.Errorf("groups of user %q: %w", user, err)
	}
	if len(groups) > 0 {
		if err := oci.WithAppendAdditionalGroups(groups...)(ctx, client, c, spec); err != nil {
			if transient(err) {
				return specs.User{}, err
			}
			return specs.User{}, rejected(fmt.Errorf("groups %s: not all are known to the image: %w", strings.Join(groups, ", "), err))
		}
	}
	found.AdditionalGids = spec.Process.User.AdditionalGids
	return found, nil
}
