package image

import (
	"context"
	"encoding/json"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// dockerHealthcheck is HEALTHCHECK as Docker writes it into the configuration;
// the OCI specification does not know it.
type dockerHealthcheck struct {
	Test                                          []string
	Interval, Timeout, StartPeriod, StartInterval int64
	Retries                                       int
}

// config reads what an image says of its containers.
func (s *Store) config(ctx context.Context, img containerd.Image) (ocispec.ImageConfig, *taskpb.Healthcheck, error) {
	desc, err := img.Config(ctx)
	if err != nil {
		return ocispec.ImageConfig{}, nil, err
	}
	b, err := content.ReadBlob(ctx, small{s.client.ContentStore()}, desc)
	if err != nil {
		return ocispec.ImageConfig{}, nil, err
	}
	return parseConfig(b)
}

func parseConfig(b []byte) (ocispec.ImageConfig, *taskpb.Healthcheck, error) {
	var all struct {
		Config struct {
			ocispec.ImageConfig
			Healthcheck *dockerHealthcheck
		} `json:"config"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return ocispec.ImageConfig{}, nil, err
	}
	h := all.Config.Healthcheck
	if h == nil || len(h.Test) == 0 {
		return all.Config.ImageConfig, nil, nil
	}
	size := 0
	for _, t := range h.Test {
		size += len(t)
	}
	if len(h.Test) > maxCheckArgs || size > maxCheckBytes {
		return ocispec.ImageConfig{}, nil, fmt.Errorf("its healthcheck exceeds %d words or %d bytes", maxCheckArgs, maxCheckBytes)
	}
	return all.Config.ImageConfig, &taskpb.Healthcheck{
		Test: h.Test, IntervalNs: h.Interval, TimeoutNs: h.Timeout, StartPeriodNs: h.StartPeriod, StartIntervalNs: h.StartInterval,
		Retries: uint32(min(max(h.Retries, 0), 1<<30)),
	}, nil
}
