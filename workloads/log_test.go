package workloads

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/checker/history"
)

func config() Config {
	return Config{Seed: 1, Nodes: 3, Clients: 5, Keys: 3, Size: 100}
}

func TestLogClients(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Config)
		want   string // name:pinned
	}{
		{"defaults", func(*Config) {}, "producer-0:0 producer-1:1 producer-2:2 producer-3:-1 producer-4:-1 poller-0:-1 poller-1:-1 poller-2:-1 poller-3:0 poller-4:1 poller-5:2"},
		{"none pinned", func(c *Config) { c.Pinned = -1; c.Clients = 2 }, "producer-0:-1 producer-1:-1 poller-0:-1 poller-1:-1"},
		{"all pinned", func(c *Config) { c.Pinned = 1; c.Keys = 1 }, "producer-0:0 producer-1:1 producer-2:2 producer-3:0 producer-4:1 poller-0:-1 poller-1:0"},
		{"placed", func(c *Config) { c.Senders, c.Readers = []int{2, 0}, []int{1, 2} }, "producer-0:2 producer-1:0 producer-2:2 producer-3:0 producer-4:2 reader-0:1 reader-1:2"},
		{"one client", func(c *Config) { c.Clients = 1 }, "producer-0:0 poller-0:-1 poller-1:0"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			c.change(&cfg)
			got := ""
			for i, s := range Log(cfg) {
				if i > 0 {
					got += " "
				}
				got += fmt.Sprintf("%s:%d", s.Name, s.Pinned)
				require.Contains(t, []string{"producer", "poller"}, s.Role)
				require.Equal(t, len(cfg.Senders) > 0, s.Loyal, "who is placed asks nobody else")
			}
			require.Equal(t, c.want, got)
		})
	}
}

// drive answers a generator n times by answer and returns its steps.
func drive(g Generator, n int, answer func(i int, op Op) Result) []Step {
	var steps []Step
	var last *Result
	now := 5 * time.Second
	for i := range n {
		s := g.Next(now, last)
		steps = append(steps, s)
		if s.Op == nil {
			return steps
		}
		now = max(now, s.At)
		r := answer(i, *s.Op)
		r.Op = *s.Op
		now += r.At // the answers of tests give the time they took
		r.At = now
		last = &r
	}
	return steps
}

func TestProducersSendUniqueValuesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config()
		c.Seed = rapid.Uint64().Draw(t, "seed")
		c.Rate = rapid.SampledFrom([]float64{0, 10, 1000, 1e12}).Draw(t, "rate")
		c.ThinkTime = time.Duration(rapid.IntRange(0, 100).Draw(t, "think")) * time.Millisecond
		outcomes := rapid.SliceOfN(rapid.SampledFrom([]history.Outcome{history.OK, history.Failed, history.Indeterminate}), 40, 40).Draw(t, "outcomes")
		answer := func(i int, _ Op) Result { return Result{Outcome: outcomes[i], At: 3 * time.Millisecond} }
		seen := map[history.Value]bool{}
		keys := map[int32]bool{}
		again := Log(c)
		for i, spec := range Log(c) {
			if spec.Role != "producer" {
				continue
			}
			steps := drive(spec.Gen, len(outcomes), answer)
			require.Equal(t, steps, drive(again[i].Gen, len(outcomes), answer))
			require.Len(t, steps, len(outcomes))
			for n, s := range steps {
				require.Equal(t, history.Send, s.Op.Kind)
				require.Equal(t, int32(i), s.Op.Value.Producer())
				require.Equal(t, int64(n+1), s.Op.Value.Seq(), "a sequence was left out or repeated")
				require.False(t, seen[s.Op.Value])
				seen[s.Op.Value] = true
				require.GreaterOrEqual(t, s.Op.Key, int32(0))
				require.Less(t, s.Op.Key, int32(c.Keys))
				require.Equal(t, c.Size, s.Op.Size)
				keys[s.Op.Key] = true
			}
		}
		require.Len(t, keys, c.Keys)
	})
}

func TestOpenLoopKeepsTheRate(t *testing.T) {
	c := config()
	c.Rate = 50 // five producers: each every 100 ms
	ok := func(int, Op) Result { return Result{Outcome: history.OK, At: time.Millisecond} }
	for i, spec := range Log(c)[:5] {
		for n, s := range drive(spec.Gen, 20, ok) {
			require.Equal(t, 5*time.Second+time.Duration(i)*20*time.Millisecond+time.Duration(n)*100*time.Millisecond, s.At)
		}
	}
	// One slow answer: what was due meanwhile is sent at once, and then the rate holds again.
	steps := drive(Log(c)[0].Gen, 20, func(i int, _ Op) Result {
		if i == 5 {
			return Result{Outcome: history.OK, At: time.Second}
		}
		return Result{Outcome: history.OK, At: time.Millisecond}
	})
	require.Equal(t, 5*time.Second+1900*time.Millisecond, steps[19].At)
	require.Equal(t, 5*time.Second+600*time.Millisecond, steps[6].At, "the intended time is kept, for latency corrected for coordinated omission")
	require.Equal(t, steps[6].At, steps[6].Due)
}

func TestClosedLoopThinksAndStandsBack(t *testing.T) {
	c := config()
	c.ThinkTime = 7 * time.Millisecond
	steps := drive(Log(c)[0].Gen, 3, func(i int, _ Op) Result {
		return Result{Outcome: []history.Outcome{history.OK, history.Failed, history.OK}[i], At: time.Millisecond}
	})
	require.Equal(t, 5*time.Second, steps[0].At)
	require.Equal(t, steps[0].At+8*time.Millisecond, steps[1].At)
	require.Zero(t, steps[1].Due, "a closed loop has no schedule")
	wait := steps[2].At - steps[1].At - time.Millisecond
	require.GreaterOrEqual(t, wait, backOff)
	require.Less(t, wait, 2*backOff)
}

// A poller against logs that grow, fail, and are cut at both ends never skips,
// never goes back unless it says so, and covers every partition.
func TestPollersReadEverythingInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config()
		c.Seed = rapid.Uint64().Draw(t, "seed")
		c.Keys = rapid.IntRange(1, 7).Draw(t, "keys")
		covered := map[int32]int{}
		for _, spec := range Log(c) {
			if spec.Role != "poller" {
				continue
			}
			next := map[int32]int64{}
			moved := map[int32]bool{}
			turns := map[int32]int{}
			drive(spec.Gen, 60, func(_ int, op Op) Result {
				require.Equal(t, history.Poll, op.Kind)
				require.Equal(t, next[op.Key], op.From)
				require.Equal(t, moved[op.Key], op.Reset)
				require.Positive(t, op.Max)
				require.Positive(t, op.Wait)
				turns[op.Key]++
				switch rapid.IntRange(0, 5).Draw(t, "answer") {
				case 0:
					return Result{Outcome: history.Failed, At: 1}
				case 1:
					return Result{Outcome: history.Indeterminate, At: 1}
				case 2:
					moved[op.Key] = false
					return Result{Outcome: history.OK, High: op.From, At: 1}
				case 3: // the log begins later now
					start := op.From + int64(rapid.IntRange(1, 9).Draw(t, "start"))
					next[op.Key], moved[op.Key] = start, true
					return Result{Outcome: history.Failed, OutOfRange: true, Start: start, High: start + 5, At: 1}
				case 4: // the log ends earlier now
					if op.From < 2 {
						return Result{Outcome: history.Failed, At: 1}
					}
					next[op.Key], moved[op.Key] = op.From-1, true
					return Result{Outcome: history.OK, OutOfRange: true, Start: 0, High: op.From - 1, At: 1}
				}
				moved[op.Key] = false
				n := int64(rapid.IntRange(1, 9).Draw(t, "records"))
				r := Result{Outcome: history.OK, High: op.From + n, At: 1}
				for i := range n {
					r.Records = append(r.Records, history.Record{Offset: op.From + i})
				}
				next[op.Key] = op.From + n
				return r
			})
			for k, n := range turns {
				covered[k]++
				require.InDelta(t, 60/len(turns), n, 1, "partitions do not take turns")
			}
		}
		require.Len(t, covered, c.Keys)
		for k, n := range covered {
			require.Equal(t, 2, n, "partition %d is read by one follower of the leader and one pinned poller", k)
		}
	})
}

func TestPollerEdges(t *testing.T) {
	one := func(r Result) Step {
		c := config()
		c.Keys = 1
		g := Log(c)[5].Gen
		first := g.Next(0, nil)
		require.Zero(t, first.Op.From)
		r.Op = *first.Op
		return g.Next(time.Second, &r)
	}
	t.Run("records behind the position do not move it back", func(t *testing.T) {
		s := one(Result{Outcome: history.OK, Records: []history.Record{{Offset: -3}}})
		require.Zero(t, s.Op.From)
	})
	t.Run("out of range without bounds", func(t *testing.T) {
		s := one(Result{OutOfRange: true, Start: history.NoOffset, High: history.NoOffset})
		require.Zero(t, s.Op.From)
		require.True(t, s.Op.Reset)
		require.GreaterOrEqual(t, s.At, time.Second+backOff)
	})
	t.Run("an empty answer is not asked for again in the same moment", func(t *testing.T) {
		require.Equal(t, time.Second+pollPause, one(Result{Outcome: history.OK}).At)
	})
	t.Run("records are followed at once", func(t *testing.T) {
		require.Equal(t, time.Second, one(Result{Outcome: history.OK, Records: []history.Record{{Offset: 0}}}).At)
	})
	t.Run("an error is stood back from", func(t *testing.T) {
		require.GreaterOrEqual(t, one(Result{Outcome: history.Failed}).At, time.Second+backOff)
	})
}

func TestValidate(t *testing.T) {
	require.NoError(t, config().Validate())
	for say, change := range map[string]func(*Config){
		"0 nodes":                         func(c *Config) { c.Nodes = 0 },
		"0 clients":                       func(c *Config) { c.Clients = 0 },
		"at most 16777215 have a number":  func(c *Config) { c.Clients = 1 << 24 },
		"0 partitions":                    func(c *Config) { c.Keys = 0 },
		"2147483648 partitions":           func(c *Config) { c.Keys = math.MaxInt32 + 1 },
		"payloads of 28 bytes":            func(c *Config) { c.Size = 28 },
		"rate of -1":                      func(c *Config) { c.Rate = -1 },
		"rate of NaN":                     func(c *Config) { c.Rate = math.NaN() },
		"rate of +Inf":                    func(c *Config) { c.Rate = math.Inf(1) },
		"less than once an hour":          func(c *Config) { c.Rate = 1e-9 },
		"share of pinned producers 1.5":   func(c *Config) { c.Pinned = 1.5 },
		"share of pinned producers NaN":   func(c *Config) { c.Pinned = math.NaN() },
		"think time -1ns: it is 0 or mor": func(c *Config) { c.ThinkTime = -1 },
	} {
		c := config()
		change(&c)
		require.ErrorContains(t, c.Validate(), say)
		w, err := Lookup("log")
		require.NoError(t, err)
		_, err = w.Clients(c)
		require.ErrorContains(t, err, say)
	}
	require.NotPanics(t, func() { require.NotEmpty(t, Log(Config{})) })
}

func TestLookup(t *testing.T) {
	w, err := Lookup("log")
	require.NoError(t, err)
	require.NotEmpty(t, w.Clauses)
	specs, err := w.Clients(config())
	require.NoError(t, err)
	require.Len(t, specs, 11)
	_, err = Lookup("logs")
	require.EqualError(t, err, `unknown workload "logs": known are log, queue`)
}
