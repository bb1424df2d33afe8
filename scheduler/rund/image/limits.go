package image

import "time"

const (
	maxCAFile   = 1 << 20
	dialTimeout = 15 * time.Second
	headTimeout = 30 * time.Second

	// While a response is waited for, each minProgress bytes of it must come
	// within stallTimeout: a registry that trickles holds a slot for pulls.
	stallTimeout = 30 * time.Second
	minProgress  = 64 << 10

	// Attempts at one pull, and the first pause between two.
	attempts   = 3
	firstDelay = 500 * time.Millisecond

	maxParallelLayers = 3
	// Manifests, indexes and configurations are read whole; those of real
	// images have kilobytes.
	maxMetadata = 4 << 20
	// The manifest by which a bundle is beside its image.
	maxBundleManifest = 64 << 10
	// maxReferrers bounds those of one image that are asked for.
	maxReferrers = 64
	// evidenceTimeout bounds asking a registry for all of them: a task waits for it.
	evidenceTimeout = 30 * time.Second
	// overlayfs takes 500 lower directories at most.
	maxLayers = 500
	// entryBytes is what a file counts beyond its content. maxPadding is what
	// a layer's stream may have beyond its files' bytes for a whole image.
	entryBytes = 512
	maxPadding = 1 << 20

	// An image's healthcheck.
	maxCheckArgs  = 512
	maxCheckBytes = 64 << 10

	// usedGrain is how exactly an image's last use is kept.
	usedGrain = 10 * time.Minute

	// maxLoaded bounds the images of one archive.
	maxLoaded = 256
)
