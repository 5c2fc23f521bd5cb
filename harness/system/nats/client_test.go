package nats

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var value = history.MakeValue(3, 17)

func sendOp() *workloads.Op {
	return &workloads.Op{Kind: history.Send, Key: 0, Value: value, Size: 64}
}

// clientOf is a client that is pinned to a fake server.
func clientOf(t *testing.T, on func(subject, body string) []answer) *client {
	t.Helper()
	f := startFake(t, on)
	c := clusterAt(queueWorkload, map[string]string{optTimeout: "300ms"}, map[string]string{"n1": f.l.Addr().String()})
	cl := c.Client(workloads.ClientSpec{Name: "producer-0", Pinned: 0}).(*client)
	t.Cleanup(cl.Close)
	return cl
}

func TestSendOutcomes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []answer
		want    history.Outcome
		code    string
		offset  int64
	}{
		{"acknowledged", []answer{{body: `{"stream":"s0","seq":8}`}}, history.OK, "", 7},
		{"of another stream", []answer{{body: `{"stream":"s1","seq":8}`}}, history.Indeterminate, "malformed acknowledgement", history.NoOffset},
		{"malformed", []answer{{body: `+OK`}}, history.Indeterminate, "malformed acknowledgement", history.NoOffset},
		{"refused by the API", []answer{{body: `{"error":{"code":503,"err_code":10008,"description":"unavailable"}}`}}, history.Indeterminate, "unavailable (10008)", history.NoOffset},
		{"passed on to nobody", []answer{{status: "503"}}, history.Failed, "no responders", history.NoOffset},
		{"not answered", nil, history.Indeterminate, "timeout", history.NoOffset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl := clientOf(t, func(subject, body string) []answer {
				require.Equal(t, "faultline.s0", subject)
				v, state := workloads.Decode("r1", []byte(body))
				require.Equal(t, history.Good, state)
				require.Equal(t, value, v)
				return tc.answers
			})
			res := cl.Do(t.Context(), sendOp())
			require.Equal(t, tc.want, res.Outcome)
			require.Equal(t, tc.code, res.Code)
			require.Equal(t, tc.offset, res.Offset)
			require.EqualValues(t, 0, res.Node)
		})
	}
}

// A node that is not there, and one that accepts connections and says nothing, got no
// byte of the operation.
func TestNothingSent(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, mute.Close()) }()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	for name, at := range map[string]string{"refused": gone.Addr().String(), "mute": mute.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			c := clusterAt(queueWorkload, map[string]string{optTimeout: "100ms"}, map[string]string{"n1": at})
			cl := c.Client(workloads.ClientSpec{Name: "p", Pinned: 0})
			defer cl.Close()
			res := cl.Do(t.Context(), sendOp())
			require.Equal(t, history.Failed, res.Outcome)
			require.Contains(t, res.Code, "no connection, nothing sent: ")
			require.False(t, c.Responds(t.Context(), "n1", 100*time.Millisecond))
		})
	}
}

// A client that is not pinned uses another node after an operation that was not ok.
func TestMovesOn(t *testing.T) {
	f := startFake(t, func(string, string) []answer { return []answer{{body: `{"stream":"s0","seq":1}`}} })
	at := f.l.Addr().String()
	c := clusterAt(queueWorkload, map[string]string{optTimeout: "300ms"}, map[string]string{"n2": at, "n3": at})
	cl := c.Client(workloads.ClientSpec{Name: "p", Pinned: -1}).(*client)
	defer cl.Close()
	cl.node = 0
	require.EqualValues(t, 0, cl.Route(t.Context(), sendOp()))
	require.Equal(t, history.Failed, cl.Do(t.Context(), sendOp()).Outcome)
	require.EqualValues(t, 1, cl.Route(t.Context(), sendOp()))
	require.Equal(t, history.OK, cl.Do(t.Context(), sendOp()).Outcome)
	require.True(t, c.Responds(t.Context(), "n2", time.Second))
}

// An idempotent producer sends again until it is answered, and what may have arrived
// once has not failed for certain.
func TestIdempotent(t *testing.T) {
	n := 0
	f := startFake(t, func(string, string) []answer {
		if n++; n < 3 {
			return []answer{{status: "503"}}
		}
		return []answer{{body: `{"stream":"s0","seq":5,"duplicate":true}`}}
	})
	c := clusterAt(queueWorkload, map[string]string{optTimeout: "2s"}, map[string]string{"n1": f.l.Addr().String()})
	cl := c.Client(workloads.ClientSpec{Name: "p", Pinned: 0, Idempotent: true})
	defer cl.Close()
	res := cl.Do(t.Context(), sendOp())
	require.Equal(t, history.OK, res.Outcome)
	require.EqualValues(t, 4, res.Offset)
	require.Equal(t, 3, n)
}

// delivery is a message as a consumer delivers it: the reply subject says which it is.
func delivery(v history.Value, seq, times string) answer {
	return answer{reply: "$JS.ACK.s0.workers." + times + "." + seq + ".1.1700000000000000000.0", body: string(workloads.Encode("r1", v, 64))}
}

func TestReceiveAndSettle(t *testing.T) {
	settled := map[string]string{}
	cl := clientOf(t, func(subject, body string) []answer {
		if strings.HasPrefix(subject, "$JS.ACK.") {
			settled[subject] = body
			if body == "-NAK" {
				return nil
			}
			return []answer{{body: ""}}
		}
		require.Equal(t, "$JS.API.CONSUMER.MSG.NEXT.s0.workers", subject)
		require.JSONEq(t, `{"batch":4,"expires":100000000,"no_wait":false}`, body)
		return []answer{delivery(value, "9", "2"), delivery(value+1, "10", "1"), {status: "408 Request Timeout"}}
	})
	res := cl.Do(t.Context(), &workloads.Op{Kind: history.Receive, Max: 4, Wait: 100 * time.Millisecond})
	require.Equal(t, history.OK, res.Outcome)
	require.Equal(t, []history.Record{{Offset: 8, Value: value, Epoch: -1, Delivery: 2}, {Offset: 9, Value: value + 1, Epoch: -1, Delivery: 1}}, res.Records)

	accept := &workloads.Op{Kind: history.Accept, Value: value}
	require.Equal(t, history.OK, cl.Do(t.Context(), accept).Outcome)
	require.Equal(t, "+ACK", settled["$JS.ACK.s0.workers.2.9.1.1700000000000000000.0"])
	require.Equal(t, history.Failed, cl.Do(t.Context(), accept).Outcome, "it is settled already")

	// Without a confirmation nobody knows, and no session ends for certain any more.
	res = cl.Do(t.Context(), &workloads.Op{Kind: history.Release, Value: value + 1})
	require.Equal(t, history.Indeterminate, res.Outcome)
	require.Equal(t, history.Indeterminate, cl.Do(t.Context(), &workloads.Op{Kind: history.Leave}).Outcome)
	require.Equal(t, history.Indeterminate, cl.Do(t.Context(), &workloads.Op{Kind: history.Leave}).Outcome)
	require.Equal(t, history.Failed, cl.Do(t.Context(), &workloads.Op{Kind: history.Reject, Value: value + 1}).Outcome, "it holds nothing any more")
}

func TestReceiveOutcomes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []answer
		want    history.Outcome
		records int
	}{
		{"empty", []answer{{status: "404 No Messages"}}, history.OK, 0},
		{"expired", []answer{{status: "408 Request Timeout"}}, history.OK, 0},
		{"a sign of life before it", []answer{{status: "100 Idle Heartbeat"}, {status: "408 Request Timeout"}}, history.OK, 0},
		{"nobody leads", []answer{{status: "503"}}, history.Failed, 0},
		{"leadership changed", []answer{{status: "409 Leadership Change"}}, history.Indeterminate, 0},
		{"leadership changed after a message", []answer{delivery(value, "1", "1"), {status: "409 Leadership Change"}}, history.OK, 1},
		{"not answered", nil, history.Indeterminate, 0},
		{"a message, and then nothing", []answer{delivery(value, "1", "1")}, history.Indeterminate, 1},
		{"no delivery", []answer{{body: "hello"}}, history.Indeterminate, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl := clientOf(t, func(string, string) []answer { return tc.answers })
			res := cl.Do(t.Context(), &workloads.Op{Kind: history.Receive, Max: 2, Wait: 10 * time.Millisecond})
			require.Equal(t, tc.want, res.Outcome, res.Code)
			require.Len(t, res.Records, tc.records)
		})
	}
}

func TestPoll(t *testing.T) {
	cl := clientOf(t, func(subject, body string) []answer {
		require.Equal(t, "$JS.API.STREAM.MSG.GET.s0", subject)
		switch body {
		case `{"next_by_subj":"\u003e","seq":1}`:
			return []answer{{body: `{"message":{"subject":"faultline.s0","seq":3,"data":"eA=="}}`}}
		case `{"next_by_subj":"\u003e","seq":4}`:
			return []answer{{body: `{"error":{"code":404,"err_code":10037,"description":"no message found"}}`}}
		case `{"next_by_subj":"\u003e","seq":5}`:
			return []answer{{body: `{"error":{"code":503,"err_code":10008,"description":"unavailable"}}`}}
		}
		return nil
	})
	poll := func(from int64) workloads.Result {
		return cl.Do(t.Context(), &workloads.Op{Kind: history.Poll, From: from})
	}
	res := poll(0)
	require.Equal(t, history.OK, res.Outcome)
	require.Equal(t, []history.Record{{Offset: 2, Epoch: -1, Payload: history.Altered}}, res.Records)
	res = poll(3)
	require.Equal(t, history.OK, res.Outcome)
	require.Empty(t, res.Records)
	require.Equal(t, history.Failed, poll(4).Outcome, "a read changes nothing")
	require.Equal(t, history.Failed, poll(6).Outcome)
}
