package wire

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/scheme/isr"
)

// bodies draws a message of each type by its name.
func bodies() map[string]*rapid.Generator[broker.Message] {
	blob := rapid.SliceOfN(rapid.Byte(), 1, 300)
	text := rapid.StringN(0, 20, 60)
	return map[string]*rapid.Generator[broker.Message]{
		"RaftMessage": rapid.Custom(func(t *rapid.T) broker.Message { return cluster.RaftMessage{Data: blob.Draw(t, "data")} }),
		"Heartbeat": rapid.Custom(func(t *rapid.T) broker.Message {
			return cluster.Heartbeat{Incarnation: text.Draw(t, "inc"), Epoch: rapid.Int64().Draw(t, "epoch"), Applied: rapid.Uint64().Draw(t, "applied"), Leave: rapid.Bool().Draw(t, "leave")}
		}),
		"HeartbeatReply": rapid.Custom(func(t *rapid.T) broker.Message {
			return cluster.HeartbeatReply{Epoch: rapid.Int64().Draw(t, "epoch"), Stale: rapid.Bool().Draw(t, "stale"), ShutdownReady: rapid.Bool().Draw(t, "ready")}
		}),
		"Fetch": rapid.Custom(func(t *rapid.T) broker.Message {
			return &isr.Fetch{
				ID: rapid.Uint64().Draw(t, "id"), Epoch: rapid.Int32().Draw(t, "epoch"), BrokerEpoch: rapid.Int64().Draw(t, "broker epoch"),
				Offset: rapid.Int64().Draw(t, "offset"), Stable: rapid.Int64().Draw(t, "stable"), LastEpoch: rapid.Int32().Draw(t, "last epoch"),
				High: rapid.Int64().Draw(t, "high"), Max: rapid.Int().Draw(t, "max"), Wait: time.Duration(rapid.Int64().Draw(t, "wait")),
			}
		}),
		"FetchAnswer": rapid.Custom(func(t *rapid.T) broker.Message {
			return &isr.FetchAnswer{
				ID: rapid.Uint64().Draw(t, "id"), Epoch: rapid.Int32().Draw(t, "epoch"), Code: rapid.Int16().Draw(t, "code"), High: rapid.Int64().Draw(t, "high"),
				Diverged: rapid.Bool().Draw(t, "diverged"), KnownEpoch: rapid.Int32().Draw(t, "known epoch"), KnownEnd: rapid.Int64().Draw(t, "known end"),
				Data: rapid.OneOf(rapid.Just[[]byte](nil), blob).Draw(t, "data"),
			}
		}),
	}
}

// TestRoundTrip sends every type alone and within a partition message.
func TestRoundTrip(t *testing.T) {
	all := bodies()
	for _, number := range slices.Sorted(maps.Keys(kinds)) {
		kind := kinds[number]
		name := kind.Name()
		if kind.Kind() == reflect.Pointer {
			name = kind.Elem().Name()
		}
		require.Contains(t, all, name, "a type without a test")
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				msg := all[name].Draw(t, "message")
				b, err := Encode(msg)
				require.NoError(t, err)
				got, err := Decode(b)
				require.NoError(t, err)
				require.Equal(t, msg, got)

				p := &node.PartitionMessage{Index: rapid.Int32().Draw(t, "index"), Body: msg}
				copy(p.Topic[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "topic"))
				b, err = Encode(p)
				require.NoError(t, err)
				got, err = Decode(b)
				require.NoError(t, err)
				require.Equal(t, p, got)

				// A message that is cut off is refused, wherever.
				_, err = Decode(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
				require.Error(t, err)
			})
		})
	}
	require.Len(t, all, len(kinds))
}

// TestDecodedSharesNothing: the buffer that a message came in may be used again.
func TestDecodedSharesNothing(t *testing.T) {
	b, err := Encode(&node.PartitionMessage{Body: &isr.FetchAnswer{Data: []byte("data")}})
	require.NoError(t, err)
	got, err := Decode(b)
	require.NoError(t, err)
	clear(b)
	require.Equal(t, "data", string(got.(*node.PartitionMessage).Body.(*isr.FetchAnswer).Data))
}

func TestRefused(t *testing.T) {
	for _, msg := range []broker.Message{nil, 7, isr.Fetch{}, &cluster.Heartbeat{}, &node.PartitionMessage{}, &node.PartitionMessage{Body: "text"}} {
		_, err := Encode(msg)
		require.ErrorContains(t, err, "has no encoding", "%T", msg)
	}
	inner, err := encode(partitionKind, partition{})
	require.NoError(t, err)
	nested, err := encode(partitionKind, partition{Body: inner})
	require.NoError(t, err)
	for want, b := range map[string][]byte{
		"empty message":              {},
		"unknown type 200":           {200, 0xa0},
		"within a partition message": nested,
		"no structure":               {3, 0xf6}, // a pointer, and null
		"partition message: ":        {partitionKind, 0x01},
	} {
		_, err := Decode(b)
		require.ErrorContains(t, err, want)
	}
	_, err = Decode(inner) // a body of no bytes
	require.ErrorContains(t, err, "empty message")
}

func FuzzDecode(f *testing.F) {
	for _, msg := range []broker.Message{
		cluster.RaftMessage{Data: []byte{1}},
		cluster.Heartbeat{Incarnation: "i"},
		cluster.HeartbeatReply{Epoch: 1},
		&isr.Fetch{ID: 1}, &isr.FetchAnswer{Data: []byte{2}},
		&node.PartitionMessage{Index: 3, Body: &isr.Fetch{ID: 1}},
	} {
		b, err := Encode(msg)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte{0, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add(bytes.Repeat([]byte{partitionKind}, 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(msg)
		require.NoError(t, err)
		got, err := Decode(again)
		require.NoError(t, err)
		require.Equal(t, msg, got)
	})
}
