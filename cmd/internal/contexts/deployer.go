package contexts

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
)

// Deployers is a directory of deployers' keys: those by which services are signed. Like
// contexts they are encrypted by age, each in a file of its own.
type Deployers struct{ Dir string }

const (
	deployerMagic  = "RDTL1\n"
	deployerSuffix = ".key"
	maxDeployer    = 16 << 10
)

// ErrNoDeployer says that there is no key of that name.
var ErrNoDeployer = errors.New("no such deployer's key on this machine: see redoubt lock key ls")

// DeployerHeader is what a key's file says in clear. It decides nothing but how the file
// is opened.
type DeployerHeader struct {
	Name   string `json:"name"`
	Public string `json:"public"`
	// Identity is as a context's.
	Identity string `json:"identity"`

	Damaged error `json:"-"`
}

type deployerContent struct {
	Header DeployerHeader `json:"header"`
	Seed   []byte         `json:"seed"`
}

// Create writes a key. There must be none of that name: what it signed would be nobody's.
func (d Deployers) Create(name string, key ed25519.PrivateKey, k Key) (DeployerHeader, error) {
	h := DeployerHeader{Name: name, Public: lock.FormatKey(lock.PublicKey(key.Public().(ed25519.PublicKey))), Identity: k.file}
	if err := CheckName(name); err != nil {
		return h, err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return h, err
	}
	if _, err := os.Lstat(d.path(name)); err == nil {
		return h, fmt.Errorf("there is a deployer's key %q already: give another name", name)
	}
	head, err := json.Marshal(h)
	if err != nil {
		return h, err
	}
	seed := key.Seed()
	defer clear(seed)
	plain, err := json.Marshal(deployerContent{h, seed})
	if err != nil {
		return h, err
	}
	defer clear(plain)
	out := bytes.NewBuffer(append(append([]byte(deployerMagic), head...), '\n'))
	w, err := age.Encrypt(out, k.recipient)
	if err != nil {
		return h, err
	}
	if _, err := w.Write(plain); err != nil {
		return h, err
	}
	if err := w.Close(); err != nil {
		return h, err
	}
	return h, atomicfile.Write(d.path(name), out.Bytes())
}

func (d Deployers) path(name string) string { return filepath.Join(d.Dir, name+deployerSuffix) }

// List returns the headers of all keys, by name.
func (d Deployers) List() (out []DeployerHeader, _ error) {
	entries, err := os.ReadDir(d.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), deployerSuffix)
		if !ok || CheckName(name) != nil {
			continue
		}
		h, _, err := d.read(name)
		if err != nil {
			h = DeployerHeader{Name: name, Damaged: err}
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b DeployerHeader) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (d Deployers) read(name string) (h DeployerHeader, sealed []byte, _ error) {
	if err := CheckName(name); err != nil {
		return h, nil, err
	}
	raw, err := atomicfile.ReadBounded(d.path(name), maxDeployer)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil, fmt.Errorf("%q: %w", name, ErrNoDeployer)
	}
	if err != nil {
		return h, nil, err
	}
	rest, ok := bytes.CutPrefix(raw, []byte(deployerMagic))
	line, sealed, found := bytes.Cut(rest, []byte("\n"))
	if !ok || !found || strictjson.Decode(line, &h) != nil || h.Name != name {
		return h, nil, fmt.Errorf("deployer's key %q: %w", name, errForm)
	}
	return h, sealed, nil
}

// Open decrypts a key.
func (d Deployers) Open(name string, key func(DeployerHeader) (Key, error)) (ed25519.PrivateKey, error) {
	h, sealed, err := d.read(name)
	if err != nil {
		return nil, err
	}
	k, err := key(h)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), k.identities...)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, fmt.Errorf("deployer's key %q: %w", name, ErrWrongKey)
	}
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(io.LimitReader(r, maxDeployer))
		defer func() { clear(plain) }()
	}
	var c deployerContent
	defer func() { clear(c.Seed) }()
	if err != nil || strictjson.Decode(plain, &c) != nil || len(c.Seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("deployer's key %q: %w", name, errForm)
	}
	out := ed25519.NewKeyFromSeed(c.Seed)
	if c.Header != h || lock.FormatKey(lock.PublicKey(out.Public().(ed25519.PublicKey))) != h.Public {
		return nil, fmt.Errorf("deployer's key %q: its first line was changed: it is not what is inside", name)
	}
	return out, nil
}
