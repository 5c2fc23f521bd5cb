package wire

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/peers"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/forwarding"
	"github.com/faultline-mq/faultline/broker/scheme/isr"
	"github.com/faultline-mq/faultline/broker/scheme/mirrored"
	"github.com/faultline-mq/faultline/broker/scheme/multimaster"
	"github.com/faultline-mq/faultline/broker/scheme/origin"
	"github.com/faultline-mq/faultline/broker/scheme/quorum"
	"github.com/faultline-mq/faultline/broker/scheme/takeover"
)

// bodies draws a message of each type by its name.
func bodies() map[string]*rapid.Generator[broker.Message] {
	blob := rapid.SliceOfN(rapid.Byte(), 1, 300)
	text := rapid.StringN(0, 20, 60)
	nodes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) broker.NodeID { return broker.NodeID(rapid.Int32().Draw(t, "node")) }), 1, 5)
	return map[string]*rapid.Generator[broker.Message]{
		"cluster.RaftMessage": rapid.Custom(func(t *rapid.T) broker.Message { return cluster.RaftMessage{Data: blob.Draw(t, "data")} }),
		"cluster.Heartbeat": rapid.Custom(func(t *rapid.T) broker.Message {
			return cluster.Heartbeat{Incarnation: text.Draw(t, "inc"), Epoch: rapid.Int64().Draw(t, "epoch"), Applied: rapid.Uint64().Draw(t, "applied"), Leave: rapid.Bool().Draw(t, "leave")}
		}),
		"cluster.HeartbeatReply": rapid.Custom(func(t *rapid.T) broker.Message {
			return cluster.HeartbeatReply{Epoch: rapid.Int64().Draw(t, "epoch"), Stale: rapid.Bool().Draw(t, "stale"), ShutdownReady: rapid.Bool().Draw(t, "ready")}
		}),
		"pull.Fetch": rapid.Custom(func(t *rapid.T) broker.Message {
			return &isr.Fetch{
				ID: rapid.Uint64().Draw(t, "id"), Epoch: rapid.Int32().Draw(t, "epoch"), BrokerEpoch: rapid.Int64().Draw(t, "broker epoch"),
				Offset: rapid.Int64().Draw(t, "offset"), Stable: rapid.Int64().Draw(t, "stable"), LastEpoch: rapid.Int32().Draw(t, "last epoch"),
				High: rapid.Int64().Draw(t, "high"), Max: rapid.Int().Draw(t, "max"), Wait: time.Duration(rapid.Int64().Draw(t, "wait")),
			}
		}),
		"pull.FetchAnswer": rapid.Custom(func(t *rapid.T) broker.Message {
			return &isr.FetchAnswer{
				ID: rapid.Uint64().Draw(t, "id"), Epoch: rapid.Int32().Draw(t, "epoch"), Code: rapid.Int16().Draw(t, "code"), High: rapid.Int64().Draw(t, "high"),
				Diverged: rapid.Bool().Draw(t, "diverged"), KnownEpoch: rapid.Int32().Draw(t, "known epoch"), KnownEnd: rapid.Int64().Draw(t, "known end"),
				Data: rapid.OneOf(rapid.Just[[]byte](nil), blob).Draw(t, "data"),
			}
		}),
		"quorum.Vote": rapid.Custom(func(t *rapid.T) broker.Message {
			return &quorum.Vote{
				Term: rapid.Int32().Draw(t, "term"), Pre: rapid.Bool().Draw(t, "pre"), Transfer: rapid.Bool().Draw(t, "transfer"),
				LastTerm: rapid.Int32().Draw(t, "last term"), End: rapid.Int64().Draw(t, "end"),
			}
		}),
		"quorum.VoteAnswer": rapid.Custom(func(t *rapid.T) broker.Message {
			return &quorum.VoteAnswer{Term: rapid.Int32().Draw(t, "term"), Pre: rapid.Bool().Draw(t, "pre"), Granted: rapid.Bool().Draw(t, "granted"), Current: rapid.Int32().Draw(t, "current")}
		}),
		"quorum.Lead": rapid.Custom(func(t *rapid.T) broker.Message {
			return &quorum.Lead{Term: rapid.Int32().Draw(t, "term"), Start: rapid.Int64().Draw(t, "start")}
		}),
		"quorum.LeadAnswer": rapid.Custom(func(t *rapid.T) broker.Message {
			return &quorum.LeadAnswer{Term: rapid.Int32().Draw(t, "term"), Holds: rapid.Bool().Draw(t, "holds")}
		}),
		"quorum.Take": rapid.Custom(func(t *rapid.T) broker.Message { return &quorum.Take{Term: rapid.Int32().Draw(t, "term")} }),
		"quorum.Ask":  rapid.Custom(func(t *rapid.T) broker.Message { return &quorum.Ask{Dir: text.Draw(t, "directory")} }),
		"quorum.Tell": rapid.Custom(func(t *rapid.T) broker.Message {
			m := &quorum.Tell{
				To: text.Draw(t, "to"), Dir: text.Draw(t, "directory"), Term: rapid.Int32().Draw(t, "term"), Leads: rapid.Bool().Draw(t, "leads"), End: rapid.Int64().Draw(t, "end"),
			}
			for range rapid.IntRange(0, 3).Draw(t, "founders") {
				m.Founders = append(m.Founders, quorum.Founder{ID: broker.NodeID(rapid.Int32().Draw(t, "id")), Dir: text.Draw(t, "directory")})
			}
			return m
		}),
		"peers.Heartbeat": rapid.Custom(func(t *rapid.T) broker.Message {
			return &peers.Heartbeat{
				Session: text.Draw(t, "session"), Seq: rapid.Uint64().Draw(t, "seq"), Heard: text.Draw(t, "heard"), HeardSeq: rapid.Uint64().Draw(t, "heard seq"),
				Dead: rapid.Bool().Draw(t, "dead"), Joined: rapid.Bool().Draw(t, "joined"), Live: nodes.Draw(t, "live"), Reached: nodes.Draw(t, "reached"),
				Clients: rapid.Int32().Draw(t, "clients"), Host: text.Draw(t, "host"), Port: rapid.Int32().Draw(t, "port"),
			}
		}),
		"peers.Metadata": rapid.Custom(func(t *rapid.T) broker.Message {
			return &peers.Metadata{
				Session: text.Draw(t, "session"), Joined: rapid.Bool().Draw(t, "joined"), Deleted: [][16]byte{{rapid.Byte().Draw(t, "deleted")}},
				Topics: []peers.Topic{{
					Topic: cluster.Topic{
						Name: text.Draw(t, "name"), Created: rapid.Uint64().Draw(t, "created"), Configs: map[string]string{text.Draw(t, "config"): text.Draw(t, "value")},
						Partitions: []*cluster.Partition{{Topic: text.Draw(t, "topic"), Leader: broker.NodeID(rapid.Int32().Draw(t, "leader"))}},
					},
					Records: []scheme.Record{{Version: rapid.Int64().Draw(t, "version"), Master: 1, Mirrors: nodes.Draw(t, "mirrors"), Synced: nodes.Draw(t, "synced"), Sessions: []string{text.Draw(t, "mirror session")}}},
				}},
			}
		}),
		"peers.Rejoin": rapid.Custom(func(t *rapid.T) broker.Message {
			return &peers.Rejoin{Session: text.Draw(t, "session"), Winners: nodes.Draw(t, "winners")}
		}),
		"kafka.Forward": rapid.Custom(func(t *rapid.T) broker.Message {
			r := kmsg.NewPtrProduceRequest()
			r.Version, r.Acks, r.TimeoutMillis = 9, -1, rapid.Int32().Draw(t, "timeout")
			p := kmsg.NewProduceRequestTopicPartition()
			p.Records = blob.Draw(t, "records")
			rt := kmsg.NewProduceRequestTopic()
			rt.Topic, rt.Partitions = text.Draw(t, "topic"), []kmsg.ProduceRequestTopicPartition{p}
			r.Topics = []kmsg.ProduceRequestTopic{rt}
			return &kafka.Forward{ID: rapid.Uint64().Draw(t, "id"), Req: r}
		}),
		"kafka.Forwarded": rapid.Custom(func(t *rapid.T) broker.Message {
			r := kmsg.NewPtrFetchResponse()
			r.Version = 12
			p := kmsg.NewFetchResponseTopicPartition()
			p.RecordBatches, p.HighWatermark = blob.Draw(t, "records"), rapid.Int64().Draw(t, "high")
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.Partitions = text.Draw(t, "topic"), []kmsg.FetchResponseTopicPartition{p}
			r.Topics = []kmsg.FetchResponseTopic{rt}
			return &kafka.Forwarded{ID: rapid.Uint64().Draw(t, "id"), Resp: r}
		}),
		"forwarding.Demand": rapid.Just[broker.Message](&forwarding.Demand{}),
		"forwarding.Bundle": rapid.Custom(func(t *rapid.T) broker.Message {
			return &forwarding.Bundle{
				ID: rapid.Uint64().Draw(t, "id"), Data: blob.Draw(t, "data"),
				Names: []broker.Origin{{Node: rapid.Int32().Draw(t, "node"), Seq: rapid.Int64().Draw(t, "seq")}},
			}
		}),
		"forwarding.Taken": rapid.Custom(func(t *rapid.T) broker.Message { return &forwarding.Taken{ID: rapid.Uint64().Draw(t, "id")} }),
		"multimaster.Marks": rapid.Custom(func(t *rapid.T) broker.Message {
			return &multimaster.Marks{
				Start: rapid.Int64().Draw(t, "start"), Met: rapid.Bool().Draw(t, "met"), Fresh: rapid.Bool().Draw(t, "fresh"), Side: nodes.Draw(t, "side"),
				Have: []origin.Mark{{Node: broker.NodeID(rapid.Int32().Draw(t, "node")), Start: rapid.Int64().Draw(t, "stream"), N: rapid.Int64().Draw(t, "n")}},
			}
		}),
		"multimaster.Push": rapid.Custom(func(t *rapid.T) broker.Message {
			return &multimaster.Push{
				Names: []multimaster.Name{{Node: broker.NodeID(rapid.Int32().Draw(t, "node")), Seq: rapid.Int64().Draw(t, "seq")}}, Data: blob.Draw(t, "data"),
			}
		}),
		"takeover.Status": rapid.Custom(func(t *rapid.T) broker.Message {
			return &takeover.Status{Record: scheme.Record{Version: rapid.Int64().Draw(t, "version"), Master: 1, Mirrors: nodes.Draw(t, "mirrors"), Synced: nodes.Draw(t, "synced")}}
		}),
		"mirrored.Probe": rapid.Custom(func(t *rapid.T) broker.Message { return &mirrored.Probe{Stream: rapid.Uint64().Draw(t, "stream")} }),
		"mirrored.Tail": rapid.Custom(func(t *rapid.T) broker.Message {
			return &mirrored.Tail{Stream: rapid.Uint64().Draw(t, "stream"), End: rapid.Int64().Draw(t, "end"), Whole: rapid.Bool().Draw(t, "whole")}
		}),
		"mirrored.Pull": rapid.Custom(func(t *rapid.T) broker.Message {
			return &mirrored.Pull{Stream: rapid.Uint64().Draw(t, "stream"), From: rapid.Int64().Draw(t, "from")}
		}),
		"mirrored.Rest": rapid.Custom(func(t *rapid.T) broker.Message {
			return &mirrored.Rest{Stream: rapid.Uint64().Draw(t, "stream"), Data: blob.Draw(t, "data")}
		}),
		"mirrored.Begin": rapid.Custom(func(t *rapid.T) broker.Message {
			return &mirrored.Begin{Stream: rapid.Uint64().Draw(t, "stream"), From: rapid.Int64().Draw(t, "from"), Keep: rapid.Bool().Draw(t, "keep")}
		}),
		"mirrored.Push": rapid.Custom(func(t *rapid.T) broker.Message {
			return &mirrored.Push{Stream: rapid.Uint64().Draw(t, "stream"), From: rapid.Int64().Draw(t, "from"), Data: blob.Draw(t, "data")}
		}),
		"mirrored.Have": rapid.Custom(func(t *rapid.T) broker.Message {
			return &mirrored.Have{Stream: rapid.Uint64().Draw(t, "stream"), End: rapid.Int64().Draw(t, "end")}
		}),
	}
}

// TestRoundTrip sends every type alone and within a partition message.
func TestRoundTrip(t *testing.T) {
	all := bodies()
	for _, number := range slices.Sorted(maps.Keys(kinds)) {
		kind := kinds[number]
		name := strings.TrimPrefix(kind.String(), "*")
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
		"unknown type 250":           {250, 0xa0},
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
