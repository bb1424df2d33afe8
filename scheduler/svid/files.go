package svid

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"
)

// filing is what is to be written for a task.
type filing struct {
	task                     string
	of                       *x509.Certificate
	certificate, key, bundle []byte
}

// unfiled returns a task whose files are not what it holds.
func (h *Holder) unfiled(now time.Time) *filing {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, e := range h.tasks {
		if !e.want.Files || e.filed || !h.good(e, now) || now.Before(e.fileAt) {
			continue
		}
		key, err := x509.MarshalPKCS8PrivateKey(e.key)
		if err != nil {
			continue
		}
		f := &filing{task: id, of: e.leaf, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}
		clear(key)
		for _, der := range e.chain {
			f.certificate = append(f.certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		for _, r := range h.roots {
			f.bundle = append(f.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})...)
		}
		return f
	}
	return nil
}

func (h *Holder) file(ctx context.Context, f *filing) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	err := h.c.Files(ctx, f.task, f.certificate, f.key, f.bundle)
	clear(f.key)
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.tasks[f.task]
	if e == nil || e.leaf != f.of {
		return
	}
	h.report = true
	if e.filed = err == nil; e.filed {
		e.why, e.refile = "", 0
		return
	}
	// The first times, rund has most often not heard of the task yet.
	e.refile = min(max(2*e.refile, minFileRetry), maxFileRetry)
	e.why, e.fileAt = "files: "+err.Error(), time.Now().Add(e.refile)
	if e.refile < maxFileRetry {
		return
	}
	h.c.Logger.Warn("a task's identity was not written to its files", "task", f.task, "err", err)
}
