package keyd

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/signedreport"
)

const reportSignLabel = "redoubt compliance report v1\x00"

// signReport signs a statement that it writes itself: cluster, manager, incarnation,
// time and the audit log are what keyd knows of them, so a redoubtd that was taken
// over dates no report back and moves none to another cluster. Each has a line of the
// journal, which tells of one that was signed and then withheld.
func (s *Server) signReport(req *keydpb.SignReportRequest) (*keydpb.SignReportResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	first := req.GetNumber() == 1
	if req.GetNumber() == 0 || len(req.GetSha256()) != sha256.Size || first && len(req.GetPrevious()) > 0 || !first && len(req.GetPrevious()) != sha256.Size {
		return nil, invalid("a report has a number, its SHA-256, and that of the statement before unless it is the first")
	}
	now := time.Now()
	if err := s.reports.check(reportRate, now); err != nil {
		return nil, err
	}
	last, err := s.lastCheckpoint(opened)
	if err != nil {
		return nil, err
	}
	if last.Incarnation != opened.incarnation || last.Size == 0 {
		return nil, denied("no checkpoint of the audit log was signed here yet, which a report is to name: try again in a minute")
	}
	st := signedreport.Statement{Cluster: opened.keyset.clusterID, Manager: s.file.state.GetNodeId(), Incarnation: opened.incarnation,
		Number: req.GetNumber(), Signed: now.UTC().Truncate(time.Second), Records: last.Size, Root: last.Root}
	copy(st.SHA256[:], req.GetSha256())
	copy(st.Previous[:], req.GetPrevious())
	text, err := st.Text()
	if err != nil {
		return nil, invalid("%v", err)
	}
	if err := s.note(entry{Event: "sign-report", Outcome: "ok", Detail: fmt.Sprintf("report %d, sha256 %s", st.Number, hex.EncodeToString(req.GetSha256()))}); err != nil {
		return nil, err
	}
	resp := &keydpb.SignReportResponse{Statement: text}
	resp.Key, resp.Signature, err = signDerived(opened.keyset.audit, lp.Append([]byte(reportSignLabel), []byte(st.Cluster)), signedreport.Message(text))
	return resp, err
}
