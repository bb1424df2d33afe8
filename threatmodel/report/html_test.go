package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// TestHTML: a page that loads nothing, runs nothing and can be read by all.
func TestHTML(t *testing.T) {
	later, before := sample(t), sample(t)
	before.Results, before.Requirements = before.Results[2:], before.Requirements[1:]
	if err := later.CompareWith(before); err != nil || len(later.Since.Changes) < 3 || later.Since.Of == 0 {
		t.Fatalf("%+v, %v", later.Since, err)
	}
	if text := string(written(t, later, "html")); !strings.Contains(text, "0 of 2 requirements were met; now 0 of 3 are") || !strings.Contains(text, "What changed") {
		t.Error("nothing of what changed")
	}
	for _, r := range []*Report{sample(t), empty(t), waived(t, waiver("w1", "lock", of("n1"), begun.Add(time.Hour))), later} {
		text := written(t, r, "html")
		doc, err := html.Parse(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		allowed := map[string]bool{}
		for _, e := range strings.Fields("html head meta title style body a header h1 h2 h3 h4 p main section dl dt dd time table caption thead tbody tr th td span meter article ul li code br small footer") {
			allowed[e] = true
		}
		ids, level, styles := map[string]bool{}, 0, 0
		var policy, css string
		for n := range doc.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			if !allowed[n.Data] {
				t.Errorf("an element %s", n.Data)
			}
			attr := map[string]string{}
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "src" || a.Key == "href" && !strings.HasPrefix(a.Val, "#") {
					t.Errorf("%s has %s=%q", n.Data, a.Key, a.Val)
				}
				attr[a.Key] = a.Val
			}
			if id := attr["id"]; id != "" {
				if ids[id] {
					t.Errorf("id %s twice", id)
				}
				ids[id] = true
			}
			switch n.Data {
			case "h1", "h2", "h3", "h4":
				at := int(n.Data[1] - '0')
				if at > level+1 {
					t.Errorf("%s after h%d", n.Data, level)
				}
				level = at
			case "table":
				if c := n.FirstChild.NextSibling; c == nil || c.Data != "caption" {
					t.Error("a table without a caption")
				}
			case "th":
				if attr["scope"] == "" {
					t.Error("a head that says not of what")
				}
			case "meta":
				if attr["http-equiv"] == "Content-Security-Policy" {
					policy = attr["content"]
				}
			case "style":
				styles++
				css = n.FirstChild.Data
			case "html":
				if attr["lang"] != "en" {
					t.Error("no language")
				}
			}
		}
		sum := sha256.Sum256([]byte(css))
		if styles != 1 || !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || !strings.HasPrefix(policy, "default-src 'none'") {
			t.Errorf("its policy %q is not of its style", policy)
		}
	}
}
