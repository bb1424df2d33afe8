package report

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/strictjson"
	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
)

// ReadFile reads the JSON form of a report.
func ReadFile(path string) (*Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Read reads the JSON form of a report. What New would not have made is refused: a
// key that is not known, a text of more than one line, an outcome that is none.
func Read(in io.Reader) (*Report, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	r := &Report{}
	if err := strictjson.Decode(text, r); err != nil {
		return nil, fmt.Errorf("no report as `redoubt compliance run --format json` writes it: %w", oneline.Error(err, maxLine))
	}
	return r, r.check()
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

var sumForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (r *Report) check() error {
	switch {
	case r.Version != formVersion:
		return fmt.Errorf("version %d: this reads version %d alone", r.Version, formVersion)
	case !uuidForm.MatchString(r.ID):
		return errors.New("its id is no UUID")
	case r.Begun.IsZero() || r.Ended.Before(r.Begun):
		return errors.New("it ends before it begins")
	case r.Profile.ID == "":
		return errors.New("it names no profile")
	case r.Profile.SHA256 != "" && !sumForm.MatchString(r.Profile.SHA256):
		return errors.New("its profile's SHA-256 is none")
	case len(r.Results) > maxResults:
		return fmt.Errorf("more than %d results", maxResults)
	}
	said := r.said()
	texts := []string{r.Tool, r.Cluster, r.Profile.ID, r.Profile.Title, r.Profile.Source}
	asked := map[string]bool{}
	for _, q := range r.Requirements {
		if asked[q.ID] {
			return fmt.Errorf("requirement %q is there twice", q.ID)
		}
		asked[q.ID] = true
		if _, known := rank[q.Outcome]; !known {
			return fmt.Errorf("requirement %q: no outcome is called %q", q.ID, q.Outcome)
		}
		if !slices.Contains([]profile.Coverage{profile.Full, profile.Partial, profile.None, profile.Outside}, q.Coverage) {
			return fmt.Errorf("requirement %q: no coverage is called %q", q.ID, q.Coverage)
		}
		if by := judge(profile.Requirement{Coverage: q.Coverage, Controls: q.Controls}, said); q.Outcome != by {
			return fmt.Errorf("requirement %q is %s, and by its results it is %s", q.ID, q.Outcome, by)
		}
		texts = append(append(texts, q.ID, q.Title, q.Family, q.Note), q.Controls...)
	}
	seen := map[string]bool{}
	for _, x := range r.Results {
		if _, known := grave[x.Severity]; !known {
			return fmt.Errorf("control %q: no severity is called %q", x.Control, x.Severity)
		}
		if !slices.Contains([]control.Outcome{control.Pass, control.Fail, control.Error, control.NotApplicable, Waived}, x.Outcome) {
			return fmt.Errorf("control %q: no outcome is called %q", x.Control, x.Outcome)
		}
		if len(x.Evidence) > maxEvidence || slices.ContainsFunc(x.Evidence, func(e string) bool { return e != oneline.Text(e, maxLine) }) {
			return fmt.Errorf("control %q: its evidence is out of bounds", x.Control)
		}
		if key := x.key(); seen[key] {
			return fmt.Errorf("control %q has two results of one target", x.Control)
		} else {
			seen[key] = true
		}
		texts = append(texts, x.Control, x.Title, x.Remedy, x.Target.Kind, x.Target.Name, x.Target.ID)
	}
	for _, w := range r.Waivers {
		texts = append(texts, w.ID, w.Control, w.Reason, w.Asked, w.Approved, w.Scope.Kind, w.Scope.Name, w.Scope.ID)
	}
	if err := r.checkWaivers(); err != nil {
		return err
	}
	for _, t := range texts {
		if t != oneline.Text(t, maxText) {
			return errors.New("a text in it is out of bounds")
		}
	}
	if r.Compliant != r.complies() {
		return errors.New("it says of itself what its requirements do not say")
	}
	return nil
}
