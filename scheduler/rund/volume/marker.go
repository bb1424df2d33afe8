package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// markerName is a file of a directory of volumes with an id of its own, which the node notes
// elsewhere. So it is not taken for the volumes what lies beneath a mount that is missing, or
// another disk: tasks would begin upon nothing, and the node would say that it has no data.
const markerName = "store"

// known makes a directory of volumes where the node knows of none, and notes which it is in
// the file note; where it knows of one, it refuses another.
func known(dir, note string) error {
	noted, err := readID(note)
	switch {
	case err == nil:
		switch is, err := readID(filepath.Join(dir, markerName)); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("directory of volumes: %s is not where this node's volumes are: mount their file system, or correct rund.volumes.path; to begin anew, with no volume, remove %s", dir, note)
		case err != nil:
			return fmt.Errorf("directory of volumes: %w", err)
		case is != noted:
			return fmt.Errorf("directory of volumes: %s has other volumes than this node's: mount their file system, or correct rund.volumes.path; to take these, remove %s", dir, note)
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("directory of volumes: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of volumes: %w", err)
	}
	id, err := readID(filepath.Join(dir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		id = ident.New()
		err = atomicfile.Write(filepath.Join(dir, markerName), []byte(id+"\n"))
	}
	if err == nil {
		err = atomicfile.Write(note, []byte(id+"\n"))
	}
	if err != nil {
		return fmt.Errorf("directory of volumes: %w", err)
	}
	return nil
}

func readID(path string) (string, error) {
	b, err := atomicfile.ReadBounded(path, 64)
	if err != nil {
		return "", err
	}
	id, whole := strings.CutSuffix(string(b), "\n")
	if !whole || !ident.Valid(id) {
		return "", fmt.Errorf("%s is damaged: it has no id", path)
	}
	return id, nil
}
