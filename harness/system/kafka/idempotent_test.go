package kafka

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// spec describes a client.
func spec(name string, pinned int) workloads.ClientSpec {
	return workloads.ClientSpec{Name: name, Pinned: pinned}
}

// An idempotent producer sends again with the same number until it is answered
// for certain, and takes a new id where it never was.
func TestIdempotentProducer(t *testing.T) {
	cut := &Error{Sent: true, Reason: "timeout", Err: errors.New("x")}
	refused := &Error{Reason: "refused", Err: errors.New("x")}
	type answer struct {
		code int16
		err  error
	}
	for _, tc := range []struct {
		name    string
		answers []answer // of produce requests; the last one goes on
		want    history.Outcome
		sent    int // produce requests; 0: as many as there is time for
		newID   bool
	}{
		{"at once", []answer{{}}, history.OK, 1, false},
		{"unanswered, then a duplicate", []answer{{err: cut}, {code: kerr.DuplicateSequenceNumber.Code}}, history.OK, 2, false},
		{"timed out, moved, stored", []answer{{code: kerr.RequestTimedOut.Code}, {code: kerr.NotLeaderForPartition.Code}, {}}, history.OK, 3, false},
		{"never answered", []answer{{err: cut}}, history.Indeterminate, 0, true},
		{"once unanswered, then refused", []answer{{err: cut}, {code: kerr.NotLeaderForPartition.Code}}, history.Indeterminate, 0, true},
		{"refused for certain", []answer{{code: kerr.NotEnoughReplicas.Code}}, history.Failed, 0, false},
		{"nobody there", []answer{{err: refused}}, history.Failed, 0, false},
		{"out of order", []answer{{code: kerr.OutOfOrderSequenceNumber.Code}}, history.Indeterminate, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var numbers []number
			ids, n := int64(6), 0
			answers := tc.answers
			f := &fake{answer: func(_ string, req kmsg.Request) (kmsg.Response, error) {
				switch r := req.(type) {
				case *kmsg.MetadataRequest:
					return metadataOf(2, 4, 1, 2, 3), nil
				case *kmsg.InitProducerIDRequest:
					ids++
					resp := kmsg.NewPtrInitProducerIDResponse()
					resp.ProducerID, resp.ProducerEpoch = ids, 3
					return resp, nil
				case *kmsg.ProduceRequest:
					var b kmsg.RecordBatch
					if err := b.ReadFrom(r.Topics[0].Partitions[0].Records); err != nil {
						return nil, err
					}
					numbers = append(numbers, number{b.ProducerID, b.ProducerEpoch, b.FirstSequence})
				}
				a := answers[min(n, len(answers)-1)]
				n++
				if a.err != nil {
					return nil, a.err
				}
				return produceAnswer(a.code, 41), nil
			}}
			cl := NewClient(newCluster(f), workloads.ClientSpec{Name: "p", Pinned: -1, Idempotent: true})
			op := &workloads.Op{Kind: history.Send, Value: history.MakeValue(1, 1), Size: 64}
			cl.Route(t.Context(), op)
			res := cl.Do(t.Context(), op)
			require.Equal(t, tc.want, res.Outcome, res.Code)
			require.EqualValues(t, 1, res.Node)
			if tc.sent > 0 {
				require.Len(t, numbers, tc.sent)
			} else {
				require.Greater(t, len(numbers), 10)
			}
			for _, n := range numbers {
				require.Equal(t, number{7, 3, 0}, n)
			}
			n, answers, numbers = 0, []answer{{}}, nil
			cl.Route(t.Context(), op)
			require.Equal(t, history.OK, cl.Do(t.Context(), op).Outcome)
			want := number{7, 3, 0} // what failed for certain has no number
			switch {
			case tc.newID:
				want = number{8, 3, 0}
			case tc.want == history.OK:
				want.first = 1
			}
			require.Equal(t, []number{want}, numbers)
		})
	}
}

// A loyal poller asks its own node, whoever leads, and gives the newest epoch
// that any node names, or none.
func TestLoyalPoller(t *testing.T) {
	var epochs []int32
	var asked []string
	f := &fake{answer: func(node string, req kmsg.Request) (kmsg.Response, error) {
		if r, ok := req.(*kmsg.FetchRequest); ok {
			asked = append(asked, node)
			epochs = append(epochs, r.Topics[0].Partitions[0].CurrentLeaderEpoch)
			return fetchAnswer(kerr.UnknownLeaderEpoch.Code, nil), nil
		}
		if node == "n3" {
			return metadataOf(3, 1, 3), nil
		}
		return metadataOf(2, 2, 1, 2), nil
	}}
	c := newCluster(f)
	cl := NewClient(c, workloads.ClientSpec{Name: "p", Pinned: 2, Loyal: true})
	op := &workloads.Op{Kind: history.Poll, Max: 100}
	for range 8 {
		c.Clock.(*stepClock).now += metadataPause
		require.EqualValues(t, 2, cl.Route(t.Context(), op))
		want := cl.Epoch(0)
		require.EqualValues(t, 2, cl.Do(t.Context(), op).Node)
		require.Equal(t, want, epochs[len(epochs)-1])
	}
	for _, node := range asked {
		require.Equal(t, "n3", node)
	}
	require.Contains(t, epochs, int32(-1))
	require.Contains(t, epochs, int32(2))
}
