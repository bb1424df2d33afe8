package rund

import (
	"errors"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

func TestPlainRuntimeError(t *testing.T) {
	for in, want := range map[string]string{
		`create container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory: unknown`: `the image has no program /nope: correct the command or the image`,
		`start: OCI runtime start failed: unable to start container process: exec: "sh": executable file not found in $PATH: unknown`:                                                                   `the image has no program sh on its PATH: correct the command or the image`,
		`OCI runtime exec failed: exec failed: unable to start container process: exec: "/etc": is a directory: unknown`:                                                                                `/etc is a directory and no program: correct the command`,
		`failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "/a": permission denied: unknown`:                                          `/a is no program that may be executed: correct the command, or make it executable in the image`,
		`OCI runtime create failed: something nobody foresaw: here: unknown`:                                                                                                                            `something nobody foresaw: here`,
		`image x: its registry did not answer`: `image x: its registry did not answer`,
		"two\nlines":                           "two lines",
		"unknown":                              "unknown",
		"start: ":                              "start:",
	} {
		if got := plainRuntimeError(errors.New(in)); got != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
	}
}

// TestRealErrorsArePlain: what this machine's runc says.
func TestRealErrorsArePlain(t *testing.T) {
	n := newNode(t)
	for want, command := range map[string]string{"has no program /nope": "/nope", "/etc is no program": "/etc", "/etc/passwd is no program that may be executed": "/etc/passwd"} {
		d := n.desired()
		d.Spec.Container.Command = []string{command}
		n.apply(d)
		a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED)
		if !strings.Contains(a.GetError(), want) {
			t.Errorf("%s: %q", command, a.GetError())
		}
	}
}
