// Package wire encodes what nodes say to each other: one byte for the type, and
// the structure in CBOR. The simulator passes the structures themselves; a mode
// of it sends them through here, so that both are known to agree.
package wire

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/peers"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// MaxMessage is the largest message that is taken, in bytes.
const MaxMessage = 80 << 20

// kinds are the message types by their numbers on the wire, as pointers where nodes
// pass pointers: those of the metadata quorum, and those of the schemes, which name
// their own. Numbers never change.
var kinds = func() map[byte]reflect.Type {
	all := map[byte]reflect.Type{
		0: reflect.TypeFor[cluster.RaftMessage](),
		1: reflect.TypeFor[cluster.Heartbeat](),
		2: reflect.TypeFor[cluster.HeartbeatReply](),
		// Nodes that go by their own views, and requests that nodes pass on.
		50: reflect.TypeFor[*peers.Heartbeat](),
		51: reflect.TypeFor[*peers.Metadata](),
		52: reflect.TypeFor[*peers.Rejoin](),
		53: reflect.TypeFor[*kafka.Forward](),
		54: reflect.TypeFor[*kafka.Forwarded](),
	}
	for _, d := range schemes.Known() {
		for _, m := range d.Messages {
			all[m.Number] = reflect.TypeOf(m.Type)
		}
	}
	return all
}()

// numbers is the reverse of kinds.
var numbers = func() map[reflect.Type]byte {
	all := make(map[reflect.Type]byte, len(kinds))
	for number, t := range kinds {
		all[t] = number
	}
	return all
}()

// partition is a node.PartitionMessage on the wire.
type partition struct {
	Topic [16]byte
	Index int32
	Body  []byte
}

const partitionKind = 255

var encMode, decMode = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	enc, err1 := cbor.EncOptions{}.EncMode()
	dec, err2 := cbor.DecOptions{MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 16, MaxNestedLevels: 16}.DecMode()
	if err := errors.Join(err1, err2); err != nil {
		panic(err) // constants that the library refuses: no input can cause it
	}
	return enc, dec
}

// Encode returns a message as bytes.
func Encode(msg broker.Message) ([]byte, error) {
	if p, ok := msg.(*node.PartitionMessage); ok {
		body, err := Encode(p.Body)
		if err != nil {
			return nil, err
		}
		return encode(partitionKind, partition{p.Topic, p.Index, body})
	}
	if number, ok := numbers[reflect.TypeOf(msg)]; ok {
		return encode(number, msg)
	}
	return nil, fmt.Errorf("message of type %T has no encoding", msg)
}

func encode(kind byte, v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append([]byte{kind}, b...), nil
}

// Decode is the reverse of Encode.
func Decode(b []byte) (broker.Message, error) {
	if len(b) == 0 {
		return nil, errors.New("empty message")
	}
	if b[0] == partitionKind {
		var p partition
		if err := decMode.Unmarshal(b[1:], &p); err != nil {
			return nil, fmt.Errorf("partition message: %w", err)
		}
		if len(p.Body) > 0 && p.Body[0] == partitionKind {
			return nil, errors.New("partition message within a partition message")
		}
		body, err := Decode(p.Body)
		if err != nil {
			return nil, err
		}
		return &node.PartitionMessage{Topic: p.Topic, Index: p.Index, Body: body}, nil
	}
	kind, ok := kinds[b[0]]
	if !ok {
		return nil, fmt.Errorf("message of unknown type %d: a node of another version?", b[0])
	}
	v := reflect.New(kind)
	if err := decMode.Unmarshal(b[1:], v.Interface()); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	if v.Elem().Kind() == reflect.Pointer && v.Elem().IsNil() {
		return nil, fmt.Errorf("%s: no structure", kind)
	}
	return v.Elem().Interface(), nil
}
