package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/contexts"
	"github.com/redoubt-cluster/redoubt/pki"
)

func (a *app) contextCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "context",
		Short: "Reach clusters from this machine as a person",
		Long: `A context is who one is to a cluster elsewhere: a certificate and its key, made on
this machine by an invitation (redoubt person invite), what is trusted, and where
managers are. It lies in redoubt/contexts of the configuration directory
(XDG_CONFIG_HOME, or .config at home), encrypted by age: to a passphrase, or to the
first identity in an age identity file of your own. The certificate renews itself
with a command, once two thirds of its life are over; after its end an invitation
is needed.

--context, REDOUBT_HOST, REDOUBT_CONTEXT and redoubt context use say which one is
gone by, the first of them that is given; --host and "default" stand for this
machine's own node. A passphrase is asked for on the terminal, or read from the file
that REDOUBT_PASSPHRASE_FILE names.`,
	}
	group(c)
	c.AddCommand(a.contextCreateCmd(), a.contextLsCmd(), a.contextUseCmd(), a.contextShowCmd(), a.contextRmCmd())
	return c
}

// contexts is where they are.
func (a *app) contexts() (contexts.Store, error) {
	dir := a.Getenv("XDG_CONFIG_HOME")
	if dir == "" && a.Getenv("HOME") != "" {
		dir = filepath.Join(a.Getenv("HOME"), ".config")
	}
	if !filepath.IsAbs(dir) {
		return contexts.Store{}, errors.New("there is no directory for contexts: set XDG_CONFIG_HOME or HOME to an absolute path")
	}
	return contexts.Store{Dir: filepath.Join(dir, "redoubt", "contexts")}, nil
}

// contextInUse is the context that the command goes by; empty: this machine's node.
func (a *app) contextInUse() (string, error) {
	name := a.context
	switch {
	case a.host != "" && name != "":
		return "", usagef("--host and --context exclude each other")
	case a.host != "":
		return "", nil
	case name == "" && a.Getenv("REDOUBT_HOST") != "":
		return "", nil
	case name == "":
		name = a.Getenv("REDOUBT_CONTEXT")
	}
	if name == contexts.Local {
		return "", nil
	}
	if name != "" {
		if err := contexts.CheckName(name); err != nil {
			return "", usagef("%v", err)
		}
		return name, nil
	}
	s, err := a.contexts()
	if err != nil {
		return "", nil // no context can be in use
	}
	return s.Current()
}

// openContext opens the context in use, once in a command, whatever the command asks for
// after that; nil where commands go to this machine's own node.
func (a *app) openContext() (*contexts.Opened, error) {
	name, err := a.contextInUse()
	if err != nil || name == "" || a.opened != nil {
		return a.opened, err
	}
	s, err := a.contexts()
	if err != nil {
		return nil, err
	}
	a.opened, err = s.Open(name, a.contextKey)
	return a.opened, err
}

// asks reports whether the context in use would be opened by somebody who types.
func (a *app) asks() bool {
	name, err := a.contextInUse()
	if err != nil || name == "" || a.opened != nil || a.Getenv("REDOUBT_PASSPHRASE_FILE") != "" {
		return false
	}
	s, err := a.contexts()
	if err != nil {
		return false
	}
	h, err := s.Header(name)
	return err == nil && h.Identity == ""
}

// dialContext connects to the cluster as the context's person, and has the
// certificate renewed where that is due.
func (a *app) dialContext(ctx context.Context, o *contexts.Opened) (*api, error) {
	name, now := o.Header.Name, time.Now()
	if now.After(o.Person.NotAfter()) {
		return nil, failf(ExitDenied, "the certificate of context %s ended %s: have `redoubt person invite %s` run on a manager, and `redoubt context create --replace %s` here",
			name, ago(o.Person.NotAfter(), now), o.Person.Name(), name)
	}
	c, err := apiclient.DialPerson(ctx, o.Person, func(text string) {
		if a.noticed == nil {
			a.noticed = map[string]bool{}
		}
		if !a.noticed[text] { // once a command
			a.noticed[text] = true
			fmt.Fprintf(a.Stderr, "redoubt: notice: %s\n", printable(text))
		}
	})
	if err != nil {
		return nil, err
	}
	if o.Person.Due(now) {
		bounded, cancel := context.WithTimeout(ctx, renewTimeout)
		err := o.Renew(bounded, c.Renew)
		cancel()
		if err != nil {
			fmt.Fprintf(a.Stderr, "redoubt: warning: the certificate of context %s, which ends %s, was not renewed: %s\n",
				name, in(o.Person.NotAfter(), now), printable(whyNotRenewed(err)))
		}
	}
	return c, nil
}

// whyNotRenewed keeps this machine's own reasons, and decodes the cluster's.
func whyNotRenewed(err error) string {
	if errors.Is(err, contexts.ErrBusy) {
		return err.Error()
	}
	return apiclient.Err(err).Error()
}

func (a *app) contextCreateCmd() *cobra.Command {
	var file, identity string
	var replace, use bool
	c := &cobra.Command{
		Use: "create NAME", Short: "Take an invitation",
		Long: `create takes an invitation, from standard input, a file or the terminal: it makes a
key here, has the cluster certify it, and keeps both encrypted. An invitation is good
once; what could fail on this machine is tried before it is used.`,
		Example: `  redoubt context create prod --use
  redoubt context create prod --invitation-file ./invitation --age-identity ~/.config/age/key.txt`,
		Args: func(c *cobra.Command, got []string) error {
			for _, s := range got {
				if strings.Contains(strings.ToUpper(s), "RDTI1.") {
					return usagef("an invitation is not taken from the command line, where every user of this machine can read it: give it on stdin or by --invitation-file FILE")
				}
			}
			return args(1, 1)(c, got)
		},
		RunE: func(c *cobra.Command, names []string) error {
			return a.runContextCreate(c.Context(), names[0], file, identity, replace, use)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "invitation-file", "", `file with the invitation ("-": stdin, the default)`)
	f.StringVar(&identity, "age-identity", "", "encrypt to the first identity in this age identity `file`, instead of to a passphrase")
	f.BoolVar(&replace, "replace", false, "take the place of a context of that name")
	f.BoolVar(&use, "use", false, "go by it from now on")
	return c
}

func (a *app) runContextCreate(ctx context.Context, name, file, identity string, replace, use bool) error {
	if err := contexts.CheckName(name); err != nil {
		return usagef("%v", err)
	}
	s, err := a.contexts()
	if err != nil {
		return err
	}
	if err := s.Prepare(ctx, name, replace); err != nil {
		if errors.Is(err, contexts.ErrExists) {
			return fmt.Errorf("%w: give another name, or --replace", err)
		}
		return err
	}
	text, err := a.readSecret(file, "invitation")
	if err != nil {
		return err
	}
	inv, err := pki.ParseInvitation(text)
	if err != nil {
		return usagef("%v", err)
	}
	key, err := a.newContextKey(identity)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := pki.TakeInvitation(bounded, inv)
	if err != nil {
		return apiclient.Err(err)
	}
	if err := s.Create(ctx, name, p, key); err != nil {
		return fmt.Errorf("the invitation was taken, and its certificate cannot be kept, so another one is needed: %w", err)
	}
	if use {
		if err := s.Use(name); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.Stdout, "Context %s: person %s of cluster %s; the certificate expires %s.\n", name, p.Name(), p.ClusterID(), in(p.NotAfter(), time.Now()))
	if !use {
		fmt.Fprintf(a.Stdout, "Go by it with --context %s, or always: redoubt context use %s\n", name, name)
	}
	return nil
}

// contextJSON is one context in --format json.
type contextJSON struct {
	Name     string     `json:"name"`
	InUse    bool       `json:"in_use"`
	Person   string     `json:"person,omitempty"`
	Cluster  string     `json:"cluster,omitempty"`
	Managers []string   `json:"managers,omitempty"`
	Ends     *time.Time `json:"certificate_ends,omitempty"`
	Opened   string     `json:"opened_by,omitempty"`
	Error    string     `json:"error,omitempty"`
}

func newContextJSON(h contexts.Header, inUse string) contextJSON {
	c := contextJSON{Name: h.Name, InUse: h.Name == inUse, Person: h.Person, Cluster: h.Cluster, Managers: h.Managers}
	if h.Damaged != nil {
		c.Error = h.Damaged.Error()
		return c
	}
	t := time.Unix(h.Ends, 0).UTC()
	c.Ends, c.Opened = &t, "passphrase"
	if h.Identity != "" {
		c.Opened = h.Identity
	}
	return c
}

func (a *app) contextLsCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the contexts of this machine",
		Example: `  redoubt context ls`,
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.contexts()
			if err != nil {
				return err
			}
			all, err := s.List()
			if err != nil {
				return err
			}
			inUse, err := a.contextInUse()
			if err != nil {
				return err
			}
			var names []string
			objects := []contextJSON{}
			var rows [][]string
			for _, h := range all {
				v := newContextJSON(h, inUse)
				mark, ends := "", ""
				if v.InUse {
					mark = "*"
				}
				if v.Ends != nil {
					ends = in(*v.Ends, time.Now())
				}
				names, objects = append(names, v.Name), append(objects, v)
				rows = append(rows, []string{v.Name, mark, v.Person, shortID(v.Cluster), ends, v.Opened, out.text(v.Error)})
			}
			return out.list(a.Stdout, names, objects, []string{"NAME", "IN USE", "PERSON", "CLUSTER", "CERTIFICATE ENDS", "OPENED BY", "ERROR"}, rows)
		},
	}
	out.flags(c, true)
	return c
}

func (a *app) contextUseCmd() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: `Go by a context from now on; "default": by this machine's own node`,
		Example: `  redoubt context use prod
  redoubt context use default`,
		Args: args(1, 1),
		RunE: func(_ *cobra.Command, names []string) error {
			s, err := a.contexts()
			if err != nil {
				return err
			}
			if err := s.Use(names[0]); err != nil {
				return err
			}
			fmt.Fprintln(a.Stdout, names[0])
			return nil
		},
	}
}

func (a *app) contextShowCmd() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "show [NAME]", Short: "Show a context, or the one in use, without its key",
		Example: `  redoubt context show
  redoubt context show prod --format json`,
		Args: args(0, 1),
		RunE: func(_ *cobra.Command, names []string) error {
			inUse, err := a.contextInUse()
			if err != nil {
				return err
			}
			name := inUse
			if len(names) > 0 {
				name = names[0]
			}
			if name == "" {
				return errors.New("no context is in use: commands go to this machine's own node")
			}
			s, err := a.contexts()
			if err != nil {
				return err
			}
			h, err := s.Header(name)
			if err != nil {
				return err
			}
			v := newContextJSON(h, inUse)
			if out.structured() {
				return out.objects(a.Stdout, v)
			}
			field(a.Stdout, "Context", v.Name)
			field(a.Stdout, "Person", v.Person)
			field(a.Stdout, "Cluster", v.Cluster)
			field(a.Stdout, "Certificate", "expires "+in(*v.Ends, time.Now()))
			field(a.Stdout, "Managers", strings.Join(v.Managers, " "))
			field(a.Stdout, "Opened by", v.Opened)
			return nil
		},
	}
	out.flags(c, false)
	return c
}

func (a *app) contextRmCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove"}, Short: "Delete contexts from this machine",
		Long: `rm deletes a context with its key from this machine. The cluster goes on knowing the
person: redoubt person rm takes the access away.`,
		Example: `  redoubt context rm prod`,
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, names []string) error {
			s, err := a.contexts()
			if err != nil {
				return err
			}
			for _, n := range names {
				if err := s.Remove(c.Context(), n); err != nil {
					return err
				}
				fmt.Fprintln(a.Stdout, n)
			}
			return nil
		},
	}
}
