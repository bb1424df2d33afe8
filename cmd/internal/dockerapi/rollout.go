package dockerapi

import (
	"net/http"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

var failureActions = map[swarm.FailureAction]schedulerpb.UpdateConfig_FailureAction{
	"": schedulerpb.UpdateConfig_FAILURE_ACTION_UNSPECIFIED, swarm.UpdateFailureActionPause: schedulerpb.UpdateConfig_FAILURE_ACTION_PAUSE,
	swarm.UpdateFailureActionContinue: schedulerpb.UpdateConfig_FAILURE_ACTION_CONTINUE, swarm.UpdateFailureActionRollback: schedulerpb.UpdateConfig_FAILURE_ACTION_ROLLBACK,
}

var updateOrders = map[swarm.UpdateOrder]schedulerpb.UpdateConfig_Order{
	"": schedulerpb.UpdateConfig_ORDER_UNSPECIFIED, swarm.UpdateOrderStopFirst: schedulerpb.UpdateConfig_ORDER_STOP_FIRST,
	swarm.UpdateOrderStartFirst: schedulerpb.UpdateConfig_ORDER_START_FIRST,
}

// fromUpdate translates how tasks are replaced; what it does not know is left.
func fromUpdate(c *swarm.UpdateConfig) *schedulerpb.UpdateConfig {
	if c == nil {
		return nil
	}
	out := &schedulerpb.UpdateConfig{Parallelism: take(&c.Parallelism), DelayNs: int64(take(&c.Delay)), MonitorNs: int64(take(&c.Monitor)), MaxFailureRatio: take(&c.MaxFailureRatio)}
	if a, ok := failureActions[c.FailureAction]; ok {
		out.FailureAction, c.FailureAction = a, ""
	}
	if o, ok := updateOrders[c.Order]; ok {
		out.Order, c.Order = o, ""
	}
	return out
}

func toUpdate(c *schedulerpb.UpdateConfig) *swarm.UpdateConfig {
	if c == nil {
		return nil
	}
	out := &swarm.UpdateConfig{Parallelism: c.GetParallelism(), Delay: time.Duration(c.GetDelayNs()), Monitor: time.Duration(c.GetMonitorNs()), MaxFailureRatio: c.GetMaxFailureRatio()}
	for word, a := range failureActions {
		if a == c.GetFailureAction() {
			out.FailureAction = word
		}
	}
	for word, o := range updateOrders {
		if o == c.GetOrder() {
			out.Order = word
		}
	}
	return out
}

func toUpdateStatus(st *schedulerpb.UpdateStatus) *swarm.UpdateStatus {
	if st.GetState() == schedulerpb.UpdateStatus_STATE_UNSPECIFIED {
		return nil
	}
	out := &swarm.UpdateStatus{State: swarm.UpdateState(lower(st.GetState().String(), "STATE_")), Message: st.GetMessage()}
	if at := moment(st.GetStartedAt()); !at.IsZero() {
		out.StartedAt = &at
	}
	if at := moment(st.GetCompletedAt()); !at.IsZero() {
		out.CompletedAt = &at
	}
	return out
}

// rollback has a service go back to its specification of before. What the request says
// of a specification is the one that it is to go back from.
func rollback(q *request, at uint64) (any, error) {
	v, err := oneService(q)
	if err != nil {
		return nil, err
	}
	svc := v.GetService()
	var to *schedulerpb.ServiceSpecRecord
	err = pages(q.Context(), q.api.StreamServiceHistory, &controlpb.StreamServiceHistoryRequest{Service: svc.GetId()},
		func(h *controlpb.StreamServiceHistoryResponse) []*controlpb.StreamServiceHistoryResponse {
			return []*controlpb.StreamServiceHistoryResponse{h}
		},
		func(h *controlpb.StreamServiceHistoryResponse) bool {
			if h.GetPrevious() {
				to = h.GetRecord()
			}
			return to == nil
		})
	if err != nil {
		return nil, err
	}
	if to == nil {
		return nil, refuse(http.StatusBadRequest, "service %s does not have a previous spec", svc.GetSpec().GetName())
	}
	r, err := q.api.RollbackService(q.Context(), &controlpb.RollbackServiceRequest{Service: svc.GetId(), Version: at, To: to.GetNumber(), Spec: to.GetSpec()})
	if err != nil {
		return nil, err
	}
	return struct{ Warnings []string }{r.GetWarnings()}, nil
}
