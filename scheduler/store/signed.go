package store

import "github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"

// Signing is who wants a service to be stored so.
type Signing struct {
	// By is kept with the record of the spec, for people.
	By string
	// Signed is kept with the service and with each revision that is made of it; empty:
	// nobody signed it.
	Signed []byte
	// Check, if not nil, judges the spec as it would be stored, and what is there
	// (nil: nothing), in the transaction. Its error is returned as it is.
	Check func(sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) error
}

func (s Signing) check(sp *schedulerpb.ServiceSpec, old *schedulerpb.Service) error {
	if s.Check == nil {
		return nil
	}
	return s.Check(sp, old)
}
