package rund

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/imagepolicy"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/image"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/netns"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/tasklog"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/volume"
)

// Apply replaces the desired state, and makes and removes networks' namespaces. A task that may not run here does not make
// it fail: that task alone is FAILED and rejected.
func (s *Server) Apply(ctx context.Context, req *rundpb.ApplyRequest) (*rundpb.ApplyResponse, error) {
	if len(req.GetTasks()) > maxTasks {
		return nil, status.Errorf(codes.InvalidArgument, "%d tasks: at most %d are allowed", len(req.GetTasks()), maxTasks)
	}
	seen := make(map[string]bool, len(req.GetTasks()))
	for _, t := range req.GetTasks() {
		id := t.GetTaskId()
		if !ident.Valid(id) {
			return nil, status.Errorf(codes.InvalidArgument, "%q is no task id", id)
		}
		if seen[id] {
			return nil, status.Errorf(codes.InvalidArgument, "task %s is named twice", id)
		}
		seen[id] = true
		switch t.GetPhase() {
		case rundpb.Phase_PHASE_CREATED, rundpb.Phase_PHASE_RUNNING, rundpb.Phase_PHASE_STOPPING:
		default:
			return nil, status.Errorf(codes.InvalidArgument, "task %s: %s cannot be desired, only CREATED, RUNNING and STOPPING", id, t.GetPhase())
		}
	}
	if n := len(req.GetImagePolicy()); n > imagepolicy.MaxDocument {
		return nil, status.Errorf(codes.InvalidArgument, "an image policy of %d bytes: at most %d are allowed", n, imagepolicy.MaxDocument)
	}
	if len(req.GetNetworks()) > maxNetworks {
		return nil, status.Errorf(codes.InvalidArgument, "%d networks: at most %d are allowed", len(req.GetNetworks()), maxNetworks)
	}
	if len(req.GetRemoveVolumes()) > volume.MaxVolumes {
		return nil, status.Errorf(codes.InvalidArgument, "%d volumes to remove: at most %d are allowed", len(req.GetRemoveVolumes()), volume.MaxVolumes)
	}
	for _, id := range req.GetRemoveVolumes() {
		if !ident.Valid(id) {
			return nil, status.Errorf(codes.InvalidArgument, "%.60q is no volume id", id)
		}
	}
	for _, id := range req.GetNetworks() {
		if !netns.IsNetwork(id) {
			return nil, status.Errorf(codes.InvalidArgument, "%.60q is no network id", id)
		}
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.desire(req); err != nil {
		return nil, err
	}
	failed, err := s.netns.SyncNetworks(req.GetNetworks(), req.GetKeepNetworks())
	if err != nil { // tried again with the next
		s.log.Warn("cannot remove the namespaces of networks", "err", err)
	}
	return &rundpb.ApplyResponse{NetworkErrors: failed, VolumeErrors: s.removeVolumes(ctx, req.GetRemoveVolumes())}, nil
}

// desire hands the tasks of a newer request to their workers.
func (s *Server) desire(req *rundpb.ApplyRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.GetGeneration() < s.generation {
		return status.Errorf(codes.FailedPrecondition, "generation %d is older than %d, which is in force", req.GetGeneration(), s.generation)
	}
	s.generation = req.GetGeneration()
	s.admission.set(req.GetImagePolicy())
	s.applied = append(make([]*rundpb.TaskDesired, 0, len(req.GetTasks())), req.GetTasks()...)
	select {
	case <-s.adopted:
		s.distribute()
	default: // adopt does it
	}
	return nil
}

// Watch sends every task, then changes. It waits until the containers of an
// earlier run are known.
func (s *Server) Watch(_ *rundpb.WatchRequest, stream grpc.ServerStreamingServer[rundpb.WatchResponse]) error {
	ctx := stream.Context()
	select {
	case <-s.adopted:
	case <-ctx.Done():
		return ctx.Err()
	}
	all, sub := s.hub.subscribe()
	defer sub.close()
	if err := stream.Send(&rundpb.WatchResponse{Complete: true, Tasks: all}); err != nil {
		return err
	}
	for {
		changed, removed, err := sub.next(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&rundpb.WatchResponse{Tasks: changed, Removed: removed}); err != nil {
			return err
		}
	}
}

// Logs sends what a task wrote. Long lines come in pieces, of which all but the
// last lack the newline.
func (s *Server) Logs(req *rundpb.LogsRequest, stream grpc.ServerStreamingServer[rundpb.LogsResponse]) error {
	if !ident.Valid(req.GetTaskId()) {
		return status.Errorf(codes.InvalidArgument, "%q is no task id", req.GetTaskId())
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	q := tasklog.Query{Tail: -1, Follow: req.GetFollow()}
	if req.GetSince() > 0 {
		q.Since = time.Unix(0, req.GetSince())
	}
	if req.GetUntil() > 0 {
		q.Until = time.Unix(0, req.GetUntil())
	}
	if t := req.GetTail(); t > 0 {
		q.Tail = int(min(t, maxLogTail))
	}
	if q.Follow {
		q.Done = s.hub.ended(ctx, req.GetTaskId())
	}
	err := tasklog.Read(ctx, s.taskDir(req.GetTaskId()).log(), q, func(r tasklog.Record) error {
		data := append([]byte(nil), r.Data...)
		if !r.Partial {
			data = append(data, '\n')
		}
		return stream.Send(&rundpb.LogsResponse{At: r.Time.UnixNano(), Stderr: r.Stderr, Data: data})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.NotFound, "task %s has no log on this node", req.GetTaskId())
	}
	return err
}

// ResolveImage gives a digest: of the image that was loaded here under the
// name, and only without one, of the registry.
func (s *Server) ResolveImage(ctx context.Context, req *rundpb.ResolveImageRequest) (*rundpb.ResolveImageResponse, error) {
	digest, loaded, platforms, err := s.images.Resolve(ctx, req.GetReference())
	if err != nil {
		return nil, imageStatus(err)
	}
	return &rundpb.ResolveImageResponse{Digest: digest, Loaded: loaded, Platforms: platforms}, nil
}

// ImageEvidence sends what is beside an image.
func (s *Server) ImageEvidence(req *rundpb.ImageEvidenceRequest, stream grpc.ServerStreamingServer[rundpb.ImageEvidenceResponse]) error {
	var e imagepolicy.Evidence
	var err error
	if req.GetKept() {
		e, err = s.images.Kept(stream.Context(), req.GetDigest())
	} else {
		e, err = s.images.Beside(stream.Context(), req.GetReference(), req.GetDigest(), nil)
	}
	if err != nil {
		return imageStatus(err)
	}
	for _, b := range e.Bundles {
		if err := stream.Send(&rundpb.ImageEvidenceResponse{Bundle: b}); err != nil {
			return err
		}
	}
	for _, l := range e.Left {
		if err := stream.Send(&rundpb.ImageEvidenceResponse{Left: l}); err != nil {
			return err
		}
	}
	return nil
}

// ImportImage loads the images of an archive.
func (s *Server) ImportImage(stream grpc.ClientStreamingServer[rundpb.ImportImageRequest, rundpb.ImportImageResponse]) error {
	names, err := s.images.Import(stream.Context(), &chunks{stream: stream})
	if err != nil {
		return imageStatus(err)
	}
	return stream.SendAndClose(&rundpb.ImportImageResponse{Images: names})
}

func imageStatus(err error) error {
	switch {
	case image.IsRejected(err):
		return status.Error(codes.InvalidArgument, oneline.Text(err.Error(), maxSaid))
	case transient(err):
		return status.Error(codes.Unavailable, "containerd does not answer: "+oneline.Text(err.Error(), maxSaid))
	}
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return err
	}
	return status.Error(codes.Unavailable, oneline.Text(err.Error(), maxSaid))
}

// chunks reads an image stream.
type chunks struct {
	stream grpc.ClientStreamingServer[rundpb.ImportImageRequest, rundpb.ImportImageResponse]
	rest   []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at the end
		}
		if len(m.GetData()) > maxImportChunk {
			return 0, status.Errorf(codes.InvalidArgument, "chunk of %d bytes: at most %d are allowed", len(m.GetData()), maxImportChunk)
		}
		c.rest = m.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

var _ io.Reader = (*chunks)(nil)
