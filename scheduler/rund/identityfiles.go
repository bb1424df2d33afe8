package rund

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/places"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/taskfiles"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Files of an identity, for programs that read nothing else: the certificate with its
// issuers, its key, and the roots. They are in the task's file system in memory, and
// are replaced in one step. A task that wants them is not prepared before it has them.
const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"
	bundleFile      = "ca.crt"
)

// checkIdentity refuses what cannot be.
func checkIdentity(spec *taskpb.TaskSpec) error {
	i := spec.GetIdentity()
	if _, err := parseSignal(i.GetSignal()); err != nil {
		return err
	}
	to := i.GetFiles()
	if to == "" {
		return nil
	}
	if err := ocispec.CheckTarget(to); err != nil {
		return err
	}
	return places.Check(spec)
}

// PutIdentity implements rundpb.RundServer. What a task has already is not put again.
func (s *Server) PutIdentity(_ context.Context, req *rundpb.PutIdentityRequest) (*rundpb.PutIdentityResponse, error) {
	defer clear(req.GetKey())
	if !ident.Valid(req.GetTaskId()) {
		return nil, status.Errorf(codes.InvalidArgument, "%q is no task id", req.GetTaskId())
	}
	for name, data := range map[string][]byte{certificateFile: req.GetCertificate(), keyFile: req.GetKey(), bundleFile: req.GetBundle()} {
		if len(data) == 0 || len(data) > maxIdentityFile {
			return nil, status.Errorf(codes.InvalidArgument, "%s has %d bytes: 1 to %d are accepted", name, len(data), maxIdentityFile)
		}
	}
	s.mu.Lock()
	w := s.workers[req.GetTaskId()]
	s.mu.Unlock()
	if w == nil {
		return nil, status.Errorf(codes.NotFound, "task %s is not on this node", req.GetTaskId())
	}
	d, governed := w.wanted()
	switch {
	case !governed || d == nil:
		return nil, status.Errorf(codes.FailedPrecondition, "task %s is not wanted on this node", req.GetTaskId())
	case d.GetSpec().GetIdentity().GetFiles() == "" || d.GetSpec().GetIdentity().GetNone():
		return nil, status.Errorf(codes.FailedPrecondition, "task %s wants no files of its identity", req.GetTaskId())
	}
	if err := w.fix(d); err != nil {
		return nil, status.Error(codes.FailedPrecondition, oneline.Text(err.Error(), maxSaid))
	}
	if err := w.putIdentity(d.GetSpec().GetIdentity(), req); err != nil {
		return nil, status.Error(codes.FailedPrecondition, oneline.Text(err.Error(), maxSaid))
	}
	w.rouse()
	return &rundpb.PutIdentityResponse{}, nil
}

func (w *worker) putIdentity(i *taskpb.Identity, req *rundpb.PutIdentityRequest) error {
	w.has.mu.Lock()
	defer w.has.mu.Unlock()
	if w.has.over {
		return errors.New("the task ended")
	}
	former, err := w.s.files.Read(w.id, taskfiles.Identity, certificateFile, maxIdentityFile)
	replaces := err == nil
	if replaces && bytes.Equal(former, req.GetCertificate()) {
		bundle, err := w.s.files.Read(w.id, taskfiles.Identity, bundleFile, maxIdentityFile)
		if err == nil && bytes.Equal(bundle, req.GetBundle()) {
			w.has.identity = true
			return nil
		}
	}
	file := func(name string, mode os.FileMode, data []byte) taskfiles.File {
		root := int(w.s.ids(w.id).Base)
		return taskfiles.File{Dir: taskfiles.Identity, Name: name, UID: root, GID: root, Mode: mode, Data: data}
	}
	if err := w.s.files.PutDir(w.id, taskfiles.Identity, []taskfiles.File{
		file(certificateFile, 0o444, req.GetCertificate()), file(keyFile, 0o400, req.GetKey()), file(bundleFile, 0o444, req.GetBundle()),
	}); err != nil {
		return err
	}
	w.has.identity = true
	if sig, err := parseSignal(i.GetSignal()); replaces && err == nil && sig != 0 {
		w.has.signals = append(w.has.signals, sig)
	}
	return nil
}

// awaitIdentity reports whether a task has the files of its identity, where it wants
// them, and says what it waits for otherwise.
func (w *worker) awaitIdentity(d *rundpb.TaskDesired) (ready bool, err error) {
	if d.GetSpec().GetIdentity().GetFiles() == "" || checkIdentity(d.GetSpec()) != nil { // prepare refuses it
		return true, nil
	}
	w.has.mu.Lock()
	ready, w.has.over = w.has.identity, false
	w.has.mu.Unlock()
	if ready {
		return true, nil
	}
	if err := os.MkdirAll(w.s.taskDir(w.id).log(), 0o700); err != nil { // as in create
		return false, err
	}
	if w.phase() != rundpb.Phase_PHASE_PREPARING {
		w.report(rundpb.Phase_PHASE_PREPARING, func(a *rundpb.TaskActual) { a.Spec, a.Endpoint = d.GetSpec(), d.GetEndpoint() })
	}
	w.note("waiting for the files of its identity")
	return false, nil
}

// ownIdentity gives the files to the user that the container's process is.
func (s *Server) ownIdentity(id string, spec *taskpb.TaskSpec, uid, gid uint32) error {
	if spec.GetIdentity().GetFiles() == "" {
		return nil
	}
	base := s.ids(id).Base
	if err := s.files.Own(id, taskfiles.Identity, int(base+uid), int(base+gid)); err != nil {
		return fmt.Errorf("files of the task's identity: %w", err)
	}
	return nil
}
