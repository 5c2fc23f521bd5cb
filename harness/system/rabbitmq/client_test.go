package rabbitmq

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/workloads"
)

const run = "r1"

// patience is the deadline of operations that are answered, and short that of those
// that are not.
const (
	patience = "10000"
	short10  = "100"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connected returns a client that stays with a node at an address.
func connected(t *testing.T, addr string, set map[string]string) *client {
	t.Helper()
	if set["request.timeout.ms"] == "" {
		set["request.timeout.ms"] = patience
	}
	spec := system.Spec{Scheme: classic, RunID: run, Nodes: []string{"n1"}, Set: set}
	require.NoError(t, System{}.Validate(spec))
	c := System{}.connect(spec, environment.NewRealtime(), func(string, int) (string, error) { return addr, nil }, nil)
	cl, ok := c.Client(workloads.ClientSpec{Name: "producer-0", Pinned: 0}).(*client)
	require.True(t, ok)
	t.Cleanup(cl.Close)
	return cl
}

// TestSend: every answer to a publish has its outcome, and when in doubt it is
// indeterminate and the connection is given up.
func TestSend(t *testing.T) {
	for _, tc := range []struct {
		name    string
		timeout string
		answer  func(*session, uint64)
		outcome history.Outcome
		code    string
		kept    bool // the connection
	}{
		{name: "ack", answer: (*session).ack, outcome: history.OK, kept: true},
		{name: "return before the ack", answer: func(s *session, tag uint64) { s.back(); s.ack(tag) }, outcome: history.Failed, code: "returned: NO_ROUTE", kept: true},
		{name: "nack", answer: (*session).nack, outcome: history.Indeterminate, code: "nack"},
		{name: "channel closed", answer: func(s *session, _ uint64) { s.closeChannel(541, "INTERNAL_ERROR") }, outcome: history.Indeterminate, code: "541 INTERNAL_ERROR"},
		{name: "connection closed", answer: func(s *session, _ uint64) { s.hangUp() }, outcome: history.Indeterminate, code: "closed"},
		{name: "return and no ack", answer: func(s *session, _ uint64) { s.back(); s.hangUp() }, outcome: history.Indeterminate, code: "closed"},
		{name: "no answer", timeout: short10, answer: func(*session, uint64) {}, outcome: history.Indeterminate, code: "timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.publish = tc.answer
			cl := connected(t, f.addr, map[string]string{"request.timeout.ms": tc.timeout})
			if tc.timeout != "" { // what it takes to connect is not what is tried here
				cl.c.timeout = 10 * time.Second
				require.NoError(t, cl.connect(t.Context()))
				cl.c.timeout = 100 * time.Millisecond
			}
			res := cl.Do(t.Context(), &workloads.Op{Kind: history.Send, Value: history.MakeValue(0, 1)})
			require.Equal(t, tc.outcome, res.Outcome, res.Code)
			require.Equal(t, tc.code, res.Code)
			require.Equal(t, tc.kept, cl.conn != nil)
			require.Equal(t, int16(0), res.Node)
			require.Equal(t, [][2]uint16{basicPublish}, f.saw())
		})
	}
}

// TestNothingSent: where no connection was made, an operation failed for certain.
func TestNothingSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	cl := connected(t, l.Addr().String(), map[string]string{})
	for _, kind := range []history.Kind{history.Send, history.Receive} {
		res := cl.Do(t.Context(), &workloads.Op{Kind: kind, Value: 1})
		require.Equal(t, history.Failed, res.Outcome)
		require.Equal(t, "refused, nothing sent", res.Code)
	}
	res := cl.Do(t.Context(), &workloads.Op{Kind: history.Accept, Value: 1})
	require.Equal(t, history.Failed, res.Outcome)
	require.Contains(t, res.Code, "nothing sent")
}

// TestReceive: a message, none, a refusal and silence.
func TestReceive(t *testing.T) {
	value := history.MakeValue(3, 7)
	body := workloads.Encode(run, value, 64)
	for _, tc := range []struct {
		name    string
		answer  func(*session)
		outcome history.Outcome
		code    string
		record  *history.Record
	}{
		{name: "first delivery", answer: func(s *session) { s.give(0, nil, body) }, outcome: history.OK, record: &history.Record{Offset: history.NoOffset, Value: value, Epoch: -1, Delivery: 1}},
		{name: "another one", answer: func(s *session) { s.give(1, nil, body) }, outcome: history.OK, record: &history.Record{Offset: history.NoOffset, Value: value, Epoch: -1}},
		{name: "counted", answer: func(s *session) { s.give(1, longHeader("x-delivery-count", 2), body) }, outcome: history.OK, record: &history.Record{Offset: history.NoOffset, Value: value, Epoch: -1, Delivery: 3}},
		{name: "altered", answer: func(s *session) { s.give(0, nil, body[1:]) }, outcome: history.OK, record: &history.Record{Offset: history.NoOffset, Epoch: -1, Payload: history.Altered, Delivery: 1}},
		{name: "empty", answer: (*session).empty, outcome: history.OK},
		{name: "home is down", answer: func(s *session) { s.closeChannel(404, "NOT_FOUND - home node is down") }, outcome: history.Failed, code: "404 NOT_FOUND - home node is down"},
		{name: "broken", answer: func(s *session) { s.closeChannel(541, "INTERNAL_ERROR") }, outcome: history.Indeterminate, code: "541 INTERNAL_ERROR"},
		{name: "hang up", answer: (*session).hangUp, outcome: history.Indeterminate, code: "closed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.get = tc.answer
			cl := connected(t, f.addr, map[string]string{})
			res := cl.Do(t.Context(), &workloads.Op{Kind: history.Receive, Max: 4})
			require.Equal(t, tc.outcome, res.Outcome, res.Code)
			require.Equal(t, tc.code, res.Code)
			if tc.record == nil {
				require.Empty(t, res.Records)
			} else {
				require.Equal(t, []history.Record{*tc.record}, res.Records)
			}
			require.Equal(t, [][2]uint16{basicGet}, f.saw())
		})
	}
}

// TestSettle: a settlement is confirmed by the answer to what follows it on its channel,
// and can be sent only there.
func TestSettle(t *testing.T) {
	value := history.MakeValue(3, 7)
	f := newFake(t)
	f.get = func(s *session) { s.give(0, nil, workloads.Encode(run, value, 64)) }
	f.declare = (*session).known
	cl := connected(t, f.addr, map[string]string{})
	do := func(kind history.Kind) workloads.Result {
		return cl.Do(t.Context(), &workloads.Op{Kind: kind, Value: value})
	}
	for kind, method := range map[history.Kind][2]uint16{history.Accept: basicAck, history.Release: basicNack, history.Reject: basicReject} {
		require.Len(t, do(history.Receive).Records, 1)
		require.Equal(t, history.OK, do(kind).Outcome)
		require.Equal(t, [][2]uint16{basicGet, method, queueDeclare}, f.saw())
		require.Equal(t, history.Failed, do(kind).Outcome, "it is settled once")
		require.Empty(t, f.saw())
	}
	require.Len(t, do(history.Receive).Records, 1)
	f.declare = (*session).hangUp
	require.Equal(t, history.Indeterminate, do(history.Accept).Outcome)

	require.Equal(t, history.Indeterminate, do(history.Leave).Outcome, "what the given up connection held may still be held")
}

// TestLeave: the node confirms the end of a session, and what was held in it can no
// longer be settled.
func TestLeave(t *testing.T) {
	value := history.MakeValue(3, 7)
	f := newFake(t)
	f.get = func(s *session) { s.give(0, nil, workloads.Encode(run, value, 64)) }
	cl := connected(t, f.addr, map[string]string{})
	require.Len(t, cl.Do(t.Context(), &workloads.Op{Kind: history.Receive}).Records, 1)
	res := cl.Do(t.Context(), &workloads.Op{Kind: history.Leave})
	require.Equal(t, history.OK, res.Outcome, res.Code)
	require.Equal(t, history.Failed, cl.Do(t.Context(), &workloads.Op{Kind: history.Accept, Value: value}).Outcome)
	require.Equal(t, history.OK, cl.Do(t.Context(), &workloads.Op{Kind: history.Leave}).Outcome, "there is nothing to leave")
}
