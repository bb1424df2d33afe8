package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

func (a *app) auditExportCmd() *cobra.Command {
	var from uint64
	var as, to, caFile, cursorFile string
	var follow bool
	c := &cobra.Command{
		Use: "export", Short: "Print records of the audit log, or send them to a collector",
		Long: `export prints all records, or those from a number on, one a line: as JSON, as CEF,
or as syslog messages (RFC 5424). JSON has the bytes that are hashed ("record",
base64) with index and clock, so that a proof can be checked against it; the others
have the leaf's hash.

With --to it sends them to a collector by TLS, as syslog does (RFC 5425). The file
of --cursor says how far the collector got: it moves once the collector has closed
a connection, which is when it has read all of it. After a failure the same records
come again, and none is left out.`,
		Example: `  redoubt audit export >audit.jsonl
  redoubt audit export --from 1042 --as cef
  redoubt audit export --as syslog --to siem.example:6514 --ca siem-ca.pem --cursor /var/lib/siem.cursor --follow`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			encode, ok := recordFormats[as]
			if !ok {
				return usagef("--as %s: it is %s", as, strings.Join(slices.Sorted(maps.Keys(recordFormats)), ", "))
			}
			var ship *shipment
			var err error
			switch {
			case to != "":
				if c.Flags().Changed("from") {
					return usagef("--from does not go with --to: the cursor says where it goes on")
				}
				if ship, err = newShipment(to, caFile, cursorFile, encode); err != nil {
					return err
				}
			case follow || caFile != "" || cursorFile != "":
				return usagef("--follow, --ca and --cursor go with --to")
			}
			if name, err := a.contextInUse(); err != nil {
				return err
			} else if follow && name != "" {
				return usagef("--follow does not go by context %s, whose certificate ends while it runs: have it run on a manager, or leave it out and export again from time to time", name)
			}
			api, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer api.Close()
			if ship != nil {
				if from, err = ship.begin(c.Context(), api); err != nil {
					return err
				}
			}
			for {
				resp, err := recordsFrom(c.Context(), api, from)
				if err != nil {
					return err
				}
				records := resp.GetRecords()
				switch {
				case len(records) == 0:
				case ship != nil:
					err = ship.send(c.Context(), records)
				default:
					err = a.printRecords(records, encode)
				}
				if err != nil {
					return err
				}
				if len(records) > 0 {
					from = records[len(records)-1].GetNumber() + 1
				}
				if len(records) > 0 && from < resp.GetSize() {
					continue
				}
				if !follow {
					return nil
				}
				select {
				case <-time.After(recordsPause):
				case <-c.Context().Done():
					return nil // interrupted: that is how it is ended
				}
			}
		},
	}
	c.Flags().Uint64Var(&from, "from", 0, "the records from this number on")
	c.Flags().StringVar(&as, "as", "json", "how a record is written: json, cef or syslog")
	c.Flags().StringVar(&to, "to", "", "send them to the collector at this HOST:PORT, by TLS")
	c.Flags().StringVar(&caFile, "ca", "", "a file with the CA of the collector's certificate, in place of the system's")
	c.Flags().StringVar(&cursorFile, "cursor", "", "the file that says how far the collector got")
	c.Flags().BoolVar(&follow, "follow", false, "go on with records as they come, until it is interrupted")
	fixed(c, "as", slices.Sorted(maps.Keys(recordFormats))...)
	return c
}

// recordsFrom asks for the records from a number on, and holds the answer against what
// was asked: those that it has are all that there are from there on, in order, and there
// are none only where the log ends.
func recordsFrom(ctx context.Context, api *api, from uint64) (*controlpb.ListRecordsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := api.ListRecords(ctx, &controlpb.ListRecordsRequest{From: from, Count: maxRecords})
	if err != nil {
		return nil, apiclient.Err(err)
	}
	switch records := resp.GetRecords(); {
	case from > resp.GetSize():
		return nil, failf(ExitError, "the audit log has %d records, and %d were there before, or were asked for: see `redoubt audit verify`", resp.GetSize(), from)
	case len(records) == 0 && from < resp.GetSize():
		return nil, failf(ExitError, "the audit log has %d records, and the leader gives none from %d on: see `redoubt audit verify`", resp.GetSize(), from)
	case uint64(len(records)) > min(resp.GetSize()-from, maxRecords):
		return nil, failf(ExitError, "the leader gives %d records from %d on, and the audit log has %d: see `redoubt audit verify`", len(records), from, resp.GetSize())
	}
	for i, r := range resp.GetRecords() {
		if want := from + uint64(i); r.GetNumber() != want {
			return nil, failf(ExitError, "the leader gives record %d in the place of %d: see `redoubt audit verify`", r.GetNumber(), want)
		}
	}
	return resp, nil
}

func (a *app) printRecords(records []*controlpb.RecordView, encode func(exportedJSON) ([]byte, error)) error {
	for _, v := range records {
		r, err := recordOf(v)
		if err != nil {
			return err
		}
		line, err := encode(exportedJSON{r, v.GetClock(), v.GetRecord(), leafOf(v)})
		if err != nil {
			return err
		}
		if _, err := a.Stdout.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}
