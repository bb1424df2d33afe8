package contexts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
)

// What this machine signed or went on from last, by cluster and service: a manager that
// shows something older as what there is, is found out by it. It lies beside the
// deployers' keys, which share it.
const (
	signedFile = "signed"
	maxSigned  = 1 << 20
)

// lastSigned is the file's JSON: serials by service, by cluster.
type lastSigned struct {
	Serials map[string]map[string]int64 `json:"serials"`
}

// LastSigned is the greatest serial that this machine knows of; 0: none.
func (d Deployers) LastSigned(cluster, service string) (int64, error) {
	all, err := d.readSigned()
	return all.Serials[cluster][service], err
}

func (d Deployers) readSigned() (all lastSigned, _ error) {
	path := filepath.Join(d.Dir, signedFile)
	raw, err := atomicfile.ReadBounded(path, maxSigned)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = strictjson.Decode(raw, &all)
	}
	if err != nil {
		return lastSigned{}, fmt.Errorf("%s, by which this machine knows what was signed last, cannot be read: %w: look at the services, then remove it", path, err)
	}
	return all, nil
}

// RememberSigned keeps a serial unless a greater one is known.
func (d Deployers) RememberSigned(ctx context.Context, cluster, service string, serial int64) error {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(d.Dir, signedFile)
	err := locked(ctx, path, func() error { return d.rememberSigned(cluster, service, serial) })
	if errors.Is(err, ErrBusy) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return err
}

func (d Deployers) rememberSigned(cluster, service string, serial int64) error {
	all, err := d.readSigned()
	if err != nil || all.Serials[cluster][service] >= serial {
		return err
	}
	if all.Serials == nil {
		all.Serials = map[string]map[string]int64{}
	}
	if all.Serials[cluster] == nil {
		all.Serials[cluster] = map[string]int64{}
	}
	all.Serials[cluster][service] = serial
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if len(b) > maxSigned {
		return errors.New("there is no room for more services that were signed on this machine")
	}
	return atomicfile.Write(filepath.Join(d.Dir, signedFile), b)
}
