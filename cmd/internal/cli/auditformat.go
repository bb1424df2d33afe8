package cli

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/version"
)

// recordFormats are the ways in which a record is printed, by name. None of them
// has a line break within a record.
var recordFormats = map[string]func(exportedJSON) ([]byte, error){
	"json":   func(r exportedJSON) ([]byte, error) { return json.Marshal(r) },
	"cef":    func(r exportedJSON) ([]byte, error) { return []byte(cefOf(r)), nil },
	"syslog": syslogOf,
}

// verb is what a record is classed by: its first verb, or the method's name.
func (r recordJSON) verb() string {
	if len(r.Verbs) > 0 {
		return r.Verbs[0]
	}
	return r.does()
}

// host is the address that a call came from; invalid where it came from no other
// machine.
func (r recordJSON) host() netip.Addr {
	if at, err := netip.ParseAddrPort(r.Caller.Address); err == nil {
		return at.Addr().Unmap()
	}
	if of, err := netip.ParsePrefix(r.Caller.Address); err == nil { // callers that are counted together
		return of.Addr()
	}
	at, err := netip.ParseAddr(r.Caller.Address)
	if err != nil {
		return netip.Addr{}
	}
	return at.Unmap()
}

var (
	cefHeader = strings.NewReplacer(`\`, `\\`, `|`, `\|`, "\n", " ", "\r", " ")
	cefValue  = strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\n", `\n`, "\r", `\r`)
)

// cefOf is ArcSight's common event format, version 0.
func cefOf(r exportedJSON) string {
	severity := 3
	switch r.Outcome {
	case "denied":
		severity = 6
	case "fault":
		severity = 9
	}
	var b strings.Builder
	first := true
	fmt.Fprintf(&b, "CEF:0|Redoubt|redoubt|%s|%s|%s|%d|", cefHeader.Replace(version.String()), cefHeader.Replace(r.verb()), cefHeader.Replace(r.does()), severity)
	add := func(key, value string) {
		if value != "" {
			if !first {
				b.WriteByte(' ')
			}
			first = false
			b.WriteString(key + "=" + cefValue.Replace(value))
		}
	}
	add("rt", strconv.FormatInt(r.Time.UnixMilli(), 10))
	add("externalId", strconv.FormatUint(r.Number, 10))
	add("outcome", r.Outcome)
	add("act", strings.Join(r.Verbs, " "))
	add("suser", r.Caller.Name)
	switch at := r.host(); {
	case at.Is4():
		add("src", at.String())
	case at.Is6():
		add("c6a2Label", "source")
		add("c6a2", at.WithZone("").String())
	}
	add("dvcExternalId", r.Caller.Manager)
	if r.Times > 1 {
		add("cnt", strconv.FormatUint(uint64(r.Times), 10))
	}
	for i, c := range [][2]string{{"request", r.Request}, {"method", r.Method}, {"leaf", r.Leaf}, {"node", r.Caller.Node}} {
		if c[1] != "" {
			add(fmt.Sprintf("cs%dLabel", i+1), c[0])
			add(fmt.Sprintf("cs%d", i+1), c[1])
		}
	}
	add("msg", r.what())
	return b.String()
}

// Of RFC 5424: facility "log audit" and the severities of what is not as it was left,
// of what was refused and of all else; and the name of our element, which has the number that is for examples
// (RFC 5612), as there is none of our own.
const (
	syslogFacility = 13
	syslogCritical = 2
	syslogWarning  = 4
	syslogNotice   = 5
	syslogElement  = "redoubt@32473"
)

var syslogValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`, "\n", " ", "\r", " ")

// syslogName is a field of a header: printable ASCII without spaces, or "-".
func syslogName(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if s = s[:min(len(s), most)]; s == "" {
		return "-"
	}
	return s
}

// syslogOf is a message of RFC 5424; what it says is the record as JSON.
func syslogOf(r exportedJSON) ([]byte, error) {
	severity := syslogNotice
	switch r.Outcome {
	case "denied":
		severity = syslogWarning
	case "fault":
		severity = syslogCritical
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var sd strings.Builder
	for _, p := range [][2]string{{"number", strconv.FormatUint(r.Number, 10)}, {"outcome", r.Outcome}, {"verb", r.verb()}, {"who", r.Caller.Name}, {"request", r.Request}, {"leaf", r.Leaf}} {
		if p[1] != "" {
			fmt.Fprintf(&sd, ` %s="%s"`, p[0], syslogValue.Replace(strings.ToValidUTF8(p[1], "")))
		}
	}
	return fmt.Appendf(nil, "<%d>1 %s %s redoubt - %s [%s%s] \ufeff%s", syslogFacility*8+severity, r.Time.UTC().Truncate(time.Microsecond).Format("2006-01-02T15:04:05.000000Z"),
		syslogName(r.Caller.Manager, 255), syslogName(r.verb(), 32), syslogElement, sd.String(), text), nil
}
