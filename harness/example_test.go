package harness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/system/example"
	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
	"github.com/faultline-mq/faultline/nemesis"
)

// inProcess is an environment of one node: the example's server in this process,
// whose end is that of its memory, and whose log lies in a folder.
type inProcess struct {
	cfg tinyq.Config
	at  string // host:port, the same over restarts
	rt  *environment.Realtime

	mu     sync.Mutex
	server *tinyq.Server // nil: it is dead
	starts int
	served sync.WaitGroup
}

var (
	_ environment.Environment = (*inProcess)(nil)
	_ nemesis.Processes       = (*inProcess)(nil)
)

func (e *inProcess) Name() string                          { return "docker" }
func (e *inProcess) Runtime() environment.Runtime          { return e.rt }
func (e *inProcess) Up(ctx context.Context) error          { return e.Start(ctx, "n1") }
func (e *inProcess) Down(ctx context.Context) error        { return e.Kill(ctx, "n1") }
func (e *inProcess) Nodes() []string                       { return []string{"n1"} }
func (e *inProcess) Network() nemesis.Network              { return nil }
func (e *inProcess) Processes() nemesis.Processes          { return e }
func (e *inProcess) Disks() nemesis.Disks                  { return nil }
func (e *inProcess) Machines() nemesis.Machines            { return nemesis.Machines{} }
func (e *inProcess) Events(func(history.NodeEvent))        {}
func (e *inProcess) Collect(context.Context, string) error { return nil }
func (e *inProcess) Versions() map[string]string           { return nil }
func (e *inProcess) Pause(context.Context, string) error   { return errors.ErrUnsupported }
func (e *inProcess) Resume(context.Context, string) error  { return errors.ErrUnsupported }
func (e *inProcess) Stop(context.Context, string, time.Duration) (int, error) {
	return 0, errors.ErrUnsupported
}

func (e *inProcess) address() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at, nil
}

func (e *inProcess) Start(context.Context, string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := tinyq.Open(e.cfg)
	if err != nil {
		return err
	}
	at := e.at
	if at == "" {
		at = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	e.server, e.at = s, l.Addr().String()
	e.starts++
	e.served.Go(func() { _ = s.Serve(context.Background(), l) }) // it ends by Abort
	return nil
}

func (e *inProcess) Kill(context.Context, string) error {
	e.mu.Lock()
	s := e.server
	e.server = nil
	e.mu.Unlock()
	if s != nil {
		s.Abort()
	}
	e.served.Wait()
	return nil
}

func (e *inProcess) State(context.Context, string) (nemesis.ProcessState, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	state := nemesis.ProcessState{Running: e.server != nil, Started: fmt.Sprint(e.starts), ExitCode: 137}
	if state.Running {
		state.PID = e.starts
	}
	return state, nil
}

// examplePlan is a short plan for the example's server.
func examplePlan(durability string) Plan {
	p := DefaultPlan()
	p.System, p.Scheme, p.Workload, p.Nodes, p.Faults = "example", "", "", 1, []string{"kill"}
	p.Options = map[string]string{"durability": durability}
	return p
}

// inThisProcess runs a plan of the example's server without containers.
func inThisProcess(t *testing.T, p Plan) (*checker.Result, *history.History) {
	t.Helper()
	p.Rate, p.Leaves, p.Phases = 400, time.Second, Phases{Baseline: 2 * time.Second, Fault: 4 * time.Second, Recovery: time.Second}
	p, err := p.Resolve()
	require.NoError(t, err)
	started := time.Now()
	header, err := Header(p, "in-process", started)
	require.NoError(t, err)
	rec := history.NewRecorder(header)
	sys := example.System{}
	spec := p.spec("in-process")
	env := &inProcess{
		cfg: tinyq.Config{Dir: t.TempDir(), Queues: sys.Keys(spec), Durability: tinyq.Durability(p.Options["durability"])},
		rt:  environment.NewRealtime(),
	}
	r := &run{
		cfg: Config{Plan: p}, plan: p, sys: sys, spec: spec, env: env, rt: env.rt, cluster: sys.Connect(spec, env.rt, env.address), sink: rec,
		active: map[int]string{}, acked: map[int32]bool{}, served: map[int32]bool{},
	}
	require.NoError(t, r.whole(t.Context(), &Execution{}, ""))
	h := rec.History()
	require.NoError(t, h.Validate())
	short := checker.DefaultOptions() // on a busy host a second or two is few sends
	short.MinBaselineOK, short.MinRecoveryOK = 5, 5
	res, err := checker.Run(t.Context(), h, short)
	require.NoError(t, err)
	return res, h
}

func clauseOf(t *testing.T, r *checker.Result, name string) checker.Check {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(c checker.Check) bool { return c.Name == name })
	require.GreaterOrEqual(t, i, 0, "clause %s is not there", name)
	return r.Checks[i]
}

// What a synced log acknowledged survives kills; what was in memory only does not.
func TestQueueThroughKills(t *testing.T) {
	t.Run("synced", func(t *testing.T) {
		t.Parallel()
		res, h := inThisProcess(t, examplePlan("synced"))
		require.Equal(t, checker.Valid, res.Verdict, "%s %v", res.Sentence, res.WhyInconclusive)
		kinds := map[history.Kind]int{}
		for _, op := range h.Ops {
			if op.Outcome == history.OK {
				kinds[op.Kind]++
			}
		}
		for _, k := range []history.Kind{history.Send, history.Receive, history.Accept, history.Release, history.Leave} {
			require.Positive(t, kinds[k], "no %s was confirmed", k)
		}
		for _, c := range []string{checker.ClauseSurvives, checker.ClauseSettled, checker.ClauseRedelivers, checker.ClauseTruthfulEmpty, checker.ClauseOrder, checker.ClauseRecovers} {
			require.True(t, clauseOf(t, res, c).Promised, c)
		}
		require.Contains(t, clauseOf(t, res, checker.ClauseRecovers).Detail, "2 of 2 queues served consumers")
		for key, q := range res.Counts.Queues {
			require.Zero(t, q.Lost, key)
			require.Positive(t, q.Accepted, key)
			require.Positive(t, q.Duplicated, key)
		}
	})
	t.Run("buffered", func(t *testing.T) {
		t.Parallel()
		res, h := inThisProcess(t, examplePlan("buffered"))
		require.Equal(t, checker.Invalid, res.Verdict, res.Sentence)
		c := clauseOf(t, res, checker.ClauseSurvives)
		require.Equal(t, checker.Invalid, c.Verdict, c.Detail)
		// Each message that is named is one that was acknowledged, never accepted, and is not in the drain.
		for _, a := range c.Anomalies {
			for _, op := range h.Ops {
				if op.Value == a.Value {
					require.False(t, op.Kind == history.Accept && op.Outcome != history.Failed, "%s may have been consumed", a.Value)
					require.False(t, op.Kind == history.Send && op.Outcome != history.OK, "%s was not acknowledged", a.Value)
				}
			}
			for _, rep := range h.Replicas {
				require.False(t, slices.ContainsFunc(rep.Records, func(r history.Record) bool { return r.Value == a.Value && r.Payload == history.Good }))
			}
		}
	})
	t.Run("buffered, as declared", func(t *testing.T) {
		t.Parallel()
		p := examplePlan("buffered")
		p.Expect = "declared"
		res, _ := inThisProcess(t, p)
		require.Equal(t, checker.Valid, res.Verdict, "%s %v", res.Sentence, res.WhyInconclusive)
		require.Contains(t, res.Sentence, "not promised: ")
	})
	t.Run("nobody consumes", func(t *testing.T) {
		t.Parallel()
		p := examplePlan("synced")
		p.Consumers = -1
		res, h := inThisProcess(t, p)
		require.Equal(t, checker.Valid, res.Verdict, "%s %v", res.Sentence, res.WhyInconclusive)
		for _, op := range h.Ops {
			require.Equal(t, history.Send, op.Kind)
		}
		drained := 0
		for _, q := range res.Counts.Queues {
			drained += q.Drained
		}
		require.GreaterOrEqual(t, drained, res.Counts.Acknowledged)
	})
}

// What a plan says of consumers reaches them, and the command that runs it again.
func TestPlanOfConsumers(t *testing.T) {
	p := examplePlan("synced")
	p.Consumers, p.Pause = 2, 300*time.Millisecond
	p, err := p.Resolve()
	require.NoError(t, err)
	require.Contains(t, p.Command(), " --consumers 2 --pause 300ms ")
	header, err := Header(p, "r", time.Now())
	require.NoError(t, err)
	consumers := 0
	for _, c := range header.Clients {
		if c.Role == "consumer" {
			consumers++
		}
	}
	require.Equal(t, 2, consumers)
	require.Equal(t, []history.Queue{{Key: "q0"}, {Key: "q1"}}, header.Queues)

	again, err := p.YAML()
	require.NoError(t, err)
	read, err := ParsePlan(again, "again")
	require.NoError(t, err)
	require.Equal(t, 2, read.Consumers)
	require.Equal(t, 300*time.Millisecond, read.Pause)

	refused := func(want string, change func(*Plan)) {
		t.Helper()
		p := examplePlan("synced")
		change(&p)
		_, err := p.Resolve()
		require.ErrorIs(t, err, ErrBadPlan)
		require.ErrorContains(t, err, want)
	}
	refused("it has one node, not 3; use --nodes 1", func(p *Plan) { p.Nodes = 3 })
	refused("1001 consumers", func(p *Plan) { p.Consumers = 1001 })
	refused("no queue has dead letters", func(p *Plan) { p.Rejects = 0.1 })
	refused("system example cannot carry workload log", func(p *Plan) { p.Workload = "log" })
	refused("use --env docker", func(p *Plan) { p.Environment = "sim" })
	refused("workload log has no consumers", func(p *Plan) { *p = DefaultPlan(); p.Consumers = 3 })
}

// pageRuns are the runs that a page shows, each a line of flags and what is to come of it.
func pageRuns(t *testing.T, page string) (plans []Plan, verdicts []checker.Verdict) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		command, said, ok := strings.Cut(strings.TrimSpace(line), "#")
		args, is := strings.CutPrefix(command, "bin/faultline run ")
		if !ok || !is {
			continue
		}
		p := DefaultPlan()
		p.Scheme, p.Workload, p.Options = "", "", map[string]string{}
		fl := flag.NewFlagSet("run", flag.ContinueOnError)
		fl.StringVar(&p.System, "system", "", "")
		fl.IntVar(&p.Nodes, "nodes", 0, "")
		fl.DurationVar(&p.Time, "time", 0, "")
		fl.Func("faults", "", func(s string) error {
			p.Faults = strings.Split(s, ",")
			return nil
		})
		fl.Func("set", "", func(s string) error {
			name, value, _ := strings.Cut(s, "=")
			p.Options[name] = value
			return nil
		})
		require.NoError(t, fl.Parse(strings.Fields(args)))
		verdict, _, _ := strings.Cut(strings.TrimSpace(said), ":")
		plans, verdicts = append(plans, p), append(verdicts, checker.Verdict(verdict))
	}
	return plans, verdicts
}

// The commands at the head of docs/systems/adding.md end as it says.
func TestExampleInDocker(t *testing.T) {
	needAll(t)
	plans, verdicts := pageRuns(t, filepath.Join("..", "docs", "systems", "adding.md"))
	require.Equal(t, []checker.Verdict{checker.Valid, checker.Invalid, checker.Invalid}, verdicts)
	for i, p := range plans {
		t.Run(p.FaultList()+" "+p.Options["durability"], func(t *testing.T) {
			p.Time = 20 * time.Second
			require.NoError(t, p.Prepare(t.Context(), nil))
			j := contained(t, p, nil)
			require.Equal(t, verdicts[i], j.Verdict, j.why())
			if verdicts[i] == checker.Valid {
				j.requireProven(t)
				return
			}
			c := clauseOf(t, j.Result, checker.ClauseSurvives)
			require.Equal(t, checker.Invalid, c.Verdict, c.Detail)
			for _, a := range c.Anomalies {
				require.NotZero(t, a.Value.Seq(), "a lost message is named")
			}
		})
	}
}
