package image

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// labelUsed is when an image was last seen in use, in Unix nanoseconds.
const labelUsed = "redoubt.used"

// Policy says which images a node keeps.
type Policy struct {
	// UnusedFor is how long an image stays that no task of the node uses.
	UnusedFor time.Duration
	// Above High percent of the disk images go also before, those unused for
	// longest first, until it is below Low.
	High, Low int
	// Used is the disk's use in percent.
	Used func() (int, error)
}

// Collected is what Collect found and did.
type Collected struct {
	Images, Removed int
	Bytes           int64
	// Short: the disk is above High, and nothing more may be removed.
	Short bool
}

// Collect removes images by policy. An image that inUse names, that is being
// brought here, or that was loaded by hand stays: nobody could bring the last
// again.
func (s *Store) Collect(ctx context.Context, now time.Time, p Policy, inUse func() map[digest.Digest]bool) (c Collected, err error) {
	list, err := s.client.ImageService().List(ctx)
	if err != nil {
		return c, err
	}
	used := inUse()
	at := map[string]time.Time{}
	var idle []images.Image
	var failed []error
	for _, i := range list {
		c.Images++
		if n, err := i.Size(ctx, s.client.ContentStore(), Platform); err == nil {
			c.Bytes += n
		}
		last, known := lastUse(i)
		if used[i.Target.Digest] || !known {
			if now.Sub(last) > usedGrain {
				if err := s.label(ctx, i.Name, map[string]string{labelUsed: strconv.FormatInt(now.UnixNano(), 10)}); err != nil && !errdefs.IsNotFound(err) {
					failed = append(failed, err)
				}
			}
			continue
		}
		if i.Labels[labelLoaded] == "" {
			at[i.Name] = last
			idle = append(idle, i)
		}
	}
	slices.SortFunc(idle, func(a, b images.Image) int { return at[a.Name].Compare(at[b.Name]) })
	percent, err := p.Used()
	if err != nil {
		return c, err
	}
	full := percent > p.High
	for _, i := range idle {
		if now.Sub(at[i.Name]) <= p.UnusedFor && (!full || percent <= p.Low) {
			continue
		}
		gone, err := s.remove(ctx, i, inUse)
		if err != nil { // the disk must not fill up because of one
			failed = append(failed, err)
		}
		if !gone {
			continue
		}
		c.Removed++
		c.Images--
		if percent, err = p.Used(); err != nil {
			return c, err
		}
	}
	c.Short = full && percent > p.High
	return c, errors.Join(failed...)
}

func lastUse(i images.Image) (time.Time, bool) {
	n, err := strconv.ParseInt(i.Labels[labelUsed], 10, 64)
	return time.Unix(0, n), err == nil && n > 0
}

// remove forgets an image unless somebody took it up meanwhile. From here to
// the end no task can begin to use it: Ensure waits for the lock.
func (s *Store) remove(ctx context.Context, i images.Image, inUse func() map[digest.Digest]bool) (bool, error) {
	d := i.Target.Digest
	s.mu.Lock()
	busy := s.locks[d] != nil
	delete(s.ready, d)
	s.mu.Unlock()
	if busy {
		return false, nil
	}
	unlock, err := s.lock(ctx, d)
	if err != nil {
		return false, err
	}
	defer unlock()
	if inUse()[d] {
		return false, nil
	}
	err = s.client.ImageService().Delete(ctx, i.Name, images.SynchronousDelete())
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return err == nil, err
}

// Percent is used of size in whole percent, rounded up.
func Percent(used, size uint64) int {
	return int((used*100 + cmp.Or(size, 1) - 1) / cmp.Or(size, 1))
}
