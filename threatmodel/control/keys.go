package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

func checkAlarms(_ context.Context, c *Cluster, found *Found) error {
	found.Looked()
	for _, a := range c.Alarms {
		found.Against("a certificate of %s that nobody gave out was shown from %s on %s (serial %s)", a.Node, a.Source, date(a.At), a.Serial)
	}
	return nil
}

func checkExposed(_ context.Context, c *Cluster, found *Found) error {
	found.Looked()
	for _, name := range c.Exposed {
		found.Against("%s left in other hands and had the root key", name)
	}
	return nil
}

func checkAuthorities(_ context.Context, c *Cluster, found *Found) error {
	for _, a := range c.Authorities {
		found.Looked()
		what, least := "the issuing CA", minIssuerLeft
		if a.Root {
			what, least = "a root", minRootLeft
		}
		if left := a.NotAfter.Sub(c.Now); left < least {
			found.Against("%s ends on %s", what, date(a.NotAfter))
		}
		if age := c.Now.Sub(a.NotBefore); !a.Root && age > maxIssuerAge {
			found.Against("%s signs since %s, and was not replaced", what, date(a.NotBefore))
		}
	}
	return nil
}

func checkReplacement(_ context.Context, c *Cluster, found *Found) error {
	found.Looked()
	if !c.Replacing.IsZero() && c.Now.Sub(c.Replacing) > maxReplacing {
		found.Against("a root is being replaced since %s", date(c.Replacing))
	}
	return nil
}

func checkExternal(_ context.Context, c *Cluster, found *Found) error {
	if c.External == nil {
		return notApplicable("the cluster certifies workers itself")
	}
	found.Looked()
	if c.External.Failure != "" {
		found.Against("%s certifies no worker: %s", c.External.URL, c.External.Failure)
	}
	return nil
}

func checkLists(_ context.Context, c *Cluster, found *Found) error {
	if len(c.Lists) == 0 && c.Level < c.Here {
		return notApplicable("no list is signed before all managers know of them")
	}
	listed := map[string]bool{}
	for _, l := range c.Lists {
		found.Looked()
		listed[l.CA] = true
		if !l.NextUpdate.After(c.Now) {
			found.Against("the revocation list of CA %s ended on %s", l.CA, date(l.NextUpdate))
		}
	}
	for _, a := range c.Authorities {
		if !listed[a.ID] {
			found.Against("CA %s has no revocation list", a.ID)
		}
	}
	return nil
}

// eachToken looks at the tokens in force.
func eachToken(look func(c *Cluster, t Token, found *Found)) func(context.Context, *Cluster, *Found) error {
	return func(_ context.Context, c *Cluster, found *Found) error {
		if len(c.Tokens) == 0 {
			return notApplicable("no join token is in force")
		}
		for _, t := range c.Tokens {
			found.Looked()
			look(c, t, found)
		}
		return nil
	}
}

func checkTokenEnd(_ *Cluster, t Token, found *Found) {
	if t.Expires.IsZero() {
		found.Against("join token %s does not end", t.ID)
	}
}

func checkTokenAge(c *Cluster, t Token, found *Found) {
	if age := c.Now.Sub(t.Minted); age > maxTokenAge {
		kind := "workers"
		if t.Manager {
			kind = "managers"
		}
		found.Against("join token %s for %s is of %s", t.ID, kind, date(t.Minted))
	}
}

func checkNoFileSlot(_ context.Context, c *Cluster, found *Found) error {
	for _, s := range c.Slots {
		found.Looked()
		if s.File {
			found.Against("a file on each manager's disk opens it: autolock is off")
		}
	}
	return nil
}

func checkSlotAges(_ context.Context, c *Cluster, found *Found) error {
	for _, s := range c.Slots {
		if !s.People {
			continue
		}
		found.Looked()
		if age := c.Now.Sub(s.Made); age > maxSlotAge {
			found.Against("unlock slot %s is of %s", s.Name, date(s.Made))
		}
	}
	return nil
}

func checkSecretAges(_ context.Context, c *Cluster, found *Found) error {
	if len(c.Secrets) == 0 {
		return notApplicable("there are no secrets")
	}
	for _, s := range c.Secrets {
		found.Looked()
		switch age := c.Now.Sub(s.Made); {
		case s.Made.IsZero():
			found.Against("secret %s does not say how old version %d is", s.Name, s.Version)
		case age > maxSecretAge:
			found.Against("version %d of secret %s is of %s", s.Version, s.Name, date(s.Made))
		}
	}
	return nil
}

func checkAuditLog(ctx context.Context, c *Cluster, found *Found) error {
	all, err := c.AuditLog(ctx)
	if err != nil {
		return err
	}
	away := ""
	for _, m := range all {
		if m.Away != "" {
			away = fmt.Sprintf("manager %s did not answer: %s", m.Manager, m.Away)
			continue
		}
		found.Looked()
		switch {
		case m.Forked:
			found.Against("manager %s has another audit log than most", m.Manager)
		case m.Wrong != "":
			found.Against("manager %s: %s", m.Manager, m.Wrong)
		case m.Missing > 0:
			found.Against("manager %s lacks %d older segments", m.Manager, m.Missing)
		}
	}
	if away != "" && len(found.against) == 0 {
		return errors.New(away)
	}
	return nil
}

// checkSigned: what managers do not sign today may be another log tomorrow.
func checkSigned(ctx context.Context, c *Cluster, found *Found) error {
	at, err := c.Signed(ctx)
	switch {
	case err != nil:
		return err
	case at.Records == 0:
		return notApplicable("the audit log has no record yet")
	}
	if at.Wrong != "" {
		found.Against("%s", at.Wrong)
	}
	for _, d := range at.Dissents {
		found.Against("manager %s did not sign the audit log's first %d records: %s", d.Manager, at.Size, d.Reason)
	}
	switch age := c.Now.Sub(at.Unsigned); {
	case !at.Unsigned.IsZero() && age > maxUnsigned:
		found.Against("record %d of the audit log, and all after it, are signed by nobody for %s", at.Size, age.Round(time.Minute))
	case at.Size == 0 && len(found.against) == 0:
		return errors.New("the audit log is not signed yet")
	}
	found.Looked()
	return nil
}

// checkWitnessed: what nobody outside has seen, all managers together can rewrite.
func checkWitnessed(ctx context.Context, c *Cluster, found *Found) error {
	all, err := c.Witnessed(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return notApplicable("no witness is set: redoubt audit witness set URL --key KEY")
	}
	for _, w := range all {
		found.Looked()
		why := ""
		if w.Failure != "" {
			why = ": " + w.Failure
		}
		switch age := c.Now.Sub(w.Lacks); {
		case w.Alarm != "":
			found.Against("ALARM of witness %s on %s: %s", w.Name, w.AlarmAt.UTC().Format(time.DateOnly), w.Alarm)
		case !w.Lacks.IsZero() && age > maxUnseen:
			found.Against("witness %s has cosigned %d records, and none since for %s%s", w.Name, w.Size, age.Round(time.Minute), why)
		case !w.At.IsZero() && c.Now.Sub(w.At) > maxWordAge:
			found.Against("witness %s cosigned last on %s%s", w.Name, w.At.UTC().Format(time.RFC3339), why)
		}
	}
	return nil
}

func checkBackup(ctx context.Context, c *Cluster, found *Found) error {
	at, err := c.LastBackup(ctx, c.Now.Add(-maxBackupAge))
	if err != nil {
		return err
	}
	found.Looked()
	if at.IsZero() {
		found.Against("no backup was made within %s", days(maxBackupAge))
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func days(d time.Duration) string { return fmt.Sprintf("%d days", d/day) }

// sorted are the keys of m in order.
func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
