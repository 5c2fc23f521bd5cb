package jepsen

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

func TestReadKafka(t *testing.T) {
	h, err := ReadKafka(strings.NewReader(`{:index 0, :time 12, :type :invoke, :process 3, :f :send, :value [[:send 0 17]], :node "n2"}
{:index 1, :time 13, :type :invoke, :process 4, :f :txn, :value [[:send 0 18] [:poll] [:send :x 17]]}
{:index 2, :time 15, :type :ok, :process 3, :f :send, :value [[:send 0 [4 17]]]}
{:index 3, :time 16, :type :ok, :process 4, :f :txn, :value [[:send 0 [nil 18]] [:poll {0 [[4 17] [5 "other"]], :x []}] [:send :x [0 17]]]}
{:index 4, :time 17, :type :invoke, :process 4, :f :assign, :value [0]}
{:index 5, :time 17, :type :ok, :process 4, :f :assign, :value [0]}
{:index 6, :time 18, :type :invoke, :process 4, :f :poll, :value [[:poll]]}
{:index 7, :time 19, :type :ok, :process 4, :f :poll, :value [[:poll {0 [[4 17] [6 "altered@6"]]}]]}
{:index 8, :time 20, :type :invoke, :process 3, :f :send, :value [[:send 0 19]]}
{:index 9, :time 21, :type :info, :process 3, :f :send, :value [[:send 0 19]], :error :timeout}
{:index 10, :time 22, :type :invoke, :process 3, :f :send, :value [[:send 0 20]]}
{:index 11, :time 23, :type :fail, :process 3, :f :send, :value [[:send 0 20]], :error "NOT_LEADER"}
{:index 12, :time 24, :type :info, :process :nemesis, :f :kill, :value nil}
{:index 13, :time 25, :type :invoke, :process 7, :f :crash, :value nil}
`))
	require.NoError(t, err)
	require.NoError(t, h.Validate())
	require.Equal(t, []string{"0", ":x"}, h.Header.Keys)
	require.Equal(t, []string{"n2"}, h.Header.Nodes)
	const none = history.NoOffset
	op := func(id int64, client int32, process int64, call, ret int64, outcome history.Outcome) history.Op {
		return history.Op{ID: id, Client: client, Process: process, Node: history.NoNode, Call: call, Return: ret, Outcome: outcome, Kind: history.Send, Acked: true, High: none, Epoch: -1}
	}
	sent := func(o history.Op, key int32, value history.Value, offset int64) history.Op {
		o.Key, o.Value, o.Offset = key, value, offset
		return o
	}
	polled := func(o history.Op, reset bool, records ...history.Record) history.Op {
		o.Kind, o.Acked, o.Offset, o.From, o.Records, o.Reset = history.Poll, false, none, none, records, reset
		return o
	}
	first := sent(op(0, 0, 3, 12, 15, history.OK), 0, history.MakeValue(0, 1), 4)
	first.Node = 0
	timeout := sent(op(5, 0, 3, 20, history.Infinity, history.Indeterminate), 0, history.MakeValue(0, 2), none)
	timeout.Code = ":timeout"
	refused := sent(op(6, 0, 10, 22, 23, history.Failed), 0, history.MakeValue(0, 3), none)
	refused.Code = "NOT_LEADER"
	require.Equal(t, []history.Op{
		first,
		sent(op(1, 1, 4, 13, 16, history.OK), 0, history.MakeValue(1, 1), none),
		polled(op(2, 1, 8, 13, 16, history.OK), false,
			history.Record{Offset: 4, Value: history.MakeValue(0, 1), Epoch: -1}, history.Record{Offset: 5, Value: history.MakeValue(2, 1), Epoch: -1}),
		sent(op(3, 1, 9, 13, 16, history.OK), 1, history.MakeValue(1, 2), 0),
		polled(op(4, 1, 4, 18, 19, history.OK), true,
			history.Record{Offset: 4, Value: history.MakeValue(0, 1), Epoch: -1}, history.Record{Offset: 6, Epoch: -1, Payload: history.Altered}),
		timeout, refused,
	}, h.Ops)
	require.Equal(t, "nobody", h.Header.Clients[2].Name)
}

func TestReadHistoryRefuses(t *testing.T) {
	const invoke = `{:type :invoke, :f :poll, :value [[:poll]], :process 0} {:type :ok, :f :poll, :process 0, :value `
	for _, c := range []struct{ name, want, in string }{
		{"reused", "line 2: the value 17 was sent to 0 before (line 1)", `{:type :invoke, :f :send, :value [[:send 0 17]], :process 1} {:type :invoke, :f :send, :value [[:send 0 17]], :process 2}`},
		{"unknown", "line 1: :seek is no operation of jepsen.tests.kafka", `{:type :invoke, :f :seek, :value nil, :process 1}`},
		{"no vector", "line 1: the value 3 is no vector", `{:type :invoke, :f :send, :value 3, :process 1}`},
		{"no part", "line 1: [:take 3] is neither", `{:type :invoke, :f :txn, :value [[:take 3]], :process 1}`},
		{"no map", "line 2: the :poll 7 is no map", invoke + `[[:poll 7]]}`},
		{"no records", "line 2: 7 is no vector of records", invoke + `[[:poll {0 7}]]}`},
		{"no offset", "line 2: 7 was polled without its offset", invoke + `[[:poll {0 [7]}]]}`},
		{"odd key", "is no number, text, keyword or symbol", invoke + `[[:poll {[1 2] [[3 4]]}]]}`},
		{"odd key of a send", "line 1: the key [1 2] is no number", `{:type :invoke, :f :send, :value [[:send [1 2] 4]], :process 0}`},
		{"no pair", "line 2: [1 2 3] is no pair", invoke + `[[:poll {0 [[1 2 3]]}]]}`},
		{"odd offset", "line 2: a is no offset", invoke + `[[:poll {0 [["a" 2]]}]]}`},
		{"beyond", "no map of a Jepsen history", invoke + `[[:poll {0 [[9223372036854775808 2]]}]]}`},
		{"not sent", "line 2: the value 8 of key 0 was acknowledged, and is none that was sent", `{:type :invoke, :f :send, :value [[:send 0 7]], :process 0} {:type :ok, :f :send, :value [[:send 0 [1 8]]], :process 0}`},
		{"overlap", "line 2: process 1 calls :send", `{:type :invoke, :f :send, :value [[:send 0 17]], :process 1} {:type :invoke, :f :send, :value [[:send 0 18]], :process 1}`},
	} {
		_, err := ReadKafka(strings.NewReader(c.in))
		require.ErrorContains(t, err, c.want, c.name)
	}
	for _, c := range []struct{ name, want, in string }{
		{"reused", "line 2: the value 17 was sent to queue before (line 1)", `{:type :invoke, :f :enqueue, :value 17, :process 1} {:type :invoke, :f :enqueue, :value 17, :process 2}`},
		{"unknown", "line 1: :peek is no operation on a queue", `{:type :invoke, :f :peek, :value nil, :process 1}`},
		{"drain", "line 1: a :drain ends with the vector", `{:type :invoke, :f :drain, :value nil, :process 1}`},
	} {
		_, err := ReadQueue(strings.NewReader(c.in))
		require.ErrorContains(t, err, c.want, c.name)
	}
	for _, read := range []func() (*history.History, error){
		func() (*history.History, error) { return ReadKafka(strings.NewReader("")) },
		func() (*history.History, error) { return ReadQueue(strings.NewReader("")) },
	} {
		h, err := read()
		require.NoError(t, err)
		require.NoError(t, h.Validate(), "nothing happened, and that is a history")
		require.Empty(t, h.Ops)
	}
	near, err := ReadKafka(strings.NewReader(invoke + `[[:poll {0 [[9223372036854775807 2]]}]]}`))
	require.NoError(t, err)
	require.NoError(t, near.Validate())
	require.Equal(t, history.Infinity, near.Ops[0].Records[0].Offset)
}

// recordedKafka is a history of sends and polls as a run leaves them.
func recordedKafka(seed uint64) *history.History {
	rng := rand.New(rand.NewPCG(seed, 1))
	h := &history.History{Closed: true, Header: history.Header{
		Version: history.Version, Keys: []string{"0", "1"}, Nodes: []string{"n1", "n2"},
		Clients: []history.Client{{Name: "producer 0"}, {Name: "producer 1"}, {Name: "process 2"}},
	}}
	logs := make([][]history.Record, 2)
	var seqs [2]int64
	process := []int64{0, 1, 2}
	fresh, now := int64(3), int64(0)
	for i := range 60 {
		now += 1 + rng.Int64N(5)
		op := history.Op{
			ID: int64(i), Client: int32(rng.IntN(3)), Key: int32(rng.IntN(2)), Node: int16(rng.IntN(2)), Kind: history.Send, Call: now,
			Outcome: history.OK, Offset: history.NoOffset, High: history.NoOffset, Epoch: -1,
		}
		op.Process = process[op.Client]
		now += rng.Int64N(4)
		op.Return = now
		if i < 2 {
			op.Client, op.Process = 1, process[1]
		}
		if log := logs[op.Key]; op.Client == 2 {
			op.Kind, op.From = history.Poll, history.NoOffset
			op.Records = slices.Clone(log[:rng.IntN(len(log)+1)])
			if len(op.Records) == 0 {
				op.Client, op.Process, op.Kind, op.From = 0, process[0], history.Send, 0
			}
		}
		if op.Kind == history.Send {
			op.Acked = true
			seqs[op.Client]++
			op.Value = history.MakeValue(op.Client, seqs[op.Client])
			switch rng.IntN(6) {
			case 0:
				op.Outcome, op.Code = history.Failed, "NOT_LEADER_OR_FOLLOWER"
			case 1:
				op.Outcome, op.Code, op.Return = history.Indeterminate, "timeout", history.Infinity
				process[op.Client] = fresh
				fresh++
			default:
				op.Offset = int64(len(logs[op.Key])) * 2
				logs[op.Key] = append(logs[op.Key], history.Record{Offset: op.Offset, Value: op.Value, Epoch: -1})
			}
		}
		h.Ops = append(h.Ops, op)
	}
	return h
}

// TestKafkaRoundTrip: what is exported and imported again says the same, with the same
// values, clients' names aside.
func TestKafkaRoundTrip(t *testing.T) {
	for seed := range uint64(200) {
		want := recordedKafka(seed)
		require.NoError(t, want.Validate(), "seed %d", seed)
		var b bytes.Buffer
		require.NoError(t, history.ExportEDN(&b, want))
		got, err := ReadKafka(&b)
		require.NoError(t, err, "seed %d", seed)
		require.NoError(t, got.Validate(), "seed %d", seed)
		require.Equal(t, told(want), told(got), "seed %d", seed)
	}
}

// told is what operations say, whatever the numbers of keys, nodes and processes.
func told(h *history.History) []string {
	var all []string
	for i := range h.Ops {
		op := h.Ops[i]
		node := "-"
		if op.Node != history.NoNode {
			node = h.Header.Nodes[op.Node]
		}
		all = append(all, fmt.Sprint(h.Header.Keys[op.Key], " ", node, " ", op.Kind, op.Call, op.Return, op.Outcome, op.Code, op.Value, op.Offset, op.Acked, op.Records))
	}
	slices.Sort(all)
	return all
}

func TestQueueRoundTrip(t *testing.T) {
	v := history.MakeValue
	record := func(values ...history.Value) (all []history.Record) {
		for _, value := range values {
			all = append(all, history.Record{Offset: history.NoOffset, Value: value, Epoch: -1})
		}
		return all
	}
	op := func(kind history.Kind, client int32, process, call, ret int64, outcome history.Outcome) history.Op {
		return history.Op{Kind: kind, Client: client, Process: process, Node: history.NoNode, Call: call, Return: ret, Outcome: outcome, Acked: kind == history.Send, Offset: history.NoOffset, High: history.NoOffset, Epoch: -1}
	}
	h := &history.History{Closed: true, Header: history.Header{
		Version: history.Version, Keys: []string{"queue"}, Queues: []history.Queue{{Key: "queue"}},
		Clients: []history.Client{{Name: "a"}, {Name: "b"}, {Name: "c"}},
	}}
	add := func(o history.Op, value history.Value, records []history.Record) {
		o.ID, o.Value, o.Records = int64(len(h.Ops)), value, records
		h.Ops = append(h.Ops, o)
	}
	add(op(history.Send, 1, 1, 0, 4, history.OK), v(1, 1), nil)
	add(op(history.Receive, 2, 2, 1, 2, history.OK), 0, nil)
	add(op(history.Receive, 2, 2, 2, 2, history.OK), 0, nil)
	add(op(history.Receive, 2, 2, 2, 6, history.OK), 0, record(v(1, 1)))
	add(op(history.Send, 1, 1, 4, history.Infinity, history.Indeterminate), v(1, 2), nil)
	add(op(history.Send, 1, 3, 5, 8, history.Failed), v(1, 3), nil)
	add(op(history.Receive, 2, 2, 7, history.Infinity, history.Indeterminate), 0, nil)
	require.NoError(t, h.Validate())
	var b bytes.Buffer
	require.NoError(t, history.ExportQueueEDN(&b, h))
	got, err := ReadQueue(bytes.NewReader(b.Bytes()))
	require.NoError(t, err, b.String())
	require.NoError(t, got.Validate())
	require.Equal(t, told(h), told(got))

	// Several at once are several dequeues; the drain is a last one.
	add(op(history.Receive, 0, 9, 9, 10, history.OK), 0, record(v(1, 2), v(5, 5)))
	h.Replicas = []history.Replica{{Key: "queue", Queue: true, Leader: true, Records: []history.Record{{Value: v(7, 7)}, {Offset: 1, Payload: history.Sentinel}}}}
	b.Reset()
	require.NoError(t, history.ExportQueueEDN(&b, h))
	require.Contains(t, b.String(), fmt.Sprintf(`:type :ok, :process 11, :f :drain, :value [%d "sentinel@1"]}`, v(7, 7)))
	got, err = ReadQueue(&b)
	require.NoError(t, err)
	require.NoError(t, got.Validate())
	require.Len(t, got.Ops, len(h.Ops)+1+2)

	h.Header.Keys = append(h.Header.Keys, "other")
	h.Ops[2].Key = 1
	require.ErrorContains(t, history.ExportQueueEDN(&b, h), "operation 2 is on a second queue")
}

func FuzzReadHistory(f *testing.F) {
	f.Add(`{:type :invoke, :f :enqueue, :value 1, :process 0, :time 5} {:type :ok, :f :enqueue, :value 1, :process 0, :time 6} {:type :invoke, :f :drain, :process 0} {:type :ok, :f :drain, :value [1 2], :process 0}`)
	f.Add(`[{:type :invoke, :f :txn, :value [[:send 0 17] [:poll]], :process 1, :time -5} {:type :ok, :f :txn, :value [[:send 0 [3 17]] [:poll {0 [[4 17]] 1 [[2 "a"]]}]], :process 1, :time 7}]`)
	f.Add(`{:type :invoke, :f :subscribe, :value [0], :process 1} {:type :info, :f :subscribe, :value [0], :process 1} {:type :invoke, :f :crash, :process 1}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range []struct {
			read   func(text string) (*history.History, error)
			export func(*bytes.Buffer, *history.History) error
		}{
			{func(text string) (*history.History, error) { return ReadKafka(strings.NewReader(text)) }, func(b *bytes.Buffer, h *history.History) error { return history.ExportEDN(b, h) }},
			{func(text string) (*history.History, error) { return ReadQueue(strings.NewReader(text)) }, func(b *bytes.Buffer, h *history.History) error { return history.ExportQueueEDN(b, h) }},
		} {
			h, err := c.read(text)
			if err != nil {
				continue
			}
			require.NoError(t, h.Validate(), "what was read is a history")
			var b bytes.Buffer
			require.NoError(t, c.export(&b, h))
			_, err = c.read(b.String())
			require.NoError(t, err, b.String())
		}
	})
}
