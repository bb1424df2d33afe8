package authz

import "context"

type approvalKey struct{}

// WithApproval returns ctx with the id of the approval that a call is made by.
func WithApproval(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, approvalKey{}, id)
}

// ApprovalOf is the id of the approval that the call is made by; empty for none.
func ApprovalOf(ctx context.Context) string {
	id, _ := ctx.Value(approvalKey{}).(string)
	return id
}
