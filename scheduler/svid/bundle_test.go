package svid

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// The key of tokens of before is believed no more once the managers have another,
// though the task's certificate is good for an hour; they may be away at first.
func TestTokensAfterRotation(t *testing.T) {
	w, ctx := newWorld(t, 0), within(t)
	task := ident.New()
	w.Set(map[string]Want{task: {Identity: w.id("web"), Life: time.Hour}})
	api, err := workloadapi.New(ctx, workloadapi.WithAddr(w.socket(task)))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	got, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db"})
	if err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.away = true })
	w.Rotated()
	w.Holder.mu.Lock()
	news := w.news
	w.Holder.mu.Unlock()
	w.set(func() { w.away, w.epoch = false, 1; _, w.tokenKey = newCA(t, "token", nil, nil) })
	select {
	case <-news:
	case <-ctx.Done():
		t.Fatal("the bundle was not asked for")
	}
	if _, err := api.ValidateJWTSVID(ctx, got.Marshal(), "db"); err == nil {
		t.Error("a token of the former key passes")
	}
	if fresh, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db"}); err != nil || fresh.Marshal() == got.Marshal() {
		t.Errorf("a token of the new key: %v", err)
	}
}
