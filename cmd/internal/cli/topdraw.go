package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// topData is the cluster at a moment, as far as a page shows it.
type topData struct {
	at       time.Time
	self     string
	status   *controlpb.GetStatusResponse // nil: nobody answered yet
	nodes    []*controlpb.NodeView
	services []*controlpb.ServiceView
	tasks    []*controlpb.TaskView
	trouble  string // why the last question was not answered
}

// maxTopWarnings are shown where there is more to see.
const maxTopWarnings = 5

// draw is the picture in lines of width columns at most; width 0: as long as they are.
func (d *topData) draw(v topView, width int, colours bool) (out []string) {
	paint := func(colour, text string) string {
		if !colours {
			return text
		}
		return "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	line := func(colour, text string) {
		if text = cutTo(text, width); colour != "" {
			text = paint(colour, text)
		}
		out = append(out, text)
	}
	head := "redoubt  " + d.at.Format(time.TimeOnly)
	if s := d.status; s != nil {
		head += fmt.Sprintf("  %d of %d nodes ready  %d services  %d of %d tasks running", s.GetNodesReady(), s.GetNodes(), s.GetServices(), s.GetTasksRunning(), s.GetTasksWanted())
	}
	line(bold, head)
	if d.trouble != "" {
		line(red, "not answered, what follows is of then: "+printable(d.trouble))
	}
	warnings := d.status.GetWarnings()
	shown := warnings[:min(len(warnings), maxTopWarnings)]
	for _, w := range shown {
		line(yellow, "! "+printable(w))
	}
	if more := len(warnings) - len(shown); more > 0 {
		line(yellow, fmt.Sprintf("! and %d more: `redoubt doctor`", more))
	}
	rows := func(head []string, rows [][]string, bad func(int) bool) {
		if len(rows) == 0 {
			return
		}
		line("", "")
		lines := columns(head, rows)
		line(bold, lines[0])
		for i, l := range lines[1:] {
			colour := ""
			if bad(i) {
				colour = red
			}
			line(colour, l)
		}
	}
	if v.page == topAll || v.page == topNodes {
		d.drawNodes(rows)
	}
	if v.page == topAll || v.page == topServices {
		d.drawServices(rows)
	}
	if v.page == topTasks {
		d.drawTasks(rows)
	}
	return out
}

type drawRows = func(head []string, rows [][]string, bad func(int) bool)

func (d *topData) drawNodes(draw drawRows) {
	var rows [][]string
	var all []nodeJSON
	for _, v := range d.nodes {
		n := newNodeJSON(v, d.self)
		name := n.Hostname
		if n.Self {
			name += " *"
		}
		all = append(all, n)
		rows = append(rows, []string{name, n.status(), n.Availability, n.managerStatus(), fmt.Sprint(n.Tasks), n.cpuText(), n.memoryText(), n.Clock})
	}
	draw([]string{"NODE", "STATUS", "AVAILABILITY", "MANAGER", "TASKS", "CPUS", "MEMORY", "CLOCK"}, rows,
		func(i int) bool { return all[i].State != "ready" || all[i].Locked })
}

// drawServices has those that lack most first: on a large cluster they are what is looked for.
func (d *topData) drawServices(draw drawRows) {
	all := slices.Clone(d.services)
	lacks := func(v *controlpb.ServiceView) uint64 { return v.GetWanted() - min(v.GetRunning(), v.GetWanted()) }
	slices.SortStableFunc(all, func(a, b *controlpb.ServiceView) int { return cmp.Compare(lacks(b), lacks(a)) })
	var rows [][]string
	for _, v := range all {
		s := newServiceJSON(v)
		rows = append(rows, []string{s.Name, s.Mode, fmt.Sprintf("%d/%d", s.Running, s.Wanted), statusNote(v.GetService().GetUpdateStatus()), s.Image, strings.Join(s.Ports, ", ")})
	}
	draw([]string{"SERVICE", "MODE", "REPLICAS", "UPDATE", "IMAGE", "PORTS"}, rows, func(i int) bool { return lacks(all[i]) > 0 })
}

func (d *topData) drawTasks(draw drawRows) {
	all := slices.Clone(d.tasks)
	slices.SortStableFunc(all, func(a, b *controlpb.TaskView) int {
		return cmp.Compare(b.GetTask().GetStatus().GetAt(), a.GetTask().GetStatus().GetAt()) // the newest change first
	})
	var rows [][]string
	for _, v := range all {
		t := newTaskJSON(v)
		rows = append(rows, []string{t.Name, t.State, ago(t.Since, d.at), t.Node, cmp.Or(t.Error, t.Message)})
	}
	draw([]string{"TASK", "STATE", "SINCE", "NODE", "MESSAGE"}, rows, func(i int) bool {
		s := rows[i][1]
		return s == "failed" || s == "rejected" || s == "orphaned"
	})
}

// columns are the lines of a table.
func columns(head []string, rows [][]string) []string {
	var b strings.Builder
	_ = table(&b, head, rows) // a Builder takes all
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// cutTo is the first columns of a line, with a sign that there is more.
func cutTo(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "…"
}
