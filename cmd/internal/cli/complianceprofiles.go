package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/threatmodel/control"
	"github.com/redoubt-cluster/redoubt/threatmodel/profile"
	"github.com/redoubt-cluster/redoubt/threatmodel/report"
)

// profileView is a profile as --format shows it.
type profileView struct {
	ID           string `json:"id"`
	Title        string `json:"title"`
	Source       string `json:"source"`
	Text         string `json:"text"`
	Requirements int    `json:"requirements"`
	Full         int    `json:"full"`
	Partial      int    `json:"partial"`
	None         int    `json:"none"`
	Outside      int    `json:"outside"`
}

// requirementView is one of its requirements.
type requirementView struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Family   string   `json:"family"`
	Coverage string   `json:"coverage"`
	Controls []string `json:"controls"`
	Note     string   `json:"note"`
}

func (a *app) complianceProfilesCmd() *cobra.Command {
	var (
		out   output
		oscal bool
	)
	c := &cobra.Command{
		Use:   "profiles [PROFILE]",
		Short: "What may be asked for, and how much of it controls judge",
		Long: `profiles lists the profiles that are built in; with a name, or the path of a file of
your own, the requirements of that one. Coverage says how much of a requirement its
controls judge: full; partial, where a note says what is left out; none, where no
control does yet, which is never a pass; outside, where it is not the cluster's to do.

A file is YAML, and has the form of docs/formats.md. What is wrong with it is named
with its line.`,
		Example: `  redoubt compliance profiles
  redoubt compliance profiles cis-docker-1.6
  redoubt compliance profiles ./ours.yaml
  redoubt compliance profiles nist-800-190 --oscal > redoubt.component.json`,
		Args:              args(0, 1),
		ValidArgsFunction: profileNames,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case oscal && (len(args) == 0 || out.structured()):
				return usagef("--oscal is of one profile, and a form of its own: redoubt compliance profiles PROFILE --oscal")
			case oscal:
				p, err := profile.Load(args[0], controlIDs())
				if err != nil {
					return err
				}
				return report.Components(a.Stdout, p, control.All(), time.Now())
			case len(args) == 1:
				return a.showProfile(&out, args[0])
			}
			return a.listProfiles(&out)
		},
	}
	out.flags(c, false)
	c.Flags().BoolVar(&oscal, "oscal", false, "write an OSCAL 1.2.2 component-definition: what Redoubt has controls for")
	return c
}

func profileNames(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return profile.Names(), cobra.ShellCompDirectiveDefault // or a file
}

func (a *app) listProfiles(out *output) error {
	var (
		views []profileView
		rows  [][]string
	)
	for _, name := range profile.Names() {
		p, err := profile.Load(name, controlIDs())
		if err != nil {
			return err
		}
		v := profileView{p.ID, p.Title, p.Source, p.Text, len(p.Requirements), p.Count(profile.Full), p.Count(profile.Partial), p.Count(profile.None), p.Count(profile.Outside)}
		views = append(views, v)
		rows = append(rows, []string{v.ID, strconv.Itoa(v.Requirements), strconv.Itoa(v.Full), strconv.Itoa(v.Partial), strconv.Itoa(v.None), strconv.Itoa(v.Outside), v.Title})
	}
	return out.list(a.Stdout, nil, views, []string{"PROFILE", "REQUIREMENTS", "FULL", "PARTIAL", "NONE", "OUTSIDE", "TITLE"}, rows)
}

func (a *app) showProfile(out *output, name string) error {
	p, err := profile.Load(name, controlIDs())
	if err != nil {
		return err
	}
	views := []requirementView{}
	var rows [][]string
	for _, q := range p.Requirements {
		views = append(views, requirementView{q.ID, q.Title, q.Family, string(q.Coverage), append([]string{}, q.Controls...), q.Note})
		rows = append(rows, []string{q.ID, string(q.Coverage), strings.Join(q.Controls, " "), q.Title, q.Note})
	}
	return out.list(a.Stdout, nil, views, []string{"REQUIREMENT", "COVERAGE", "CONTROLS", "TITLE", "NOTE"}, rows)
}
