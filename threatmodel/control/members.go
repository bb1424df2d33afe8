package control

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// eachMember looks at every member that which names.
func eachMember(c *Cluster, found *Found, which func(Member) bool, look func(Member)) {
	for _, m := range c.Members {
		if which == nil || which(m) {
			found.Looked()
			look(m)
		}
	}
}

func isManager(m Member) bool { return m.Manager }

func checkAddresses(_ context.Context, c *Cluster, found *Found) error {
	eachMember(c, found, nil, func(m Member) {
		if m.Replaced {
			found.Against("the session of %s was replaced from another address while it lived: its key may be in use elsewhere", m.Name)
		}
	})
	for _, at := range c.Shared {
		found.Against("%s are all at %s", some3(at.Nodes), at.Address)
	}
	return nil
}

func checkCertificates(_ context.Context, c *Cluster, found *Found) error {
	eachMember(c, found, nil, func(m Member) {
		if !m.NotAfter.After(c.Now) {
			found.Against("the certificate of %s ended on %s", m.Name, date(m.NotAfter))
		}
	})
	return nil
}

func checkRoots(_ context.Context, c *Cluster, found *Found) error {
	silent := []string{}
	for _, m := range c.Members {
		if m.Trusts == nil && m.Connected {
			silent = append(silent, m.Name)
		}
	}
	eachMember(c, found, func(m Member) bool { return m.Trusts != nil }, func(m Member) {
		for _, hash := range m.Trusts {
			if !slices.ContainsFunc(c.Roots, func(r []byte) bool { return bytes.Equal(r, hash) }) {
				found.Against("%s trusts the root %x, which is none of the cluster's", m.Name, hash[:min(len(hash), shownHash)])
			}
		}
	})
	if len(silent) > 0 && len(found.against) == 0 {
		return fmt.Errorf("%s did not say yet which roots they trust", some3(silent))
	}
	return nil
}

func checkIssuers(_ context.Context, c *Cluster, found *Found) error {
	eachMember(c, found, nil, func(m Member) {
		switch {
		case m.Forgotten:
			found.Against("%s was away so long that nobody takes its certificate", m.Name)
		case m.Stale:
			found.Against("the certificate of %s is of a CA of before", m.Name)
		}
	})
	return nil
}

func checkClocks(_ context.Context, c *Cluster, found *Found) error {
	silent := []string{}
	for _, m := range c.Members {
		switch {
		case m.Clocked:
			found.Looked()
			if m.ClockOff.Abs() > maxClock {
				found.Against("the clock of %s is off by %s", m.Name, m.ClockOff.Abs().Round(time.Second/10))
			}
		case m.Connected:
			silent = append(silent, m.Name)
		}
	}
	if len(silent) > 0 && len(found.against) == 0 {
		return fmt.Errorf("of the clock of %s nothing is known yet", some3(silent))
	}
	return nil
}

func checkDrained(_ context.Context, c *Cluster, found *Found) error {
	if !slices.ContainsFunc(c.Members, func(m Member) bool { return !m.Manager }) {
		return notApplicable("there are managers alone")
	}
	eachMember(c, found, isManager, func(m Member) {
		if m.Tasks > 0 {
			found.Against("manager %s runs %d tasks of services", m.Name, m.Tasks)
		}
	})
	return nil
}

func checkQuorum(_ context.Context, c *Cluster, found *Found) error {
	voters := 0
	eachMember(c, found, isManager, func(m Member) {
		if m.Voter {
			voters++
		}
		switch {
		case m.Locked:
			found.Against("manager %s is locked", m.Name)
		case !m.Up:
			found.Against("manager %s is down", m.Name)
		case !m.Voter:
			found.Against("manager %s has no vote", m.Name)
		}
	})
	switch {
	case voters < minManagers:
		found.Against("%d managers vote: the loss of one stops the cluster", voters)
	case voters > maxManagers:
		found.Against("%d managers vote: %d bear the loss of two, and each more is one more that holds every key", voters, maxManagers)
	case voters%2 == 0:
		found.Against("%d managers vote, and bear no more losses than %d", voters, voters-1)
	}
	return nil
}

func checkSpread(_ context.Context, c *Cluster, found *Found) error {
	voters, in := 0, map[string][]string{}
	eachMember(c, found, func(m Member) bool { return m.Manager && m.Voter }, func(m Member) {
		voters++
		if m.Zone != "" {
			in["zone "+m.Zone] = append(in["zone "+m.Zone], m.Name)
		}
		if m.Host != "" {
			in["the address "+m.Host] = append(in["the address "+m.Host], m.Name)
		}
	})
	if voters < minManagers {
		return notApplicable("there are too few managers to be spread")
	}
	for _, domain := range sorted(in) {
		if names := in[domain]; len(names) > 1 && voters-len(names) < voters/2+1 {
			found.Against("managers %s share %s, whose loss stops the cluster", strings.Join(names, ", "), domain)
		}
	}
	return nil
}

func checkVersions(_ context.Context, c *Cluster, found *Found) error {
	runs := map[string][]string{}
	for _, m := range c.Members {
		if m.Version == "" && !m.Connected {
			continue // it was never here to say so
		}
		found.Looked()
		if m.Version != "" {
			runs[m.Version] = append(runs[m.Version], m.Name)
		} else {
			found.Against("%s does not say which version it runs", m.Name)
		}
	}
	if len(runs) > 1 {
		for _, v := range sorted(runs) {
			found.Against("%s: version %s", some3(runs[v]), v)
		}
	}
	if c.Level < c.Here {
		found.Against("the store is at level %d of %d", c.Level, c.Here)
	}
	return nil
}

func checkSlotEpochs(_ context.Context, c *Cluster, found *Found) error {
	eachMember(c, found, isManager, func(m Member) {
		switch {
		case m.SlotEpoch < c.SlotEpoch:
			found.Against("manager %s opens with the slots of epoch %d still, of %d", m.Name, m.SlotEpoch, c.SlotEpoch)
		case m.Lacks > 0:
			found.Against("manager %s lacks %d of the slots", m.Name, m.Lacks)
		}
	})
	return nil
}

func checkStoreKeys(_ context.Context, c *Cluster, found *Found) error {
	eachMember(c, found, isManager, func(m Member) {
		switch {
		case m.StoreKeyWrong != "":
			found.Against("the key of %s's store is not renewed: %s", m.Name, m.StoreKeyWrong)
		case m.StoreKeyMade.IsZero():
			found.Against("manager %s does not say how old the key of its store is", m.Name)
		case c.Now.Sub(m.StoreKeyMade) > maxStoreKey:
			found.Against("the key of %s's store is of %s", m.Name, date(m.StoreKeyMade))
		}
	})
	return nil
}

// some3 names the first three.
func some3(names []string) string {
	if more := len(names) - 3; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), more)
	}
	return strings.Join(names, ", ")
}
