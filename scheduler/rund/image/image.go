// Package image brings images to the node: from registries, always by the
// digest that was fixed when the service was created, and from tar archives
// that an operator loads.
//
// An image is content under a digest; its name only says where to ask. Before a
// container uses an image, the manifest for this machine, its configuration and
// every layer are in containerd's store under the expected digests, unpacked,
// and remapped to the user namespace's range, without the device nodes and named
// pipes it may hold. Registries are spoken to over
// TLS, verified against the system's roots or the CA configured for that host;
// nothing can turn this off, and no redirect leaves https.
//
// What comes from outside is bounded (limits.go): the parts of an image
// together, and again what they unpack to, which is measured before anything is
// unpacked; each manifest, index and configuration, as they are read whole; and
// the time in which a registry must send something worth waiting for. Layers
// outside the registry that was named are refused.
//
// A credential comes with the task that needs it, is shown to the registry it names
// and to no other, and is not kept. It is needed to get an image here, not to use one
// that is here.
package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/credential"
)

const (
	// Snapshotter holds the file systems of images and containers.
	Snapshotter = "overlayfs"
	// labelLoaded marks images that came from an archive.
	labelLoaded = "redoubt.loaded"
)

// Rejected is a failure that will not go away by trying again on this node.
type Rejected struct{ Err error }

func (e *Rejected) Error() string { return e.Err.Error() }
func (e *Rejected) Unwrap() error { return e.Err }

func rejectf(format string, args ...any) error {
	return &Rejected{fmt.Errorf(format, args...)}
}

// Store is containerd's images as rund uses them.
type Store struct {
	client     *containerd.Client
	registries *Registries
	base, size uint32 // user namespace range
	maxBytes   int64

	mu    sync.Mutex
	locks map[digest.Digest]*keyLock // one pull or remap per digest
	ready map[digest.Digest]*Ready   // found complete before. Guarded by mu
	pulls chan struct{}              // slots
}

// Ready is an image that a container can be made from.
type Ready struct {
	Name   string
	Digest digest.Digest
	Config ocispec.ImageConfig
	// Healthcheck is the image's, nil for none. Unchecked.
	Healthcheck *taskpb.Healthcheck
	// Parent is the snapshot that a container's own goes upon.
	Parent string
}

type keyLock struct {
	users int // guarded by Store.mu
	held  chan struct{}
}

// New returns a store that remaps to host ids base to base+size-1 and refuses
// images of more than maxBytes, packed or unpacked; at most parallel pulls run at once.
func New(c *containerd.Client, r *Registries, base, size uint32, maxBytes int64, parallel int) *Store {
	return &Store{client: c, registries: r, base: base, size: size, maxBytes: maxBytes,
		locks: map[digest.Digest]*keyLock{}, ready: map[digest.Digest]*Ready{}, pulls: make(chan struct{}, parallel)}
}

// Ensure makes the image that ref meant when it had digest dgst available.
//
// What was found complete once is not looked at again: containerd does not
// change it, only forget it. The caller who finds that it did calls Forget.
// note is told what is waited for; cred, if not nil, is shown to the registry.
func (s *Store) Ensure(ctx context.Context, ref, dgst string, cred *credential.Credential, note func(string)) (*Ready, error) {
	named, err := parse(ref)
	if err != nil {
		return nil, err
	}
	want, err := digest.Parse(dgst)
	if err != nil || want.Algorithm() != digest.SHA256 {
		return nil, rejectf("image %s: digest %q is not sha256:… : the digest must be fixed when the service is created", ref, dgst)
	}
	if d, ok := named.(reference.Digested); ok && d.Digest() != want {
		return nil, rejectf("image %s: the reference names another digest than %s", ref, want)
	}
	if r := s.known(want); r != nil {
		return r, nil
	}
	unlock, err := s.lock(ctx, want)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r := s.known(want); r != nil {
		return r, nil
	}
	img, err := s.present(ctx, want)
	if err != nil {
		return nil, err
	}
	if img == nil {
		if img, err = s.pull(ctx, named, want, cred, note); err != nil {
			return nil, err
		}
	}
	if err := s.unpack(ctx, img); err != nil {
		return nil, explain(ref, err)
	}
	parent, err := s.remap(ctx, img)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	r := &Ready{Name: img.Name(), Digest: want, Parent: parent}
	if r.Config, r.Healthcheck, err = s.config(ctx, img); err != nil {
		return nil, rejectf("image %s: its configuration is malformed: %w", ref, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready[want] = r
	return r, nil
}

func (s *Store) known(d digest.Digest) *Ready {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready[d]
}

// Forget makes the next Ensure look at the image again.
func (s *Store) Forget(r *Ready) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready[r.Digest] == r {
		delete(s.ready, r.Digest)
	}
}

// present finds complete content under a digest, whatever its name.
func (s *Store) present(ctx context.Context, want digest.Digest) (containerd.Image, error) {
	list, err := s.client.ImageService().List(ctx, "target.digest=="+want.String())
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		ok, _, _, missing, err := images.Check(ctx, looked{small{s.client.ContentStore()}}, i.Target, Platform)
		if err == nil && ok && len(missing) == 0 && checkPlatform(ctx, s.client, i.Target) == nil {
			return containerd.NewImageWithPlatform(s.client, i, Platform), nil
		}
	}
	return nil, nil
}

func (s *Store) unpack(ctx context.Context, img containerd.Image) error {
	if ok, err := img.IsUnpacked(ctx, Snapshotter); err != nil || ok {
		return err
	}
	if err := s.measure(ctx, img); err != nil {
		return err
	}
	return img.Unpack(ctx, Snapshotter)
}

// Resolve gives the digest of a reference: of the image loaded here under that
// name, or else what its registry says now. platforms is empty where they are not
// known: of what was loaded every node has its own.
func (s *Store) Resolve(ctx context.Context, ref string) (dgst string, loaded bool, platforms []string, err error) {
	named, err := parse(ref)
	if err != nil {
		return "", false, nil, err
	}
	i, err := s.client.ImageService().Get(ctx, named.String())
	switch {
	case err == nil && i.Labels[labelLoaded] != "":
		return i.Target.Digest.String(), true, nil, nil
	case err != nil && !errdefs.IsNotFound(err):
		return "", false, nil, err
	}
	resolver := s.registries.resolver(nil)
	var desc ocispec.Descriptor
	err = retry(ctx, nil, func() (err error) {
		_, desc, err = resolver.Resolve(ctx, named.String())
		return err
	})
	if err != nil {
		return "", false, nil, explain(ref, err)
	}
	if err := desc.Digest.Validate(); err != nil {
		return "", false, nil, explain(ref, err)
	}
	// A help to the scheduler: the node itself refuses what is not for it.
	if fetcher, ferr := resolver.Fetcher(ctx, named.String()); ferr == nil {
		platforms, _ = platformsOf(ctx, fetcher, desc)
	}
	return desc.Digest.String(), false, platforms, nil
}

// Loaded returns the names and digests of the images loaded here.
func (s *Store) Loaded(ctx context.Context) (map[string]string, error) {
	list, err := s.client.ImageService().List(ctx, `labels."`+labelLoaded+`"==true`)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, i := range list {
		m[i.Name] = i.Target.Digest.String()
	}
	return m, nil
}

// label adds labels to an image record.
func (s *Store) label(ctx context.Context, name string, add map[string]string) error {
	is := s.client.ImageService()
	i, err := is.Get(ctx, name)
	if err != nil {
		return err
	}
	var paths []string
	for k := range add {
		paths = append(paths, "labels."+k)
	}
	i.Labels = maps.Clone(add)
	_, err = is.Update(ctx, i, paths...)
	return err
}

func (s *Store) lock(ctx context.Context, d digest.Digest) (func(), error) {
	s.mu.Lock()
	l := s.locks[d]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		s.locks[d] = l
	}
	l.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.locks, d)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// MaxReference bounds an image reference in characters.
const MaxReference = 512

// parse reads what a user writes, as docker does: "nginx" is
// docker.io/library/nginx:latest.
func parse(ref string) (reference.Named, error) {
	if ref == "" || len(ref) > MaxReference {
		return nil, rejectf("an image reference must be 1 to %d characters long", MaxReference)
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, rejectf("image %q: %s", ref, strings.TrimPrefix(err.Error(), "invalid reference format: "))
	}
	return named, nil
}

// Normalize gives the canonical form of a reference.
func Normalize(ref string) (string, error) {
	named, err := parse(ref)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

// IsRejected reports whether err will not go away by trying again.
func IsRejected(err error) bool {
	var r *Rejected
	return errors.As(err, &r)
}
