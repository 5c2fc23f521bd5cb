package report

import (
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

var started = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sample is a run of 40 s over three nodes and three partitions, one operation
// per every nanoseconds. From 12 s to 19 s the leader n2 of log-1 is cut off;
// n3 leads it from 14 s on, in epoch 2. With lost > 0 the first so many sends
// that n2 acknowledged alone are lost.
func sample(every int64, lost int) (Run, *checker.Result, *history.History) {
	h := &history.History{Closed: true}
	h.Header = history.Header{
		Version: history.Version, RunID: "r1", Seed: 7, System: "reference", Scheme: "isr", Workload: "log",
		Keys: []string{"log-0", "log-1", "log-2"}, Nodes: []string{"n1", "n2", "n3"},
		Contract: history.Contract{Acknowledged: true, Expect: "survive"},
	}
	for i := range 6 {
		h.Header.Clients = append(h.Header.Clients, history.Client{Name: fmt.Sprintf("producer-%d", i), Role: "producer"})
	}
	for i := range 3 {
		h.Header.Clients = append(h.Header.Clients, history.Client{Name: fmt.Sprintf("poller-%d", i), Role: "poller"})
	}
	h.Phases = []history.Phase{
		{Name: "baseline"},
		{Name: "fault", At: 10 * sec},
		{Name: "heal", At: 30 * sec},
		{Name: "recovery", At: 31 * sec},
		{Name: "quiesce", At: 37 * sec},
		{Name: "drain", At: 38 * sec},
		{Name: "end", At: 40 * sec},
	}
	sides := [][]string{{"n2"}, {"n1", "n3"}}
	addFault := func(id int, name string, targets []string, sides [][]string, keys []string, role string, from, to int64) {
		for _, st := range []struct {
			s  history.FaultStage
			at int64
			d  string
		}{
			{history.Injecting, from, ""},
			{history.Injected, from + 20*ms, ""},
			{history.Proven, from + 200*ms, "4 of 4 cut directions silent, 118 packets dropped"},
			{history.StillProven, to - 200*ms, ""},
			{history.Healing, to - 50*ms, ""},
			{history.Healed, to, "all directions pass again"},
		} {
			h.Faults = append(h.Faults, history.Fault{ID: id, Name: name, Stage: st.s, At: st.at, Targets: targets, Sides: sides, Keys: keys, Role: role, Detail: st.d})
		}
	}
	addFault(0, "partition:isolate-leader", []string{"n2"}, sides, []string{"log-1"}, "leader", 12*sec, 19*sec)
	addFault(1, "kill", []string{"n1"}, nil, nil, "follower", 23*sec, 27*sec)
	ev := func(node string, at int64, kind, key string, epoch int32, isr ...string) {
		h.Events = append(h.Events, history.NodeEvent{Node: node, Incarnation: "1", Seq: int64(len(h.Events)), At: at, Uncertainty: 300_000, Kind: kind, Key: key, Epoch: epoch, ISR: isr})
	}
	for i, n := range h.Header.Nodes {
		ev(n, 100*ms, "start", "", 0)
		ev(n, 300*ms, "leader", h.Header.Keys[i], 1, "n1", "n2", "n3")
	}
	ev("n1", 13*sec+500*ms, "isr", "log-0", 1, "n1", "n3")
	ev("n3", 14*sec, "leader", "log-1", 2, "n1", "n3")
	ev("n3", 13*sec+600*ms, "isr", "log-2", 1, "n1", "n3")
	ev("n2", 19*sec+100*ms, "follower", "log-1", 2)
	h.Events = append(h.Events, history.NodeEvent{Node: "n2", At: 19*sec + 140*ms, Kind: "truncate", Key: "log-1", Epoch: 2, From: 4242, To: 4250})
	ev("n1", 20*sec, "isr", "log-0", 1, "n1", "n2", "n3")
	ev("n3", 20*sec, "isr", "log-1", 2, "n1", "n2", "n3")
	ev("n3", 20*sec, "isr", "log-2", 1, "n1", "n2", "n3")
	ev("n2", 24*sec+700*ms, "leader", "log-0", 2, "n2", "n3")
	ev("n1", 27*sec+200*ms, "start", "", 0)
	ev("n2", 28*sec, "isr", "log-0", 2, "n1", "n2", "n3")

	offsets := [3]int64{}
	var bad []checker.Anomaly
	var seq int64
	for at := int64(0); at < 37*sec; at += every {
		id := int64(len(h.Ops))
		key := int32(id % 3)
		x := uint64(id) * 0x9e3779b97f4a7c15 >> 32
		lat := ms + int64(x%4000)*1000
		op := history.Op{ID: id, Client: int32(id % 6), Kind: history.Send, Key: key, Node: int16(key), Call: at, Return: at + lat, Outcome: history.OK, Acked: true, Offset: history.NoOffset, High: history.NoOffset}
		if id%5 == 4 {
			op.Kind, op.Client, op.From = history.Poll, int32(6+id%3), offsets[key]
			for i := range int64(3) {
				op.Records = append(op.Records, history.Record{Offset: offsets[key] + i, Value: history.MakeValue(int32(i), seq+i)})
			}
			op.High = offsets[key] + 3
			h.Ops = append(h.Ops, op)
			continue
		}
		seq++
		op.Value = history.MakeValue(op.Client, seq)
		cut := at > 12*sec && at < 19*sec
		switch {
		case key == 1 && cut && at < 14*sec && id%4 == 0:
			op.Outcome, op.Code, op.Return = history.Indeterminate, "timeout", at+1500*ms
		case key == 1 && cut && at < 14*sec && len(bad) >= lost:
			op.Outcome, op.Code = history.Failed, "NOT_ENOUGH_REPLICAS"
		case key == 0 && at > 23*sec && at < 24*sec+700*ms:
			op.Outcome, op.Code, op.Return = history.Failed, "connection refused", at+300_000
		default:
			op.Offset = offsets[key]
			offsets[key]++
			if key == 1 && cut && len(bad) < lost {
				bad = append(bad, checker.Anomaly{
					Class: "lost", Key: "log-1", Value: op.Value, Offset: op.Offset, Seq: op.Value.Seq(), At: op.Return, Node: "n2",
					Place: "middle", PlaceIn: "tail", Missing: []string{"n1", "n2", "n3"}, Fault: "partition:isolate-leader",
					Cause: "n2 truncated log-1 from 4242 (epoch 2)", Ops: []int64{id},
					Text: fmt.Sprintf("broke Survives - an acknowledged message is never lost: %s was acknowledged at log-1 offset %d by n2 and stands on no replica", valueText(op.Value), op.Offset),
				})
			} else if key == 1 && at >= 14*sec {
				op.Node = 2
			}
		}
		h.Ops = append(h.Ops, op)
	}
	res := &checker.Result{
		Verdict: checker.Valid, Anomalies: map[string]int{"lost": len(bad)}, Exercised: map[string]int{"leader-change": 2, "truncation": 1, "isr-shrink": 4, "isr-expand": 4},
		NotChecked: []string{"the tail of log-2 beyond the sentinel"},
		Counts:     checker.Counts{Phases: map[string]checker.PhaseCounts{"baseline": {Sends: 4000, Acknowledged: 4000, Polls: 1000, OK: 5000}, "fault": {Sends: 3000, Acknowledged: 2800, OK: 2800, Failed: 150, Indeterminate: 50}}},
		Availability: checker.Availability{
			LongestUnavailableMS: 2000, LongestKey: "log-1", LongestFrom: 12 * sec, PerKeyMS: map[string]float64{"log-1": 2000, "log-0": 1700, "log-2": 12},
			RecoveryMS: []float64{120, -1}, FailoverMS: []float64{2010, 1700},
			Latency: map[string]checker.Latency{"before": {Count: 4000, P50: 2.1, P90: 4, P99: 5, P999: 5, Max: 5.2}, "during": {Count: 2800, P50: 2.2, P90: 4, P99: 5, P999: 5, Max: 5.9}, "after": {Count: 2000, P50: 2, P90: 4, P99: 5, P999: 5, Max: 5}},
		},
	}
	for i := range h.Ops {
		switch h.Ops[i].Outcome {
		case history.OK:
			res.Counts.OK++
			if h.Ops[i].Kind == history.Send {
				res.Counts.Acknowledged++
			}
		case history.Failed:
			res.Counts.Failed++
		default:
			res.Counts.Indeterminate++
		}
	}
	survives := checker.Check{Name: checker.ClauseSurvives, Promised: true, Verdict: checker.Valid, Detail: count(res.Counts.Acknowledged) + " acknowledged messages found on every replica"}
	res.Sentence = fmt.Sprintf("No anomaly in %s acknowledged messages; 2 faults proven", count(res.Counts.Acknowledged))
	if len(bad) > 0 {
		survives.Verdict, survives.Anomalies, survives.Count = checker.Invalid, bad, len(bad)
		survives.Detail = fmt.Sprintf("%d of %s acknowledged messages are on no replica", len(bad), count(res.Counts.Acknowledged))
		res.Verdict = checker.Invalid
		res.Sentence = fmt.Sprintf("LOST %d of %s acknowledged messages", len(bad), count(res.Counts.Acknowledged))
	}
	res.Checks = []checker.Check{
		survives,
		{Name: checker.ClauseDuplicate, Verdict: checker.Valid, Detail: "2 values stand at two offsets; a retry may do that", Count: 0},
		{Name: checker.ClauseLinearizable, Promised: true, Verdict: checker.Valid, Detail: "3 partitions, appends are linearizable", Procedure: "exact and Porcupine"},
		{Name: checker.ClauseSplitBrain, Promised: true, Verdict: checker.Valid, Detail: "5 leaders in 5 epochs"},
	}
	run := Run{
		Command: "faultline run --system reference --scheme isr --workload log --faults partition:isolate-leader,kill --env docker --time 40s --seed 7 --set acks=1",
		System:  "reference", Scheme: "isr", Workload: "log", Environment: "docker", Seed: 7, Faults: "partition:isolate-leader,kill",
		Nodes: h.Header.Nodes, Started: started, Duration: 40 * time.Second, Expect: "survive", Commit: "0123abc",
		Options:  map[string]string{"acks": "1", "min.insync.replicas": "2"},
		Versions: map[string]string{"faultline": "0.1.0", "engine": "20.10.24", "image": "sha256:4f2a"},
		PlanYAML: "version: 1\nsteps:\n  - at: 12s\n    fault: partition:isolate-leader\n",
		Dir:      "results/reference-isr-log-partition/20260301T120000Z-7",
		NodeLogs: map[string][]LogLine{
			"n1": {{At: 12*sec + 900*ms, Text: `level=WARN msg="fetch timed out" leader=n2 partition=log-1`}},
			"n2": {{At: 12*sec + 300*ms, Text: `level=INFO msg=append partition=log-1 acks=1`}, {At: 13 * sec, Text: `level=WARN msg="lost contact to the quorum"`}},
		},
	}
	return run, res, h
}
