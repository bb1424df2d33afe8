// Package volumes says what a volume may be: its name, its driver and the options of
// that, with their bounds. It is the same for who writes a service, for managers and for
// the node that makes one.
//
// There is the driver local alone: a directory of the node. Options that mount something
// of elsewhere, as Docker's local driver takes them (type, o, device), are refused by
// name: a mount that a service asks for would be made by root.
//
// It looks nothing up and touches no file.
package volumes

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Local is the driver of whoever names none.
const Local = "local"

// Size is the option that says how many bytes a volume may hold: "10GiB", "500m".
const Size = "size"

// SizeFeature is what a node calls it that it can bound a volume.
const SizeFeature = "volume size"

// Options are those of a volume as its driver takes them.
type Options struct {
	Size int64 // bytes; 0: no bound of its own
}

// Check returns an error unless a volume may be made from the spec, which Complete made.
func Check(s *taskpb.VolumeSpec) error {
	if s == nil {
		return errors.New("there is no volume: give a name")
	}
	if err := ident.CheckOwnName("volume", s.GetName()); err != nil {
		return err
	}
	if err := ident.CheckLabels("volume label", s.GetLabels()); err != nil {
		return err
	}
	if _, err := Parse(s); err != nil {
		return err
	}
	if n := proto.Size(s); n > MaxSpecBytes {
		return fmt.Errorf("volume %s: its labels and options are %d bytes long in all: at most %d are allowed", s.GetName(), n, MaxSpecBytes)
	}
	return nil
}

// Complete is the spec with what it leaves out.
func Complete(s *taskpb.VolumeSpec) *taskpb.VolumeSpec {
	if s == nil || s.GetDriver() != "" {
		return s
	}
	s = proto.CloneOf(s)
	s.Driver = Local
	return s
}

// SpecOf is what a volume of that name is made from where there is none.
func SpecOf(u *taskpb.VolumeUse) *taskpb.VolumeSpec {
	return &taskpb.VolumeSpec{Name: u.GetName(), Driver: cmp.Or(u.GetDriver(), Local), Labels: u.GetLabels(), Options: u.GetOptions()}
}

// CheckUse returns an error unless a container may have a volume so.
func CheckUse(u *taskpb.VolumeUse) error {
	if u == nil {
		return errors.New("the volume has no name: give it one (source=NAME)")
	}
	if err := Check(SpecOf(u)); err != nil {
		return err
	}
	return CheckSubpath(u.GetSubpath())
}

// CheckSubpath wants a path below the volume in its one spelling; empty: the volume. Whether
// what is there is a link that leads out is seen when it is mounted.
func CheckSubpath(p string) error {
	switch {
	case p == "":
		return nil
	case len(p) > MaxSubpath:
		return fmt.Errorf("the subpath is %d characters long: at most %d are allowed", len(p), MaxSubpath)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the subpath has a control character: remove it")
	case path.IsAbs(p) || path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../"):
		return fmt.Errorf("subpath %q: write a path below the volume, without .. and without a slash at either end", ident.Clip(p))
	}
	return nil
}

// Differs says in what a volume that is there is not what a service wants to make under
// its name; empty: in nothing. Who gives no driver, labels or options wants what is there.
func Differs(is *taskpb.VolumeSpec, u *taskpb.VolumeUse) string {
	switch {
	case u.GetDriver() != "" && u.GetDriver() != is.GetDriver():
		return fmt.Sprintf("its driver is %s, and not %s", is.GetDriver(), ident.Clip(u.GetDriver()))
	case len(u.GetOptions()) > 0 && !maps.Equal(u.GetOptions(), is.GetOptions()):
		return fmt.Sprintf("its options are %s, and not %s", said(is.GetOptions()), said(u.GetOptions()))
	}
	return ""
}

func said(options map[string]string) string {
	if len(options) == 0 {
		return "none"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(options)) {
		out = append(out, k+"="+ident.Clip(options[k]))
	}
	return strings.Join(out, ", ")
}

// Parse reads the driver and its options.
func Parse(s *taskpb.VolumeSpec) (o Options, err error) {
	if d := s.GetDriver(); d != Local {
		return o, fmt.Errorf("volume %s: there is no volume driver %q: use local, or leave it out", s.GetName(), ident.Clip(d))
	}
	for _, k := range slices.Sorted(maps.Keys(s.GetOptions())) {
		v := s.GetOptions()[k]
		switch k {
		case Size:
			if o.Size, err = parseSize(v); err != nil {
				return o, fmt.Errorf("volume %s: %w", s.GetName(), err)
			}
		case "type", "o", "device":
			return o, fmt.Errorf("volume %s: the option %s mounts something of elsewhere, which no node does for a service: mount it on the node, and use a bind mount that rund.bind_mounts there allows", s.GetName(), k)
		default:
			return o, fmt.Errorf("volume %s: the driver local has no option %q: there is %s", s.GetName(), ident.Clip(k), Size)
		}
	}
	return o, nil
}

// units are powers of 1024, as Docker's are.
var units = map[string]int64{"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

func parseSize(text string) (int64, error) {
	wrong := fmt.Errorf("size %q: write %s to %s, such as 500MiB or 10GiB", ident.Clip(text), "1MiB", "16384TiB")
	number := strings.TrimRight(text, "kmgtibKMGTIB")
	unit := strings.TrimSuffix(strings.ToLower(text[len(number):]), "b")
	unit, binary := strings.CutSuffix(unit, "i")
	n, err := strconv.ParseInt(number, 10, 64)
	each, ok := units[unit]
	if err != nil || !ok || binary && unit == "" || strings.HasPrefix(number, "+") || n > MaxSize/each || n*each < MinSize {
		return 0, wrong
	}
	return n * each, nil
}

// Features are those that a node must have for a volume.
func Features(s *taskpb.VolumeSpec) []string {
	if o, err := Parse(s); err == nil && o.Size > 0 {
		return []string{SizeFeature}
	}
	return nil
}

// Uses are the volumes that a container's mounts name, each name once, in their order.
func Uses(c *taskpb.ContainerSpec) (out []*taskpb.VolumeUse) {
	seen := map[string]bool{}
	for _, m := range c.GetMounts() {
		if u := m.GetVolume(); m.GetType() == taskpb.Mount_TYPE_VOLUME && !seen[u.GetName()] {
			seen[u.GetName()] = true
			out = append(out, u)
		}
	}
	return out
}
