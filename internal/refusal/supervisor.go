package refusal

import (
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
)

const supervisorVar = "REDOUBT_REFUSALS_FD"

// Supervisor is the way to the process that started this one. The zero value
// leads nowhere.
type Supervisor struct{ f *os.File }

// ToSupervisor returns what was passed and removes its variable from the
// environment. It is called before the passed sockets are taken, as it goes by
// the same proof that they are meant for this process.
func ToSupervisor() Supervisor {
	fd, err := strconv.Atoi(os.Getenv(supervisorVar))
	os.Unsetenv(supervisorVar)
	if pid, perr := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || fd < 3 || perr != nil || pid != os.Getpid() {
		return Supervisor{}
	}
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return Supervisor{}
	}
	syscall.CloseOnExec(fd)
	return Supervisor{os.NewFile(uintptr(fd), "supervisor")}
}

// Tell says why this process will not start.
func (s Supervisor) Tell(text string) {
	if s.f != nil {
		_, _ = io.WriteString(s.f, oneline.Text(text, maxText)+"\n") // it fits a pipe, and nobody else writes
	}
}

// Close ends it: nothing is refused any more.
func (s Supervisor) Close() {
	if s.f != nil {
		s.f.Close()
	}
}
