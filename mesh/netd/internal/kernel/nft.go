package kernel

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
)

// bounded limits how long one kernel request may take. It is generic because
// the connection's type belongs to a library this package does not name.
func bounded[C interface {
	SetDeadline(time.Time) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}](c C) error {
	return OneLine(c.SetReadBuffer(nftSocketBuffer), c.SetWriteBuffer(nftSocketBuffer),
		c.SetDeadline(time.Now().Add(requestTimeout)))
}

// WithNFT runs fn with a connection to the nftables of the calling thread's
// network namespace.
func WithNFT(fn func(c *nftables.Conn) error) error {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(bounded))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return OneLine(fn(c), c.CloseLasting())
}

// Exists reports whether there is such a table.
func Exists(c *nftables.Conn, t *nftables.Table) (bool, error) {
	all, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return false, fmt.Errorf("nftables: list tables: %w", err)
	}
	return slices.ContainsFunc(all, func(x *nftables.Table) bool { return x.Name == t.Name }), nil
}
