package raftstore

import "context"

// Condition is asked of the state that a transaction begins with, before anything is
// written: an error refuses the transaction, and meet, which may be nil, adds what the
// transaction does besides, where it does anything. It is called as often as the
// transaction is composed anew; what it reads by id must still be so when the
// transaction is applied.
type Condition func(tx *Tx) (meet func(*Tx) error, err error)

type conditionKey struct{}

// WithCondition has every Update under the context succeed only where c does.
func WithCondition(ctx context.Context, c Condition) context.Context {
	return context.WithValue(ctx, conditionKey{}, c)
}

// conditionOf asks the context's condition.
func conditionOf(ctx context.Context, tx *Tx) (meet func(*Tx) error, err error) {
	c, ok := ctx.Value(conditionKey{}).(Condition)
	if !ok || c == nil {
		return nil, nil
	}
	return c(tx)
}
