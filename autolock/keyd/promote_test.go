package keyd

import (
	"bytes"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// A redoubtd that was taken over and has workers promoted as fast as it can gets
// its burst. Each one given is in the journal, and what is refused does not fill
// it.
func TestPromotionsAreRateLimited(t *testing.T) {
	c := newCluster(t)
	leafKey := newKey(t)
	joined, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, leafKey, nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	keydKey, err := start(t, t.TempDir()).PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := &keydpb.SignPromotionRequest{Old: joined.Leaf, Csr: newCSR(t, newKey(t), keydKey), BootCsr: newCSR(t, newKey(t), nil)}
	if req.Proof, err = profile.SignPromotionProof(leafKey, req.Csr, req.BootCsr, req.Old.GetCertificates()[0]); err != nil {
		t.Fatal(err)
	}
	before := len(readJournal(t, c.dir))
	given, refused := 0, 0
	for range 5 * denialRate.burst {
		switch _, err := c.SignPromotion(t.Context(), req); {
		case err == nil:
			given++
		case keydclient.CodeOf(err) == keydpb.Code_CODE_RATE_LIMITED:
			refused++
		default:
			t.Fatal(err)
		}
	}
	// A slow machine may have earned a few more meanwhile.
	if given < managerRate.burst || given > managerRate.burst+5 || refused == 0 {
		t.Errorf("%d promotions were signed, %d refused", given, refused)
	}
	raw := readJournal(t, c.dir)
	if n := bytes.Count(raw, []byte(`"event":"sign-promotion","outcome":"ok"`)); n != given {
		t.Errorf("the journal has %d of %d promotions:\n%.2000s", n, given, raw)
	}
	if lines, most := bytes.Count(raw[before:], []byte("\n")), given+2*denialRate.burst; lines > most {
		t.Errorf("%d requests wrote %d lines, at most %d are wanted", given+refused, lines, most)
	}
	// Workers are not held up.
	if _, err := c.SignJoin(t.Context(), c.mint(t, worker, nil).join(t, newCSR(t, newKey(t), nil), nil)); err != nil {
		t.Error(err)
	}
}
