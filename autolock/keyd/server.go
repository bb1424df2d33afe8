package keyd

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/erase"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

// Server is one keyd.
type Server struct {
	cfg Config
	log *slog.Logger
	// write replaces a file; tests make it fail.
	write func(path string, data []byte) error

	mu       sync.Mutex
	broken   error         // guarded by mu; why what is on disk cannot be used
	file     *stateFile    // guarded by mu; nil when EMPTY
	secrets  *secrets      // guarded by mu; nil unless UNLOCKED
	prepared *prepared     // guarded by mu; only while EMPTY
	changed  chan struct{} // guarded by mu; closed and replaced when the lock state changes
	journal  *journal      // guarded by mu
	wrong    backoff       // guarded by mu
	joins    replays       // guarded by mu
	orders   orders        // guarded by mu
	closed   bool          // guarded by mu
	// shares have come while locked, and session is what others seal them to.
	// Both are guarded by mu.
	shares  pools
	session *session
	// restoring is a backup that was opened with a key, while EMPTY, and recovery
	// until when the incarnation may be raised. Both are guarded by mu.
	restoring *restoring
	recovery  time.Time

	// Rates, guarded by mu.
	mints, managers, reseals, issues, workloads, sealings, rewraps, denials, crls, checkpoints, reports, releases, refusals bucket
	// lists are the numbers of the revocation lists signed since the start, by CA.
	// Guarded by mu.
	lists map[[32]byte]uint64
	// bundled is what verifies tokens, of the keyset in use. Guarded by mu.
	bundled signedBundle
	// lacks is, by slot, why a slot of this machine's own does not open it. Guarded
	// by mu.
	lacks map[string]string

	protections []string // guarded by mu once served
	// challenges is what the secrets of challenges are made from, of this process.
	challenges [sha256.Size]byte
}

// New reads the state in c.Dir. The caller then calls Serve or Close. Memory
// that cannot be locked, or a state that cannot be used, is no error of New: the
// Server refuses every verb with the reason, which an operator sees, where a
// process that ends again and again tells nobody.
func New(c Config) (*Server, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: c, log: c.Logger, write: atomicfile.Write, changed: make(chan struct{}),
		protections: slices.Concat([]string{"keys in locked memory"}, erased, c.Protections),
	}
	rand.Read(s.challenges[:])
	switch {
	case c.TPM != nil:
		s.protections = append(s.protections, "TPM 2.0")
	case c.TPMErr != nil:
		s.protections = append(s.protections, "TPM: cannot be used ("+oneline.Text(c.TPMErr.Error(), maxSaid)+")")
	}
	lerr := removeLeftovers(c.Dir)
	file, ferr := readState(c.Dir)
	j, damaged, jerr := openJournal(c.Dir)
	s.file, s.journal = file, j
	if err := errors.Join(lerr, ferr, jerr); codeOf(err) == keydpb.Code_CODE_DAMAGED {
		s.breakDown(err)
	} else if err != nil {
		s.breakDown(refuse(keydpb.Code_CODE_DAMAGED, "keyd cannot use its directory %s (%s): repair it, then restart redoubt-node", c.Dir, oneline.Text(err.Error(), maxSaid)))
	}
	if err := checkMemory(); err != nil {
		s.breakDown(err)
	}
	if damaged && s.broken == nil {
		if err := s.reportDamage(); err != nil {
			return s, err
		}
	}
	if s.broken == nil {
		if err := errors.Join(s.dropOwnSeeds(), s.dropCheckpoint()); err != nil { // what a crash left
			s.breakDown(refuse(keydpb.Code_CODE_DAMAGED, "keyd cannot use its directory %s (%s): repair it, then restart redoubt-node", c.Dir, oneline.Text(err.Error(), maxSaid)))
		}
	}
	erase.Do(s.openByItself)
	erase.Now()
	return s, nil
}

// erased says whether copies of keys that libraries made are overwritten.
var erased = map[bool][]string{true: {"copies of keys overwritten"}}[erase.Built]

// breakDown is for what keyd cannot work with: from now on every verb but Forget
// is refused for that reason.
func (s *Server) breakDown(err error) {
	s.broken = err
	s.log.Error("keyd cannot be used", "err", err)
}

// reportDamage notes in a new journal that the old one was set aside.
func (s *Server) reportDamage() error {
	s.protections = append(s.protections, "journal: damaged, set aside in "+s.cfg.Dir)
	s.log.Error("the journal was changed or damaged: it was set aside", "dir", s.cfg.Dir)
	return s.note(entry{Event: eventJournal, Outcome: outcomeDamaged})
}

// Close wipes everything that is open. It is called once nothing is served.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.wipe()
}

// wipe destroys all secrets; the caller holds mu.
func (s *Server) wipe() error {
	s.journal.key = nil
	err := s.journal.close()
	s.secrets.destroy()
	s.prepared.destroy()
	s.restoring.destroy()
	s.shares.drop()
	s.session.destroy()
	s.session = nil
	s.orders = orders{}
	s.secrets, s.prepared, s.restoring, s.recovery = nil, nil, nil, time.Time{}
	return err
}

// phase is the lock state; the caller holds mu.
func (s *Server) phase() keydpb.LockState {
	switch {
	case s.file == nil:
		return keydpb.LockState_LOCK_STATE_EMPTY
	case s.secrets == nil:
		return keydpb.LockState_LOCK_STATE_LOCKED
	default:
		return keydpb.LockState_LOCK_STATE_UNLOCKED
	}
}

// opened returns the secrets, or why there are none; the caller holds mu.
func (s *Server) opened() (*secrets, error) {
	switch s.phase() {
	case keydpb.LockState_LOCK_STATE_EMPTY:
		return nil, errEmpty
	case keydpb.LockState_LOCK_STATE_LOCKED:
		return nil, errLocked
	default:
		return s.secrets, nil
	}
}

// notify wakes everybody who waits for the lock state; the caller holds mu.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// note writes a journal entry; the caller holds mu. What can not be noted is not
// done.
func (s *Server) note(e entry) error {
	e.Time = time.Now().UTC()
	if e.Outcome == "" {
		e.Outcome = "ok"
	}
	return s.journal.add(e)
}

// noteDenial journals a refusal by policy, as far as the rate allows; the caller
// holds mu.
func (s *Server) noteDenial(event string, err error) error {
	if code := codeOf(err); code != keydpb.Code_CODE_DENIED && code != keydpb.Code_CODE_ATTESTATION || s.file == nil {
		return err
	}
	s.log.Warn("refused", "verb", event, "why", err)
	if !s.denials.take(denialRate, time.Now()) {
		return err
	}
	return errors.Join(err, s.note(entry{Event: event, Outcome: outcomeDenied, Detail: err.Error()}))
}

func (s *Server) status() (*keydpb.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	st := &keydpb.StatusResponse{State: s.phase(), Protections: slices.Clone(s.protections)}
	if s.secrets != nil {
		st.KeysetEpoch = s.secrets.keyset.epoch
		st.Dek = s.secrets.local.state()
		s.secrets.keyset.describeMasters(st)
		st.OrderKey = s.secrets.keyset.orderKey
	}
	if s.file != nil {
		st.Shares, st.Lacks = s.shares.latest(time.Now()), maps.Clone(s.lacks)
		st.Ticket = s.ticket()
		st.ClusterId, st.NodeId, st.Slots = s.file.state.GetClusterId(), s.file.state.GetNodeId(), s.file.state.GetSlots()
	}
	return st, nil
}
