package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/backup"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

func (a *app) backupCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup",
		Short: "Save the whole cluster state, check it, bring it back",
		Example: `  redoubt backup create /backup/monday.rdtb
  redoubt backup verify /backup/monday.rdtb`,
	}
	group(c)
	c.AddCommand(a.backupCreateCmd(), a.backupVerifyCmd(), a.backupRestoreCmd())
	return c
}

func (a *app) backupCreateCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "create FILE",
		Short: "Save the cluster's state and keys to a new file",
		Long: `create writes everything that the managers hold to FILE: services, nodes, keys.
The file is sealed to the operator keys and shares of today, and worth nothing
without them; keep them as long as the file. A file that exists is not overwritten.`,
		Example: `  redoubt backup create /backup/monday.rdtb`,
		Args:    args(1, 1),
		RunE:    func(c *cobra.Command, got []string) error { return a.runBackupCreate(c.Context(), got[0]) },
	}
}

func (a *app) runBackupCreate(ctx context.Context, path string) (err error) {
	switch path {
	case "":
		return usagef("the file's name is empty: say where the backup goes")
	case "-":
		return usagef("a backup goes to a file, as it is read again to see that it is whole: name one (./- for one of that name)")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return apierr.Exists("give another name", "%s exists already", path)
	}
	ctx, c, done, err := a.reach(ctx, backupTimeout)
	if err != nil {
		return err
	}
	defer done()
	f, err := os.CreateTemp(filepath.Dir(path), ".redoubt-backup-*") // mode 0600
	if err != nil {
		return cannotWrite(path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	stream, err := c.CreateBackup(ctx, &controlpb.CreateBackupRequest{})
	if err != nil {
		return apiclient.Err(err)
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return apiclient.Err(err)
		}
		if _, err := f.Write(msg.GetData()); err != nil {
			return cannotWrite(path, err)
		}
	}
	// What is kept must be whole: it is read again, from the disk.
	if err := f.Sync(); err != nil {
		return cannotWrite(path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, err := backup.NewReader(f)
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		return fmt.Errorf("the backup did not arrive whole: %w", err)
	}
	if err := rename(f.Name(), path); err != nil {
		return cannotWrite(path, err)
	}
	if err := errors.Join(f.Close(), atomicfile.SyncDir(filepath.Dir(path))); err != nil {
		return err
	}
	fmt.Fprintf(a.Stdout, "%s: %s\nIt opens with %s of slot epoch %d; keep them as long as this file.\n",
		path, facts(r), opensWith(r), r.Head.Facts.GetSlots().GetEpoch())
	return nil
}

// rename never replaces. A USB stick's file system has no links, a network's may
// not know how to rename so.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// cannotWrite names the file that was asked for, and not the one that is written
// before it has that name.
func cannotWrite(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("cannot write %s: %w: nothing was kept", path, err)
}

// facts are what a backup says of itself: nobody vouches for them yet.
func facts(r *backup.Reader) string {
	f := r.Head.Facts
	return fmt.Sprintf("cluster %s, incarnation %d, entry %d, made %s", printable(f.GetClusterId()), f.GetIncarnation(), f.GetIndex(),
		time.Unix(f.GetCreatedAt(), 0).UTC().Format(time.RFC3339))
}

// opensWith names the slots that people open it with.
func opensWith(r *backup.Reader) string {
	var slots []string
	for _, s := range r.Head.Facts.GetSlots().GetSlots() {
		name := printable(autolock.SlotName(s))
		switch {
		case autolock.OwnSeed(s):
		case s.GetKind() == keydpb.SlotKind_SLOT_KIND_SHAMIR:
			slots = append(slots, fmt.Sprintf("%d of the %d shares %s", s.GetThreshold(), len(s.GetShares()), name))
		default:
			slots = append(slots, "the operator key "+name)
		}
	}
	return strings.Join(slots, ", or ")
}

func (a *app) backupVerifyCmd() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "verify FILE [--key-file FILE]",
		Short: "Check that a backup is whole and, with a key, that it opens",
		Long: `verify reads the whole file and checks its digest, which finds damage. With
--key-file, which holds the operator key of its day or enough shares, one a line,
it also has this machine's keyd open it, which finds what somebody changed on
purpose; nothing is restored and nothing written.`,
		Example: `  redoubt backup verify /backup/monday.rdtb
  redoubt backup verify /backup/monday.rdtb --key-file /media/usb/redoubt.key`,
		Args: args(1, 1),
		RunE: func(c *cobra.Command, got []string) error { return a.runBackupVerify(c.Context(), got[0], key) },
	}
	c.Flags().StringVar(&key, "key-file", "", `file with the operator key or shares ("-": stdin)`)
	return c
}

func (a *app) runBackupVerify(ctx context.Context, path, keyFile string) error {
	r, err := verifyFile(path)
	if err != nil {
		return err
	}
	if keyFile == "" {
		fmt.Fprintf(a.Stdout, "%s: whole; %s\nWhether it opens, --key-file tells: with %s.\n", path, facts(r), opensWith(r))
		return nil
	}
	with, err := a.readCredential(keyFile)
	if err != nil {
		return err
	}
	defer with.Wipe()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if r, err = backup.NewReader(f); err != nil {
		return badBackup(path, err)
	}
	var stateKey []byte
	defer func() { clear(stateKey) }()
	err = a.withKeyd(ctx, func(ctx context.Context, k *apiclient.Keyd) (err error) {
		stateKey, err = k.OpenBackup(ctx, with, r.Raw, false)
		return wrongDay(err)
	})
	if err != nil {
		return err
	}
	if err := r.State(io.Discard, stateKey); err != nil {
		return badBackup(path, err)
	}
	fmt.Fprintf(a.Stdout, "%s: whole and genuine; %s\n", path, facts(r))
	return nil
}

// verifyFile checks what can be checked without a key.
func verifyFile(path string) (*backup.Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := backup.NewReader(f)
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		return nil, badBackup(path, err)
	}
	return r, nil
}

// wrongDay says which key a backup needs.
func wrongDay(err error) error {
	if errors.Is(err, apiclient.ErrWrongKey) {
		return failf(ExitLocked, "wrong key: the backup opens with an operator key or shares of the day it was made, and nothing was changed")
	}
	return err
}

func badBackup(path string, err error) error {
	if errors.Is(err, backup.ErrNewer) { // which says what to do
		return fmt.Errorf("%s: %w", path, err)
	}
	return apierr.Invalid("use another backup", "%s: %v", path, err)
}

// withKeyd calls keyd over the socket that takes keys.
func (a *app) withKeyd(ctx context.Context, f func(context.Context, *apiclient.Keyd) error) error {
	path, err := a.socketPath()
	if err != nil {
		return err
	}
	k := apiclient.NewKeyd(filepath.Join(filepath.Dir(path), apiclient.UnlockSocket))
	defer k.Close()
	err = bounded(ctx, func(ctx context.Context) error { return f(ctx, k) })
	var wrong *apiclient.ShareError
	if errors.Is(err, apiclient.ErrWrongKey) || errors.Is(err, apiclient.ErrTooMany) || errors.As(err, &wrong) {
		return failf(ExitLocked, "%w", err)
	}
	return err
}
