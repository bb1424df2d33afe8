// Package account resolves the users that Redoubt's processes run as. A user
// is written as a name of the machine's user database or as a number, and means
// the same wherever it is written: in the supervisor's flags, in a unit, in the
// daemons' flags.
//
// It refuses what might mean two things: a number with a sign or a leading
// zero, and a name that could be read as a number.
package account

import (
	"fmt"
	"os/user"
	"regexp"
	"strconv"
)

// maxID is the last uid that is neither the overflow marker nor read as
// negative by anything.
const maxID = 1<<31 - 2

// Account is a user and its group.
type Account struct{ UID, GID int }

var (
	numeric = regexp.MustCompile(`^(0|[1-9][0-9]{0,9})$`)
	named   = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`) // what useradd and sysusers make
)

// Lookup resolves a name or a number. The group of a bare number is the same
// number: the database is not asked.
func Lookup(s string) (Account, error) {
	if numeric.MatchString(s) {
		id, err := strconv.Atoi(s)
		if err != nil || id > maxID {
			return Account{}, fmt.Errorf("uid %s is out of range", s)
		}
		return Account{id, id}, nil
	}
	if !named.MatchString(s) {
		return Account{}, fmt.Errorf("%q is neither the name of a user nor a uid", s)
	}
	u, err := user.Lookup(s)
	if err != nil {
		return Account{}, fmt.Errorf("no user is called %q: create it (useradd --system) or name another", s)
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	if uerr != nil || gerr != nil || uid < 0 || uid > maxID || gid < 0 || gid > maxID {
		return Account{}, fmt.Errorf("user %q has the unusable ids %s:%s", s, u.Uid, u.Gid)
	}
	return Account{uid, gid}, nil
}
