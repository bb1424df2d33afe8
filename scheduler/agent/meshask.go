package agent

import "github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"

// answer tells a manager of this node's end of the tunnels. Where answers wait
// already, which is more questions than a manager asks, this one is left out.
func (s *session) answer(q *schedulerpb.MeshRequest) {
	m := &schedulerpb.MeshAnswer{Id: q.GetId(), Error: "this node is no part of a mesh"}
	if s.Mesh != nil {
		state, err := s.Mesh(q.GetRotateKey())
		if m.State, m.Error = state, ""; err != nil {
			m.State, m.Error = nil, err.Error()
		}
	}
	select {
	case s.answers <- m:
	default:
		s.Logger.Warn("too many questions about the mesh: one is not answered")
	}
}
