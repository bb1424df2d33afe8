package peer

import (
	"cmp"
	"fmt"
	"time"
)

// wrong says in words what keeps the tunnel to a peer of so long from working, or
// will; empty: nothing. A tunnel that nobody uses has an old handshake and is not
// wrong: WireGuard makes the next one with the next packet.
func (q *PeerStatus) wrong(age time.Duration) string {
	why := ""
	if q.Err != "" {
		why = ": " + q.Err
	}
	switch {
	case age < settleIn:
	case q.Silent:
		return fmt.Sprintf("it answers neither in the tunnel nor on TCP port %d: its tasks are led to where there are no others%s", DefaultPort, why)
	case q.Epoch == 0:
		return fmt.Sprintf("no tunnel: there is no pre-shared key with it, as neither node reaches the other on TCP port %d%s", DefaultPort, why)
	case !q.Declared:
		return "no tunnel: netd does not have the peer yet"
	case q.Handshake < 0:
		return fmt.Sprintf("no tunnel: WireGuard shook hands with nobody at %s, look at UDP between the nodes", cmp.Or(q.Endpoint, "an address that is not known"))
	case q.Stale:
		return fmt.Sprintf("the pre-shared key is %s old: neither node reaches the other on TCP port %d%s", q.Age.Round(time.Minute), DefaultPort, why)
	}
	return ""
}
