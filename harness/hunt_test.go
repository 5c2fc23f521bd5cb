package harness

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// What makes this test binary a worker process, and which.
const (
	asWorker    = "FAULTLINE_TEST_WORKER"
	workerSeeds = "FAULTLINE_TEST_SEEDS"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(asWorker) {
	case "":
		os.Exit(m.Run())
	case "serve":
		err = ServeWorker(context.Background(), os.Stdin, os.Stdout)
	case "panic":
		panic("a careless worker")
	case "mute":
		_, err = io.Copy(io.Discard, os.Stdin) // it answers nothing
	case "simulate":
		err = simulate(os.Stdin, os.Stdout)
	case "fingerprints":
		var n int
		if n, err = strconv.Atoi(os.Getenv(workerSeeds)); err == nil {
			err = fingerprints(n)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pool runs workers of one kind; started counts them.
func pool(t *testing.T, kind string, n int) (p *Pool, started *atomic.Int32) {
	t.Helper()
	started = &atomic.Int32{}
	return &Pool{Workers: n, Start: func() *exec.Cmd {
		started.Add(1)
		return asWorkerProcess(t, kind)
	}}, started
}

// asWorkerProcess makes a process of this test binary.
func asWorkerProcess(t *testing.T, kind string, env ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	// A process of one run has a small heap, which it had better use again than touch anew.
	cmd.Env = append(append(os.Environ(), asWorker+"="+kind, "GOMAXPROCS=1", "GOGC=100", "GORACE=atexit_sleep_ms=0"), env...)
	return cmd
}

// hunted runs a hunt and returns its trials by seed, without what differs
// between processes.
func hunted(t *testing.T, cfg HuntConfig) (Hunted, map[uint64]Trial) {
	t.Helper()
	trials := map[uint64]Trial{}
	cfg.Each = func(trial Trial, _ Standing) {
		require.NotContains(t, trials, trial.Seed)
		require.Positive(t, trial.Memory)
		trial.Memory, trial.Dir = 0, ""
		trials[trial.Seed] = trial
	}
	found, err := Hunt(t.Context(), cfg)
	require.NoError(t, err)
	return found, trials
}

// TestHuntInParallel: what a seed ends with does not depend on who runs it.
func TestHuntInParallel(t *testing.T) {
	p := simPlan("partition:isolate-leader")
	seeds := 4
	if raceEnabled {
		seeds = 2
	}
	alone, one := hunted(t, HuntConfig{Plan: p, First: 7, Seeds: seeds})
	workers, started := pool(t, "serve", 2)
	workers.Recycle = 1
	together, two := hunted(t, HuntConfig{Plan: p, First: 7, Seeds: seeds, Pool: workers})
	require.Equal(t, one, two)
	require.Equal(t, int32(seeds), started.Load(), "every worker is replaced after one job")
	require.Equal(t, alone.Exercised, together.Exercised)
	require.Equal(t, []any{alone.Seeds, alone.Acknowledged, alone.Virtual, alone.Proven}, []any{together.Seeds, together.Acknowledged, together.Virtual, together.Proven})
	for seed := range uint64(seeds) {
		require.Equal(t, checker.Valid, one[7+seed].Verdict, one[7+seed].Sentence)
		require.NotEmpty(t, one[7+seed].History)
		require.NotEmpty(t, one[7+seed].Trace)
	}
	require.Positive(t, alone.Exercised["leader-change"])
}

// TestHuntSwarm hunts as the command does, with the broker as it is.
func TestHuntSwarm(t *testing.T) {
	plainly(t)
	workers, _ := pool(t, "serve", 2)
	found, trials := hunted(t, HuntConfig{Plans: Swarm{Base: swarmBase()}.Plan, First: 40, Seeds: seedsOf(4), Pool: workers, Out: t.TempDir()})
	for seed, trial := range trials {
		s, why := trial.Standing()
		require.Equal(t, SeedValid, s, "seed %d: %s", seed, why)
	}
	require.Zero(t, found.Exit())
	require.Empty(t, found.Dirs, "valid seeds are not stored")
	require.GreaterOrEqual(t, found.Proven, MinProven*found.Seeds)
	require.GreaterOrEqual(t, found.Acknowledged, MinAcknowledged*found.Seeds)
	require.GreaterOrEqual(t, found.Virtual, MinVirtual*time.Duration(found.Seeds))
	met, _ := Unreached("isr", nil, found.Exercised)
	require.NotEmpty(t, met)
}

// TestHuntConvicts stores what it finds, so that it can be judged and run again.
func TestHuntConvicts(t *testing.T) {
	plainly(t)
	p := simPlan("partition:isolate-leader")
	p.Options["acks"] = "1"
	workers, _ := pool(t, "serve", 1)
	found, trials := hunted(t, HuntConfig{Plan: p, First: 1, Seeds: 2, Out: t.TempDir(), Pool: workers, Command: func(seed uint64) string { return fmt.Sprint("again ", seed) }})
	require.Equal(t, []uint64{1, 2}, found.Invalid)
	require.Equal(t, 1, found.Exit())
	for _, seed := range found.Invalid {
		require.Equal(t, checker.ClauseSurvives, trials[seed].Broken[0].Clause)
		require.Contains(t, trials[seed].Broken[0].Classes, checker.ClassLost)
		o, err := Recheck(t.Context(), found.Dirs[seed])
		require.NoError(t, err)
		require.Equal(t, checker.Invalid, o.Summary.Verdict)
		require.Equal(t, fmt.Sprint("again ", seed), o.Summary.Command)
		stored, err := OpenStored(found.Dirs[seed])
		require.NoError(t, err)
		require.Equal(t, trials[seed].History, stored.Digest, "what was stored is the run that was convicted")
		require.Equal(t, seed, stored.Plan.Seed)
		require.NoError(t, stored.Replayable())
		stored.Version = "0123abc"
		err = stored.Replayable()
		require.ErrorIs(t, err, ErrBadPlan)
		require.ErrorContains(t, err, "0123abc")
		require.ErrorContains(t, err, Version())
	}
}

// TestHuntTooShort: a valid run that was too short, too quiet or too little
// disturbed decides nothing.
func TestHuntTooShort(t *testing.T) {
	plainly(t)
	out := t.TempDir()
	found, trials := hunted(t, HuntConfig{Plan: simPlan("kill"), First: 1, Seeds: 1, Out: out})
	require.Equal(t, checker.Valid, trials[1].Verdict)
	require.Equal(t, []uint64{1}, found.Inconclusive)
	require.Equal(t, 2, found.Exit())
	require.DirExists(t, found.Dirs[1])

	good := Trial{Verdict: checker.Valid, Virtual: MinVirtual, Acknowledged: MinAcknowledged, Proven: MinProven}
	for _, c := range []struct {
		name   string
		change func(*Trial)
		want   Standing
		why    string
	}{
		{"enough", func(*Trial) {}, SeedValid, ""},
		{"short", func(tr *Trial) { tr.Virtual-- }, SeedInconclusive, "59.999s"},
		{"quiet", func(tr *Trial) { tr.Acknowledged-- }, SeedInconclusive, "1999 messages"},
		{"undisturbed", func(tr *Trial) { tr.Proven-- }, SeedInconclusive, "2 faults"},
		{"unknown", func(tr *Trial) {
			tr.Verdict, tr.Why = checker.Unknown, []checker.Reason{{Why: "the drain was torn"}}
		}, SeedInconclusive, "the drain was torn"},
		{"invalid however short", func(tr *Trial) { tr.Verdict, tr.Virtual = checker.Invalid, 1 }, SeedInvalid, ""},
		{"failed", func(tr *Trial) { tr.Verdict = checker.HarnessError }, SeedFailed, ""},
	} {
		tr := good
		c.change(&tr)
		s, why := tr.Standing()
		require.Equal(t, c.want, s, c.name)
		require.Contains(t, why, strings.TrimSuffix(c.why, "59.999s"), c.name)
	}
}

func TestHuntLimits(t *testing.T) {
	plainly(t)
	p := simPlan("kill")
	found, err := Hunt(t.Context(), HuntConfig{Plan: p, First: 1, Budget: time.Nanosecond})
	require.NoError(t, err)
	require.Zero(t, found.Seeds)
	for _, bad := range []HuntConfig{{Plan: p}, {Plan: p, Seeds: -1}, {Plan: p, Seeds: 1, Budget: -1}} {
		_, err := Hunt(t.Context(), bad)
		require.ErrorIs(t, err, ErrBadPlan)
	}
	p.Nodes = 0
	_, err = Hunt(t.Context(), HuntConfig{Plan: p, Seeds: 1})
	require.ErrorIs(t, err, ErrBadPlan)

	p = simPlan("kill")
	ctx, cancel := context.WithCancel(t.Context())
	found, err = Hunt(ctx, HuntConfig{Plan: p, First: 1, Seeds: 100, Each: func(Trial, Standing) { cancel() }})
	require.NoError(t, err)
	require.True(t, found.Interrupted)
	require.Equal(t, 1, found.Seeds)
	require.Equal(t, 2, found.Exit())
}

func TestHuntedExit(t *testing.T) {
	for _, c := range []struct {
		want int
		h    Hunted
	}{
		{2, Hunted{}},
		{0, Hunted{Seeds: 50, Valid: 49, Inconclusive: []uint64{1}}},
		{2, Hunted{Seeds: 50, Valid: 48, Inconclusive: []uint64{1, 2}}},
		{2, Hunted{Seeds: 50, Valid: 50, Interrupted: true}},
		{255, Hunted{Seeds: 50, Failed: []uint64{1}}},
		{1, Hunted{Seeds: 50, Failed: []uint64{1}, Invalid: []uint64{2}, Interrupted: true}},
	} {
		require.Equal(t, c.want, c.h.Exit(), "%+v", c.h)
	}
}

// TestWorkerDies: the seeds of workers that die are harness errors with their last
// words, and the hunt goes on.
func TestWorkerDies(t *testing.T) {
	workers, started := pool(t, "panic", 1)
	found, err := Hunt(t.Context(), HuntConfig{Plan: simPlan("kill"), First: 3, Seeds: 2, Pool: workers, Out: t.TempDir()})
	require.NoError(t, err)
	require.Equal(t, []uint64{3, 4}, found.Failed)
	require.Equal(t, 255, found.Exit())
	require.Equal(t, int32(2), started.Load())
	for _, seed := range found.Failed {
		crash, err := os.ReadFile(filepath.Join(found.Dirs[seed], CrashFile))
		require.NoError(t, err)
		require.Contains(t, string(crash), "a careless worker")
		require.Contains(t, string(crash), "goroutine")
		o, err := Recheck(t.Context(), found.Dirs[seed])
		require.NoError(t, err)
		require.Equal(t, checker.HarnessError, o.Summary.Verdict)
		require.Contains(t, o.Summary.Sentence, "a careless worker")
		stored, err := OpenStored(found.Dirs[seed])
		require.NoError(t, err)
		require.Equal(t, seed, stored.Plan.Seed)
	}
}

func TestWorkerHangs(t *testing.T) {
	workers, _ := pool(t, "mute", 1)
	workers.Limit = 300 * time.Millisecond
	var said string
	found, err := Hunt(t.Context(), HuntConfig{Plan: simPlan("kill"), First: 3, Seeds: 1, Pool: workers, Each: func(trial Trial, _ Standing) { said = trial.Err }})
	require.NoError(t, err)
	require.Equal(t, []uint64{3}, found.Failed)
	require.Contains(t, said, "did not end within 300ms")

	ctx, cancel := context.WithCancel(t.Context())
	workers.Limit = 0
	start := workers.Start
	workers.Start = func() *exec.Cmd { time.AfterFunc(50*time.Millisecond, cancel); return start() }
	found, err = Hunt(ctx, HuntConfig{Plan: simPlan("kill"), First: 3, Seeds: 9, Pool: workers})
	require.NoError(t, err)
	require.True(t, found.Interrupted)
	require.Zero(t, found.Seeds, "what was cut short does not count")
}

func TestWorkerCannotStart(t *testing.T) {
	workers := &Pool{Workers: 2, Start: func() *exec.Cmd { return exec.Command(filepath.Join(t.TempDir(), "none")) }}
	_, err := Hunt(t.Context(), HuntConfig{Plan: simPlan("kill"), First: 3, Seeds: 2, Pool: workers})
	require.ErrorContains(t, err, "starting a worker")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestServeWorker(t *testing.T) {
	var out strings.Builder
	require.NoError(t, ServeWorker(t.Context(), strings.NewReader(""), &out))
	require.Empty(t, out.String())
	require.ErrorContains(t, ServeWorker(t.Context(), strings.NewReader("{\n"), &out), "job")

	trial := Try(t.Context(), DefaultPlan())
	require.True(t, trial.Refused)
	require.Contains(t, trial.Err, "only the simulator")
}

// TestRules: each rule has one way to be counted, and a history that reaches all
// of them counts each.
func TestRules(t *testing.T) {
	event := func(kind string, change func(*history.NodeEvent)) history.NodeEvent {
		e := history.NodeEvent{Node: "n1", Kind: kind}
		if change != nil {
			change(&e)
		}
		return e
	}
	h := &history.History{Header: history.Header{Keys: []string{"t-0"}}}
	h.Events = []history.NodeEvent{
		event("start", nil), event("stop", nil), event("start", nil), event("start", nil), event("torn", nil), event("eligible", nil), event("peer-down", nil), event("corrupt", nil),
		event("leader", func(e *history.NodeEvent) { e.Offset = 1 }),
		event("controller", func(e *history.NodeEvent) { e.Leader = "n1" }), event("controller", func(e *history.NodeEvent) { e.Leader = "n2" }),
		event("isr", func(e *history.NodeEvent) { e.ISR = []string{"n1"} }),
		event("truncate", func(e *history.NodeEvent) { e.From, e.To, e.Offset = 3, 5, 3 }),
		event("corrupt", nil), event("peer-down", nil), event("leader", func(e *history.NodeEvent) { e.Offset = 1 }),
	}
	for i, code := range []string{
		"NOT_LEADER_FOR_PARTITION", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "REQUEST_TIMED_OUT", "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "OFFSET_OUT_OF_RANGE",
	} {
		h.Ops = append(h.Ops,
			history.Op{Kind: history.Send, Outcome: history.Failed, Code: code, Value: history.MakeValue(0, int64(i+1))},
			history.Op{Kind: history.Poll, Outcome: history.Failed, Code: code})
	}
	for seq := range int64(2) {
		h.Ops = append(h.Ops, history.Op{Kind: history.Send, Outcome: history.Indeterminate, Code: "timeout", Value: history.MakeValue(1, seq+1)})
	}
	h.Drains = []history.Drain{{Key: "t-0", Complete: true}}
	h.Replicas = []history.Replica{{Key: "t-0", Records: []history.Record{{Value: history.MakeValue(1, 1)}}}}
	counted := map[string]int{"leader-change": 2, "isr-shrink": 3, "isr-expand": 4, "truncation": 5, "unclean-election": 6}
	n := reached(h, counted)
	names := map[string]bool{}
	for _, r := range Rules() {
		require.NotEmpty(t, r.Doc)
		require.False(t, names[r.Name], "%s is listed twice", r.Name)
		names[r.Name] = true
		require.Positive(t, n[r.Name], r.Name)
	}
	require.Equal(t, []int{1, 1, 1, 1, 1}, []int{n["recovery"], n["restart-clean"], n["controller-change"], n["unanswered-happened"], n["unanswered-never-happened"]})
	require.Equal(t, 2, n["truncation-deep"]+n["truncation-at-high-watermark"])
	require.Empty(t, reached(&history.History{}, nil), "an empty history reaches nothing")

	met, missed := Unreached("isr", nil, n)
	require.Empty(t, missed)
	require.False(t, slices.ContainsFunc(met, func(r Rule) bool { return r.Name == "unclean-election" }), "it needs an option")
	met, _ = Unreached("isr", map[string]string{"unclean.leader.election.enable": "true"}, n)
	require.True(t, slices.ContainsFunc(met, func(r Rule) bool { return r.Name == "unclean-election" }))
	for _, set := range []map[string]string{nil, {"eligible.leader.replicas.version": "0"}, {"unclean.leader.election.enable": "true"}} {
		met, _ = Unreached("isr", set, n)
		has := func(name string) bool {
			return slices.ContainsFunc(met, func(r Rule) bool { return r.Name == name })
		}
		require.Equal(t, set["eligible.leader.replicas.version"] != "0", has("eligible-election"), set)
		require.Equal(t, set == nil, has("last-leader-election"), set)
	}
	met, missed = Unreached("single", nil, nil)
	require.Empty(t, met)
	for _, r := range missed {
		require.True(t, len(r.Schemes) == 0 || slices.Contains(r.Schemes, "single"), r.Name)
	}
}
