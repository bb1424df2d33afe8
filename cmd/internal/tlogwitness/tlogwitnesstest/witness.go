// Package tlogwitnesstest is a witness of C2SP's tlog-witness for tests: strict, with
// what it cosigned on disk, and with no way to have it cosign two histories. It shares
// no code with what is tested against it.
package tlogwitnesstest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const maxBody = 64 << 10

// Witness is an http.Handler. Its methods may be called by any number of goroutines.
type Witness struct {
	name, dir string
	key       ed25519.PrivateKey

	mu   sync.Mutex // guards the rest, and the files
	logs map[string]*head
	now  func() time.Time
}

// head is what it cosigned last of a log, in its file, and the keys of that log.
type head struct {
	Size int64
	Root tlog.Hash
	Keys []string
}

// New is a witness of that name that keeps its key and what it cosigned in dir, or goes
// on from what is there.
func New(dir, name string) (*Witness, error) {
	w := &Witness{name: name, dir: dir, logs: map[string]*head{}, now: time.Now}
	seed, err := os.ReadFile(w.path("seed"))
	if errors.Is(err, fs.ErrNotExist) {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		err = os.WriteFile(w.path("seed"), seed, 0o600)
	}
	if err != nil {
		return nil, err
	}
	w.key = ed25519.NewKeyFromSeed(seed)
	state, err := os.ReadFile(w.path("logs"))
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	return w, json.Unmarshal(state, &w.logs)
}

func (w *Witness) path(name string) string { return filepath.Join(w.dir, name) }

// Key is its verifier key.
func (w *Witness) Key() string {
	key := append([]byte{4}, w.key.Public().(ed25519.PublicKey)...)
	return fmt.Sprintf("%s+%08x+%s", w.name, w.hash(), base64.StdEncoding.EncodeToString(key))
}

func (w *Witness) hash() uint32 {
	sum := sha256.Sum256(append([]byte(w.name+"\n\x04"), w.key.Public().(ed25519.PublicKey)...))
	return binary.BigEndian.Uint32(sum[:])
}

// Trust has it cosign the log whose key has that name. What it knew of that log stays.
func (w *Witness) Trust(key string) error {
	v, err := note.NewVerifier(key)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.logs[v.Name()]
	if h == nil {
		h = &head{}
		w.logs[v.Name()] = h
	}
	h.Keys = append(h.Keys, key)
	return w.save()
}

// Size is how many records of that log it cosigned.
func (w *Witness) Size(origin string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := w.logs[origin]; h != nil {
		return h.Size
	}
	return 0
}

// SetClock has its cosignatures be of other times.
func (w *Witness) SetClock(now func() time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = now
}

func (w *Witness) save() error {
	b, err := json.Marshal(w.logs)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.path("logs.new"), b, 0o600); err != nil {
		return err
	}
	return os.Rename(w.path("logs.new"), w.path("logs"))
}

// ServeHTTP answers POST /add-checkpoint.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/add-checkpoint" || r.URL.RawQuery != "" {
		http.Error(rw, "not here", http.StatusTeapot)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
	if err != nil {
		http.Error(rw, "too much", http.StatusRequestEntityTooLarge)
		return
	}
	status, answer := w.add(body)
	if status == http.StatusConflict {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
	}
	rw.WriteHeader(status)
	io.WriteString(rw, answer)
}

// request is one as it is written.
type request struct {
	old   int64
	proof tlog.TreeProof
	note  []byte
}

func parse(body []byte) (r request, ok bool) {
	head, rest, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return r, false
	}
	lines := strings.Split(string(head), "\n")
	old, ok := strings.CutPrefix(lines[0], "old ")
	n, err := strconv.ParseInt(old, 10, 64)
	if !ok || err != nil || n < 0 || strconv.FormatInt(n, 10) != old || len(lines) > 64 {
		return r, false
	}
	r.old, r.note = n, rest
	for _, l := range lines[1:] {
		h, err := tlog.ParseHash(l)
		if err != nil || h.String() != l {
			return r, false
		}
		r.proof = append(r.proof, h)
	}
	return r, true
}

func (w *Witness) add(body []byte) (status int, answer string) {
	req, ok := parse(body)
	if !ok {
		return http.StatusBadRequest, "no submission\n"
	}
	origin, _, _ := strings.Cut(string(req.note), "\n")
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.logs[origin]
	if h == nil {
		return http.StatusNotFound, "no such log\n"
	}
	var keys []note.Verifier
	for _, k := range h.Keys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return http.StatusInternalServerError, "a key\n"
		}
		keys = append(keys, v)
	}
	n, err := note.Open(req.note, note.VerifierList(keys...))
	if err != nil {
		return http.StatusForbidden, "no signature of that log\n"
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 {
		return http.StatusBadRequest, "no checkpoint\n"
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	root, err2 := tlog.ParseHash(lines[2])
	if err != nil || err2 != nil || size < 0 {
		return http.StatusBadRequest, "no checkpoint\n"
	}
	switch {
	case req.old > size, req.old == 0 && len(req.proof) > 0:
		return http.StatusBadRequest, "an old size\n"
	case req.old != h.Size, req.old == size && req.old > 0 && root != h.Root:
		return http.StatusConflict, fmt.Sprintf("%d\n", h.Size)
	case req.old == size && len(req.proof) > 0:
		return http.StatusBadRequest, "a proof of nothing\n"
	case req.old > 0 && req.old < size && tlog.CheckTree(req.proof, size, root, req.old, h.Root) != nil:
		return http.StatusUnprocessableEntity, "the proof does not hold\n"
	}
	was := *h
	h.Size, h.Root = size, root
	if err := w.save(); err != nil {
		*h = was
		return http.StatusInternalServerError, "the disk\n"
	}
	at := uint64(w.now().Unix())
	raw := binary.BigEndian.AppendUint32(nil, w.hash())
	raw = binary.BigEndian.AppendUint64(raw, at)
	raw = append(raw, ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, n.Text))...)
	return http.StatusOK, "— " + w.name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}
