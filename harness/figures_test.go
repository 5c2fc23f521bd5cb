package harness

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// TestStalePolls: a poll is stale if something had been acknowledged before it was
// called that lies at or behind the end that it saw.
func TestStalePolls(t *testing.T) {
	send := history.Op{Kind: history.Send, Outcome: history.OK, Acked: true, Call: 10, Return: 20, Offset: 4}
	poll := func(call, high int64, key int32) history.Op {
		return history.Op{Kind: history.Poll, Outcome: history.OK, Key: key, Call: call, Return: call + 5, High: high}
	}
	for _, c := range []struct {
		name string
		send func(*history.Op)
		poll history.Op
		want int
	}{
		{name: "after it", poll: poll(21, 4, 0), want: 1},
		{name: "it sees it", poll: poll(21, 5, 0)},
		{name: "it read it", poll: history.Op{Kind: history.Poll, Outcome: history.OK, Call: 21, Return: 26, High: 4, Records: []history.Record{{Offset: 4}}}},
		{name: "concurrent", poll: poll(20, 4, 0)},
		{name: "of another partition", poll: poll(21, 4, 1)},
		{name: "no end is known", poll: poll(21, history.NoOffset, 0)},
		{name: "nothing was acknowledged", send: func(op *history.Op) { op.Acked = false }, poll: poll(21, 4, 0)},
		{name: "nobody knows where", send: func(op *history.Op) { op.Offset = history.NoOffset }, poll: poll(21, 4, 0)},
		{name: "indeterminate", send: func(op *history.Op) { op.Outcome = history.Indeterminate }, poll: poll(21, 4, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := send
			if c.send != nil {
				c.send(&s)
			}
			require.Len(t, stalePolls(&history.History{Ops: []history.Op{s, c.poll}}), c.want)
		})
	}
}

// TestHeld: a message that nobody had while a fault lasted was with the target that
// delivers it afterwards.
func TestHeld(t *testing.T) {
	poll := func(node int16, at int64) history.Op {
		return history.Op{Kind: history.Poll, Outcome: history.OK, Node: node, Call: at - 1, Return: at, Records: []history.Record{{Value: 7}}}
	}
	for _, c := range []struct {
		name  string
		polls []history.Op
		want  Share
	}{
		{"by a target after it", []history.Op{poll(1, 60)}, Share{Held: 1}},
		{"by another node after it", []history.Op{poll(0, 60), poll(1, 70)}, Share{}},
		{"while it lasted", []history.Op{poll(1, 60), poll(0, 30)}, Share{Seen: 1}},
		{"never", nil, Share{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &history.History{
				Header: history.Header{Nodes: []string{"n1", "n2"}},
				Ops:    append([]history.Op{{Kind: history.Send, Outcome: history.OK, Acked: true, Value: 7, Call: 1, Return: 2}}, c.polls...),
			}
			m := moments{targets: []string{"n2"}, injecting: 10, from: 20, end: 50}
			m.count(h, nil, firstSeen(h), nil)
			c.want.Acknowledged = 1
			require.Equal(t, c.want, m.Before.Others)
		})
	}
}

// TestLeaders reads spread and return of leaderships off the nodes' events.
func TestLeaders(t *testing.T) {
	lead := func(node, key string, epoch int32, at int64) history.NodeEvent {
		return history.NodeEvent{Node: node, Kind: "leader", Key: key, Epoch: epoch, At: at}
	}
	h := &history.History{
		Header: history.Header{Nodes: []string{"n1", "n2", "n3"}, Keys: []string{"t-0", "t-1"}},
		Faults: []history.Fault{{Stage: history.Injecting, At: 100}},
		Events: []history.NodeEvent{lead("n1", "t-0", 0, 10), lead("n2", "t-1", 0, 10), lead("n3", "t-0", 1, 110)},
		Replicas: []history.Replica{
			{Key: "t-0", Node: "n1", Complete: true},
			{Key: "t-0", Node: "n2", Complete: true},
			{Key: "t-1", Node: "n1", Complete: true},
			{Key: "t-1", Node: "n2"},
		},
	}
	require.Equal(t, Leaders{Spread: true, Copies: 1}, leaders(h))
	h.Events = append(h.Events, lead("n1", "t-0", 2, 200))
	require.True(t, leaders(h).Back)
	h.Events = append(h.Events, lead("n3", "t-0", 1, 110)) // heard of late
	require.True(t, leaders(h).Back, "epochs decide")
	h.Events[1].Node = "n1"
	require.False(t, leaders(h).Spread, "n1 leads both")
	h.Events = h.Events[:1]
	require.Equal(t, Leaders{Copies: 1}, leaders(h), "nobody led t-1")
}
