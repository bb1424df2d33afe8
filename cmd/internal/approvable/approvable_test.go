package approvable

import (
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

const createRole = "/redoubt.control.v1.Access/CreateRole"

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHash: it is the one that docs/formats.md says, and another one of whatever is.
func TestHash(t *testing.T) {
	b := encoded(t, &controlpb.CreateRoleRequest{Name: "forged"})
	if got := hex.EncodeToString(Hash(createRole, b)); got != "c0b878e7d3eebd0ded274d1c1901270bc6186938ef25d54ef1aeb958edf57be6" {
		t.Errorf("the hash is %s", got)
	}
	seen := map[string]bool{}
	for _, c := range []struct {
		method string
		b      []byte
	}{{createRole, b}, {createRole + "s", b}, {createRole, b[:len(b)-1]}, {createRole[:5], append([]byte(createRole[5:]), b...)}, {"", nil}} {
		if h := string(Hash(c.method, c.b)); seen[h] {
			t.Errorf("%q has the hash of another", c.method)
		} else {
			seen[h] = true
		}
	}
}

// TestDecode: what cannot be read whole is not read.
func TestDecode(t *testing.T) {
	good := encoded(t, &controlpb.CreateRoleRequest{Name: "x"})
	more := protowire.AppendVarint(protowire.AppendTag(good, 1000, protowire.VarintType), 1)
	for _, c := range []struct {
		method string
		b      []byte
		want   string
	}{
		{createRole, good, ""},
		{createRole, more, "not known"},
		{createRole, []byte{0xff}, "parse"},
		{"/redoubt.control.v1.Access/Nothing", good, "no such method"},
		{"/redoubt.control.v1.CreateRoleRequest/name", good, "no such method"},
		{"/nobody.Nothing/Nothing", good, "not found"},
		{"", nil, "not found"},
	} {
		m, err := Decode(c.method, c.b)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, %v, want %q", c.method, m, err, c.want)
		}
	}
}

// TestFields: all that is said, and what is fresh by that it is.
func TestFields(t *testing.T) {
	var got []string
	for _, f := range Fields(&controlpb.InvitePersonRequest{Name: "ann", LifeSeconds: 60}) {
		got = append(got, f.GetPath()+"="+f.GetNew())
	}
	if text := strings.Join(got, " "); text != "id=(made anew by each call) public_key=(made anew by each call) name=ann life_seconds=60" {
		t.Errorf("%q", text)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(createRole, []byte("\n\x01x"))
	f.Add("/redoubt.control.v1.Approvals/DecideApproval", []byte(nil))
	f.Fuzz(func(t *testing.T, method string, b []byte) {
		m, err := Decode(method, b)
		if err == nil {
			Fields(m)
		}
	})
}

// TestDocumentIsShown: who approves an image policy reads it, and not its bytes.
func TestDocumentIsShown(t *testing.T) {
	const text = "format: 1\nrules:\n- name: all\n"
	fields := Fields(&controlpb.SetImagePolicyRequest{Document: []byte(text)})
	if len(fields) != 1 || fields[0].GetPath() != "document" || fields[0].GetNew() != text {
		t.Errorf("%v", fields)
	}
	if fields := Fields(&controlpb.SetWitnessRequest{Ca: [][]byte{{0xca, 0xfe}}}); len(fields) != 1 || fields[0].GetNew() != "cafe" {
		t.Errorf("%v", fields)
	}
}
