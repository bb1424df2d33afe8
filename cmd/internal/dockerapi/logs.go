package dockerapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// logs streams the output of a service's tasks, or of a task, in frames that say which
// of its two streams a line is of.
func (s *Server) logs(q *request) (any, error) {
	if err := onlyParameters(q.Request, "follow", "stdout", "stderr", "since", "until", "timestamps", "tail", "details"); err != nil {
		return nil, err
	}
	out, errs := isOn(q.Request, "stdout"), isOn(q.Request, "stderr")
	if !out && !errs {
		return nil, badRequest("Bad parameters: you must choose at least one stream")
	}
	req := &controlpb.ServiceLogsRequest{Target: q.PathValue("id"), Follow: isOn(q.Request, "follow")}
	var err error
	if req.Since, err = at(q, "since"); err != nil {
		return nil, err
	}
	if req.Until, err = at(q, "until"); err != nil {
		return nil, err
	}
	if tail := q.URL.Query().Get("tail"); tail != "" && tail != "all" {
		if req.Tail, err = strconv.ParseInt(tail, 10, 64); err != nil || req.Tail < 0 {
			return nil, badRequest("invalid tail %q: give a number of lines, or all", tail)
		}
		if req.Tail == 0 && !req.Follow {
			return answered{}, nil
		}
	}
	stream, err := q.api.ServiceLogs(q.Context(), req)
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	q.w.Header().Set("Content-Type", "application/vnd.docker.multiplexed-stream")
	q.w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(q.w).Flush
	f := logFrames{w: q.w, details: isOn(q.Request, "details"), times: isOn(q.Request, "timestamps")}
	for r := first; err == nil; r, err = stream.Recv() {
		if r.GetStderr() && !errs || !r.GetStderr() && !out {
			continue
		}
		if f.write(r) != nil || flush() != nil {
			return answered{}, nil // nobody reads on
		}
	}
	if !errors.Is(err, io.EOF) && q.Context().Err() == nil {
		f.write(&controlpb.ServiceLogsResponse{Error: refusalOf(err).text, Stderr: true})
	}
	return answered{}, nil
}

// logFrames writes lines of output.
type logFrames struct {
	w              io.Writer
	details, times bool
}

// write writes each line of r in a frame of its own: that is how they are read.
func (f *logFrames) write(r *controlpb.ServiceLogsResponse) error {
	data, kind := r.GetData(), byte(1)
	if r.GetStderr() {
		kind = 2
	}
	if e := r.GetError(); e != "" {
		data, kind = []byte("redoubt: "+e+"\n"), 2
	}
	var head []byte
	if f.times {
		head = append(time.Unix(0, r.GetAt()).UTC().AppendFormat(head, "2006-01-02T15:04:05.000000000Z07:00"), ' ')
	}
	if f.details {
		head = append(head, details(r)...)
		head = append(head, ' ')
	}
	for len(data) > 0 {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line = data[:i+1]
		}
		data = data[len(line):]
		frame := append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, head...)
		frame = append(frame, line...)
		binary.BigEndian.PutUint32(frame[4:8], uint32(len(frame)-8))
		if _, err := f.w.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

// details are which task a line is of, in Docker's form.
func details(r *controlpb.ServiceLogsResponse) string {
	var out []string
	for _, kv := range [][2]string{{"com.docker.swarm.node.id", r.GetNodeId()}, {"com.docker.swarm.service.id", r.GetServiceId()}, {"com.docker.swarm.task.id", r.GetTaskId()}} {
		out = append(out, url.QueryEscape(kv[0])+"="+url.QueryEscape(kv[1]))
	}
	return strings.Join(out, ",")
}

// at is a parameter that is a moment, as Unix nanoseconds: seconds since 1970, with or
// without a fraction, or RFC 3339. 0: there is none.
func at(q *request, name string) (int64, error) {
	text := q.URL.Query().Get(name)
	if text == "" || text == "0" {
		return 0, nil
	}
	sec, frac, _ := strings.Cut(text, ".")
	if n, err := strconv.ParseInt(sec, 10, 64); err == nil && n >= 0 && n < 1<<33 && len(frac) <= 9 {
		ns, err := strconv.ParseUint((frac + "000000000")[:9], 10, 64)
		if err == nil {
			return n*1e9 + int64(ns), nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil && t.Year() >= 1970 && t.Year() < 2262 {
		return max(t.UnixNano(), 1), nil
	}
	return 0, badRequest("invalid %s %q: give seconds since 1970 or a time as 2026-01-02T15:04:05Z", name, text)
}
