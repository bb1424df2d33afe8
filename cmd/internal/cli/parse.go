package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// keyValues reads key=value pairs; a bare key means an empty value.
func keyValues(flag string, in []string) (map[string]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(in))
	for _, s := range in {
		k, v, _ := strings.Cut(s, "=")
		if k == "" {
			return nil, usagef("%s %q: write key=value", flag, s)
		}
		if _, dup := m[k]; dup {
			return nil, usagef("%s: the key %q is given twice", flag, k)
		}
		m[k] = v
	}
	return m, nil
}

// environment reads --env and --env-file as Docker does: NAME=value, or NAME
// alone for the value it has here. A later one replaces an earlier one.
func environment(files, vars []string, lookup func(string) string) ([]string, error) {
	var all []string
	for _, name := range files {
		lines, err := envFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	all = append(all, vars...)
	var out []string
	at := map[string]int{}
	for _, s := range all {
		name, value, given := strings.Cut(s, "=")
		if !validEnvName(name) {
			// The value may be a secret: it is not repeated.
			return nil, usagef("environment variable %q: write NAME=value", printable(name))
		}
		if !given {
			if value = lookup(name); value == "" {
				continue
			}
		}
		if strings.ContainsRune(value, 0) {
			return nil, usagef("environment variable %s: the value holds a zero byte", name)
		}
		if i, ok := at[name]; ok {
			out[i] = name + "=" + value
			continue
		}
		at[name] = len(out)
		out = append(out, name+"="+value)
	}
	return out, nil
}

func validEnvName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '=' || r == 0x7f })
}

func envFile(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usagef("--env-file: %v", err)
	}
	defer f.Close()
	var lines []string
	lim := &io.LimitedReader{R: f, N: maxEnvFile + 1}
	s := bufio.NewScanner(lim)
	s.Buffer(nil, maxEnvFile)
	for s.Scan() {
		line := strings.TrimLeft(s.Text(), " \t")
		if line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	if err := s.Err(); err != nil {
		return nil, usagef("--env-file %s: %v", name, err)
	}
	if lim.N <= 0 {
		return nil, usagef("--env-file %s: larger than %d bytes", name, maxEnvFile)
	}
	return lines, nil
}

// nanoCPUs reads a number of CPUs such as 0.5 exactly.
type nanoCPUs int64

func (n *nanoCPUs) Type() string   { return "decimal" }
func (n *nanoCPUs) String() string { return big.NewRat(int64(*n), 1e9).FloatString(3) }
func (n *nanoCPUs) Set(s string) error {
	r, ok := new(big.Rat).SetString(s)
	if len(s) > 32 || strings.ContainsAny(s, "/eEpPxX_") || !ok {
		return errors.New("write a number of CPUs, as 0.5 or 2")
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() {
		return errors.New("at most nine digits after the point")
	}
	if r.Sign() < 0 || !r.Num().IsInt64() {
		return errors.New("out of range")
	}
	*n = nanoCPUs(r.Num().Int64())
	return nil
}

// byteSize reads a size such as 64m.
type byteSize int64

func (b *byteSize) Type() string   { return "bytes" }
func (b *byteSize) String() string { return strconv.FormatInt(int64(*b), 10) }
func (b *byteSize) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return errors.New("write a size, as 64m or 1g")
	}
	*b = byteSize(n)
	return nil
}

// replicaCount reads --replicas and scale's numbers.
func replicaCount(s string) (uint64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is no number of replicas", s)
	case n < 0:
		return 0, fmt.Errorf("%s replicas: give 0 or more", s)
	case n > maxReplicas || err != nil:
		return 0, fmt.Errorf("%s replicas: at most %d", s, maxReplicas)
	}
	return uint64(n), nil
}

type replicas struct {
	n   uint64
	set bool
}

func (r *replicas) Type() string   { return "uint" }
func (r *replicas) String() string { return strconv.FormatUint(r.n, 10) }
func (r *replicas) Set(s string) (err error) {
	r.n, err = replicaCount(s)
	r.set = err == nil
	return err
}

// portNumber reads 1 to 65535.
func portNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < 1 || n > maxPort {
		return 0, fmt.Errorf("%q is no port: use 1 to %d", s, maxPort)
	}
	return uint32(n), nil
}

// words splits a command line as a shell would, with quotes and backslashes
// and nothing else: no variable, no glob, no comment.
func words(s string) ([]string, error) {
	var out []string
	var cur strings.Builder
	inWord, quote, esc := false, rune(0), false
	for _, r := range s {
		switch {
		case esc:
			if quote == '"' && r != '"' && r != '\\' {
				cur.WriteRune('\\')
			}
			cur.WriteRune(r)
			esc = false
		case r == '\\' && quote != '\'':
			esc, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			cur.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				out = append(out, cur.String())
			}
			cur.Reset()
			inWord = false
		default:
			inWord = true
			cur.WriteRune(r)
		}
	}
	if quote != 0 || esc {
		return nil, fmt.Errorf("%q ends within a quotation", s)
	}
	if inWord {
		out = append(out, cur.String())
	}
	return out, nil
}

// nonNegative is a duration that is not below zero and fits its field.
type nonNegative time.Duration

func (d *nonNegative) Type() string   { return "duration" }
func (d *nonNegative) String() string { return time.Duration(*d).String() }
func (d *nonNegative) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return errors.New("write a duration, as 10s or 1m30s")
	}
	*d = nonNegative(v)
	return nil
}

// uses is the number of machines a join token admits.
type uses uint32

func (u *uses) Type() string   { return "uint" }
func (u *uses) String() string { return strconv.FormatUint(uint64(*u), 10) }
func (u *uses) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return errors.New("give the number of machines, 1 or more")
	}
	*u = uses(n)
	return nil
}
