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

func TestQueueClients(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Config)
		want   string // of the consumers, name:pinned
	}{
		{"defaults", func(*Config) {}, "consumer-0:0 consumer-1:1 consumer-2:2 consumer-3:-1 consumer-4:-1"},
		{"none pinned", func(c *Config) { c.Pinned, c.Clients = -1, 2 }, "consumer-0:-1 consumer-1:-1"},
		{"fewer than producers", func(c *Config) { c.Consumers = 2 }, "consumer-0:0 consumer-1:1"},
		{"more than producers", func(c *Config) { c.Clients, c.Consumers = 1, 3 }, "consumer-0:0 consumer-1:1 consumer-2:2"},
		{"none", func(c *Config) { c.Consumers = -1 }, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			c.change(&cfg)
			got := ""
			producers := 0
			for _, s := range Queue(cfg) {
				if s.Role == "producer" {
					producers++
					continue
				}
				require.Equal(t, "consumer", s.Role)
				if got != "" {
					got += " "
				}
				got += fmt.Sprintf("%s:%d", s.Name, s.Pinned)
			}
			require.Equal(t, c.want, got)
			require.Equal(t, cfg.Clients, producers)
		})
	}
}

// Producers of both workloads send the same, dead letters aside.
func TestQueueProducersAreThoseOfLog(t *testing.T) {
	ok := func(int, Op) Result { return Result{Outcome: history.OK, At: time.Millisecond} }
	c := config()
	logs := Log(c)
	for i, s := range Queue(c)[:c.Clients] {
		require.Equal(t, logs[i].Name, s.Name)
		require.Equal(t, logs[i].Pinned, s.Pinned)
		require.Equal(t, drive(logs[i].Gen, 50, ok), drive(s.Gen, 50, ok))
	}
}

// judge answers a consumer and holds it to the rules of the workload.
type judge struct {
	t     *rapid.T
	seq   int64
	held  map[history.Value]int32 // and the queue it came from
	must  bool                    // it must leave now
	keys  map[int32]bool
	kinds map[history.Kind]int
}

func (j *judge) answer(_ int, op Op) Result {
	require.False(j.t, j.must && op.Kind != history.Leave, "%s where nobody can say what is held", op.Kind)
	j.kinds[op.Kind]++
	outcome := rapid.SampledFrom([]history.Outcome{history.OK, history.OK, history.OK, history.OK, history.OK, history.OK, history.Failed, history.Indeterminate}).Draw(j.t, "outcome")
	r := Result{Outcome: outcome, At: time.Duration(rapid.IntRange(0, 200).Draw(j.t, "ms")) * time.Millisecond}
	switch op.Kind {
	case history.Receive:
		j.keys[op.Key] = true
		require.Positive(j.t, op.Wait)
		require.Positive(j.t, op.Max)
		require.LessOrEqual(j.t, len(j.held)+op.Max, heldMost)
		j.must = outcome == history.Indeterminate || outcome == history.Failed && len(j.held) > 0
		if outcome != history.OK {
			return r
		}
		for range rapid.IntRange(0, op.Max).Draw(j.t, "messages") {
			rec := history.Record{Offset: history.NoOffset, Payload: rapid.SampledFrom([]history.Payload{history.Good, history.Good, history.Good, history.Altered}).Draw(j.t, "payload")}
			j.seq++
			rec.Value = history.MakeValue(0, j.seq)
			for v, k := range j.held { // a lock that ended early: once more to the same consumer
				if k == op.Key && rapid.IntRange(0, 9).Draw(j.t, "again") == 0 {
					rec.Value = v
				}
				break
			}
			r.Records = append(r.Records, rec)
			if rec.Payload == history.Good {
				j.held[rec.Value] = op.Key
			}
		}
	case history.Accept, history.Release, history.Reject:
		key, ok := j.held[op.Value]
		require.True(j.t, ok, "settled %s, which is not held", op.Value)
		require.Equal(j.t, key, op.Key)
		if outcome == history.OK {
			delete(j.held, op.Value)
		} else {
			j.must = true
		}
	case history.Leave:
		clear(j.held)
		j.must = false
	default:
		j.t.Fatalf("a consumer asked for %s", op.Kind)
	}
	return r
}

func TestConsumersSettleWhatTheyHoldOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config()
		c.Seed = rapid.Uint64().Draw(t, "seed")
		c.Keys = rapid.IntRange(1, 7).Draw(t, "keys")
		c.Consumers = rapid.IntRange(0, 9).Draw(t, "consumers")
		c.Pause = time.Duration(rapid.IntRange(-1, 20).Draw(t, "pause")) * time.Millisecond
		c.Leaves = time.Duration(rapid.SampledFrom([]int{-1, 0, 1}).Draw(t, "leaves")) * time.Second
		if c.Keys > 1 && rapid.Bool().Draw(t, "dead letters") {
			c.DeadLetters, c.Rejects = []int32{int32(rapid.IntRange(0, c.Keys-1).Draw(t, "dead"))}, 0.2
		}
		require.NoError(t, c.Validate())
		again := Queue(c)
		keys := map[int32]bool{}
		for i, spec := range Queue(c) {
			if spec.Role != "consumer" {
				continue
			}
			j := judge{t: t, held: map[history.Value]int32{}, keys: keys, kinds: map[history.Kind]int{}}
			var answers []Result
			steps := drives(t, spec.Gen, 60, func(i int, op Op) Result {
				r := j.answer(i, op)
				answers = append(answers, r)
				return r
			})
			require.Equal(t, steps, drives(t, again[i].Gen, 60, func(i int, _ Op) Result { return answers[i] }), "the same config must give the same")
			if c.Rejects == 0 {
				require.Zero(t, j.kinds[history.Reject])
			}
		}
		require.Len(t, keys, len(c.sendable()), "a queue has no consumer")
		for _, k := range c.DeadLetters {
			require.NotContains(t, keys, k)
		}
	})
}

// drives answers a generator n times, waits aside, and returns its operations' steps.
func drives(t require.TestingT, g Generator, n int, answer func(i int, op Op) Result) []Step {
	var steps []Step
	var last *Result
	now, waits := 5*time.Second, 0
	for len(steps) < n {
		s := g.Next(now, last)
		if last = nil; s.Op == nil {
			require.Greater(t, s.At, now, "a wait that lasts no time")
			require.Less(t, s.At, now+5*time.Second)
			waits++
			require.Less(t, waits, 50*n)
			now = s.At
			continue
		}
		now = max(now, s.At)
		r := answer(len(steps), *s.Op)
		steps = append(steps, s)
		r.Op = *s.Op
		now += r.At
		r.At = now
		last = &r
	}
	return steps
}

// world is an ideal queue with all clients of a workload, each of which is answered
// after a millisecond.
func world(c Config, length time.Duration) (sent, accepted, released, rejected, left, empty int) {
	type client struct {
		gen  Generator
		next time.Duration
		last *Result
		step *Step
		held map[history.Value]bool
	}
	var clients []*client
	for _, s := range Queue(c) {
		clients = append(clients, &client{gen: s.Gen, held: map[history.Value]bool{}})
	}
	queues := map[int32][]history.Value{}
	of := map[history.Value]int32{}
	for {
		cl := clients[0]
		for _, x := range clients {
			if x.next < cl.next {
				cl = x
			}
		}
		now := cl.next
		if now > length {
			return sent, accepted, released, rejected, left, empty
		}
		if cl.step == nil {
			s := cl.gen.Next(now, cl.last)
			cl.last, cl.next = nil, max(now, s.At)
			if s.Op != nil {
				cl.step = &s
			}
			continue
		}
		op := *cl.step.Op
		r := Result{Op: op, Outcome: history.OK}
		back := func(v history.Value) {
			queues[of[v]] = append([]history.Value{v}, queues[of[v]]...)
			delete(cl.held, v)
		}
		switch op.Kind {
		case history.Send:
			sent++
			of[op.Value] = op.Key
			queues[op.Key] = append(queues[op.Key], op.Value)
		case history.Receive:
			if len(queues[op.Key]) == 0 {
				empty++
			}
			for len(queues[op.Key]) > 0 && len(r.Records) < op.Max {
				v := queues[op.Key][0]
				queues[op.Key] = queues[op.Key][1:]
				cl.held[v] = true
				r.Records = append(r.Records, history.Record{Value: v})
			}
		case history.Accept:
			accepted++
			delete(cl.held, op.Value)
		case history.Release:
			released++
			back(op.Value)
		case history.Reject:
			rejected++
			delete(cl.held, op.Value)
		case history.Leave:
			left++
			for v := range cl.held {
				back(v)
			}
		}
		cl.next = now + time.Millisecond
		r.At = cl.next
		cl.last, cl.step = &r, nil
	}
}

func TestConsumersKeepTheirPace(t *testing.T) {
	const length = 20 * time.Second
	c := config()
	c.Rate = 200
	t.Run("by spells", func(t *testing.T) {
		backlogs, keen := 0, 0
		for seed := range uint64(20) {
			c := c
			c.Seed = seed
			sent, accepted, released, rejected, left, empty := world(c, length)
			require.InDelta(t, 4000, sent, 5)
			require.InDelta(t, float64(accepted)/15, released, float64(accepted)/30, "one in sixteen goes back")
			require.Zero(t, rejected)
			require.InDelta(t, 5*1.5, left, 6)
			require.Greater(t, accepted, sent/4)
			if sent-accepted > sent/10 {
				backlogs++
			} else if empty > 20 {
				keen++
			}
		}
		require.InDelta(t, 10, backlogs, 5, "a backlog grows in about half of the runs")
		require.InDelta(t, 10, keen, 5, "and queues run empty in the others")
	})
	t.Run("by a pause", func(t *testing.T) {
		c := c
		c.Pause, c.Consumers, c.Releases, c.Leaves = 100*time.Millisecond, 2, -1, -1
		_, accepted, released, _, left, _ := world(c, length)
		require.InDelta(t, 2*20/0.1, accepted, 20)
		require.Zero(t, released)
		require.Zero(t, left)
	})
	t.Run("none", func(t *testing.T) {
		c := c
		c.Consumers = -1
		sent, accepted, _, _, _, _ := world(c, length)
		require.InDelta(t, 4000, sent, 5)
		require.Zero(t, accepted)
	})
	t.Run("rejects", func(t *testing.T) {
		c := c
		c.Pause, c.Rejects, c.Keys, c.DeadLetters, c.Leaves = -1, 0.25, 2, []int32{0}, time.Second
		_, accepted, _, rejected, left, _ := world(c, length)
		require.InDelta(t, float64(accepted+rejected)/4, rejected, 250)
		require.Greater(t, left, 20)
	})
}

func TestQueueValidate(t *testing.T) {
	for say, change := range map[string]func(*Config){
		"key 3 takes dead letters: there are 3": func(c *Config) { c.DeadLetters = []int32{3} },
		"key -1 takes":                          func(c *Config) { c.DeadLetters = []int32{-1} },
		"all 3 keys take":                       func(c *Config) { c.DeadLetters = []int32{0, 1, 2} },
		"1001 consumers":                        func(c *Config) { c.Consumers = 1001 },
		"released messages NaN":                 func(c *Config) { c.Releases = math.NaN() },
		"released messages 2":                   func(c *Config) { c.Releases = 2 },
		"rejected messages -1":                  func(c *Config) { c.Rejects = -1 },
		"no queue has dead letters":             func(c *Config) { c.Rejects = 0.1 },
		"together they are at most 1":           func(c *Config) { c.DeadLetters, c.Rejects, c.Releases = []int32{1}, 0.6, 0.6 },
	} {
		c := config()
		change(&c)
		w, err := Lookup("queue")
		require.NoError(t, err)
		_, err = w.Clients(c)
		require.ErrorContains(t, err, say)
	}
	c := config()
	c.DeadLetters, c.Rejects = []int32{1}, 1
	require.NoError(t, c.Validate(), "the default share of releases gives way")
}
