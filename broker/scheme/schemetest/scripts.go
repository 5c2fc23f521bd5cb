package schemetest

import (
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Options resolves what was set against the options of a scheme.
func Options(t *testing.T, set map[string]string, own []options.Option) scheme.Options {
	t.Helper()
	o := scheme.DefaultOptions()
	var err error
	o.Set, err = options.Resolve(set, own...)
	require.NoError(t, err)
	return o
}

// Scripts runs the golden scripts of testdata (World.Run has the commands) with a
// scheme's machines and options. new [nodes=N] [set=(name:value,…)] makes N (2) replicas;
// 1 leads and all are in sync.
func Scripts(t *testing.T, factory scheme.Factory, own []options.Option) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var w *World
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var args []Arg
			set := map[string]string{}
			for _, a := range d.CmdArgs {
				args = append(args, Arg{Key: a.Key, Vals: a.Vals})
				if a.Key == "set" {
					for _, v := range a.Vals {
						name, value, _ := strings.Cut(v, ":")
						set[name] = value
					}
				}
			}
			if d.Cmd != "new" {
				out, err := w.Run(d.Cmd, args)
				require.NoError(t, err)
				return out
			}
			n := 2
			d.MaybeScanArgs(t, "nodes", &n)
			w = NewWorld(n, factory, Options(t, set, own))
			w.A.Leader, w.A.Epoch, w.A.PartEpoch, w.A.ISR = 1, 1, 1, slices.Clone(w.A.Replicas)
			w.Report = func(n *Node, _ int32, inSync []broker.NodeID) {
				w.Printf("%d reports: in sync %v\n", n.ID, inSync)
				w.Assign(func(a *scheme.Assignment) { a.ISR = inSync })
			}
			w.Quiet = true
			for _, n := range w.Nodes {
				w.Boot(n)
			}
			require.NoError(t, w.Settle())
			w.Quiet = false
			return ""
		})
	})
}
