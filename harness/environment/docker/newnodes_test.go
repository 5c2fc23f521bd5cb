package docker

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// withSpare is a cluster with a further place, whose nodes say which identity they have.
func withSpare(nodes int) Config {
	cfg := testConfig(nodes + 1)
	for i := range cfg.Nodes {
		n := &cfg.Nodes[i]
		n.MetaDir, n.Spare = "/meta", i == nodes
		cmd := n.Cmd
		n.Cmd = func(addrs map[string]netip.Addr, identity string) []string {
			return append(cmd(addrs, identity), "-identity="+identity)
		}
	}
	return cfg
}

// command is what a node's container runs.
func (c *cluster) command(node string) []string {
	c.t.Helper()
	n, err := c.node(node)
	require.NoError(c.t, err)
	i, err := n.cli.ContainerInspect(c.t.Context(), n.container())
	require.NoError(c.t, err)
	return i.Config.Cmd
}

// TestNewNodes puts new nodes into a place that had none and into that of another
// one: what they get is empty, and the place stays what it was.
func TestNewNodes(t *testing.T) {
	cli := needDocker(t)
	for name, onDisks := range map[string]bool{"plain volumes": false, "disks": true} {
		t.Run(name, func(t *testing.T) {
			if onDisks {
				needAll(t)
			}
			cfg := withSpare(2)
			cfg.Disks = onDisks
			c := up(t, cfg)
			ctx, proc, replacer := t.Context(), c.Processes(), c.Machines().NewNodes
			c.eventuallyAnswers("n2", cfg.Ports.Client)
			s, err := proc.State(ctx, "n3")
			require.NoError(t, err)
			require.False(t, s.Running, "nobody is there at first")
			require.Empty(t, c.cutNow(), "but the place is")
			boots := c.observe().Boots
			require.Len(t, boots, 4)
			cut := nemesis.Cut{From: "n1", To: "n3"}
			require.NoError(t, c.Network().Block(ctx, "x", []nemesis.Cut{cut}))

			require.ErrorContains(t, replacer.Replace(ctx, "n2", "7"), "kill it first")
			require.ErrorContains(t, replacer.Replace(ctx, "n9", "7"), "unknown node")
			for identity, node := range map[string]string{"7": "n3", "8": "n2"} {
				if node == "n2" {
					require.NoError(t, proc.Kill(ctx, node))
				}
				begin := time.Now()
				require.NoError(t, replacer.Replace(ctx, node, identity))
				t.Logf("%s was exchanged in %v", node, time.Since(begin))
				require.NoError(t, proc.Start(ctx, node))
				c.eventuallyAnswers(node, cfg.Ports.Client)
				require.Contains(t, c.command(node), "-identity="+identity)
			}
			require.Contains(t, c.command("n1"), "-identity=")
			require.Equal(t, pairs(cut), c.cutNow(), "rules stay")
			c.eventuallyDropped("x", cut)
			require.NoError(t, c.Network().Unblock(ctx, "x"))
			require.Equal(t, boots, c.observe().Boots)

			// Each found its data folder empty, and is the same node after a restart.
			require.NoError(t, proc.Kill(ctx, "n2"))
			require.NoError(t, proc.Start(ctx, "n2"))
			c.eventuallyAnswers("n2", cfg.Ports.Client)
			require.Eventually(t, func() bool {
				starts := map[string][]int64{}
				for _, ev := range c.events() {
					if ev.Kind == "start" {
						starts[ev.Node] = append(starts[ev.Node], ev.Offset)
					}
				}
				return len(starts["n1"]) == 1 && len(starts["n2"]) == 3 && starts["n2"][1] == 0 && starts["n2"][2] == 1 && len(starts["n3"]) == 1 && starts["n3"][0] == 0
			}, 10*time.Second, 10*time.Millisecond, "%+v", c.events())
			dir := t.TempDir()
			require.NoError(t, c.Collect(ctx, dir))
			for _, n := range c.Nodes() {
				require.FileExists(t, dir+"/"+n+"/"+digestFile)
			}
			require.NoError(t, c.Down(ctx))
			requireNothing(t, cli, cfg.RunID)
			require.ErrorIs(t, replacer.Replace(ctx, "n3", "9"), ErrNotUp)
		})
	}
}

// TestNewNodesStubbed: where nothing is done, the node is the one that was there.
func TestNewNodesStubbed(t *testing.T) {
	needDocker(t)
	needAll(t)
	cfg := withSpare(1)
	cfg.Sabotage, cfg.SabotageNode = sidecar.Stubbed, "n2"
	c := up(t, cfg)
	require.NoError(t, c.Machines().NewNodes.Replace(t.Context(), "n2", "7"))
	require.NotContains(t, c.command("n2"), "-identity=7")
}

// TestDownDuringReplace: what is being made for a new node is taken away as well.
func TestDownDuringReplace(t *testing.T) {
	cli := needDocker(t)
	needAll(t)
	cfg := withSpare(1)
	e, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Down(context.Background())) })
	require.NoError(t, e.Up(t.Context()))
	before, err := e.node("n2")
	require.NoError(t, err)
	old := before.container()
	replaced := make(chan error, 1)
	go func() { replaced <- e.Machines().NewNodes.Replace(context.Background(), "n2", "7") }()
	require.Eventually(t, func() bool {
		cs, err := cli.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("id", old))})
		return err == nil && len(cs) == 0
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, e.Down(t.Context()))
	require.NoError(t, <-replaced)
	requireNothing(t, cli, cfg.RunID)
}

// toldTheTime lists what a node finds of its clock.
func toldTheTime(t *testing.T, run, node string) bool {
	t.Helper()
	cli, err := connect(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, cli.Close()) }()
	_, err = cli.ContainerStatPath(t.Context(), "faultline-"+run+"-"+node, sidecar.ClockDir+"/"+sidecar.ClockFile)
	return err == nil
}
