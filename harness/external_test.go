package harness

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/nemesis"
)

// foreign is a cluster that is not ours, nor is its code.
func foreign(t *testing.T, brokers int) (*kfake.Cluster, []string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, c.ListenAddrs()
}

// externalPlan is a short run against a cluster that is there.
func externalPlan(addresses []string) Plan {
	p := DefaultPlan()
	p.System, p.Environment, p.Addresses, p.Faults, p.Time = "kafka", "external", addresses, nil, 9*time.Second
	p.Options = map[string]string{"broker.session.timeout.ms": "500", "replica.lag.time.max.ms": "500"}
	return p
}

func against(ctx context.Context, t *testing.T, p Plan) (o Outcome, topic string) {
	t.Helper()
	run := docker.NewRunID()
	o, err := Run(ctx, Config{Plan: p, RunID: run}, t.TempDir(), p.Command())
	require.NoError(t, err)
	return o, "faultline-" + run
}

// TestExternal: workloads run against another implementation of Kafka's protocol, by
// both kinds of client; the verdict is by the same checks, everybody is told that no
// fault was injected, and the topic is gone after it.
func TestExternal(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"precise", "kgo"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			c, addresses := foreign(t, 3)
			p := externalPlan(addresses)
			p.Client = client
			o, topic := against(t.Context(), t, p)
			require.NoError(t, o.Execution.Err)
			require.Equal(t, checker.Valid, o.Summary.Verdict, o.Summary.Sentence)
			require.Zero(t, o.Summary.ExitCode)
			require.Greater(t, o.Summary.Ops.Acknowledged, 200)
			require.Greater(t, o.Summary.Ops.Delivered, 200)
			lost, acknowledged := lostByHand(t, o.History)
			require.Empty(t, lost)
			require.Equal(t, o.Summary.Ops.Acknowledged, acknowledged)
			require.Nil(t, c.TopicInfo(topic), "the topic is left")

			require.Empty(t, o.Summary.Faults)
			var terminal bytes.Buffer
			require.NoError(t, report.PrintVerdict(&terminal, o.Summary))
			const note = "no fault was injected"
			require.Contains(t, terminal.String(), note)
			for _, name := range []string{report.SummaryFile, report.PageFile, report.MarkdownFile, report.JUnitFile} {
				text, err := os.ReadFile(filepath.Join(o.Dir, name))
				require.NoError(t, err)
				require.True(t, strings.Contains(string(text), "The harness has no control of this cluster"), name) // not Contains: it would print a page
				require.True(t, strings.Contains(string(text), note), name)
			}
			require.Equal(t, addresses[1], o.Summary.Versions["address of n2"])
			for _, check := range o.Summary.Checks {
				if check.Name == "replicas-agree" {
					require.False(t, check.Promised)
					require.Contains(t, check.Detail, "not checked")
				}
			}
			for _, r := range o.History.Replicas {
				require.True(t, r.Leader, "nobody's log but the leader's can be read")
			}
			again, err := Recheck(t.Context(), o.Dir)
			require.NoError(t, err)
			require.Equal(t, o.Summary.Notes, again.Summary.Notes)
			require.Equal(t, checker.Valid, again.Summary.Verdict)
		})
	}
}

// TestExternalLeadersMove: leaders change while clients work, and both kinds follow.
func TestExternalLeadersMove(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"precise", "kgo"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			c, addresses := foreign(t, 3)
			moving, stop := context.WithCancel(t.Context())
			moved := make(chan int, 1)
			go func() {
				n := 0
				for {
					select {
					case <-moving.Done():
						moved <- n
						return
					case <-time.After(500 * time.Millisecond):
						c.ShufflePartitionLeaders()
						n++
					}
				}
			}()
			p := externalPlan(addresses)
			p.Client = client
			o, _ := against(t.Context(), t, p)
			stop()
			require.Greater(t, <-moved, 5)
			require.NoError(t, o.Execution.Err)
			require.NotEqual(t, checker.Invalid, o.Summary.Verdict, o.Summary.Sentence)
			require.Greater(t, o.Summary.Ops.Acknowledged, 200)
			lost, _ := lostByHand(t, o.History)
			require.Empty(t, lost)
		})
	}
}

// TestExternalExec: commands of the user's own are the faults of a cluster that is
// not ours, with their proofs, and are told whom to hit.
func TestExternalExec(t *testing.T) {
	t.Parallel()
	_, addresses := foreign(t, 3)
	mark := filepath.Join(t.TempDir(), "mark")
	p := externalPlan(addresses)
	p.Faults, p.Targets = []string{"exec"}, "n2"
	p.Exec = nemesis.Commands{Inject: "echo $FAULTLINE_TARGETS $FAULTLINE_ADDRESSES >" + mark, Prove: "test -e " + mark, Heal: "mv " + mark + " " + mark + ".healed"}
	o, _ := against(t.Context(), t, p)
	require.NoError(t, o.Execution.Err)
	require.Equal(t, checker.Valid, o.Summary.Verdict, o.Summary.Sentence)
	require.Len(t, o.Summary.Faults, 1)
	require.True(t, o.Summary.Faults[0].Proven && o.Summary.Faults[0].Healed)
	require.Equal(t, []string{"n2"}, o.Summary.Faults[0].Targets)
	require.Contains(t, o.Summary.Notes[0], "its faults are exec, made by commands of the user's own")
	text, err := os.ReadFile(mark + ".healed")
	require.NoError(t, err)
	require.Equal(t, "n2 "+addresses[1]+"\n", string(text))
	stored, err := StoredPlan(o.Dir)
	require.NoError(t, err)
	require.Equal(t, p.Exec, stored.Steps[0].Commands)
	again, err := stored.Resolve()
	require.NoError(t, err)
	require.Equal(t, stored, again)
}

// TestExternalInterrupted: what was begun is healed, and the topic goes.
func TestExternalInterrupted(t *testing.T) {
	t.Parallel()
	c, addresses := foreign(t, 3)
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	p := externalPlan(addresses)
	p.Faults = []string{"exec"}
	p.Exec = nemesis.Commands{Inject: "touch " + mark, Prove: "test -e " + mark, Heal: "rm " + mark + "; touch " + dir + "/healed"}
	p.Time = 10 * time.Minute
	p.Phases = Phases{Baseline: time.Second, Fault: 9 * time.Minute, Recovery: time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(mark); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	o, topic := against(ctx, t, p)
	require.Equal(t, 255, o.Summary.ExitCode)
	require.Contains(t, o.Summary.Sentence, "interrupted")
	require.NoFileExists(t, mark)
	require.FileExists(t, dir+"/healed")
	require.Nil(t, c.TopicInfo(topic), "the topic is left")
}

// TestExternalUnreachable: what stands at an address is told in one line.
func TestExternalUnreachable(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	_, three := foreign(t, 3)
	_, other := foreign(t, 1)
	alias := strings.Replace(three[0], "127.0.0.1", "localhost", 1)
	for _, c := range []struct {
		name      string
		addresses []string
		set       map[string]string
		say       string
	}{
		{"nobody", []string{closed.Addr().String()}, nil, "n1 at " + closed.Addr().String() + ": no answer: connect: connection refused; is a broker there"},
		{"silence", []string{silent.Addr().String()}, nil, "n1 at " + silent.Addr().String() + " is reached and does not answer as a Kafka broker does: timeout"},
		{"a web server", []string{strings.TrimPrefix(web.URL, "http://")}, nil, "does not answer as a Kafka broker does"},
		{"one of three", three[:1], nil, "the cluster has 3 brokers"},
		{"another cluster", []string{three[0], three[1], other[0]}, nil, "n3 sees 1 brokers of 3; the cluster advertises " + other[0]},
		{"one twice", []string{three[0], alias, three[2]}, nil, "n2 at " + alias + " is none of the brokers that the cluster advertises, or named twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := externalPlan(c.addresses)
			for k, v := range c.set {
				p.Options[k] = v
			}
			o, _ := against(t.Context(), t, p)
			require.Equal(t, 255, o.Summary.ExitCode)
			require.Equal(t, checker.HarnessError, o.Summary.Verdict)
			require.Contains(t, o.Summary.Sentence, c.say)
			require.NotContains(t, o.Summary.Sentence, "\n")
		})
	}
}

// TestExternalTopicRefused: a cluster that creates no topic for us is told so, and
// one that never gets its replicas in sync.
func TestExternalTopicRefused(t *testing.T) {
	t.Parallel()
	_, addresses := foreign(t, 1)
	p := externalPlan(addresses)
	p.Options["ready.timeout.ms"] = "1000"
	resolved, err := p.Resolve()
	require.NoError(t, err)
	require.Equal(t, "1", resolved.Options["replication.factor"], "as many as there are brokers")
	o, _ := against(t.Context(), t, p)
	require.NoError(t, o.Execution.Err)
	require.Equal(t, checker.Valid, o.Summary.Verdict, o.Summary.Sentence)
	p.Options["replication.factor"] = "3"
	_, err = p.Resolve()
	require.ErrorContains(t, err, "replication.factor=3 on 1 nodes: at most 1 are possible")
}

// TestExternalRefused: what cannot be asked of a cluster that is not ours.
func TestExternalRefused(t *testing.T) {
	three := []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}
	for _, c := range []struct {
		name   string
		change func(*Plan)
		say    string
	}{
		{"kill", func(p *Plan) { p.Faults = []string{"kill"} }, "fault kill: the harness cannot control processes of a cluster that it does not run; use --faults exec"},
		{"partition", func(p *Plan) { p.Faults = []string{"partition:isolate-leader"} }, "fault partition:isolate-leader: the harness cannot cut links of a cluster"},
		{"a step", func(p *Plan) {
			p.Steps = []nemesis.Step{{Fault: "pause", Targets: "n1", Until: time.Second}}
		}, "fault pause: the harness cannot control processes"},
		{"no addresses", func(p *Plan) { p.Addresses = nil }, "environment external needs the address of every node"},
		{"no port", func(p *Plan) { p.Addresses = []string{"localhost"} }, `address "localhost": HOST:PORT is wanted`},
		{"a wrong port", func(p *Plan) { p.Addresses = []string{"localhost:x"} }, "the port is a number from 1 to 65535"},
		{"one twice", func(p *Plan) { p.Addresses = []string{three[0], three[0]} }, "is named twice"},
		{"an image", func(p *Plan) { p.Image = "apache/kafka:4.0.0" }, "--image and --addresses exclude each other"},
		{"the reference broker", func(p *Plan) { p.System, p.Options = "reference", nil }, "system reference cannot be reached by addresses"},
		{"addresses in docker", func(p *Plan) { p.Environment = "docker" }, "addresses belong to an external cluster"},
		{"exec without commands", func(p *Plan) { p.Faults = []string{"exec"} }, "exec has no command to inject"},
		{"commands without exec", func(p *Plan) { p.Exec.Prove = "true" }, "the plan has no fault exec"},
		{"a client", func(p *Plan) { p.Client = "sarama" }, `unknown client "sarama" of system kafka; known clients: precise, kgo`},
		{"a pinned kgo", func(p *Plan) { p.Client, p.Pinned = "kgo", 0.5 }, "client kgo chooses its nodes"},
		{"a step that waits", func(p *Plan) {
			p.Faults = []string{"exec"}
			p.Steps = []nemesis.Step{{Fault: "exec", Targets: "n1", When: nemesis.LeaderChange, Until: time.Second, Commands: nemesis.Commands{Inject: "x", Prove: "x", Heal: "x"}}}
		}, "its nodes do not report the events"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := externalPlan(three)
			c.change(&p)
			_, err := p.Resolve()
			require.ErrorIs(t, err, ErrBadPlan)
			require.ErrorContains(t, err, c.say)
		})
	}
	p := externalPlan(three)
	p.Nodes = 7
	p, err := p.Resolve()
	require.NoError(t, err)
	require.Equal(t, 3, p.Nodes)
	require.Contains(t, p.Command(), "--addresses 127.0.0.1:1,127.0.0.1:2,127.0.0.1:3 ")
	require.NotContains(t, p.Command(), "--nodes")
}
