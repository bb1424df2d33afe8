package config

import (
	"fmt"
	"io/fs"
	"syscall"
)

func trusted(path string, fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 {
		return fmt.Errorf("%s is not owned by root: chown root it", path)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written by others than root (mode %04o): chmod 0644 it", path, fi.Mode().Perm())
	}
	return nil
}
